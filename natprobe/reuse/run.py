"""A holding from its beginning to its end: ask the servers for their destinations, open, prove, tell."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from natprobe.conversation import Conversation
from natprobe.descriptors import raise_file_limit
from natprobe.endpoint import Address, Endpoint, parse_address, split_host_port
from natprobe.errors import CannotRun, MalformedMessage, NameNotFound, NoRoute, NoServerAnswered
from natprobe.extensions import Destinations, Extension, cookie_attribute, filler_attribute, read_destinations
from natprobe.observation import Purpose
from natprobe.reuse.facts import Holding, external, steps
from natprobe.reuse.holder import Holder
from natprobe.reuse.methods import choose
from natprobe.server import Kind, Server, describe
from natprobe.sockets import HostNetwork
from natprobe.system_errors import own_remedy

BOUND = 64
"""Connections that anybody's server may be asked for. More are for reflectors of one's own."""
PACE = 1000.0
"""Connections begun in a second."""
_PACE_ELSEWHERE = 10.0  # RFC 5780 §5: new transactions that a server has to bear in a second
_STUN_PORT = 3478
_SPARE_DESCRIPTORS = 64

Progress = Callable[[str, int, int], None]
"""Is told what is being done, and how many of how many it is done for."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What the servers have to connect to: endpoints, and how many connections they bear (None: they do not say)."""

    endpoints: tuple[Endpoint, ...]
    room: int | None
    own: bool
    """Whether all of it is natprobe's reflectors'."""
    unanswered: tuple[str, ...]
    """Of the servers that did not answer: which and how."""


async def hold(
    servers: Sequence[str],
    *,
    connections: int = BOUND,
    source: str | None = None,
    port: int = 0,
    pace: float = PACE,
    on_progress: Progress = lambda *_: None,
    before_proof: Callable[[], Awaitable[None]] | None = None,
) -> Holding:
    """Hold so many connections from one local port, as far as there are destinations, and return what it showed.

    ``servers`` are ``host``, ``host:port`` or ``[v6]:port``; ``source`` and ``port`` are the local endpoint (0: any
    port), ``pace`` is how many connections are begun in a second. ``before_proof`` is awaited when all are open and
    none has been proven alive yet. Cancelling resets every connection.

    Raises CannotRun where nothing can be connected to, or where more than BOUND connections are asked of a server that
    is no reflector; ValueError for a malformed server or source, or a number of connections that is none.
    """
    if connections < 1:
        raise ValueError(f"{connections} is no number of connections")
    doors, address = await _knock(servers, source)
    if connections > BOUND and not doors.own:
        raise CannotRun(f"more than {BOUND} connections are for natprobe's reflectors alone: `natprobe reflect` is one")
    raise_file_limit(connections + _SPARE_DESCRIPTORS)
    method, local = choose(Endpoint(address, port))
    loop = asyncio.get_running_loop()
    async with Holder(local, method, pace if doors.own else _PACE_ELSEWHERE) as holder:
        # Not to itself: that connects (RFC 9293 §3.5, simultaneous open), and proves nothing.
        there = [endpoint for endpoint in doors.endpoints if endpoint != local]
        began, wanted = loop.time(), there[:connections]
        await holder.open(wanted, lambda held: on_progress("open", held, len(wanted)))
        opened = loop.time()
        if before_proof is not None:
            await before_proof()
        proving = loop.time()
        await holder.prove(lambda alive: on_progress("alive", alive, len(holder.opened)))
        return Holding(
            local=local,
            method=method,
            wanted=connections,
            destinations=len(there),
            opened=len(holder.opened),
            alive=holder.alive,
            opening_s=opened - began,
            proof_s=loop.time() - proving,
            counted=holder.counted,
            room=doors.room,
            steps=steps(holder.opened),
            failures=holder.failures,
            external=external(holder.mappings),
            unanswered=doors.unanswered,
        )


