"""A report on its way out: to stdout as text, JSON or a page, into files, and into the exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from natprobe.cli.files import is_stdout, reserved, same_file
from natprobe.cli.running import NOT_DETERMINED
from natprobe.cli.terminal import colourful, emit, width
from natprobe.report import Report

Show = Callable[[Report], None]


@contextmanager
def output(*, json: bool, verbose: bool, html: str | None = None, save: str | None = None) -> Iterator[Show]:
    """Give the function that writes a report wherever it is wanted, having made sure that the files can be written.

    It ends the command with status 3 where something essential is not determined. stdout carries one document: the
    text, or in its place the JSON (``json``, or a ``save`` of "-") or the page (an ``html`` of "-"). Raises
    typer.BadParameter where two are to go to one place, CannotRun where a file cannot be written.
    """
    json, page = json or is_stdout(save), is_stdout(html)
    if json and page:
        raise typer.BadParameter("stdout takes one document: write the page or the JSON to a file", param_hint="--html")
    if same_file(save, html):
        raise typer.BadParameter(f"{html} is where --save writes to: name another file", param_hint="--html")
    with reserved(None if page else html) as write_page, reserved(None if is_stdout(save) else save) as write_json:

        def show(report: Report) -> None:
            write_json(_as_json(report))
            if html and not page:
                write_page(_as_page(report))
            emit(_as_page(report) if page else _as_json(report) if json else _as_text(report, verbose))
            if not report.settled:
                raise typer.Exit(NOT_DETERMINED)

        yield show


def _as_json(report: Report) -> str:
    return report.dumps() + "\n"


def _as_text(report: Report, verbose: bool) -> str:
    from natprobe.views.text import render  # and so rich; --json starts without it

    return render(report, verbose=verbose, width=width(), colour=colourful(sys.stdout))


def _as_page(report: Report) -> str:
    from natprobe.views.html import render  # jinja2 is needed for nothing else

    return render(report)
