"""Virtual time: an event loop whose clock jumps to the next timer whenever nothing is ready.

An hour takes as long as its events do, and whatever waits for something that cannot come is told at once. Nothing may
leave the loop: no thread, no real socket, no subprocess, for time would not wait for them.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_TURNS = 20_000
"""Turns of the loop at one instant that nothing honest needs."""


class Hang(RuntimeError):
    """Nothing is ready, nothing is scheduled, and the program is not done; or it spins and lets no time pass."""


class _Leap(selectors.SelectSelector):
    """Waits for nothing: advances the time instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Hang(f"at {self.now:.3f} s everything waits, and nothing is scheduled that could end it")
        self._turns = self._turns + 1 if timeout <= 0 else 0
        if self._turns > _TURNS:
            raise Hang(f"at {self.now:.3f} s something goes round and round without letting time pass")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that begins at 0 s and never sleeps. A loop factory: ``asyncio.Runner(loop_factory=VirtualLoop)``.

    Raises Hang, out of whatever runs the loop, where real time would pass for ever.
    """

    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        return self._leap.now

    def run_in_executor(self, *_: object) -> NoReturn:
        """Raise: virtual time would run past a thread."""
        raise RuntimeError("there are no threads in virtual time: names are resolved by the Network")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time that begins at 0 s, and return its result. Raises Hang."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        # Not runner.run: its care for Ctrl-C costs milliseconds, in which years can pass here.
        return runner.get_loop().run_until_complete(coroutine)
