"""Links: what happens to packets on their way, drawn from a seeded generator. Pure: the time is an argument."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp

_SPACING = 1e-6
"""Seconds between two packets that leave together: 1,250 bytes at 10 Gbit/s."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """What one direction of a link does to packets. Times are seconds, the rest are probabilities."""

    delay: float = 0.0
    jitter: float = 0.0
    """Mean of what queues add, distributed exponentially. It keeps the order, as a queue does."""
    loss: float = 0.0
    """Of each packet, whatever becomes of the others."""
    burst_share: float = 0.0
    """The share of the time in which everything is lost ..."""
    burst_length: float = 0.05
    """... and how long that lasts, on average."""
    reorder: float = 0.0
    reorder_by: float = 0.02
    """How long a packet is held up, while others overtake it."""
    duplicate: float = 0.0


@dataclass(frozen=True, slots=True)
class Path:
    """Both directions of a link: ``up`` is towards the internet."""

    up: Impairment = Impairment()
    down: Impairment = Impairment()

    @classmethod
    def alike(cls, impairment: Impairment) -> Path:
        """Return the path that does the same to both directions."""
        return cls(impairment, impairment)


PATHS: Mapping[str, Path] = {
    #                                     delay  jitter   loss  bursts: share, length  reordered, by  duplicated
    "lan": Path.alike(Impairment(0.0002, 0.00002)),
    "cable": Path(Impairment(0.0100, 0.0020, 0.0010), Impairment(0.0100, 0.0005, 0.0005)),
    "lte": Path(
        Impairment(0.0300, 0.0080, 0.0050, 0.002, 0.080, 0.002, 0.010),
        Impairment(0.0250, 0.0050, 0.0020, 0.002, 0.080, 0.002, 0.010),
    ),
    "satellite": Path.alike(Impairment(0.3000, 0.0100, 0.0100, 0.002, 0.200)),
    "lossy-wifi": Path.alike(Impairment(0.0050, 0.0040, 0.0500, 0.020, 0.030, 0.010, 0.010, 0.001)),
    "awful": Path.alike(Impairment(0.1500, 0.0500, 0.1000, 0.050, 0.100, 0.020, 0.050, 0.010)),
}
"""Paths that have a name; delays are one way. What stands here is drawn from no one line: it is what such lines do."""


@dataclass(slots=True)
class Link:
    """One direction of a link under way."""

    impairment: Impairment
    rng: random.Random
    _free_at: float = 0.0
    _lost_at: float | None = None
    """The last time at which a burst was looked for, and whether there was one."""
    _bursting: bool = field(default=False)

    def arrivals(self, now: float) -> tuple[float, ...]:
        """Return when a packet that sets out ``now`` arrives: never, once, or twice. Calls must not go back in time."""
        its = self.impairment
        if (its.burst_share and self._in_burst(now)) or (its.loss and self.rng.random() < its.loss):
            return ()
        at = now + its.delay
        if its.jitter:
            at += self.rng.expovariate(1.0) * its.jitter
        at = self._free_at = max(at, self._free_at + _SPACING)
        if its.reorder and self.rng.random() < its.reorder:
            at += its.reorder_by
        if its.duplicate and self.rng.random() < its.duplicate:
            return at, at + _SPACING
        return (at,)

    def _in_burst(self, now: float) -> bool:
        """Whether packets are being lost now: a Markov chain in continuous time (Gilbert 1960)."""
        share, length = self.impairment.burst_share, self.impairment.burst_length
        memory = 0.0 if self._lost_at is None else exp((self._lost_at - now) / (length * (1 - share)))
        self._bursting = self.rng.random() < share + (self._bursting - share) * memory
        self._lost_at = now
        return self._bursting
