"""The small faults that benchmarks/exhaustive.py tries: on the line, packet by packet, and in what a reflector says."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from math import ceil, comb

from natprobe import extensions, stun
from natprobe.endpoint import Endpoint, parse_address
from natprobe.errors import MalformedMessage
from natprobe.extensions import DialOutcome, Extension
from natprobe.lab.internet import Fault
from natprobe.lab.link import Impairment
from natprobe.lab.link import Path as Line
from natprobe.lab.mirror import Says, truthfully
from natprobe.lab.packet import Packet
from natprobe.lab.policy import PRESETS
from natprobe.lab.simulation import REFLECTOR, simulate
from natprobe.stun import Attribute, Type

LINE = Line.alike(Impairment(delay=0.010))
OUTAGES = (0.05, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0)
MOMENT = 0.025
"""Seconds between the moments at which outages begin."""


# --- faults on the line -----------------------------------------------------------------------------------------------

Arriving = tuple[tuple[Packet, float], ...]


@dataclass
class Counting:
    """Does no harm, and counts the packets: how many in all, and which came from the reflector."""

    packets: int = 0
    down: list[int] = field(default_factory=list)

    def strike(self, packet: Packet, now: float, *, up: bool) -> Arriving:
        del now
        if not up:
            self.down.append(self.packets)
        self.packets += 1
        return ((packet, 0.0),)


@dataclass
class Struck(Counting):
    """Strikes the packets with these numbers: ``harm`` is what arrives in place of each."""

    numbers: frozenset[int] = frozenset()
    harm: Callable[[Packet], Arriving] = lambda _: ()

    def strike(self, packet: Packet, now: float, *, up: bool) -> Arriving:
        struck = self.packets in self.numbers
        unharmed = super().strike(packet, now, up=up)
        return self.harm(packet) if struck else unharmed


@dataclass
class Overtaken(Counting):
    """Holds one packet back until the next one of its direction has set out."""

    number: int = 0
    _held: tuple[Packet, bool] | None = None

    def strike(self, packet: Packet, now: float, *, up: bool) -> Arriving:
        number = self.packets
        unharmed = super().strike(packet, now, up=up)
        if number == self.number:
            self._held = packet, up
            return ()
        if self._held and self._held[1] is up:
            (held, _), self._held = self._held, None
            return *unharmed, (held, 1e-6)
        return unharmed


@dataclass
class Outage:
    """Loses all that sets out within some time."""

    begins: float
    lasts: float

    def strike(self, packet: Packet, now: float, *, up: bool) -> Arriving:
        del up
        return () if self.begins <= now < self.begins + self.lasts else ((packet, 0.0),)


def twice(packet: Packet) -> Arriving:
    return (packet, 0.0), (packet, 1e-6)


def from_the_next_port(packet: Packet) -> Arriving:
    return ((packet.sent_from(packet.source.with_port(packet.source.port + 1)), 0.0),)


def from_another_address(packet: Packet) -> Arriving:
    own = [parse_address(address) for address in REFLECTOR]
    here = own.index(packet.source.address) if packet.source.address in own else 0
    return ((packet.sent_from(Endpoint(own[(here + 1) % len(own)], packet.source.port)), 0.0),)


# --- what the reflector says ------------------------------------------------------------------------------------------

ABSENT = "absent"
WRONG: dict[str, Callable[[Endpoint], Endpoint | None]] = {
    ABSENT: lambda _: None,
    "zero": lambda _: Endpoint(IPv4Address(0), 0),
    "loopback": lambda true: Endpoint(IPv4Address("127.0.0.1"), true.port),
    "private": lambda true: Endpoint(IPv4Address("10.1.2.3"), true.port),
    "another host": lambda true: Endpoint(IPv4Address("203.0.113.77"), true.port),
    "other family": lambda true: Endpoint(IPv6Address("2001:db8::77"), true.port),
    "port off by one": lambda true: true.with_port((true.port + 1) & 0xFFFF),
}
SOURCES = [source for source in extensions.Source if source is not extensions.Source.SELF]
ENDPOINTS = ["mapped", "origin", "other", *(f"site {source.name}" for source in SOURCES)]
UNKNOWABLE = [
    *(("mapped", how) for how in ("private", "another host", "port off by one")),
    *(("connect-back", outcome.name) for outcome in (DialOutcome.REFUSED, DialOutcome.UNREACHABLE, DialOutcome.SILENT)),
]
"""What no client can find out of a server that says so of all its answers, and that is the only one."""
_ALL = [
    *((what, how) for what in ENDPOINTS for how in WRONG),
    *(("connect-back", outcome.name) for outcome in DialOutcome),
    ("connect-back", ABSENT),
]
MISREPORTS = [misreport for misreport in _ALL if misreport not in UNKNOWABLE]


def misreporting(what: str, how: str) -> Says:
    """Return what alters one field of every message; ``what`` and ``how`` are one of MISREPORTS or UNKNOWABLE."""

    def says(data: bytes) -> bytes:
        try:
            message = stun.decode(data)
        except MalformedMessage:
            return data
        altered = (_altered(attribute, message.transaction_id, what, how) for attribute in message.attributes)
        return replace(message, attributes=tuple(filter(None, altered))).encode()

    return says


def _altered(attribute: Attribute, transaction_id: bytes, what: str, how: str) -> Attribute | None:
    if what == "connect-back" and attribute.type == Extension.CONNECT_BACK_RESULT:
        if how == ABSENT:
            return None
        results = extensions.read_connect_back_result(attribute.value)
        told = (replace(result, outcome=DialOutcome[how]) for result in results)
        return extensions.connect_back_result_attribute(told)
    if what == "mapped" and attribute.type == Type.XOR_MAPPED_ADDRESS:
        mapped = WRONG[how](stun.xor_address(attribute.value, transaction_id))
        return stun.xor_mapped_attribute(mapped, transaction_id) if mapped else None
    if attribute.type == {"origin": Type.RESPONSE_ORIGIN, "other": Type.OTHER_ADDRESS}.get(what):
        named = WRONG[how](stun.address(attribute.value))
        return stun.address_attribute(attribute.type, named) if named else None
    if what.startswith("site") and attribute.type == Extension.SITE:
        site = extensions.read_site(attribute.value)
        altered = ((role, WRONG[how](end) if what == f"site {role.name}" else end) for role, end in site)
        return extensions.site_attribute(tuple((role, end) for role, end in altered if end))
    return attribute


# --- cases ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What a run without a fault is like: its packets, those of them that the reflector sent, its seconds."""

    packets: int
    down: tuple[int, ...]
    seconds: float

    @property
    def moments(self) -> int:
        return ceil(self.seconds / MOMENT)


