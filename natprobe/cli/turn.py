"""``natprobe turn``: are these STUN and TURN servers usable, and if not, why not?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from natprobe.cli.interrupt import run
from natprobe.cli.lean import add
from natprobe.cli.running import NOT_DETERMINED
from natprobe.cli.terminal import coloured, emit
from natprobe.version import VERSION
from natprobe.views.printable import printable

if TYPE_CHECKING:
    from natprobe.webrtc import IceServerCheck

_MINTED_FOR = 3600
"""Seconds for which credentials made from a shared secret are to hold."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    add(app, "turn", turn)


def turn(
    url: Annotated[
        list[str] | None, typer.Argument(metavar="URL", help="stun:, stuns:, turn: or turns:, then HOST[:PORT].")
    ] = None,
    *,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="ICE servers with their credentials, as JSON of any form; - is stdin."),
    ] = None,
    username: Annotated[
        str | None, typer.Option(metavar="U", help="For TURN.", envvar="NATPROBE_TURN_USERNAME")
    ] = None,
    password: Annotated[
        str | None, typer.Option(metavar="P", help="Better in the environment.", envvar="NATPROBE_TURN_PASSWORD")
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(metavar="S", help="The server's shared secret, to make both.", envvar="NATPROBE_TURN_SECRET"),
    ] = None,
    depth: Annotated[str, typer.Option(metavar="bind|allocate|permission|echo", help="How far to go.")] = "echo",
    timeout: Annotated[str, typer.Option(metavar="S", help="Seconds for each check; all go at once.")] = "3",
    json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
    ipv4: Annotated[bool, typer.Option("-4", help="Use IPv4.")] = False,
    ipv6: Annotated[bool, typer.Option("-6", help="Use IPv6. Both unless one is chosen.")] = False,
) -> None:
    """Tell for each STUN and TURN server whether it is usable, and if not, why.

    Other users of this machine can read a command's options: what is secret stands better in the environment. Exit
    status: 0 all usable, 3 some not, 1 could not run, 2 usage.
    """
    from natprobe.webrtc import check_ice_servers

    username, password = _credentials(username, password, secret)
    servers = [
        *_configured(config),
        *({"urls": one, "username": username, "credential": password} for one in url or []),
    ]
    if not (url or config):
        raise typer.BadParameter("Missing argument: a URL, or --config FILE")
    versions = [version for version, chosen in ((4, ipv4), (6, ipv6)) if chosen] or [4, 6]
    limit = _seconds(timeout)
    checks = run(check_ice_servers(servers, depth=_depth(depth), timeout=limit, versions=versions))
    emit(_json(checks) if json else "".join(map(_lines, _warning_once(checks))))
    if not all(check.usable for check in checks):
        raise typer.Exit(NOT_DETERMINED)


def _configured(path: str | None) -> list[Any]:
    """Return the ICE servers in a file."""
    if path is None:
        return []
    from natprobe.cli.files import read_json
    from natprobe.webrtc.configuration import read_ice_servers

    try:
        return read_ice_servers(read_json(path))
    except (TypeError, ValueError) as wrong:
        raise typer.BadParameter(str(wrong), param_hint="--config") from None


def _credentials(username: str | None, password: str | None, secret: str | None) -> tuple[str | None, str | None]:
    if secret is None:
        return username, password
    if password is not None:
        raise typer.BadParameter("a secret makes the password: give one of the two", param_hint="--secret")
    from natprobe.webrtc import timed_credentials

    return timed_credentials(secret, int(time.time()) + _MINTED_FOR, username or "")


def _depth(text: str) -> str:
    from natprobe.webrtc import Depth

    if text not in list(Depth):
        raise typer.BadParameter(f"{text!r} is none of {', '.join(Depth)}", param_hint="--depth")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 60:
        raise typer.BadParameter(f"{text!r} is no number of seconds from 0 to 60", param_hint="--timeout")
    return seconds


def _json(checks: Iterable[IceServerCheck]) -> str:
    from json import dumps

    from natprobe.webrtc.outcome import CHECKS_SCHEMA

    document = {"schema": CHECKS_SCHEMA, "version": VERSION, "checks": [c.to_json() for c in checks]}
    return dumps(document, indent=2) + "\n"


def _warning_once(checks: Iterable[IceServerCheck]) -> Iterator[IceServerCheck]:
    """Yield the checks with each warning about aiortc at the first of them alone."""
    said: set[str | None] = set()
    for check in checks:
        yield replace(check, unsupported_by_aiortc=None) if check.unsupported_by_aiortc in said else check
        said.add(check.unsupported_by_aiortc)


def _lines(check: IceServerCheck) -> str:
    family = f"IPv{check.family}" if check.family else "-"
    state = coloured(f"{check.state:15}", good=check.usable)
    first = f"{state} {check.transport:4} {family:5} {printable(check.url)}{_at(check)}"
    notes = [_measured(check) if check.usable else None, check.reason]
    if check.unsupported_by_aiortc:
        notes.append(f"warning: {check.unsupported_by_aiortc}")
    return "\n".join([first, *(f"{'':16}{printable(note)}" for note in notes if note)]) + "\n"


def _at(check: IceServerCheck) -> str:
    """Return the address that was asked, where the URL has a name for it."""
    if check.address is None or str(check.address.address) in check.url:
        return ""
    return f" ({check.address.address})"


def _measured(check: IceServerCheck) -> str:
    facts = [f"{check.rtt_ms:.0f} ms" if check.rtt_ms is not None else ""]
    if check.mapped:
        facts.append(f"sees {check.mapped}")
    if check.relayed:
        facts.append(f"relays as {check.relayed}")
    if check.not_after:
        facts.append(f"certificate valid until {check.not_after:%Y-%m-%d}")
    return ", ".join(filter(None, facts))
