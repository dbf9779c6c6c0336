"""``natprobe explain``: the verdicts of a saved report, drawn anew."""

from __future__ import annotations

from typing import Annotated

import typer

from natprobe.cli.files import read_report, same_file
from natprobe.cli.lean import add
from natprobe.cli.showing import output


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    add(app, "explain", explain)


def explain(
    report: Annotated[str, typer.Argument(metavar="REPORT.json", help="What --save or --json wrote; - for stdin.")],
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page for a browser too; - for stdout.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v/-q", "--verbose/--quiet", help="Show the evidence, or do not.")] = True,
) -> None:
    """Draw the verdicts of a saved report anew from what was observed then, and show the evidence.

    Nothing is sent. Exit status: 0 classified, 3 something essential is not determined, 1 no report in that file.
    """
    if same_file(report, html):
        raise typer.BadParameter(f"{html} is the report itself: name another file", param_hint="--html")
    found = read_report(report)
    with output(json=json, verbose=verbose, html=html) as show:
        show(found)
