"""How long a mapping lives that nothing is sent through (RFC 4787 §4.3).

Several sockets send one way for a while, fall silent, each for another time, and are then sent to. Silence counts as
for filters: beside it the packets to a mapping in use came in (``silence``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from natprobe.behaviour import Certainty, Verdict, not_determined
from natprobe.inference.facts import Facts, indexes
from natprobe.observation import Idle
from natprobe.silence import CONVINCING, SUGGESTIVE, chance


class Lifetime(NamedTuple):
    """After ``alive_s`` seconds the mapping was there, after ``dead_s`` it was not (None: no time was too long)."""

    alive_s: float
    dead_s: float | None

    def __str__(self) -> str:
        return f"over {self.alive_s:.0f} s" if self.dead_s is None else f"{self.alive_s:.0f} to {self.dead_s:.0f} s"


def judge_lifetime(facts: Facts) -> Verdict[Lifetime] | None:
    """Return between which times a mapping ends; None where that was not tested."""
    tried = facts.idles
    if not tried:
        return None
    alive = [idle for _, idle in tried if idle.heard]
    dead = [idle for _, idle in tried if not idle.heard and chance(idle.sent, idle.controls) <= SUGGESTIVE]
    if not alive and not dead:
        return not_determined("too few packets came in, of the controls as well", indexes(tried))
    longest = round(max((idle.idle for idle in alive), default=0.0), 1)
    shortest = min((round(idle.idle, 1) for idle in dead), default=None)
    if shortest is not None and shortest < longest:
        reason = f"one mapping lived for {longest:.0f} s, another one not for {shortest:.0f} s"
        return Verdict(Lifetime(longest, None), Certainty.CONFLICTING, reason, indexes(tried))
    return Verdict(Lifetime(longest, shortest), _certainty(dead), _reason(longest, shortest), indexes(tried))


def _certainty(dead: Sequence[Idle]) -> Certainty:
    sure = all(chance(idle.sent, idle.controls) <= CONVINCING for idle in dead)
    return Certainty.CONFIRMED if sure else Certainty.LIKELY


def _reason(alive: float, dead: float | None) -> str:
    lived = f"packets came in after {alive:.0f} s without any" if alive else "no mapping lived that long"
    return lived if dead is None else f"{lived}; after {dead:.0f} s none did"
