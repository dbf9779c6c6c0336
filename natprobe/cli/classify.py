"""``natprobe classify``: probe, conclude, show."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Annotated

import typer

import natprobe
from natprobe.behaviour import Protocol
from natprobe.cli.interrupt import run
from natprobe.cli.lean import add, port_number
from natprobe.cli.showing import output
from natprobe.cli.terminal import Progress, note
from natprobe.descriptors import raise_file_limit
from natprobe.observation import Resolution
from natprobe.public import default_servers

_FILES = 4096
"""Descriptors that a deep run may take: of hundreds of flows, where answers are slow."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    add(app, "classify", classify)


def classify(
    *,
    server: Annotated[
        list[str] | None,
        typer.Option("-s", "--server", metavar="HOST[:PORT]", help="A STUN server or natprobe reflector; repeatable."),
    ] = None,
    ipv4: Annotated[bool, typer.Option("-4", help="Use IPv4.")] = False,
    ipv6: Annotated[bool, typer.Option("-6", help="Use IPv6. Both unless one is chosen.")] = False,
    source: Annotated[str | None, typer.Option(metavar="ADDR", help="Send from this local address.")] = None,
    second_source: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Another local address, to test port reuse with.")
    ] = None,
    partner: Annotated[
        bool,
        typer.Option(
            "--partner", help="Pair with a second `natprobe --partner` behind the same NAT to test port reuse."
        ),
    ] = False,
    port: Annotated[str, typer.Option(metavar="N", help="Test mappings from this local port.")] = "0",
    only: Annotated[str | None, typer.Option(metavar="udp|tcp", help="Test this protocol alone.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out all but mapping and filtering.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Take the time, and the packets, to be sure.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page for a browser too; - for stdout.")
    ] = None,
    save: Annotated[str | None, typer.Option(metavar="FILE", help="Write the JSON too; - for stdout.")] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the evidence.")] = False,
) -> None:
    """Tell what the NATs and firewalls on the way do to UDP and TCP.

    Exit status: 0 classified, 3 something essential is not determined, 1 could not run, 2 usage.
    """
    protocols = _protocols(only)
    versions = [version for version, chosen in ((4, ipv4), (6, ipv6)) if chosen] or [4, 6]
    local_port = port_number(port)
    raise_file_limit(_FILES)
    with output(json=json, verbose=verbose, html=html, save=save) as show:
        with Progress() as progress:
            report = run(
                natprobe.classify(
                    server or default_servers(protocols),
                    versions=versions,
                    protocols=protocols,
                    source=source,
                    port=local_port,
                    second_source=second_source,
                    partner=partner,
                    tier=_tier(quick=quick, deep=deep),
                    on_progress=progress.say if json else _meanwhile("natprobe.views.text", progress.say),
                )
            )
        for fact in report.observations:
            if isinstance(fact, Resolution) and fact.error:
                note(f"natprobe: {fact.name} is left out: {fact.error}")
        show(report)


def _meanwhile(module: str, say: Callable[[str], None]) -> Callable[[str], None]:
    """Return ``say``, but have its first call import ``module`` beside the probes, which mostly wait.

    No daemon: an interpreter that ends waits for it, or the import would crash in what is left of it.
    """
    loading = threading.Thread(target=import_module, args=(module,))

    def say_and_load(phrase: str) -> None:
        if loading.ident is None:
            loading.start()
        say(phrase)

    return say_and_load


def _tier(*, quick: bool, deep: bool) -> natprobe.Tier:
    if quick and deep:
        raise typer.BadParameter("it is either --quick or --deep", param_hint="--deep")
    return natprobe.Tier.QUICK if quick else natprobe.Tier.DEEP if deep else natprobe.Tier.DEFAULT


def _protocols(only: str | None) -> list[Protocol]:
    try:
        return [Protocol(only)] if only is not None else list(Protocol)
    except ValueError:
        raise typer.BadParameter(f"{only!r} is neither udp nor tcp", param_hint="--only") from None
