"""What a NAT remembers: its mappings, and the flows that use them, each as far as it has come (RFC 5382 §5).

Values that change, but only when they are told of a packet and of the time.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum

from natprobe.behaviour import Protocol
from natprobe.endpoint import Endpoint
from natprobe.lab.packet import Flags

_STREAM_AFTER = 2.0
"""Seconds for which a UDP flow must have lasted to count as a stream (Linux; standards name no figure)."""


class Way(IntEnum):
    """In which direction a packet crosses."""

    OUT = 1
    IN = 2


BOTH_WAYS = Way.OUT | Way.IN


class Phase(IntEnum):
    """How far a session has come; each phase has its lifetime (RFC 5382 §5)."""

    OPENING = 0
    STREAM = 1
    CLOSED = 2


@dataclass(slots=True, eq=False)
class Mapping:
    """What an internal endpoint is outside, and until when the filter lets whom in."""

    protocol: Protocol
    internal: Endpoint
    external: Endpoint
    permits: dict[Hashable, float]
    expires: float = 0.0


@dataclass(slots=True, eq=False)
class Session:
    """A flow between a mapping and a remote; without a mapping it is the NAT's own."""

    mapping: Mapping | None
    remote: Endpoint
    began: float
    expires: float = 0.0
    phase: Phase = Phase.OPENING
    ways: int = 0
    fins: int = 0

    def advance(self, flags: Flags | None, way: Way, now: float) -> None:
        """Take note of a packet: the flow has gone this way, and may have opened or closed."""
        self.ways |= way
        if flags is None:
            opened = now > self.began + _STREAM_AFTER
        else:
            opened = self.phase is Phase.OPENING
            if flags is Flags.SYN and self.phase is Phase.CLOSED:
                self.phase, self.ways, self.fins = Phase.OPENING, way, 0
            elif flags is Flags.FIN:
                self.fins |= way
            if flags is Flags.RST or self.fins == BOTH_WAYS:
                self.phase = Phase.CLOSED
                return
        if opened and self.ways == BOTH_WAYS:
            self.phase = Phase.STREAM

    def occupies(self, now: float) -> bool:
        """Whether this keeps others from its place outside; a TCP connection that has ended does not."""
        return self.expires > now and self.phase is not Phase.CLOSED