async def _knock(servers: Sequence[str], source: str | None) -> tuple[Doors, Address]:
    """Ask every server what there is to connect to; return that, and the local address to do it from.

    Each address is asked itself: what a server says of another one must not send thousands of connections there.
    """
    if not servers:
        raise ValueError("no server was named")
    network = HostNetwork()
    versions = (parse_address(source).version,) if source else (4, 6)
    named = [endpoint for server in servers for endpoint in await _endpoints(network, server, versions)]
    address = parse_address(source) if source else await _source(network, named)
    contacted = [endpoint for endpoint in dict.fromkeys(named) if endpoint.version == address.version]
    if not contacted:
        raise NoRoute(f"no route from {address} to {named[0].address}: they are of different IP versions")
    greet = partial(_greet, network, Endpoint(address, 0))
    found = await asyncio.gather(*map(greet, contacted))
    told, unanswered = [one for one in found if isinstance(one, _Told)], [one for one in found if isinstance(one, str)]
    if not told:
        reasons = "; ".join(unanswered)
        raise NoServerAnswered(reasons, own_remedy(reasons))
    alternates = {alternate for one in told if (alternate := _alternate(one.server, contacted))}
    more = await asyncio.gather(*map(greet, alternates))
    return _doors([*told, *(one for one in more if isinstance(one, _Told))], unanswered), address


def _alternate(server: Server, contacted: Sequence[Endpoint]) -> Endpoint | None:
    """Return the endpoint at which to greet the alternate address of a server, of which there is one at most."""
    known = {endpoint.address for endpoint in contacted}
    return next((listening for listening in server.listens if listening.address not in known), None)


async def _source(network: HostNetwork, servers: Sequence[Endpoint]) -> Address:
    """Return the local address that leads to the first server to which one does. Raises CannotRun where none does."""
    failures: list[CannotRun] = []
    for server in servers:
        try:
            return await network.source_for(server)
        except CannotRun as failure:
            failures.append(failure)
    raise failures[0]


async def _endpoints(network: HostNetwork, server: str, versions: Sequence[int]) -> list[Endpoint]:
    """Return the endpoint of a server for each IP version in which it has one. Raises NameNotFound where none."""
    host, port = split_host_port(server)
    with suppress(ValueError):
        return [Endpoint.of(host, port or _STUN_PORT)]
    found: list[Endpoint] = []
    failures: list[NameNotFound] = []
    for version in versions:
        try:
            found.append(Endpoint((await network.resolve(host, version))[0], port or _STUN_PORT))
        except NameNotFound as failure:
            failures.append(failure)
    if not found:
        raise next((failure for failure in failures if failure.advice), failures[0])
    return found


@dataclass(frozen=True, slots=True)
class _Told:
    """What a server says of itself."""

    server: Server
    instance: str | None
    destinations: Destinations | None


async def _greet(network: HostNetwork, local: Endpoint, server: Endpoint) -> _Told | str:
    """Return what a server says of itself, or how it did not answer."""
    conversation = await Conversation.open(network, network.now(), local, server)
    try:
        hello = await conversation.ask(Purpose.HELLO, cookie_attribute(), filler_attribute(384))
    finally:
        conversation.close()
    if not hello.answered:
        return f"{server} did not answer over TCP ({hello.detail or hello.outcome})"
    value = conversation.reply.value(Extension.DESTINATIONS) if conversation.reply else None
    destinations = None
    with suppress(MalformedMessage):
        destinations = read_destinations(value) if value else None
    return _Told(describe(hello), hello.instance, destinations)


def _doors(told: Sequence[_Told], unanswered: Sequence[str]) -> Doors:
    """Return what there is to connect to, of one address and the next in turn, so that none bears more than others.

    Of a server with destinations these alone: at its other ports a connection may not be idle for long.
    """
    columns: dict[Address, dict[Endpoint, None]] = {}
    for one in told:
        own = one.server.contacted
        column = columns.setdefault(own.address, {})
        if one.destinations:
            column |= dict.fromkeys(map(own.with_port, one.destinations.ports))
        else:
            column |= dict.fromkeys(listening for listening in one.server.listens if listening.address == own.address)
    rows = itertools.zip_longest(*columns.values())
    endpoints = tuple(endpoint for row in rows for endpoint in row if endpoint is not None)
    rooms = {one.instance: one.destinations.most for one in told if one.destinations}
    reflectors = all(one.server.kind is Kind.NATPROBE for one in told)
    return Doors(endpoints, sum(rooms.values()) if rooms else None, reflectors, tuple(unanswered))
