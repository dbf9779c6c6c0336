"""Controls beside connections back: this host connects to the reflector at the instants at which that one dials.

A connection back that meets silence says something of a filter only where the path was alive when it was tried. TCP
repeats a SYN after a second at the earliest (RFC 6298 §2.1), so that a connection which stands sooner has lost neither
its SYN nor the answer: the path was alive then, both ways. Data on a connection that stands already would tell less,
for one segment that is lost holds up all that follow it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import closing
from typing import Self

from natprobe.endpoint import Endpoint
from natprobe.errors import AddressBusy
from natprobe.probes import Setting

_SYN_REPEATED = 1.0


class DialControls:
    """So many connections from fresh ports to ``remote``, begun ``spacing`` seconds apart while the block runs."""

    def __init__(self, setting: Setting, remote: Endpoint, count: int, spacing: float) -> None:
        self._setting = setting
        self._remote = remote
        self._alive: set[int] = set()
        self._tasks = [asyncio.ensure_future(self._connect(number, number * spacing)) for number in range(count)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()

    def answered(self, numbers: Iterable[int]) -> int:
        """Return how many of the connections with these numbers were answered before their SYN was repeated."""
        return len(self._alive.intersection(numbers))

    async def _connect(self, number: int, after: float) -> None:
        await asyncio.sleep(after)
        try:
            opened = await self._setting.conversation(Endpoint(self._setting.source, 0), self._remote)
        except AddressBusy:
            return
        with closing(opened):
            if opened.connected and opened.handshake < _SYN_REPEATED:
                self._alive.add(number)
            await opened.finish(by_reset=True)
