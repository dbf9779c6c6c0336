"""``natprobe reflect``: serve the other end."""

from __future__ import annotations

from typing import Annotated

import typer

from natprobe.cli.running import run
from natprobe.reflector import serve


def reflect(
    address: Annotated[list[str], typer.Option(help="Address of this host: the primary, the alternate, the quiet one.")],
    port: Annotated[list[int] | None, typer.Option(help="Ports to serve; 3478 and 3479 unless said.")] = None,
    compat: Annotated[bool, typer.Option("--compat", help="Answer other clients too, who do not pad requests.")] = False,
) -> None:
    """Serve UDP and TCP so that clients can learn what their NAT does. Ends on Ctrl-C."""
    run(serve(address, tuple(port or (3478, 3479)), compat, lambda line: typer.echo(line, err=True)))
