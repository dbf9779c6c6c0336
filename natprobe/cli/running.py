"""What every command does the same: run to its end, turn what stops it into one line and an exit status."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import contextmanager
from collections.abc import Iterator
from typing import Any, TypeVar

import typer

from natprobe.errors import NatprobeError

T = TypeVar("T")

COULD_NOT_RUN = 1
USAGE = 2
NOT_DETERMINED = 3
INTERRUPTED = 130


@contextmanager
def failing_plainly() -> Iterator[None]:
    """Turn what stops a command into one line on stderr and its exit status."""
    try:
        yield
    except ValueError as misuse:
        _stop(str(misuse), USAGE)
    except NatprobeError as failure:
        _stop(str(failure), COULD_NOT_RUN)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end and return its result; stops the command where it fails."""
    with failing_plainly():
        return asyncio.run(work)


def _stop(message: str, status: int) -> None:
    typer.echo(f"natprobe: {message}", err=True)
    raise typer.Exit(status) from None
