"""Facts: what was asked, what came back, what did not. Frozen values without an opinion, and their JSON.

Probes write them, inference reads them, a report keeps them. Silence is a fact like any other: how long was waited,
how many copies were sent, what the controls did meanwhile. Times are seconds since the start of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any

import msgspec

from natprobe.behaviour import Difference, Protocol
from natprobe.endpoint import Address, Endpoint, parse_address
from natprobe.errors import MalformedReport


class Purpose(StrEnum):
    """For which question an exchange was made. It decides from which socket, and what may count as evidence."""

    HELLO = "hello"
    """The first request to a server: does it answer, and what is it?"""
    MAPPING = "mapping"
    """From the one socket whose mapped endpoints are compared."""
    FILTERING = "filtering"
    """Who comes in? Over TCP a request for connections back; what came of each is a ConnectBack."""
    HOLD = "hold"
    """Asked again on a connection while all the others are open."""
    RECONNECT = "reconnect"
    """On a connection of a series that follow each other between the same two endpoints, each after the last's end."""
    PROOF = "proof"
    """A change request through an opened filter: shows that the server can answer from elsewhere."""
    CONTROL = "control"
    """Does the same server answer over the other protocol?"""
    CLOSED_PORT = "closed-port"
    """To a port of a server's where nobody listens: its host's refusal shows that packets get there, whatever the
    server does."""
    REMAP = "remap"
    """From a socket that is sent to uninvited: before that, and after."""
    HAIRPIN = "hairpin"
    """From one socket of this host to the external endpoint of another one; ``mapped`` is as whom that one saw it."""


class Outcome(StrEnum):
    """What came of a question."""

    ANSWERED = "answered"
    ERROR = "error"
    """An error response (RFC 8489 §6.3.4)."""
    MISPLACED = "misplaced"
    """Answered, but from another endpoint than the one that was asked to."""
    REJECTED = "rejected"
    """An ICMP error or a TCP reset, told in ``detail``; ``source`` is who sent an ICMP error (port 0), where known."""
    UNREADABLE = "unreadable"
    """Something came back from the endpoint that was asked, but no answer to the question; ``detail`` says what."""
    MUTE = "mute"
    """A TCP connection opened, but no answer came on it."""
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Resolution:
    """A server's name and what it stands for; ``error`` is the resolver's where there is no address."""

    name: str
    endpoints: tuple[Endpoint, ...]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One Binding request from ``local`` to ``remote``, and what came of it.

    ``sent`` counts the copies (of a TCP connection: the one attempt), ``rtt`` belongs to the copy that was answered,
    ``answer_from`` is the endpoint asked to answer where that is not ``remote``, ``udp_service`` what a reflector says
    over TCP of its UDP.
    """

    purpose: Purpose
    protocol: Protocol
    local: Endpoint
    remote: Endpoint
    at: float
    sent: int
    waited: float
    outcome: Outcome
    rtt: float | None = None
    mapped: Endpoint | None = None
    source: Endpoint | None = None
    origin: Endpoint | None = None
    other: Endpoint | None = None
    error: int | None = None
    detail: str | None = None
    answer_from: Endpoint | None = None
    instance: str | None = None
    udp_service: str | None = None
    site: tuple[tuple[str, Endpoint], ...] = ()

    @property
    def answered(self) -> bool:
        return self.outcome is Outcome.ANSWERED

    @property
    def failure(self) -> str:
        """What came in place of an answer, in words."""
        words = " ".join(filter(None, (f"error {self.error}" if self.error else None, self.detail)))
        return words or f"no answer in {self.waited:.1f} s"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A reply of a volley: who was asked to send it, who did, how many seconds after the request."""

    asked: Endpoint
    source: Endpoint
    after: float
    error: int | None = None


@dataclass(frozen=True, slots=True)
class Volley:
    """Replies asked for from several endpoints at one instant, the first of them the control: ``remote`` itself."""

    local: Endpoint
    remote: Endpoint
    at: float
    asked: tuple[Endpoint, ...]
    waited: float
    arrivals: tuple[Arrival, ...] = ()
    purpose: Purpose = Purpose.FILTERING

    @property
    def control_after(self) -> float | None:
        """When the control came back, in seconds after the request; None if it did not."""
        for arrival in self.arrivals:
            if arrival.asked == self.remote == arrival.source and arrival.error is None:
                return arrival.after
        return None

    def heard(self, asked: Endpoint) -> bool:
        """Whether a reply came from the very endpoint that was asked to send it."""
        return any(a.asked == asked == a.source and a.error is None for a in self.arrivals)


class Dialled(StrEnum):
    """What became of the connect-backs from one source, the best of them."""

    ACCEPTED = "accepted"
    """This host accepted one from there, and the reflector's token proved whose it was."""
    INTERCEPTED = "intercepted"
    """Something accepted the reflector's connection, but not this host."""
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    SILENT = "silent"
    NOT_DIALLED = "not-dialled"
    MISPLACED = "misplaced"
    """This host accepted one, but it came from another address than ``source``; ``came_from`` is its own source."""


