"""Whether a new TCP connection between the same two endpoints gets a new mapping (RFC 5382 §4.1).

It matters only where every endpoint saw another mapping, but found out only then it would take its five round trips
longer: so it begins with all the rest, at servers that are greeted anyhow and from ports of its own, and is given up
where it turns out not to be needed.

A connection is ended by FINs from both ends before the next one begins. This host's end then waits in TIME-WAIT, and
where the system does not connect from there again (it does if timestamps are on, RFC 6191), the next series is of
connections that are reset: second best, for a NAT may forget what was reset at once (RFC 7857 §2.2 forbids it).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle, islice

from natprobe.endpoint import Endpoint
from natprobe.errors import AddressBusy
from natprobe.observation import Exchange, Outcome, Purpose
from natprobe.probes import Setting, plain_attributes

SERIES = 2
"""Series at once: what one loses the other may tell."""
TRIES = 2
LENGTH = 3
"""Connections of a series: a mapping that has changed once may have been lost; one that changes every time has not."""


@asynccontextmanager
async def reconnecting(setting: Setting, servers: Sequence[Endpoint]) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Connect in series while the block runs; yields what waits until one of them has told."""
    series = [asyncio.ensure_future(_try(setting, server)) for server in islice(cycle(servers), SERIES)]

    async def one_has_told() -> None:
        for done in asyncio.as_completed(series):
            if await done:
                return

    try:
        yield one_has_told
    finally:
        for task in series:
            task.cancel()
        await asyncio.gather(*series, return_exceptions=True)


def worth_waiting(mappings: Sequence[Exchange]) -> bool:
    """Return whether every endpoint saw another mapping, so that connections may be what the mapping depends on."""
    mapped = [mapping.mapped for mapping in mappings if mapping.mapped]
    return len(set(mapped)) == len(mapped) > 1


async def _try(setting: Setting, server: Endpoint) -> bool:
    outcome: Outcome | None = None
    for _ in range(TRIES):
        outcome = await _connect_in_series(setting, server, by_reset=outcome is Outcome.REJECTED)
        if outcome is Outcome.ANSWERED:
            return True
    return False


async def _connect_in_series(setting: Setting, server: Endpoint, *, by_reset: bool) -> Outcome:
    """Connect, ask, end, and again until a mapping has been seen twice; return what came of the last question."""
    local = await setting.free_tcp_port()
    seen: set[Endpoint | None] = set()
    for _ in range(LENGTH):
        try:
            conversation = await setting.conversation(local, server)
        except AddressBusy:
            return Outcome.REJECTED
        try:
            exchange = await conversation.ask(Purpose.RECONNECT, *plain_attributes())
            setting.record(exchange)
            if not exchange.answered or exchange.mapped in seen:
                return exchange.outcome
            seen.add(exchange.mapped)
            await conversation.finish(by_reset=by_reset)
        finally:
            conversation.close()
    return Outcome.ANSWERED
