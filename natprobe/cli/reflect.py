"""``natprobe reflect``: serve the other end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from natprobe.cli.lean import add, port_number
from natprobe.cli.running import run
from natprobe.cli.terminal import note
from natprobe.errors import CannotRun

if TYPE_CHECKING:
    from natprobe.page.server import Page


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    add(app, "reflect", reflect, {"--web": "8080"})


def reflect(
    *,
    address: Annotated[
        list[str],
        typer.Option(metavar="ADDR", help="An address of this host: primary, alternate, quiet. Repeat for all three."),
    ],
    port: Annotated[
        list[str] | None, typer.Option(metavar="N", help="A port to serve; 3478 and 3479 unless said.")
    ] = None,
    destinations: Annotated[
        str | None, typer.Option(metavar="LOW-HIGH", help="TCP ports that only answer, for `natprobe reuse`.")
    ] = None,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Tell a client that another one has its external address and port too.")
    ] = False,
    compat: Annotated[
        bool, typer.Option("--compat", help="Answer other clients in full too, who do not pad requests.")
    ] = False,
    web: Annotated[
        str | None,
        typer.Option(metavar="[PORT]", help="Serve a page too that tests a browser's NAT; on port 8080 unless said."),
    ] = None,
) -> None:
    """Serve UDP and TCP so that clients can learn what their NAT does. Ends on Ctrl-C.

    With one address clients learn how they are seen; with a second, how their NAT maps and filters; with a third, which
    no client ever writes to, they learn it in one second. Destinations are for those who hold many connections at once:
    a range of ports, and the limit of open files is raised as far as this user may.
    """
    from natprobe.reflector import serve
    from natprobe.reflector.server import PORTS

    ports = tuple(map(port_number, port)) if port else PORTS
    many = _port_range(destinations) if destinations else range(0)
    serving = partial(serve, address, ports, compat, note, many, overlap=overlap)
    run(serving() if web is None else _beside(_page(address, web), serving))


def _page(addresses: list[str], port: str) -> Page:
    try:
        from natprobe.page.server import Page
    except ModuleNotFoundError as missing:
        raise CannotRun(f"--web needs {missing.name}: pip install 'natprobe[web]'") from None
    return Page(addresses, port_number(port))


async def _beside(page: Page, serving: Callable[[], Awaitable[None]]) -> None:
    async with page:
        note(f"the page for browsers is {page.url}")
        await serving()


def _port_range(text: str) -> range:
    low, dash, high = text.partition("-")
    ports = range(port_number(low), port_number(high) + 1) if dash else range(0)
    if not ports or 0 in ports:
        raise typer.BadParameter(f"{text!r} is no range of ports: 5000-5999 is one", param_hint="--destinations")
    return ports
