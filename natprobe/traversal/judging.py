"""One protocol over one IP version: from two profiles to an outcome, with all that the profiles leave open.

A core verdict that is not determined is tried with every value that it could have, and if these lead to different
outcomes, the answer is *unknown*. Of what was not tested beyond, the usual is taken; where the unusual would lead
elsewhere, the prediction is only *likely* and its reason says what it cannot exclude.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from itertools import combinations, product
from typing import Any

from natprobe.behaviour import Certainty, Dependence, Protocol, Treatment, Verdict
from natprobe.endpoint import Address
from natprobe.inference import Profile
from natprobe.inference.candidates import TOLD_APART
from natprobe.inference.facts import listing
from natprobe.traversal import reasons
from natprobe.traversal.model import Behaviour, Order, Refusal, Traversal, meet, outcome_of

_LAN = {4: 24, 6: 64}
"""The usual prefix length of a LAN. Behind a carrier's NAT two LANs may well use the same prefix."""
_FROM_BEST = (Certainty.CONFIRMED, Certainty.LIKELY, Certainty.CONFLICTING)
_INDEPENDENT = Dependence.ENDPOINT_INDEPENDENT

_Pair = tuple[Behaviour, Behaviour]
"""What A's and B's paths are taken to do."""


@dataclass(frozen=True, slots=True)
class PathPrediction:
    """What will come of one protocol over one IP version; ``version`` is None where two reports share none.

    ``pair`` names the candidates of RFC 8445, A's before B's ("srflx-prflx"), or "relay". ``first`` tells who has to
    send first; None where that is of no account. ``certainty`` is not-determined exactly where the outcome is unknown.
    """

    protocol: Protocol
    version: int | None
    outcome: Traversal
    certainty: Certainty
    reason: str
    advice: str
    pair: str | None = None
    first: Order | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """What is known of one peer's path."""

    name: str
    protocol: Protocol
    version: int
    profile: Profile
    host: Address | None
    """Its own address."""

    @property
    def reachable(self) -> bool | None:
        return self.profile.reachable.value

    @property
    def outside(self) -> set[Address]:
        """The addresses that it is seen under."""
        return {endpoint.address for endpoint in self.profile.external.value or ()}

    @property
    def core(self) -> dict[str, Verdict[Any]]:
        """The verdicts that decide."""
        profile = self.profile
        return {"translated": profile.translated, "mapping": profile.mapping, "filtering": profile.filtering}

    @property
    def open_questions(self) -> list[str]:
        """Which of them are not determined."""
        asked = self.core if self.profile.translated.value is not False else {"filtering": self.profile.filtering}
        return [f"{self.name}'s {key}" for key, verdict in asked.items() if not verdict.determined]

    @property
    def _unsolicited(self) -> Verdict[Any] | None:
        tcp = self.protocol is Protocol.TCP
        told: Verdict[Any] | None = self.profile.unsolicited_syn if tcp else self.profile.unsolicited_remap
        return told if told and told.determined else None

    @property
    def certainty(self) -> Certainty:
        """That of the least certain verdict of those that are determined."""
        told = (*self.core.values(), self._unsolicited)
        return max((v.certainty for v in told if v and v.determined), key=_FROM_BEST.index, default=Certainty.LIKELY)

    @property
    def refusal(self) -> Refusal | None:
        """What a packet that is refused does beside; None where that was not tested or is not determined."""
        match self._unsolicited:
            case None:
                return None
            case Verdict(value=False | Treatment.DROPPED):
                return Refusal.NOTHING
            case _:
                return Refusal.RESETS if self.protocol is Protocol.TCP else Refusal.REMAPS

    def behaviours(self) -> Iterator[Behaviour]:
        """Yield what the path may do, after the core verdicts: one behaviour if all of them are determined."""
        refusal = self.refusal or Refusal.NOTHING
        translated, mapping, filtering = (verdict.value for verdict in self.core.values())
        for translates in (True, False) if translated is None else (translated,):
            mappings = (mapping,) if mapping else TOLD_APART if translates else (_INDEPENDENT,)
            for maps, filters in product(mappings, (filtering,) if filtering else TOLD_APART):
                yield Behaviour(maps, filters, translates, refusal)

    def untested(self, usual: Behaviour) -> dict[str, Any]:
        """Return what else could be: fields of a behaviour that no verdict tells, each with the unusual value."""
        other: dict[str, Any] = {}
        if self.protocol is Protocol.TCP:
            if usual.filtering is Dependence.ADDRESS_AND_PORT_DEPENDENT:
                other["filtering"] = Dependence.CONNECTION_DEPENDENT
            if self.refusal is None:
                other["refusal"] = Refusal.RESETS
        elif self.refusal is None and usual.translated:
            other["refusal"] = Refusal.REMAPS
        if usual.translated and usual.mapping is not _INDEPENDENT:
            other["returns"] = False
        return other


def judge(a: Side, b: Side) -> PathPrediction:
    """Return what will come of the path between two sides, of the same protocol and IP version."""
    sides = a, b
    if not (a.reachable and b.reachable):
        return _unreached(sides)
    if a.outside & b.outside and not (a.profile.translated.value is b.profile.translated.value is False):
        return _same_nat(a, b)
    pairs = list(product(a.behaviours(), b.behaviours()))
    if len(pairs) > 1:
        return _with_open_questions(sides, pairs)
    return _settled(sides, pairs[0])


# --- without a look at the NATs ---------------------------------------------------------------------------------------


