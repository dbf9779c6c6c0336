"""Bytes through a relay, out and back: that an allocation was granted says nothing about what goes through it.

A second socket of this host writes to the relay, as a peer does, and the relay answers it: what comes back has been
outside of the server. The relay also writes to itself. That works where UDP does not leave this host; but such bytes
may never leave the server, whose firewall and external address they then say nothing about. So the way through the
second socket decides wherever UDP gets out of this host, which a Binding request from that same socket shows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

from natprobe.endpoint import Address, Endpoint, Scope, is_narrower
from natprobe.errors import CannotRun, MalformedMessage
from natprobe.exchange import gaps
from natprobe.network import Datagram, Datagrams, Network
from natprobe.stun import Class, decode, request
from natprobe.webrtc.link import DatagramLink, Link
from natprobe.webrtc.outcome import Depth, IceServerState, Unusable
from natprobe.webrtc.turn import Allocation, TurnClient, TurnRefusal

_SIZE = 16
_STUN_PORT = 3478


def refuse_unreachable(relayed: Endpoint, remote: Endpoint) -> None:
    """Raise Unusable for a relayed address that is of no use to peers of the server at ``remote``."""
    useless = is_narrower(relayed.scope, remote.scope) or relayed.port == 0 or str(relayed.address) == "255.255.255.255"
    if useless:
        raise Unusable(
            IceServerState.RELAY_ADDRESS,
            f"it relays as {relayed} ({relayed.scope}), which peers cannot reach: set the server's external address "
            "(coturn: external-ip)",
        )


async def permit_own(turn: TurnClient, allocation: Allocation) -> set[Address]:
    """Have the relay let in itself, and this host as the server sees it; return which of them it does.

    Raises TurnRefusal where it lets in neither.
    """
    own = {peer.address: peer for peer in (allocation.mapped, allocation.relayed) if peer}
    peers = [peer for peer in own.values() if peer.version == allocation.relayed.version]
    results = await asyncio.gather(*map(turn.permit, peers), return_exceptions=True)
    failures = [result for result in results if result]
    if len(failures) == len(peers) or not all(isinstance(failure, TurnRefusal) for failure in failures):
        raise next((failure for failure in failures if not isinstance(failure, TurnRefusal)), failures[0])
    return {peer.address for peer, result in zip(peers, results, strict=True) if not result}


async def echo(
    network: Network, link: Link, turn: TurnClient, allocation: Allocation, permitted: set[Address]
) -> tuple[Depth, str | None]:
    """Wait until bytes have gone through the relay both ways, from outside and back.

    Return the depth, and what could not be tested from here. Raises Unusable where bytes do not go through.
    """
    async with _second_socket(network, allocation.relayed) as second:
        test = _Echo(link, turn, allocation, permitted, second)
        async with _running(test.serve_relay(), test.serve_second(), test.permit_local()):
            for gap in gaps(lambda: link.exact_rtt):
                await test.send()
                if await test.settled_within(gap):
                    break
    return test.judge()


class _Echo:
    """One test: three secrets, for each way one, so that what arrives tells where it has been."""

    def __init__(
        self, link: Link, turn: TurnClient, allocation: Allocation, permitted: set[Address], second: Datagrams | None
    ) -> None:
        self._link, self._turn, self._relayed, self._second = link, turn, allocation.relayed, second
        self._around, self._inward, self._outward = (os.urandom(_SIZE) for _ in range(3))
        self._control = request()
        self._permitted = permitted
        self._reflexive = {allocation.mapped.address} if allocation.mapped else set()
        self._udp = isinstance(link, DatagramLink)
        self._settled = asyncio.Event()
        self._to_itself = self._came_in = self._through = False

    async def send(self) -> None:
        if self._relayed.address in self._permitted:
            await self._turn.send(self._around, self._relayed)
        if self._second:
            await self._second.send(self._inward, self._relayed)
            remote = self._link.remote
            for port in {remote.port, _STUN_PORT} if remote.version == self._relayed.version else ():
                await self._second.send(self._control.encode(), remote.with_port(port))

    async def settled_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._settled.wait()
        except TimeoutError:
            return False

    async def serve_relay(self) -> None:
        while True:
            data, peer = await self._turn.receive()
            if data == self._around:
                self._to_itself = True
                if not self._second:
                    self._settled.set()
            elif data == self._inward:
                self._came_in = True
                await self._turn.send(self._outward, peer)

    async def serve_second(self) -> None:
        while self._second:
            arrival = await self._second.receive()
            if not isinstance(arrival, Datagram):
                continue
            if arrival.data == self._outward:
                self._through = True
                self._settled.set()
            else:
                await self._heed_control(arrival.data)

    async def _heed_control(self, data: bytes) -> None:
        """Take the answer to the Binding request: UDP gets out and back, and this socket's own address is known."""
        try:
            reply = decode(data)
        except MalformedMessage:
            return
        if reply.transaction_id != self._control.transaction_id or reply.class_ not in (Class.SUCCESS, Class.ERROR):
            return
        self._udp = True
        # A NAT may give this socket another external address than it gave to the first (RFC 4787 §4.1).
        if reply.mapped and reply.mapped.address not in self._reflexive:
            self._reflexive.add(reply.mapped.address)
            await self._permit(reply.mapped)

    async def permit_local(self) -> None:
        """Have this host let in by its own address too, where no NAT is between that and the relayed address."""
        local = self._second and self._second.local
        if local and local.address not in self._permitted and not is_narrower(local.scope, self._relayed.scope):
            await self._permit(local)

    async def _permit(self, peer: Endpoint) -> None:
        try:
            await self._turn.permit(peer)
        except (TurnRefusal, Unusable):
            return
        self._permitted.add(peer.address)

    def judge(self) -> tuple[Depth, str | None]:
        if self._through:
            return Depth.ECHO, None
        untested = self._untested()
        if untested:
            if self._to_itself:
                return Depth.ECHO, f"bytes went through the relay to itself alone: {untested}"
            return Depth.PERMISSION, f"permission is granted, and bytes could not be tested: {untested}"
        if self._came_in:
            said = "allocated and permitted, and bytes come in through the relay, but none go out"
            raise Unusable(IceServerState.NO_DATA, said)
        if self._to_itself:
            raise Unusable(IceServerState.SELF_ONLY, self._self_only())
        raise Unusable(IceServerState.NO_DATA, "allocated and permitted, but no bytes go through the relay")

    def _untested(self) -> str | None:
        """Return why silence on the way through the second socket proves nothing; None where it does."""
        remote, relayed = self._link.remote, self._relayed
        if self._second is None:
            return f"this host cannot send to {relayed.address}"
        if not self._udp:
            return "UDP is not answered here"
        if not self._reflexive & self._permitted:
            return "the server does not let in this host as a peer"
        if self._reflexive <= {remote.address}:
            return f"the server sees this host as {remote.address}, its own address: a proxy is before it"
        if is_narrower(remote.scope, relayed.scope) and remote.scope is not Scope.LOOPBACK:
            return (
                f"the server is reached from inside of its network, and {relayed.address} is an address outside of it"
            )
        return None

    def _self_only(self) -> str:
        said = "bytes go through the relay only to itself: nothing came in from outside; open the server's relay ports "
        said += "(coturn: min-port to max-port, UDP)"
        remote, relayed = self._link.remote, self._relayed
        if relayed.version == remote.version and relayed.address != remote.address:
            said += f", and see whether {relayed.address} is the server's address (coturn: external-ip)"
        return said


@asynccontextmanager
async def _second_socket(network: Network, relayed: Endpoint) -> AsyncIterator[Datagrams | None]:
    """Give a socket that can write to the relay; None where this host cannot."""
    try:
        socket = await network.datagrams(Endpoint(await network.source_for(relayed), 0))
    except (CannotRun, OSError):
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
