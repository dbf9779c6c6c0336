"""``natprobe classify``: probe, conclude, show."""

from __future__ import annotations

from typing import Annotated

import typer

from natprobe.behaviour import Protocol
from natprobe.cli.running import NOT_DETERMINED, run
from natprobe.run import classify as classify_path


def classify(
    server: Annotated[list[str], typer.Option("-s", "--server")],
    only: Annotated[Protocol | None, typer.Option()] = None,
    quick: Annotated[bool, typer.Option("--quick")] = False,
    source: str | None = None,
    port: int = 0,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Tell what the NATs on the way do."""
    report = run(classify_path(server, protocols=[only] if only else list(Protocol), source=source, port=port))
    typer.echo(report.dumps())
    if not report.settled:
        raise typer.Exit(NOT_DETERMINED)
