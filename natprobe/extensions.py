"""What natprobe's reflector can do beyond RFC 5780, as STUN attributes. The wire form is told in docs/protocol.md.

All types are comprehension-optional (RFC 8489 §14): any other server ignores them, and any other client never sees
them. Here are only their values and their bytes; what the reflector does on them stands in ``reflector.rules``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.stun import Attribute, address

E = TypeVar("E", bound=IntEnum)

_DELAY_UNIT = 0.01
TOKEN_MARK = b"natp"
"""Follows the transaction ID of the request in the token that a connect-back brings."""
TOKEN_SIZE = 16


class Extension(IntEnum):
    """The attribute types."""

    COOKIE = 0xCA50
    """In a request: the cookie of an earlier reply, or empty to ask for one. In a reply: the cookie."""
    REPLY_FROM = 0xCA51
    """In a request with a cookie: which replies to send, from where, when."""
    REPLY_NUMBER = 0xCA52
    """In a reply that REPLY_FROM asked for: which of them it is, and how many there are."""
    SITE = 0xCA53
    """In a reply to a request for a cookie: the endpoints of the reflector, each with its role."""
    CONNECT_BACK = 0xCA54
    """In a TCP request with a cookie: from where to dial the address that the connection comes from."""
    CONNECT_BACK_RESULT = 0xCA55
    RECEIVED = 0xCA56
    """In a reply: the TTL and the DSCP/ECN byte with which the request arrived."""
    GROUP = 0xCA57
    """In a TCP request: a tag of the client's. In the reply: how many live connections carry it."""
    INSTANCE = 0xCA58
    """In a reply: 8 bytes drawn at the reflector's start. Two values behind one address: a load balancer."""
    DESTINATIONS = 0xCA59
    """Beside SITE: the ports that answer over TCP for clients that hold many connections, and how many there may be."""
    MEMO = 0xCA5A
    """In a TCP request with GROUP: bytes for the one other connection that carries the tag, which gets them in an
    indication."""
    OVERLAP = 0xCA5B
    """In a TCP request: whether another client has the same external endpoint. In the reply: where it is connected."""
    UDP_SERVICE = 0xCA5C
    """In a TCP request: whether the reflector's UDP would answer this client. In the reply: the answer."""
    FILLER = 0xCA5F
    """In a request: nothing, at length, for a reply is never longer than its request."""


class Source(IntEnum):
    """From where the reflector may send, seen from the endpoint that got the request.

    A *quiet* port is one that no client ever sends to; the *quiet* address is one with no other kind of port.
    """

    SELF = 0
    SAME_ADDRESS = 1
    """The same address, its quiet port."""
    ALTERNATE_SAME_PORT = 2
    ALTERNATE = 3
    """The alternate address, its quiet port."""
    QUIET_SAME_PORT = 4
    QUIET = 5
    """The quiet address, its quiet port."""
    LISTENS = 0x80
    """In SITE only: an endpoint that answers."""


class UdpService(IntEnum):
    """Whether the reflector's UDP would answer a request of this client, were one to arrive."""

    SERVES = 0
    DEAF = 1
    """Its own datagrams do not reach it either."""
    EXHAUSTED = 2
    """The budget of the client's network is spent."""


class DialOutcome(IntEnum):
    """What became of one connect-back."""

    ACCEPTED = 0
    """Connected, and the token came back: the client itself accepted."""
    CONNECTED = 1
    """Connected, but no token came back: something else accepted."""
    REFUSED = 2
    UNREACHABLE = 3
    SILENT = 4
    NOT_DIALLED = 5
    """The reflector could not, or would not: no conclusion."""


