"""What a server has shown of itself in its first answer: what it is, where it answers, from where it can send.

Pure. Probes read here what to ask for, inference why something could not be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from natprobe.endpoint import Endpoint, Scope, scope_of
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
        return _reflector(contacted, hello.site)
    fault = other_address_fault(contacted, hello.other)
    other = hello.other
    if other is None or other.version != contacted.version or fault == UNREACHABLE_OTHER:
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


def other_address_fault(contacted: Endpoint, other: Endpoint | None) -> str | None:
    """Return what is wrong with an OTHER-ADDRESS (RFC 5780 §7.4), or None.

    An address that is unspecified, reserved, of the other family or of a narrower scope than the server's own cannot be
    reached.
    """
    if other is None:
        return NO_OTHER
    if other.version != contacted.version or other.port == 0:
        return UNREACHABLE_OTHER
    if other.address == contacted.address:
        return SAME_ADDRESS
    reserved = isinstance(other.address, IPv4Address) and other.address.is_reserved
    if reserved or scope_of(other.address) not in (contacted.scope, Scope.GLOBAL):
        return UNREACHABLE_OTHER
    return SAME_PORT if other.port == contacted.port else None


def _reflector(contacted: Endpoint, site: tuple[tuple[str, Endpoint], ...]) -> Server:
    known = [(Source[role], endpoint) for role, endpoint in site if role in Source.__members__]
    roles = [(role, endpoint) for role, endpoint in known if endpoint.version == contacted.version]
    listens = tuple(dict.fromkeys([contacted, *(endpoint for role, endpoint in roles if role is Source.LISTENS)]))
    senders = tuple((e, role) for role, e in roles if role not in (Source.LISTENS, Source.SELF))
    addresses = {endpoint.address for endpoint in listens}
    fault = None if len(addresses) > 1 else "it has only one address"
    return Server(contacted, Kind.NATPROBE, listens, senders, fault)
