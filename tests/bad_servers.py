"""A STUN server as others build it, and every way in which servers out there are broken, misconfigured or hostile.

Served in a test's own event loop, or as a program on a node of the lab:

    python tests/bad_servers.py FAULT ADDRESS ADDRESS PORT PORT

The first address and the first port are the ones to contact. Knows of natprobe its codec alone.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import product
from types import TracebackType
from typing import Self, cast

from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.stun import (
    Attribute,
    Change,
    Class,
    Message,
    Type,
    address_attribute,
    decode,
    error_attribute,
    unknown_attribute,
    xor_mapped_attribute,
)


class Fault(StrEnum):
    """What is wrong with a server. Whatever is not mentioned it does as RFC 5780 says."""

    NONE = "none"
    IGNORES_CHANGE = "ignores-change"
    """Answers a change request from where it was asked."""
    REFUSES_CHANGE = "refuses-change"
    """Answers it with error 420."""
    DROPS_CHANGE = "drops-change"
    """Does not answer it: its alternate is behind a firewall."""
    CHANGES_PORT_ONLY = "changes-port-only"
    """Answers from the other port of its own address when it is asked for its other address."""
    CHANGES_FOR_ONE = "changes-for-one"
    """Changes its source for the first port alone that asks for it: its alternate has died, or is behind a balancer."""
    DELAYS_CHANGE = "delays-change"
    """Answers it LATE seconds after a plain request would have been answered."""
    PLAIN = "plain"
    """Knows RFC 8489 alone: names no other address, and does not know what a change request is."""
    OTHER_UNSPECIFIED = "other-unspecified"
    OTHER_SAME_ADDRESS = "other-same-address"
    """As coturn on its second address: OTHER-ADDRESS has the server's own address, and that is all it can change to."""
    OTHER_SAME_PORT = "other-same-port"
    OTHER_DEAD = "other-dead"
    """Names an address where nobody listens, and answers change requests from where it was asked."""
    OTHER_ELSEWHERE = "other-elsewhere"
    """Names an address that no route leads to."""
    WRONG_SOURCE = "wrong-source"
    """Answers everything from another port than it was sent to."""
    WRONG_TRANSACTION = "wrong-transaction"
    REPLAYED_TRANSACTION = "replayed-transaction"
    """Answers with the transaction ID of the request before."""
    GARBAGE = "garbage"
    ERROR = "error"
    """Answers everything with error 500."""
    DUPLICATES = "duplicates"
    """Sends every answer again and again, as long as it lives."""
    ECHOES_LATE = "echoes-late"
    """Sends every answer once more, LATE seconds later: by then another test is under way."""
    MAPPED_IPV6 = "mapped-ipv6"
    """Names an IPv6 address as the source of an IPv4 request."""
    MAPPED_NOTHING = "mapped-nothing"
    """Names 0.0.0.0:0."""
    MAPPED_MISSING = "mapped-missing"
    """A success that does not say what was seen."""
    MAPPED_AT_RANDOM = "mapped-at-random"
    """Names another port of the same address every time, as a server behind a proxy of its own does."""
    TWO_FACES = "two-faces"
    """Two servers behind one address take turns, and each names another other address."""
    DIES = "dies"
    """Answers whatever comes first, and nothing afterwards."""
    HEAD_OF_BURST = "head-of-burst"
    """Answers the first request of a burst alone: something in front of it limits the rate."""


LATE = 0.15
DUPLICATE_EVERY = 0.002
BURST = 0.01
"""Seconds without a request after which the next one begins a burst."""
SOMEWHERE = Endpoint.parse("[2001:db8::7]:7")
NOWHERE = Endpoint.parse("203.0.113.77:3478")


@dataclass(frozen=True, slots=True)
class Reply:
    """One datagram to send: what, from where, how many seconds from now."""

    data: bytes
    origin: Endpoint
    delay: float = 0.0


