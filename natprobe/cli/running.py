"""What every command does the same: run to its end, turn what stops it into one line and an exit status."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from natprobe.cli import INTERRUPTED
from natprobe.cli.terminal import note
from natprobe.errors import CannotRun, NameNotFound, NatprobeError, NoRoute, NoServerAnswered
from natprobe.system_errors import unexpected

COULD_NOT_RUN = 1
USAGE = 2
NOT_DETERMINED = 3

T = TypeVar("T")

_ADVICE: dict[type[NatprobeError], str] = {
    NameNotFound: "check the name, and -4 or -6 if given",
    NoRoute: "is this host connected? -4 or -6 picks the other kind of address",
    NoServerAnswered: "name another server with -s; if that is silent too, this network lets nothing through",
}
"""What to do about it, where the error's own text does not say."""


@contextmanager
def failing_plainly() -> Iterator[None]:
    """Turn what stops a command into one line on stderr and its exit status; Ctrl-C into the status alone."""
    try:
        with _on_interrupt(signal.default_int_handler):
            yield
    except ValueError as misuse:
        _stop(str(misuse), USAGE)
    except NatprobeError as failure:
        _stop(_with_advice(failure), COULD_NOT_RUN)
    except OSError as wrong:  # of a call outside the network seam, as the making of the event loop
        _stop(_with_advice(unexpected(wrong)), COULD_NOT_RUN)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end and return its result; Ctrl-C cancels it, and once it has ended is a KeyboardInterrupt.

    Unlike with asyncio's own handler no exception strikes while the loop is made or closed.
    """
    interrupted = False
    task: asyncio.Task[T] | None = None

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt  # again: whoever asks twice does not want to wait
        interrupted = True
        if task is not None:
            loop.call_soon_threadsafe(task.cancel)

    with _on_interrupt(interrupt), asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(work)
        if interrupted:
            task.cancel()
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


@contextmanager
def _on_interrupt(handler: Callable[..., object]) -> Iterator[None]:
    """Have Ctrl-C call ``handler`` during the block, unless it is ignored or this is not the main thread."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _with_advice(failure: NatprobeError) -> str:
    advice = (isinstance(failure, CannotRun) and failure.advice) or _ADVICE.get(type(failure))
    return f"{failure}: {advice}" if advice else str(failure)


def _stop(message: str, status: int) -> None:
    note(f"natprobe: {message}")
    raise typer.Exit(status) from None