@cache
def undisturbed(policy: str) -> Undisturbed:
    counting = Counting()
    report = simulate(PRESETS[policy], LINE, fault=counting)
    return Undisturbed(counting.packets, tuple(counting.down), report.duration_s)


Case = tuple[Fault | None, Says]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: how many cases of it a run has, and each by its index."""

    count: Callable[[Undisturbed], int]
    case: Callable[[Undisturbed, int], Case]


def _pair(packets: int, index: int) -> tuple[int, int]:
    """Return the pair with this index, of all pairs of so many packets in order."""
    first = 0
    while index >= packets - 1 - first:
        index -= packets - 1 - first
        first += 1
    return first, first + 1 + index


def _outage(index: int) -> Outage:
    moment, lasts = divmod(index, len(OUTAGES))
    return Outage(moment * MOMENT, OUTAGES[lasts])


def _each(harm: Callable[[Packet], Arriving]) -> Kind:
    return Kind(
        lambda run: run.packets,
        lambda _, index: (Struck(numbers=frozenset({index}), harm=harm), truthfully),
    )


def _each_down(harm: Callable[[Packet], Arriving]) -> Kind:
    return Kind(
        lambda run: len(run.down),
        lambda run, index: (Struck(numbers=frozenset({run.down[index]}), harm=harm), truthfully),
    )


KINDS = {
    "loss": _each(lambda _: ()),
    "two-losses": Kind(
        lambda run: comb(run.packets, 2),
        lambda run, index: (Struck(numbers=frozenset(_pair(run.packets, index))), truthfully),
    ),
    "outage": Kind(lambda run: run.moments * len(OUTAGES), lambda _, index: (_outage(index), truthfully)),
    "duplicate": _each(twice),
    "reordered": Kind(lambda run: run.packets, lambda _, index: (Overtaken(number=index), truthfully)),
    "neighbouring-port": _each_down(from_the_next_port),
    "neighbouring-address": _each_down(from_another_address),
    "misreport": Kind(lambda _: len(MISREPORTS), lambda _, index: (None, misreporting(*MISREPORTS[index]))),
    "misreport-unknowable": Kind(lambda _: len(UNKNOWABLE), lambda _, index: (None, misreporting(*UNKNOWABLE[index]))),
}


def indexes(policy: str, kind: str, most: int | None) -> list[int]:
    """Return the cases to try: all, or so many drawn of them, the same ones every time."""
    count = KINDS[kind].count(undisturbed(policy))
    if most is None or most >= count:
        return list(range(count))
    return sorted(random.Random(f"{policy} {kind}").sample(range(count), most))  # noqa: S311 (nothing secret)
