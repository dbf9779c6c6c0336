"""What every command does the same: run to its end, turn what stops it into one line and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

import typer

from natprobe.cli import INTERRUPTED
from natprobe.cli.interrupt import interrupt, on_interrupt
from natprobe.cli.terminal import discard, note, occupy_closed_descriptors, unwritable
from natprobe.errors import CannotRun, NameNotFound, NatprobeError, NoRoute, NoServerAnswered
from natprobe.system_errors import unexpected

COULD_NOT_RUN = 1
USAGE = 2
NOT_DETERMINED = 3

_ADVICE: dict[type[NatprobeError], str] = {
    NameNotFound: "check the name, and -4 or -6 if given",
    NoRoute: "is this host connected? -4 or -6 picks the other IP version",
    NoServerAnswered: "name another server with -s; if that is silent too, this network lets nothing through",
}
"""What to do about it, where the error's own text does not say."""


@contextmanager
def failing_plainly() -> Iterator[None]:
    """Turn what stops a command into one line on stderr and its exit status; Ctrl-C into the status alone."""
    try:
        with on_interrupt(interrupt):
            yield
    except ValueError as misuse:
        _stop(str(misuse), USAGE)
    except NatprobeError as failure:
        _stop(_with_advice(failure), COULD_NOT_RUN)
    except OSError as wrong:  # of a call outside the network seam, as the making of the event loop
        _stop(_with_advice(unexpected(wrong)), COULD_NOT_RUN)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def with_standard_streams() -> Iterator[None]:
    """Run the command line where a standard stream is closed, or takes nothing, as well.

    Help and usage errors are written by its library, and fail there: into one line where possible, and a status.
    """
    occupy_closed_descriptors()
    try:
        yield
    except OSError as wrong:
        *_, (innermost, _) = walk_tb(wrong.__traceback__)
        if not innermost.f_globals["__name__"].startswith("typer."):
            raise
        discard(sys.stdout)
        note(f"natprobe: {unwritable(wrong)}")
        sys.exit(getattr(wrong.__context__, "exit_code", COULD_NOT_RUN))  # of the usage error that was to be written


def _with_advice(failure: NatprobeError) -> str:
    advice = (isinstance(failure, CannotRun) and failure.advice) or _ADVICE.get(type(failure))
    return f"{failure}: {advice}" if advice else str(failure)


def _stop(message: str, status: int) -> None:
    note(f"natprobe: {message}")
    raise typer.Exit(status) from None