class BadServer:
    """A server on two addresses and two ports with one fault. An async context manager: it ends with the block."""

    def __init__(self, fault: Fault, addresses: Sequence[str], ports: Sequence[int]) -> None:
        self.fault = fault
        self.endpoints = [Endpoint.of(address, port) for address, port in product(addresses, ports)]
        self.requests: list[tuple[Endpoint, Message]] = []
        """What was asked, and where."""
        self._transports: dict[Endpoint, asyncio.DatagramTransport] = {}
        self._before: bytes | None = None
        self._first: Endpoint | None = None
        """Who asked for a change first."""
        self._last_at = -BURST

    @property
    def contact(self) -> Endpoint:
        return self.endpoints[0]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        silent = self.endpoints[2:] if self.fault is Fault.OTHER_DEAD else []
        for endpoint in self.endpoints:
            if endpoint not in silent:
                await loop.create_datagram_endpoint(partial(_Port, self, endpoint), endpoint.sockaddr)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for transport in self._transports.values():
            transport.abort()
        self._transports.clear()
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    def opened(self, endpoint: Endpoint, transport: asyncio.DatagramTransport) -> None:
        self._transports[endpoint] = transport

    def received(self, data: bytes, source: Endpoint, local: Endpoint) -> None:
        try:
            request = decode(data)
        except MalformedMessage:
            return
        self.requests.append((local, request))
        now, before = asyncio.get_running_loop().time(), self._last_at
        self._last_at = now
        if self.fault is Fault.HEAD_OF_BURST and now - before < BURST:
            return
        if self.fault is Fault.DIES and len(self.requests) > 1:
            return
        if self.fault is Fault.CHANGES_FOR_ONE and request.change and source != self._first_to_ask(source):
            return
        for reply in self.replies(request, source, local):
            asyncio.get_running_loop().call_later(reply.delay, self._send, reply, source)

    def _send(self, reply: Reply, target: Endpoint) -> None:
        transport = self._transports.get(reply.origin)
        if transport is None:
            return
        transport.sendto(reply.data, target.sockaddr)
        if self.fault is Fault.DUPLICATES:
            asyncio.get_running_loop().call_later(DUPLICATE_EVERY, self._send, reply, target)

    # --- what it answers ----------------------------------------------------------------------------------------------

    def replies(self, request: Message, source: Endpoint, local: Endpoint) -> Iterator[Reply]:
        """Yield what this server makes of a request."""
        before, self._before = self._before, request.transaction_id
        origin = self._origin(request.change, local)
        match self.fault:
            case Fault.REFUSES_CHANGE if request.change:
                yield Reply(_failure(request, 420, unknown_attribute([Type.CHANGE_REQUEST])), local)
            case Fault.PLAIN if Type.CHANGE_REQUEST in (attribute.type for attribute in request.attributes):
                yield Reply(_failure(request, 420, unknown_attribute([Type.CHANGE_REQUEST])), local)
            case Fault.DROPS_CHANGE if request.change:
                return
            case Fault.DELAYS_CHANGE if request.change:
                yield Reply(self._success(request, source, local, origin), origin, LATE)
            case Fault.WRONG_TRANSACTION:
                stranger = replace(request, transaction_id=bytes(12))
                yield Reply(self._success(stranger, source, local, origin), origin)
            case Fault.REPLAYED_TRANSACTION:
                earlier = replace(request, transaction_id=before or request.transaction_id)
                yield Reply(self._success(earlier, source, local, origin), origin)
            case Fault.GARBAGE:
                yield Reply(b"HTTP/1.1 400 Bad Request\r\n\r\n", origin)
            case Fault.ERROR:
                yield Reply(_failure(request, 500), origin)
            case Fault.ECHOES_LATE:
                yield Reply(self._success(request, source, local, origin), origin)
                yield Reply(self._success(request, source, local, origin), origin, LATE)
            case _:
                yield Reply(self._success(request, source, local, origin), origin)

    def _first_to_ask(self, source: Endpoint) -> Endpoint:
        self._first = self._first or source
        return self._first

    def _origin(self, change: Change, local: Endpoint) -> Endpoint:
        """Return from where the answer to a request to ``local`` is sent."""
        flags = {Change.PORT: Change.PORT, Change.ADDRESS: Change.ADDRESS}
        match self.fault:
            case Fault.IGNORES_CHANGE | Fault.OTHER_UNSPECIFIED | Fault.OTHER_DEAD | Fault.OTHER_ELSEWHERE:
                return local
            case Fault.CHANGES_PORT_ONLY:
                flags = {Change.PORT: Change.PORT | Change.ADDRESS}
            case Fault.OTHER_SAME_ADDRESS:
                flags.pop(Change.ADDRESS)
            case Fault.OTHER_SAME_PORT:
                flags.pop(Change.PORT)
            case Fault.WRONG_SOURCE:
                return self._other(local, Change.PORT)
        wanted = Change.NONE
        for what, asked_by in flags.items():
            wanted |= what if change & asked_by else Change.NONE
        return self._other(local, wanted)

    def _other(self, local: Endpoint, change: Change) -> Endpoint:
        """Return the endpoint that differs from ``local`` in what ``change`` says."""
        return next(
            endpoint
            for endpoint in self.endpoints
            if (endpoint.address != local.address) == bool(change & Change.ADDRESS)
            and (endpoint.port != local.port) == bool(change & Change.PORT)
        )

    def _success(self, request: Message, source: Endpoint, local: Endpoint, origin: Endpoint) -> bytes:
        attributes = [*self._mapped(request, source), address_attribute(Type.RESPONSE_ORIGIN, origin)]
        if self.fault is not Fault.PLAIN:
            attributes.append(address_attribute(Type.OTHER_ADDRESS, self._named(local)))
        return Message(Class.SUCCESS, request.transaction_id, tuple(attributes)).encode()

    def _mapped(self, request: Message, source: Endpoint) -> list[Attribute]:
        match self.fault:
            case Fault.MAPPED_MISSING:
                return []
            case Fault.MAPPED_IPV6:
                source = SOMEWHERE
            case Fault.MAPPED_NOTHING:
                source = Endpoint.of("0.0.0.0", 0)
            case Fault.MAPPED_AT_RANDOM:
                source = source.with_port(1024 + len(self.requests))
        return [xor_mapped_attribute(source, request.transaction_id)]

    def _named(self, local: Endpoint) -> Endpoint:
        """Return the OTHER-ADDRESS."""
        match self.fault:
            case Fault.OTHER_UNSPECIFIED:
                return Endpoint.of("0.0.0.0", 0)
            case Fault.OTHER_SAME_ADDRESS:
                return self._other(local, Change.PORT)
            case Fault.OTHER_SAME_PORT:
                return self._other(local, Change.ADDRESS)
            case Fault.OTHER_ELSEWHERE:
                return NOWHERE
            case Fault.TWO_FACES if len(self.requests) % 2 == 0:
                return NOWHERE
        return self._other(local, Change.ADDRESS | Change.PORT)


def _failure(request: Message, code: int, *more: Attribute) -> bytes:
    return Message(Class.ERROR, request.transaction_id, (error_attribute(code, ""), *more)).encode()


class _Port(asyncio.DatagramProtocol):
    def __init__(self, server: BadServer, local: Endpoint) -> None:
        self._server = server
        self._local = local

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.opened(self._local, cast(asyncio.DatagramTransport, transport))

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.received(data, Endpoint.of(*addr), self._local)


async def serve(fault: Fault, addresses: Sequence[str], ports: Sequence[int]) -> None:
    """Serve until cancelled; says ``serving`` on stderr when all sockets are bound."""
    async with BadServer(fault, addresses, ports):
        sys.stderr.write("serving\n")
        sys.stderr.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Fault(sys.argv[1]), sys.argv[2:4], [int(port) for port in sys.argv[4:6]]))
