"""The tests put to a network: straight async functions that ask and record. None draws a conclusion."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from natprobe.conversation import TCP_PATIENCE, Conversation
from natprobe.endpoint import Address, Endpoint
from natprobe.exchange import Mailbox
from natprobe.extensions import cookie_attribute, filler_attribute
from natprobe.network import Network
from natprobe.observation import Exchange, Observation
from natprobe.server import Kind, Sender, Server, describe
from natprobe.stun import Attribute

if TYPE_CHECKING:
    from natprobe.probes.partner import Partner

FURTHER_PORTS = 2
"""Local ports from which mapping is tested again where the first one was not treated the same towards all."""
Further = Callable[[Iterable[Endpoint]], Iterable[Endpoint]]
"""Returns the endpoints that may be asked as well, by those that have answered."""


@dataclass(frozen=True, slots=True)
class Setting:
    """From where a probe asks, and whom it tells what it saw. ``port`` is for the mapping test; 0 is any free one.

    ``known_rtt`` is the shortest round trip to a server that anyone has seen by now, in seconds, if anyone has.
    ``filters_tested`` is where all protocols meet before any sends to an alternate address: there are filters that let
    in, over any protocol, whoever this host has sent to over one. ``sampling`` is held by the one protocol whose ports
    are being sampled: a NAT may count for both. ``tag`` is this run's, for a reflector to know its connections by.
    ``second`` is another address of this host behind the same NAT, ``partner`` another host there; ``deep`` says that
    time and packets may be spent on certainty.
    """

    network: Network
    source: Address
    port: int
    started: float
    record: Callable[[Observation], None]
    known_rtt: Callable[[], float | None]
    filters_tested: asyncio.Barrier
    sampling: asyncio.Lock
    tag: bytes = b""
    second: Address | None = None
    partner: Partner | None = None
    deep: bool = False
    tcp_patience: float = TCP_PATIENCE
    """Longest wait for a TCP connection, in seconds."""

    def now(self) -> float:
        """Seconds since the start of the run."""
        return self.network.now() - self.started

    async def mailbox(self, port: int = 0, source: Address | None = None) -> Mailbox:
        """Open a UDP socket of its own for one test. Raises AddressBusy."""
        datagrams = await self.network.datagrams(Endpoint(source or self.source, port))
        return Mailbox(self.network, datagrams, self.started, self.known_rtt)

    async def conversation(self, local: Endpoint, remote: Endpoint) -> Conversation:
        """Open a TCP connection from ``local``; one that fails is a conversation that says so. Raises AddressBusy."""
        return await Conversation.open(self.network, self.started, local, remote, self.tcp_patience)

    async def free_tcp_port(self, port: int = 0) -> Endpoint:
        """Return a local endpoint that no other socket has: the one asked for, or what the system gives a listener."""
        listener = await self.network.listen(Endpoint(self.source, port))
        listener.close()
        return listener.local


def hello_attributes() -> tuple[Attribute, ...]:
    """Return what a first request carries: a wish for a cookie, and room for a reflector to describe itself."""
    return cookie_attribute(), filler_attribute(384)


def plain_attributes() -> tuple[Attribute, ...]:
    """Return what a request carries that only asks for the mapped endpoint: room for the answer."""
    return (filler_attribute(108),)


def ranked(servers: Iterable[Server]) -> list[Server]:
    """Return the servers, those that can test most first: reflectors, then those with a sound RFC 5780."""
    order = {Kind.NATPROBE: 0, Kind.RFC5780: 1, Kind.RFC8489: 3}
    return sorted(servers, key=lambda server: order[server.kind] + (server.fault is not None))


def choose(servers: Iterable[Server]) -> Server:
    """Return the server that can test most."""
    return ranked(servers)[0]


def uncontacted(server: Server, greeted: Sequence[Endpoint]) -> list[Sender]:
    """Return the senders of ``server`` at addresses where no other server was greeted: their filter is untouched.

    What counts is what was sent: whether an answer came back makes no difference to a filter.
    """
    touched = {endpoint.address for endpoint in greeted if endpoint != server.contacted}
    return [sender for sender in server.senders if sender[0].address not in touched]


def may_have_been_let_in_before(server: Server, heard: Iterable[Endpoint]) -> bool:
    """Return whether who came in may owe it to an earlier run, so that another local port must be asked too.

    RFC 5780 §4.1 asks for ports that were idle for 15 minutes, of which only the system knows. The endpoints that
    answer are sent to in every run, and those at a quiet address in none: where one of these comes in, it is the NAT's
    rule.
    """
    came = set(heard)
    addresses = {endpoint.address for endpoint in server.listens}
    return not came.isdisjoint(server.listens) and all(endpoint.address in addresses for endpoint in came)


@dataclass(frozen=True, slots=True)
class Targets:
    """The endpoints to compare mappings at: all of the best server's, the contacted ones of the others.

    ``later`` are those at another address of the server's and on another port than the one that was given: a server
    must not make its clients try ports of other hosts, so that these wait until it has answered both at that port of
    its own address and at that address (`served`).
    """

    server: Server
    at_once: tuple[Endpoint, ...]
    later: tuple[Endpoint, ...]

    @classmethod
    def of(cls, known: Sequence[Server]) -> Targets:
        server = choose(known)
        contacted = [other.contacted for other in known]
        endpoints = dict.fromkeys([*server.listens, *contacted])
        home = server.contacted
        later = [e for e in endpoints if e not in contacted and e.address != home.address and e.port != home.port]
        return cls(server, tuple(e for e in endpoints if e not in later), tuple(later))

    def served(self, answered: Iterable[Endpoint]) -> list[Endpoint]:
        """Return those of ``later`` that may be asked, by the endpoints that have answered."""
        came = set(answered)
        home = self.server.contacted
        return [e for e in self.later if home.with_port(e.port) in came and e.with_port(home.port) in came]

    def to_repeat(self) -> list[Endpoint]:
        """Return two endpoints that show from another local port whether equal mappings were equal by chance."""
        home = self.server.contacted
        return [home, *(endpoint for endpoint in self.at_once if endpoint.address != home.address)][:2]


def ports_are_drawn(hellos: Iterable[Exchange]) -> bool:
    """Return whether the NAT chooses external ports itself, so that two of its mappings may be equal by chance.

    Of 64,512 ports two are drawn alike once in so many runs, which is more often than a confirmed verdict may be wrong.
    """
    return any(hello.mapped and hello.mapped.port != hello.local.port for hello in hellos)


def proven(known: Iterable[Server], mappings: Sequence[Exchange]) -> list[Server]:
    """Return the servers with those alone of their endpoints that have answered here, or are theirs by being named."""
    answered = {mapping.remote for mapping in mappings if mapping.answered}
    return [
        replace(server, listens=tuple(e for e in server.listens if e == server.contacted or e in answered))
        for server in known
    ]


def irregular(mappings: Sequence[Exchange]) -> bool:
    """Return whether what one local port was seen as may be owed to chance, so that other ports must be asked too.

    A NAT that kept the port towards some endpoints only looks like that where a neighbour holds it towards the others
    (RFC 4787 §8: it is not deterministic). Several external addresses may be several ways out, taken by turns. And a
    mapping that moved towards one and the same endpoint was lost during the test.
    """
    seen = [(mapping.remote, mapping.mapped) for mapping in mappings if mapping.mapped]
    kept = {mapping.mapped.port == mapping.local.port for mapping in mappings if mapping.mapped}
    addresses = {mapped.address for _, mapped in seen}
    return len(kept) > 1 or len(addresses) > 1 or len(set(seen)) > len(dict(seen))


async def answers(asking: Iterable[Awaitable[Exchange]], record: Callable[[Observation], None]) -> list[Exchange]:
    """Await questions put to several servers at once and record each outcome; return those that were answered.

    Once there is an answer, the others have three of its round trips more, so that a dead one costs no time; longer if
    those that have answered can test little.
    """
    pending = set(map(asyncio.ensure_future, asking))
    answered: list[Exchange] = []
    try:
        while pending:
            grace = _grace(answered) if answered else None
            done, pending = await asyncio.wait(pending, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            exchanges = [task.result() for task in done]
            for exchange in exchanges:
                record(exchange)
            answered += [exchange for exchange in exchanges if exchange.answered]
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return answered


def _grace(answered: Sequence[Exchange]) -> float:
    servers = [describe(hello) for hello in answered]
    able = any(server.fault is None for server in servers) or len({s.contacted.address for s in servers}) > 1
    return max(0.15 if able else 0.6, 3 * min(hello.rtt or 0 for hello in answered))
