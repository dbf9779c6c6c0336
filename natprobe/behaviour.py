"""The vocabulary: how a NAT may behave, in the words of RFC 4787, 5382 and 7857, and what a verdict is.

The lab tells its NATs how to behave with these enums and the report says how a NAT behaved with the same ones, so
that a test of the whole is one comparison. Their values are the words of the report's JSON.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Generic, TypeVar

from natprobe.endpoint import Endpoint

T = TypeVar("T")


class Protocol(StrEnum):
    """The transport protocol; RFC 7857 §5 lets a NAT treat each its own way."""

    UDP = "udp"
    TCP = "tcp"


class Dependence(StrEnum):
    """On what of the remote endpoint a mapping (RFC 4787 §4.1, RFC 5382 §4.1) or a filter (§5, §4.3) depends."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    PORT_DEPENDENT = "port-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    CONNECTION_DEPENDENT = "connection-dependent"
    """TCP only: a new mapping for every connection, the same destination included (RFC 5382 §4.1)."""

    def key(self, remote: Endpoint) -> Hashable:
        """Return the part of ``remote`` that this dependence looks at: equal keys, equal treatment."""
        match self:
            case Dependence.ENDPOINT_INDEPENDENT:
                return ()
            case Dependence.ADDRESS_DEPENDENT:
                return remote.address
            case Dependence.PORT_DEPENDENT:
                return remote.port
            case _:
                return remote


class PortAssignment(StrEnum):
    """How the external port is chosen (RFC 4787 §4.2.1, RFC 6056 §3)."""

    PRESERVING = "preserving"
    SEQUENTIAL = "sequential"
    RANDOM = "random"
    OTHER = "other"


class Difference(IntEnum):
    """By what two flows of different internal endpoints differ, the least of it: what a NAT must tell them apart by."""

    PROTOCOL = 1
    ADDRESS = 2
    """The addresses of their remotes."""
    PORT = 3
    """Only the ports of their remotes."""
    NOTHING = 4
    """They go to one remote, by one protocol."""

    @classmethod
    def between(cls, first: Endpoint, second: Endpoint) -> Difference:
        """Return by what flows of one protocol to these remotes differ."""
        if first.address != second.address:
            return cls.ADDRESS
        return cls.PORT if first.port != second.port else cls.NOTHING


class PortReuse(StrEnum):
    """When two internal endpoints may hold one external port at the same time (RFC 4787 §4.2.1, RFC 7857 §3).

    A ladder: each level permits all that the one before it does, and one difference more.
    """

    EXCLUSIVE = "exclusive"
    PER_PROTOCOL = "per-protocol"
    PER_DESTINATION_ADDRESS = "per-destination-address"
    PER_DESTINATION = "per-destination"
    OVERLOADING = "overloading"

    @classmethod
    def up_to(cls, difference: int) -> PortReuse:
        """Return the level at which flows that differ so, or more, share a port, and no others; of 0, that of none."""
        return tuple(cls)[difference]


class Treatment(StrEnum):
    """What becomes of a packet that has no mapping, or of one that may not leave (RFC 5382 §4.3 REQ-4)."""

    ACCEPTED = "accepted"
    """Taken by the NAT itself, which answers as any host without a listener does."""
    DROPPED = "dropped"
    RESET = "reset"
    """Answered with a TCP RST; for UDP, which has none, with ICMP port unreachable."""
    ICMP = "icmp"
    """Answered with ICMP destination unreachable."""


class Hairpinning(StrEnum):
    """What source a packet has that goes from inside to an external endpoint of the same NAT (RFC 4787 §6)."""

    NONE = "none"
    EXTERNAL_SOURCE = "external-source"
    INTERNAL_SOURCE = "internal-source"


class Certainty(StrEnum):
    """How far a verdict may be trusted."""

    CONFIRMED = "confirmed"
    """Shown by evidence that no other behaviour explains, but with the stated small probability."""
    LIKELY = "likely"
    """The plain reading of the evidence; the reason names what it cannot exclude."""
    CONFLICTING = "conflicting"
    """Observations contradict each other; the value is what most of them say."""
    NOT_DETERMINED = "not-determined"


@dataclass(frozen=True, slots=True)
class Verdict(Generic[T]):
    """A conclusion, how sure it is, why in one sentence, and the indexes of the observations that it rests on.

    ``value`` is None exactly when ``certainty`` is NOT_DETERMINED; anything else raises ValueError.
    """

    value: T | None
    certainty: Certainty
    reason: str
    evidence: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.value is None) != (self.certainty is Certainty.NOT_DETERMINED):
            raise ValueError(f"a verdict of {self.value!r} cannot be {self.certainty}")

    @property
    def determined(self) -> bool:
        return self.value is not None


def not_determined(reason: str, evidence: tuple[int, ...] = ()) -> Verdict[T]:
    """Return the verdict that says why there is none."""
    return Verdict(None, Certainty.NOT_DETERMINED, reason, evidence)
