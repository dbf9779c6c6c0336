"""Bytes through a relay, out and back: that an allocation was granted says nothing about what goes through it.

There are two ways, and one is enough. Out of the relay and into it again, from its own address to its own: works
where UDP does not leave this host, and where the server relays to itself. And between the relay and a second socket of
this host's: that one writes to the relay first, so that whatever NAT is before it lets the relay answer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

from natprobe.endpoint import Endpoint
from natprobe.errors import CannotRun
from natprobe.exchange import gaps
from natprobe.network import Datagram, Datagrams, Network
from natprobe.webrtc.link import Link
from natprobe.webrtc.outcome import IceServerState, Unusable
from natprobe.webrtc.turn import Allocation, TurnClient, TurnRefusal

_SIZE = 16


async def permit_own(turn: TurnClient, allocation: Allocation) -> None:
    """Have the relay let in itself, and this host as the server sees it. Raises TurnRefusal where it does neither."""
    own = {peer.address: peer for peer in (allocation.mapped, allocation.relayed) if peer}
    peers = [peer for peer in own.values() if peer.version == allocation.relayed.version]
    results = await asyncio.gather(*map(turn.permit, peers), return_exceptions=True)
    failures = [result for result in results if result]
    if len(failures) == len(peers) or not all(isinstance(failure, TurnRefusal) for failure in failures):
        raise next((failure for failure in failures if not isinstance(failure, TurnRefusal)), failures[0])


async def echo(network: Network, link: Link, turn: TurnClient, allocation: Allocation) -> None:
    """Wait until bytes have gone through the relay both ways. Raises Unusable where they do not."""
    async with _second_socket(network, allocation.relayed) as second:
        test = _Echo(turn, allocation.relayed, second)
        async with _running(test.serve_relay(), test.serve_second()):
            for gap in gaps(lambda: link.exact_rtt):
                await test.send()
                if await test.succeeds_within(gap):
                    return
    raise Unusable(IceServerState.NO_DATA, test.failure)


class _Echo:
    """One test: three secrets, for each way one, so that what arrives tells where it has been."""

    def __init__(self, turn: TurnClient, relayed: Endpoint, second: Datagrams | None) -> None:
        self._turn, self._relayed, self._second = turn, relayed, second
        self._around, self._inward, self._outward = (os.urandom(_SIZE) for _ in range(3))
        self._done = asyncio.Event()
        self._came_in = False

    @property
    def failure(self) -> str:
        if self._came_in:
            return "allocated and permitted, and bytes come in through the relay, but none go out"
        return "allocated and permitted, but no bytes go through the relay"

    async def send(self) -> None:
        await self._turn.send(self._around, self._relayed)
        if self._second:
            await self._second.send(self._inward, self._relayed)

    async def succeeds_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._done.wait()
        except TimeoutError:
            return False

    async def serve_relay(self) -> None:
        while True:
            data, peer = await self._turn.receive()
            if data == self._around:
                self._done.set()
            elif data == self._inward:
                self._came_in = True
                await self._turn.send(self._outward, peer)

    async def serve_second(self) -> None:
        while self._second:
            arrival = await self._second.receive()
            if isinstance(arrival, Datagram) and arrival.data == self._outward:
                self._done.set()


@asynccontextmanager
async def _second_socket(network: Network, relayed: Endpoint) -> AsyncIterator[Datagrams | None]:
    """Give a socket that can write to the relay; None where this host cannot."""
    try:
        socket = await network.datagrams(Endpoint(await network.source_for(relayed), 0))
    except CannotRun:
        yield None
        return
    try:
        yield socket
    finally:
        socket.close()


@asynccontextmanager
async def _running(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run something beside the block, and end it with the block."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