def _unreached(sides: Sequence[Side]) -> PathPrediction:
    protocol, version = sides[0].protocol, sides[0].version
    blocked = [side for side in sides if side.reachable is False]
    if blocked:
        reason = "; ".join(f"{side.name}: {side.profile.reachable.reason}" for side in blocked)
        certainty = max((side.profile.reachable.certainty for side in blocked), key=_FROM_BEST.index)
        advice = reasons.advise_blocked(protocol)
        return PathPrediction(protocol, version, Traversal.RELAY, certainty, reason, advice, "relay")
    unknown = [side for side in sides if side.reachable is None]
    told = "; ".join(f"{side.name}: {side.profile.reachable.reason}" for side in unknown)
    reason = (
        f"whether {protocol.upper()} gets through is not known at {listing(side.name for side in unknown)} ({told})"
    )
    advice = f"Classify again at {listing(side.name for side in unknown)}, against another server."
    return PathPrediction(protocol, version, Traversal.UNKNOWN, Certainty.NOT_DETERMINED, reason, advice)


def _same_nat(a: Side, b: Side) -> PathPrediction:
    shared = listing(sorted(a.outside & b.outside, key=str))
    fit = "fit" if _fit_one_lan(a, b) else "do not fit"
    reason = (
        f"both are seen as {shared}: on one LAN they reach each other by their own addresses "
        f"(A {a.host or 'unknown'}, B {b.host or 'unknown'}: these {fit} one LAN), and otherwise "
        "their NAT has to turn packets around (hairpinning), which was not tested"
    )
    advice = "Offer host candidates (in a browser they may be hidden as .local names), and a relay in case."
    return PathPrediction(a.protocol, a.version, Traversal.SAME_NAT, Certainty.LIKELY, reason, advice, "host-host")


def _fit_one_lan(a: Side, b: Side) -> bool:
    if a.host is None or b.host is None or a.host == b.host:
        return False
    return b.host in ip_network((a.host, _LAN[a.version]), strict=False)


# --- by the model -----------------------------------------------------------------------------------------------------


def _with_open_questions(sides: Sequence[Side], pairs: Sequence[_Pair]) -> PathPrediction:
    """Return the outcome that all pairs have in common, if they have one."""
    protocol, version = sides[0].protocol, sides[0].version
    asked = [question for side in sides for question in side.open_questions]
    outcomes: set[tuple[Traversal, Order | None]] = set()
    for a, b in pairs:
        outcomes.add(outcome_of(a, b))
        if len(outcomes) > 1:
            why = listing(f"{side.name}: {v.reason}" for side in sides for v in side.core.values() if not v.determined)
            reason = f"it depends on {listing(asked)}, which is not determined ({why})"
            advice = f"Classify again at {listing(s.name for s in sides if s.open_questions)}, against a reflector."
            return PathPrediction(protocol, version, Traversal.UNKNOWN, Certainty.NOT_DETERMINED, reason, advice)
    ((outcome, first),) = outcomes
    reason = f"whatever {listing(asked)} may be, {reasons.IN_SHORT[outcome]}"
    advice = reasons.advise(outcome, first, pairs[0], protocol, sure=False)
    pair = "relay" if outcome is Traversal.RELAY else None
    return PathPrediction(protocol, version, outcome, Certainty.LIKELY, reason, advice, pair, first)


def _settled(sides: Sequence[Side], usual: _Pair) -> PathPrediction:
    """Return the outcome where every core verdict of both sides is determined."""
    protocol, version = sides[0].protocol, sides[0].version
    outcome, first = outcome_of(*usual)
    meeting = meet(*usual)
    exceptions = _exceptions(sides, usual, (outcome, first))
    certainties = [side.certainty for side in sides] + [Certainty.LIKELY] * bool(exceptions)
    if outcome is Traversal.TIMING:
        reason = reasons.why_timing(*usual, protocol)
    else:
        reason = reasons.why_direct(*usual, meeting) if meeting else reasons.why_not(*usual)
    told = [reason, *([reasons.unless(exceptions, usual, protocol)] if exceptions else []), *_conflicts(sides)]
    return PathPrediction(
        protocol,
        version,
        outcome,
        max(certainties, key=_FROM_BEST.index),
        "; ".join(told),
        reasons.advise(outcome, first, usual, protocol, sure=not exceptions),
        f"{meeting.a}-{meeting.b}" if meeting else "relay",
        first,
    )


def _conflicts(sides: Iterable[Side]) -> Iterator[str]:
    for side in sides:
        for key, verdict in side.core.items():
            if verdict.certainty is Certainty.CONFLICTING:
                yield f"observations of {side.name}'s {key} contradict each other ({verdict.reason})"


def _exceptions(
    sides: Sequence[Side], usual: _Pair, outcome: tuple[Traversal, Order | None]
) -> list[tuple[reasons.Unusual, ...]]:
    """Return the least that would have to be unusual for another outcome: one thing or two, where there are such."""
    unusual = [reasons.Unusual(i, *item) for i, side in enumerate(sides) for item in side.untested(usual[i]).items()]
    found: list[tuple[reasons.Unusual, ...]] = []
    for changes in (*combinations(unusual, 1), *combinations(unusual, 2)):
        less_would_do = any(set(less) <= set(changes) for less in found)
        if not less_would_do and outcome_of(*_changed(usual, changes)) != outcome:
            found.append(changes)
    return found


def _changed(usual: _Pair, changes: Iterable[reasons.Unusual]) -> _Pair:
    a, b = ({c.field: c.value for c in changes if c.side == side} for side in (0, 1))
    return replace(usual[0], **a), replace(usual[1], **b)
