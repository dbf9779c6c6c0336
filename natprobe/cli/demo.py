"""``natprobe demo``: every NAT of the lab, built here and now, classified, and held against what it really does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from natprobe.cli.labs import Backend, classifier
from natprobe.cli.lean import add
from natprobe.cli.running import NOT_DETERMINED
from natprobe.cli.table import LEGEND, heading, pair, row
from natprobe.cli.terminal import Progress, coloured, emit, note

if TYPE_CHECKING:
    from natprobe.cli.comparing import Run


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    add(app, "demo", demo)


def demo(*, backend: Backend = None) -> None:
    """Build a lab of NATs on this machine, classify each, and show what was found.

    Needs no server, no Docker and no root: it uses network namespaces, or runs in memory where they cannot be had.
    Nothing leaves this machine. Exit status: 0 all right, 3 some wrong, 1 the --backend is not available.
    """
    from natprobe.cli.comparing import classify_behind
    from natprobe.lab.policy import PRESETS
    from natprobe.run import Tier

    begun = time.monotonic()
    right = 0
    with Progress() as progress, classifier(backend, progress) as lab:
        emit(heading(("expected", "found"), "time"))
        for number, (name, policy) in enumerate(PRESETS.items(), 1):
            progress.say(f"{number} of {len(PRESETS)}: {name}")
            run = classify_behind(lab, policy, Tier.QUICK)
            right += run.right
            progress.say("")
            emit(_row(name, run))
            for line in run.wrong:
                note(f"    {line}")
    emit(f"\nmapping/filtering:\n{LEGEND}{right} of {len(PRESETS)} right in {time.monotonic() - begun:.1f} s\n")
    if right < len(PRESETS):
        raise typer.Exit(NOT_DETERMINED)


def _row(name: str, run: Run) -> str:
    verdict = coloured("right" if run.right else "WRONG", good=run.right)
    cells = (pair(verdicts[protocol]) for protocol in run.expected for verdicts in (run.expected, run.found))
    return row([name, *cells, f"{run.seconds:.2f} s {verdict}"])