@dataclass(frozen=True, slots=True)
class ConnectBack:
    """TCP connections that a reflector opened to the source of a live connection, from one of its addresses.

    ``source`` is what the reflector calls it, with port 0 where each attempt came from a fresh port. ``came_from`` is
    the source of the connection that this host accepted, as its own system saw it. Beside each attempt this host
    connected to the reflector: ``controls`` of those connections were answered at once (None: there were none).
    """

    local: Endpoint
    remote: Endpoint
    source: Endpoint
    at: float
    attempts: int
    waited: float
    outcome: Dialled
    came_from: Endpoint | None = None
    controls: int | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """TCP connections from one local endpoint, open together.

    ``answered`` of them exchanged data after the last had been opened; ``counted`` is how many of them the reflector
    saw alive at once (None where it does not count).
    """

    local: Endpoint
    remotes: tuple[Endpoint, ...]
    mapped: tuple[Endpoint, ...]
    at: float
    answered: int
    counted: int | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """What one local endpoint sent to a remote was seen as; None: no answer came.

    ``overlap`` is where another client was connected to the reflector at that moment, seen as the same endpoint.
    """

    local: Endpoint
    remote: Endpoint
    mapped: Endpoint | None = None
    overlap: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class Draws:
    """Flows begun one after the other, each from a fresh local port, and none ended before the last.

    ``flows`` are those that were answered, in the order in which they were begun.
    """

    protocol: Protocol
    at: float
    waited: float
    begun: int
    flows: tuple[Flow, ...]


@dataclass(frozen=True, slots=True)
class Sharing:
    """Whether the ``second`` of two local endpoints may use the external endpoint of the first at the same time.

    The first was asked before and after the second, so that both were alive. ``control`` is what the second, or a
    port beside it, was given elsewhere. ``other`` is the protocol of the second where that is not ``protocol``.
    """

    protocol: Protocol
    at: float
    first: Flow
    second: Flow
    again: Flow
    control: Flow | None = None
    other: Protocol | None = None

    @property
    def difference(self) -> Difference:
        """By what the two flows differ."""
        return Difference.PROTOCOL if self.other else Difference.between(self.first.remote, self.second.remote)

    @property
    def shared(self) -> bool:
        """Whether both were seen as one external endpoint, the first one still after the second.

        To one remote only one of them can be answered: there, that the first one falls silent is part of the picture.
        """
        if self.first.mapped is None or self.second.mapped != self.first.mapped:
            return False
        return self.again.mapped == self.first.mapped or (
            self.difference is Difference.NOTHING and self.again.mapped is None
        )

    @property
    def moved(self) -> bool:
        """Whether the control is the second's own flow to elsewhere."""
        return self.control is not None and self.control.local == self.second.local

    @property
    def refused(self) -> bool:
        """Whether the second was given another external endpoint though the NAT would have given it that one.

        It would have: it is what the second has towards the control's remote; or a NAT that kept the number of the
        control's port would have kept the second's, which is that of the first outside.
        """
        first, second, control = self.first.mapped, self.second.mapped, self.control
        if not first or not second or second == first or not control or not control.mapped:
            return False
        if second.address != first.address:
            return False  # another way out, and another NAT maybe
        if self.moved:
            return control.mapped == first
        return control.mapped.port == control.local.port and self.second.local.port == first.port


@dataclass(frozen=True, slots=True)
class Idle:
    """Packets from ``remote`` to the mapping of a socket that had been silent for ``idle`` seconds.

    ``sent`` of them left, and at the same instants as many to a mapping in use. ``heard`` and ``controls`` of them came
    in.
    """

    local: Endpoint
    remote: Endpoint
    at: float
    idle: float
    sent: int
    heard: int
    controls: int


@dataclass(frozen=True, slots=True)
class Recognition:
    """Whether a browser, which does not tell its own address, found ``mapped``, as which it was seen, to be its own."""

    local: Endpoint
    mapped: Endpoint
    own: bool
    at: float


Observation = Resolution | Exchange | Volley | ConnectBack | Hold | Draws | Sharing | Recognition | Idle

KINDS: dict[str, type[Any]] = {
    "resolution": Resolution,
    "exchange": Exchange,
    "volley": Volley,
    "connect-back": ConnectBack,
    "hold": Hold,
    "recognition": Recognition,
    "idle": Idle,
    "draws": Draws,
    "sharing": Sharing,
}
_NAMES = {kind: name for name, kind in KINDS.items()}


def to_json(fact: object) -> Any:
    """Return ``fact`` as JSON values: endpoints as strings, seconds to the microsecond, defaults left out."""
    if type(fact) in _NAMES:
        return {"kind": _NAMES[type(fact)]} | _present(fact)
    return _present(fact)


def _present(fact: Any) -> dict[str, Any]:
    values = ((field, getattr(fact, field.name)) for field in fields(fact))
    return {field.name: _value(value) for field, value in values if value != field.default}


def _value(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if is_dataclass(value):
        return _present(value)
    if isinstance(value, tuple):
        return [_value(item) for item in value]
    return msgspec.to_builtins(value, enc_hook=str)


def from_json(value: Mapping[str, Any]) -> Observation:
    """Return the observation that ``to_json`` wrote. Raises MalformedReport naming the field that is wrong."""
    kind = KINDS.get(str(value.get("kind")))
    if kind is None:
        raise MalformedReport(f"{value.get('kind')!r} is no kind of observation")
    fact: Observation = read(value, kind)
    return fact


def read(value: object, kind: Any) -> Any:
    """Return JSON values as the type ``kind``; endpoints and addresses from strings. Raises MalformedReport."""
    try:
        return msgspec.convert(value, kind, dec_hook=_decode, strict=True)
    except msgspec.ValidationError as wrong:
        raise MalformedReport(str(wrong)) from None


def _decode(kind: type, value: object) -> object:
    if kind is Endpoint:
        return Endpoint.parse(str(value))
    if kind in (Address, *Address.__args__):
        return parse_address(str(value))
    raise NotImplementedError(kind)
