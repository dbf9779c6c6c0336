"""What a server has shown of itself in its first answer: what it is, where it answers, from where it can send.

Pure. Probes read here what to ask for, inference why something could not be asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from natprobe.endpoint import NO_HOST, Address, Endpoint, Scope
from natprobe.extensions import Source
from natprobe.observation import Exchange
from natprobe.stun import Change


class Kind(StrEnum):
    """What a server speaks."""

    NATPROBE = "natprobe"
    RFC5780 = "rfc5780"
    RFC8489 = "rfc8489"


Sender = tuple[Endpoint, Source | Change]
"""An endpoint that a server can be asked to answer from, and what asks for it."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server as contacted at one endpoint.

    ``listens`` are the endpoints that mapping can be asked at, the contacted one first. ``senders`` are the endpoints
    that can be asked to answer a request to the contacted one, for tests of filtering, with what asks them. ``fault``
    says what is wrong with the alternate address that it names, or that it names none.
    """

    contacted: Endpoint
    kind: Kind
    listens: tuple[Endpoint, ...]
    senders: tuple[Sender, ...]
    fault: str | None


def describe(hello: Exchange) -> Server:
    """Return what the answered ``hello`` says of its server, believing only what can be true."""
    contacted = hello.remote
    if hello.site:
        return _reflector(hello)
    fault = _other_address_fault(hello)
    other = hello.other
    if other is None or fault == UNREACHABLE_OTHER:
        return Server(contacted, Kind.RFC8489, (contacted,), (), fault)
    grid = dict.fromkeys((contacted, contacted.with_port(other.port), other.with_port(contacted.port), other))
    senders = tuple(
        (endpoint, change)
        for endpoint, change in (
            (contacted.with_port(other.port), Change.PORT),
            (other.with_port(contacted.port), Change.ADDRESS),
            (other, Change.ADDRESS | Change.PORT),
        )
        if endpoint != contacted and (endpoint.address != contacted.address or change is Change.PORT)
    )
    return Server(contacted, Kind.RFC5780, tuple(grid), senders, fault)


NO_OTHER = "it names no other address: it does not support RFC 5780"
SAME_ADDRESS = "its OTHER-ADDRESS repeats its own address"
SAME_PORT = "its OTHER-ADDRESS has its own port"
UNREACHABLE_OTHER = "its OTHER-ADDRESS cannot be reached from here"
ONE_ADDRESS = "it has only one address"


def may_be_sent_to(contacted: Endpoint, named: Endpoint) -> bool:
    """Return whether a server contacted at one endpoint may send a client on to another one.

    Not to a narrower scope than its own, where the same address is another host, and never to a group of hosts: a
    server must not make its clients probe what it could not reach itself.
    """
    if named.version != contacted.version or named.port == 0:
        return False
    return named.scope not in NO_HOST and named.scope in (contacted.scope, Scope.GLOBAL)


def _other_address_fault(hello: Exchange) -> str | None:
    """Return what is wrong with the OTHER-ADDRESS of an answer (RFC 5780 §7.4), or None."""
    contacted, other = hello.remote, hello.other
    if other is None:
        return NO_OTHER
    if not may_be_sent_to(contacted, other) or _is_own(hello, other):
        return UNREACHABLE_OTHER
    if other.address == contacted.address:
        return SAME_ADDRESS
    return SAME_PORT if other.port == contacted.port else None


def _is_own(hello: Exchange, named: Endpoint) -> bool:
    """Return whether a server that is elsewhere names this very host as another address of its own."""
    own = {hello.local.address} | ({hello.mapped.address} if hello.mapped else set())
    return named.address in own - {hello.remote.address}


def _reflector(hello: Exchange) -> Server:
    """Return a reflector with the part of its SITE that can be true.

    SAME_ADDRESS is the contacted address whatever the reflector calls it: behind a 1:1 NAT it knows another name for
    it. Of the other endpoints at most the four of two addresses and two ports are sent to.
    """
    contacted = hello.remote
    known = [(Source[role], endpoint) for role, endpoint in hello.site if role in Source.__members__]
    listens: list[Endpoint] = [contacted]
    senders: list[Sender] = []
    for role, endpoint in known:
        if role is Source.SAME_ADDRESS and endpoint.version == contacted.version:
            senders.append((contacted.with_port(endpoint.port), role))
        elif not may_be_sent_to(contacted, endpoint.with_port(endpoint.port or contacted.port)):
            continue
        elif role is Source.LISTENS and not _is_own(hello, endpoint):
            listens.append(endpoint)
        elif role not in (Source.LISTENS, Source.SELF):
            senders.append((endpoint, role))
    grid = _grid(listens)
    fault = None if len({endpoint.address for endpoint in grid}) > 1 else ONE_ADDRESS
    return Server(contacted, Kind.NATPROBE, grid, tuple(senders), fault)


def _grid(listens: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Return the endpoints at the first two addresses and the first two ports among them."""
    addresses: dict[Address, None] = {}
    ports: dict[int, None] = {}
    found = []
    for endpoint in dict.fromkeys(listens):
        fits = (endpoint.address in addresses or len(addresses) < 2) and (endpoint.port in ports or len(ports) < 2)
        if fits:
            addresses[endpoint.address] = ports[endpoint.port] = None
            found.append(endpoint)
    return tuple(found)
