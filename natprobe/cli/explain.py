"""``natprobe explain``: the verdicts of a saved report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from natprobe.cli.running import failing_plainly
from natprobe.errors import MalformedReport
from natprobe.report import Report


def explain(report: Annotated[Path, typer.Argument(help="A report that --json or --save wrote.")]) -> None:
    """Draw the verdicts of a saved report anew from its observations, and show their evidence."""
    with failing_plainly():
        try:
            text = report.read_text()
        except (OSError, UnicodeDecodeError) as wrong:
            raise MalformedReport(f"{report}: {wrong}") from None
        typer.echo(Report.loads(text).dumps())
