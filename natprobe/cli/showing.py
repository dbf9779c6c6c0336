"""A report on its way out: to stdout as text or JSON, into files, and into the exit status."""

from __future__ import annotations

import sys

import typer

from natprobe.cli.running import NOT_DETERMINED
from natprobe.cli.terminal import colourful, emit, width
from natprobe.report import Report


def show(report: Report, *, json: bool, verbose: bool) -> None:
    """Print the report, and end with status 3 where something essential is not determined."""
    emit(report.dumps() + "\n" if json else _text(report, verbose))
    if not report.settled:
        raise typer.Exit(NOT_DETERMINED)


def _text(report: Report, verbose: bool) -> str:
    from natprobe.views.text import render  # and so rich; --json starts without it

    return render(report, verbose=verbose, width=width(), colour=colourful(sys.stdout))


def page(report: Report) -> str:
    """Return the report as a page for a browser."""
    from natprobe.views.html import render  # jinja2 is needed for nothing else

    return render(report)
