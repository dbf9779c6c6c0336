"""``natprobe reuse``: how many connections one local port holds, and what becomes of it outside."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from natprobe.behaviour import Protocol
from natprobe.cli.lean import add, port_number
from natprobe.cli.running import NOT_DETERMINED, run
from natprobe.cli.terminal import Progress, emit
from natprobe.public import default_servers

if TYPE_CHECKING:
    from natprobe.reuse.capacity import Capacity
    from natprobe.reuse.facts import Holding


N = TypeVar("N", int, float)


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    add(app, "reuse", reuse)


def reuse(
    *,
    server: Annotated[
        list[str] | None,
        typer.Option("-s", "--server", metavar="HOST[:PORT]", help="A reflector, best with destinations; repeatable."),
    ] = None,
    connections: Annotated[
        str, typer.Option(metavar="N", help="How many; more than 64 to natprobe's reflectors alone.")
    ] = "64",
    source: Annotated[str | None, typer.Option(metavar="ADDR", help="Connect from this local address.")] = None,
    port: Annotated[str, typer.Option(metavar="N", help="Connect from this local port.")] = "0",
    busiest_share: Annotated[
        str, typer.Option(metavar="SHARE", help="Of all connections, to the most popular destination.")
    ] = "0.05",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Hold many TCP connections from ONE local address and port at once, and tell what the NAT makes of that.

    Each is proven alive by an exchange after the last one was opened. Exit status: 0 as many as were asked for, 3 fewer
    (the reason is told), 1 could not run, 2 usage.
    """
    from natprobe.reuse import hold
    from natprobe.reuse.capacity import capacity

    carries = capacity(_number(float, busiest_share, "--busiest-share"))
    wanted = _number(int, connections, "--connections")
    local_port = port_number(port)
    with Progress() as progress:

        def say(what: str, done: int, of: int) -> None:
            if done % (of // 200 + 1) == 0:
                progress.say(f"{_bar(done, of)} {done:,} of {of:,} {what}")

        holding = run(
            hold(
                server or default_servers([Protocol.TCP]),
                connections=wanted,
                source=source,
                port=local_port,
                on_progress=say,
            )
        )
    emit(_as_json(holding, carries) if json else _as_text(holding, carries))
    if holding.alive < wanted:
        raise typer.Exit(NOT_DETERMINED)


def _number(kind: Callable[[str], N], text: str, option: str) -> N:
    try:
        return kind(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number", param_hint=option) from None


def _bar(done: int, of: int, width: int = 24) -> str:
    filled = width * done // max(1, of)
    return "█" * filled + "░" * (width - filled)


def _as_json(holding: Holding, carries: Capacity) -> str:
    from natprobe.observation import to_json
    from natprobe.reuse.conclusions import outside, why_ended

    told = {"schema": "natprobe.reuse/1", **to_json(holding), "outside": outside(holding), "ended": why_ended(holding)}
    told["capacity"] = {**to_json(carries), "exclusive": carries.exclusive, "shared": carries.shared}
    return json_module.dumps(told, indent=2) + "\n"


def _as_text(holding: Holding, carries: Capacity) -> str:
    from natprobe.reuse.conclusions import outside, why_ended

    counted = "" if holding.counted is None else f"; the reflectors counted {holding.counted:,} at once"
    rate = holding.opened / holding.opening_s if holding.opening_s else 0
    lines = [
        f"{holding.alive:,} TCP connections from {holding.local}, each answered after the last was opened{counted}",
        "",
        f"  ended    {why_ended(holding)}",
        f"  outside  {outside(holding)}",
        *(f"  left out {server}" for server in holding.unanswered),
        f"  how      {holding.method} on every socket; {rate:,.0f} opened a second",
        "",
        f"{'connections':>13}{'bind':>10}{'connect':>10}{'handshake':>12}   (medians)",
        *(f"{s.held:>13,}{s.bind_us:>7} µs{s.connect_us:>7} µs{s.handshake_ms:>9} ms" for s in holding.steps),
        "",
        f"One external address carries at most, over TCP, with {carries.pool:,} ports:",
        f"  {carries.exclusive:>11,}  where each mapping has a port of its own: P",
        f"  {carries.shared:>11,}  where a port serves every destination anew, {carries.busiest_share:.0%} of all",
        f"  {'':11}  connections going to the busiest one: P / s (--busiest-share)",
    ]
    return "\n".join(lines) + "\n"
