"""The allocations that checks hold side by side: a user's quota may be smaller than the list of servers."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

Holder = tuple[str, str | None]
"""A server's host, and the user."""


class Quota:
    """Which allocations are held; one check at a time may wait until the others have given theirs back."""

    def __init__(self) -> None:
        self._held: Counter[Holder] = Counter()
        self._ever: Counter[Holder] = Counter()
        self._alone: defaultdict[Holder, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._freed = asyncio.Event()

    @contextmanager
    def holding(self, holder: Holder) -> Iterator[None]:
        """Count an allocation for the block."""
        self._held[holder] += 1
        self._ever[holder] += 1
        try:
            yield
        finally:
            self._held[holder] -= 1
            self._freed.set()
            self._freed = asyncio.Event()

    def shared(self, holder: Holder) -> bool:
        """Return whether several checks have asked this server for this user."""
        return self._ever[holder] > 1

    @asynccontextmanager
    async def alone(self, holder: Holder) -> AsyncIterator[None]:
        """Wait until no other check holds an allocation there."""
        async with self._alone[holder]:
            while self._held[holder]:
                await self._freed.wait()
            yield