@dataclass(frozen=True, slots=True)
class PlannedReply:
    """One reply to send: from where, and how many seconds after the request (in steps of 10 ms, at most 655 s)."""

    source: Source
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplyNumber:
    """Which of the planned replies this one is."""

    source: Source
    index: int
    total: int


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect-backs from one source: how many, at most, until one is accepted or refused."""

    source: Source
    attempts: int


@dataclass(frozen=True, slots=True)
class DialPlan:
    """What to dial, the seconds between attempts of a source, and the seconds each is given to connect."""

    dials: tuple[Dial, ...]
    spacing: float
    patience: float


@dataclass(frozen=True, slots=True)
class DialResult:
    """What became of the connect-backs from one source: the outcome of the best one, and how many were made."""

    source: Source
    outcome: DialOutcome
    attempts: int


@dataclass(frozen=True, slots=True)
class Destinations:
    """TCP ports of the primary and the alternate address, and how many connections all of them together may carry."""

    ports: range
    most: int


Site = tuple[tuple[Source, Endpoint], ...]


def cookie_attribute(cookie: bytes = b"") -> Attribute:
    return Attribute(Extension.COOKIE, cookie)


def filler_attribute(size: int) -> Attribute:
    return Attribute(Extension.FILLER, bytes(max(0, size)))


def reply_from_attribute(replies: Iterable[PlannedReply]) -> Attribute:
    """Raises ValueError, like every writer here, for what its bytes cannot hold."""
    packed = (_pack("!BxH", reply.source, round(reply.delay / _DELAY_UNIT)) for reply in replies)
    return Attribute(Extension.REPLY_FROM, b"".join(packed))


def read_reply_from(value: bytes) -> tuple[PlannedReply, ...]:
    """Raises MalformedMessage, like every reader here."""
    return tuple(PlannedReply(_source(source), delay * _DELAY_UNIT) for source, delay in _records("!BxH", value))


def reply_number_attribute(number: ReplyNumber) -> Attribute:
    return Attribute(Extension.REPLY_NUMBER, _pack("!BBBx", number.source, number.index, number.total))


def read_reply_number(value: bytes) -> ReplyNumber:
    source, index, total = _record("!BBBx", value)
    return ReplyNumber(_source(source), index, total)


def site_attribute(site: Site) -> Attribute:
    return Attribute(Extension.SITE, b"".join(_pack_role(source, endpoint) for source, endpoint in site))


def read_site(value: bytes) -> Site:
    site: list[tuple[Source, Endpoint]] = []
    while value:
        size = {1: 8, 2: 20}.get(value[1] if len(value) > 1 else 0, 0)
        if not size or len(value) < size:
            raise MalformedMessage(0, "SITE holds no whole endpoint")
        site.append((_source(value[0]), address(b"\0" + value[1:size])))
        value = value[size:]
    return tuple(site)


def connect_back_attribute(plan: DialPlan) -> Attribute:
    head = _pack("!HH", round(plan.spacing * 1000), round(plan.patience * 1000))
    dials = (_pack("!BBxx", dial.source, dial.attempts) for dial in plan.dials)
    return Attribute(Extension.CONNECT_BACK, head + b"".join(dials))


def read_connect_back(value: bytes) -> DialPlan:
    spacing, patience = _record("!HH", value[:4])
    dials = tuple(Dial(_source(source), attempts) for source, attempts in _records("!BBxx", value[4:]))
    return DialPlan(dials, spacing / 1000, patience / 1000)


def connect_back_result_attribute(results: Iterable[DialResult]) -> Attribute:
    packed = (_pack("!BBBx", r.source, r.outcome, r.attempts) for r in results)
    return Attribute(Extension.CONNECT_BACK_RESULT, b"".join(packed))


def read_connect_back_result(value: bytes) -> tuple[DialResult, ...]:
    records = _records("!BBBx", value)
    return tuple(DialResult(_source(s), _member(DialOutcome, o), attempts) for s, o, attempts in records)


def received_attribute(ttl: int, tos: int) -> Attribute:
    return Attribute(Extension.RECEIVED, _pack("!BBxx", ttl, tos))


def read_received(value: bytes) -> tuple[int, int]:
    """Return the TTL and the DSCP/ECN byte."""
    ttl, tos = _record("!BBxx", value)
    return ttl, tos


def group_attribute(tag: bytes) -> Attribute:
    return Attribute(Extension.GROUP, tag)


def memo_attribute(memo: bytes) -> Attribute:
    return Attribute(Extension.MEMO, memo)


def overlap_attribute(where: Endpoint | None = None) -> Attribute:
    """Return the question, or the answer that another client's connection to ``where`` is."""
    return Attribute(Extension.OVERLAP, _pack_role(Source.LISTENS, where) if where else b"")


def read_overlap(value: bytes) -> Endpoint:
    ends = read_site(value)
    if len(ends) != 1:
        raise MalformedMessage(0, "OVERLAP holds one endpoint")
    return ends[0][1]


def udp_service_attribute(service: UdpService | None = None) -> Attribute:
    """Return the question, or the answer to it."""
    return Attribute(Extension.UDP_SERVICE, b"" if service is None else _pack("!Bxxx", service))


def read_udp_service(value: bytes) -> UdpService:
    return _member(UdpService, _record("!Bxxx", value)[0])


def group_size_attribute(size: int) -> Attribute:
    return Attribute(Extension.GROUP, _pack("!I", size))


def read_group_size(value: bytes) -> int:
    return _record("!I", value)[0]


def destinations_attribute(destinations: Destinations) -> Attribute:
    ports = destinations.ports
    return Attribute(Extension.DESTINATIONS, _pack("!HHI", ports.start, ports.stop - 1, destinations.most))


def read_destinations(value: bytes) -> Destinations:
    first, last, most = _record("!HHI", value)
    if not 0 < first <= last:
        raise MalformedMessage(0, "DESTINATIONS holds no range of ports")
    return Destinations(range(first, last + 1), most)


def _pack(form: str, *values: int) -> bytes:
    try:
        return struct.pack(form, *values)
    except struct.error as wrong:
        raise ValueError(f"{values} cannot be written: {wrong}") from None


def _pack_role(source: Source, endpoint: Endpoint) -> bytes:
    family = 1 if endpoint.version == 4 else 2
    return struct.pack("!BBH", source, family, endpoint.port) + endpoint.address.packed


def _source(number: int) -> Source:
    return _member(Source, number)


def _member(kind: type[E], number: int) -> E:
    try:
        return kind(number)
    except ValueError:
        raise MalformedMessage(0, f"{number} is no {kind.__name__}") from None


def _records(form: str, value: bytes) -> Iterator[tuple[int, ...]]:
    if len(value) % struct.calcsize(form):
        raise MalformedMessage(0, "an extension's value has the wrong length")
    return struct.iter_unpack(form, value)


def _record(form: str, value: bytes) -> tuple[int, ...]:
    if len(value) != struct.calcsize(form):
        raise MalformedMessage(0, "an extension's value has the wrong length")
    return struct.unpack(form, value)
