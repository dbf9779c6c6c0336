"""Ctrl-C: at whatever moment it comes, it ends a command with status 130 and without a traceback.

Python's own handler raises KeyboardInterrupt between any two instructions. In a finaliser or a weak reference's
callback that is printed and lost; while an event loop is made or closed it leaves half a loop, whose finaliser fails.
So a command has three handlers, one after the other: `end_at_once` while there is nothing to clean up, `interrupt`
while it runs, and, while an event loop runs, that of `run`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from natprobe.cli import end_at_once

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


def interrupt(*_: object) -> NoReturn:
    """Raise KeyboardInterrupt (a signal handler)."""
    sys.unraisablehook = _unraisable
    raise KeyboardInterrupt


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Take what a finaliser raises after Ctrl-C: the interrupt itself, which would be lost, or what comes of it."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        end_at_once()


@contextmanager
def on_interrupt(handler: Callable[..., object]) -> Iterator[None]:
    """Have Ctrl-C call ``handler`` during the block.

    Where SIGINT is ignored (nohup), or this is not the main thread, the block runs and nothing else changes.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    try:
        before = signal.signal(signal.SIGINT, handler)
    except ValueError:  # only the main thread may
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _waking(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Have a signal wake the loop: one that comes just before the loop begins to wait is else noticed only after it."""
    import socket

    there, here = socket.socketpair()
    with there, here:
        there.setblocking(False)
        here.setblocking(False)
        try:
            before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
        except ValueError:  # only the main thread may
            yield
            return
        try:
            loop.add_reader(here, here.recv, 64)
            yield
        finally:
            loop.remove_reader(here)
            signal.set_wakeup_fd(before)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop of its own, as asyncio.run does.

    Ctrl-C cancels the coroutine, and KeyboardInterrupt is raised when that and the loop have ended; a second one ends
    the process at once.
    """
    try:
        return _run(main)
    finally:
        main.close()  # where Ctrl-C came before it was begun; Python would complain that it never was


def _run(main: Coroutine[Any, Any, T]) -> T:
    import asyncio

    task: asyncio.Task[T] | None = None
    heard = False

    def cancel(*_: object) -> None:
        nonlocal heard
        if heard:
            end_at_once()
        heard = True
        if task and not task.done():
            task.get_loop().call_soon_threadsafe(task.cancel)

    async def cancellable() -> T:
        nonlocal task
        task = asyncio.current_task()
        with _waking(asyncio.get_running_loop()):
            if heard:
                raise asyncio.CancelledError
            return await main

    try:
        with on_interrupt(cancel), asyncio.Runner() as runner:
            result = runner.run(cancellable())
    except OSError:  # no descriptor may be left for the loop, and the finalizer of half a loop fails
        sys.unraisablehook = _unraisable
        raise
    except asyncio.CancelledError:
        if not heard:
            raise
    if heard:
        raise KeyboardInterrupt
    return result
