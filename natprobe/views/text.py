"""The report as text for a terminal: the summary, then each verdict with its certainty and its reason."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from natprobe.behaviour import Certainty
from natprobe.report import Report
from natprobe.views.evidence import cited
from natprobe.views.printable import printable
from natprobe.views.summary import summary
from natprobe.views.wording import Block, Row, blocks, heading, ranges

_STYLES = {
    Certainty.CONFIRMED: "green",
    Certainty.LIKELY: "yellow",
    Certainty.CONFLICTING: "magenta",
    Certainty.NOT_DETERMINED: "yellow",
}
_VALUE_WIDTH = 27
"""One more than address-and-port-dependent, so that certainties stand in a column."""


def render(report: Report, *, verbose: bool = False, width: int = 80, colour: bool = False) -> str:
    """Return the report as lines of at most ``width`` columns; ``verbose`` adds the evidence.

    Without ``colour`` there is not one escape sequence in it, whatever the report holds.
    """
    console = Console(
        file=StringIO(),
        width=width,
        color_system="standard" if colour else None,
        force_terminal=colour,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as capture:
        for part in _parts(report, verbose):
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _said(text: object, style: str = "") -> Text:
    """The one way of words into the text: nothing in them is markup or an escape sequence."""
    return Text(printable(text), style)


def _parts(report: Report, verbose: bool) -> Iterator[RenderableType]:
    for line in summary(report):
        yield _said(line, "bold")
    yield _said(heading(report), "dim")
    all_blocks = blocks(report)
    name_width = max((len(row.name) for block in all_blocks for row in block.rows), default=0)
    for block in all_blocks:
        yield Group("", _title(block), Padding(_grid(block, name_width, verbose), (0, 0, 0, 2)))
    if verbose:
        yield Group("", _said("Evidence", "bold"), Padding(_evidence(report), (0, 0, 0, 2)))


def _title(block: Block) -> Text:
    return Text.assemble(_said(block.title, "bold"), _said(f"  [{block.old_name}]" if block.old_name else ""))


def _grid(block: Block, name_width: int, verbose: bool) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=name_width)
    grid.add_column(overflow="fold")
    for row in block.rows:
        grid.add_row(_said(row.name), Group(*_verdict(row, verbose)))
    return grid


def _verdict(row: Row, verbose: bool) -> Iterator[Text]:
    if row.determined:
        value = _said(row.value.ljust(_VALUE_WIDTH) + " ", "bold")
        yield Text.assemble(value, _said(row.certainty, _STYLES[row.certainty]))
    else:
        yield _said(row.value, _STYLES[row.certainty])
    yield _said(row.reason, "dim")
    if verbose and row.evidence:
        yield _said(f"evidence {ranges(row.evidence)}", "dim")


def _evidence(report: Report) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right")
    grid.add_column(overflow="fold")
    for index, line in cited(report):
        grid.add_row(_said(index), _said(line))
    return grid
