"""How much the reflector may send to whom: token buckets in tables that never grow.

Pure: the time is an argument. A bucket belongs to a prefix (/24, /56), not to an address or a port, for a flood that
is aimed at one victim by forged sources has as many of those as it likes. Prefixes that share a slot share its
budget, so that a collision can only make the reflector send less.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from natprobe.endpoint import Address
from natprobe.reflector.rules import Outgoing

SLOTS = 1 << 14
_DELAY_WEIGHT = 0.1
"""Tokens for a second of delay: a reply that is due late takes up memory until then."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second, and how many may be taken at once after a rest."""

    per_second: float
    burst: float


@dataclass(frozen=True, slots=True)
class Rates:
    """The reflector's budgets: datagrams per prefix, and bytes in all.

    ``several`` is far above what a series of classifications from one network takes; ``oversize`` is what standard
    clients get with compat, and what a victim gets of a flood that is longer than what the attacker sent.
    """

    plain: Rate = Rate(2_000, 10_000)
    several: Rate = Rate(400, 8_000)
    oversize: Rate = Rate(20, 400)
    output: Rate = Rate(8_000_000, 8_000_000)


class Buckets:
    """Token buckets by prefix. ``key`` (secret bytes) keeps an attacker from choosing who shares a bucket with whom."""

    def __init__(self, rate: Rate, key: bytes = b"", slots: int = SLOTS) -> None:
        self._rate = rate
        self._key = key
        # One number is a whole bucket: the time at which it will be full again (GCRA, the virtual scheduling form).
        self._full_at = array("d", bytes(8 * slots))

    def take(self, prefix: bytes, tokens: float, now: float) -> bool:
        """Take ``tokens`` from the bucket of ``prefix`` and return True, or take nothing and return False."""
        slot = self._slot(prefix)
        full_at = max(self._full_at[slot], now) + tokens / self._rate.per_second
        if full_at - now > self._rate.burst / self._rate.per_second:
            return False
        self._full_at[slot] = full_at
        return True

    def spent(self, prefix: bytes, now: float) -> bool:
        """Return whether the bucket of ``prefix`` has not one token left."""
        return self._full_at[self._slot(prefix)] - now > (self._rate.burst - 1) / self._rate.per_second

    def _slot(self, prefix: bytes) -> int:
        if len(self._full_at) == 1:
            return 0
        digest = hashlib.blake2s(prefix, key=self._key, digest_size=4).digest()
        return int.from_bytes(digest, "big") % len(self._full_at)


@dataclass(slots=True)
class Budget:
    """What one reflector may still send. What is refused is not sent at all: part of it would look like a filter."""

    key: bytes
    rates: Rates = field(default_factory=Rates)
    _plain: Buckets = field(init=False)
    _several: Buckets = field(init=False)
    _oversize: Buckets = field(init=False)
    _output: Buckets = field(init=False)

    def __post_init__(self) -> None:
        self._plain = Buckets(self.rates.plain, self.key)
        self._several = Buckets(self.rates.several, self.key)
        self._oversize = Buckets(self.rates.oversize, self.key)
        self._output = Buckets(self.rates.output, slots=1)

    def allows(self, replies: Sequence[Outgoing], request: int, now: float) -> bool:
        """Return whether all the replies to one request of this many bytes may be sent. They have one target."""
        if not replies:
            return True
        size, delay = sum(len(reply.data) for reply in replies), sum(reply.delay for reply in replies)
        buckets = self._several if len(replies) > 1 or delay else self._plain
        if size > request:
            buckets = self._oversize
        tokens = len(replies) + _DELAY_WEIGHT * delay
        return buckets.take(prefix_of(replies[0].target.address), tokens, now) and self._output.take(b"", size, now)

    def is_spent(self, target: Address, now: float) -> bool:
        """Return whether a plain request from ``target`` would not be answered."""
        return self._plain.spent(prefix_of(target), now) or self._output.spent(b"", now)

    def allows_dials(self, target: Address, attempts: int, now: float) -> bool:
        """Return whether ``target``, which has shown that it is there, may be dialled so many times."""
        return self._several.take(prefix_of(target), attempts, now)

    def allows_stream(self, size: int, now: float) -> bool:
        """Return whether a reply of this many bytes may go to a connection: its peer has shown that it is there."""
        return self._output.take(b"", size, now)


def prefix_of(address: Address) -> bytes:
    """Return what stands for the network of an address: its /24 or /56, as bytes."""
    return address.packed[: 3 if address.version == 4 else 7]
