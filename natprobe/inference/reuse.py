"""Whether the NAT gives one external port to several flows at a time, and how alike those may be (RFC 7857 §3).

The levels of port reuse are a ladder: each permits all that the one below permits, and one difference more. Two flows
seen to share a port, both alive, put the NAT at least as high as their difference says; two that were refused it, or
many that never met though many pairs might have, put it below. Where both bounds are one, that is the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

from natprobe.behaviour import Certainty, Dependence, Difference, PortReuse, Protocol, Verdict, not_determined
from natprobe.draws import answered, chance_of_none, in_turn, kept, meetings, pairs, pairs_across, ports, widest_pool
from natprobe.endpoint import Endpoint
from natprobe.inference.facts import Facts, indexes
from natprobe.observation import Exchange, Flow, Sharing
from natprobe.silence import CONVINCING, SUGGESTIVE

_APART = {
    Difference.PROTOCOL: "flows of the two protocols",
    Difference.ADDRESS: "flows to different addresses",
    Difference.PORT: "flows to two ports of one address",
    Difference.NOTHING: "flows to one and the same destination",
}


@dataclass(frozen=True, slots=True, order=True)
class _Bound:
    """That flows which differ so do, or do not, share a port; with which chance of being wrong, and why."""

    difference: Difference
    chance: float
    reason: str


def judge_reuse(facts: Facts, mapping: Verdict[Dependence]) -> Verdict[PortReuse]:
    """Return how alike two flows of different internal endpoints may be that hold one external port together."""
    flows, others = (_drawn(facts, own=own) for own in (True, False))
    evidence = (*indexes(facts.draws), *indexes(facts.sharings))
    if not flows:
        return not_determined("no flow that should show it was answered", evidence)
    if all(flow.mapped == flow.local for flow in flows):
        return not_determined("there is no NAT that could give a port twice", evidence)
    shared = [_seen(fact) for _, fact in facts.sharings if fact.shared]
    overlapping = map(_overlapping, filter(_overlaps, flows))
    seen = max([*shared, *overlapping], key=lambda b: (b.difference, -b.chance), default=_across(flows, others))
    refused = min([*_refused(facts, mapping), *_unmet(facts, flows, others)], default=None)
    floor = seen.difference if seen else 0
    ceiling = refused.difference - 1 if refused else Difference.NOTHING
    told = [bound for bound in (seen, refused) if bound]
    reason = "; ".join(bound.reason for bound in told)
    if floor > ceiling:
        reason = f"the NAT does not treat all flows alike: {reason}"
        return Verdict(PortReuse.up_to(floor), Certainty.CONFLICTING, reason, evidence)
    if floor == ceiling:
        certain = all(bound.chance <= CONVINCING for bound in told)
        certainty = Certainty.CONFIRMED if certain else Certainty.LIKELY
        return Verdict(PortReuse.up_to(floor), certainty, reason, evidence)
    if floor == Difference.PORT and not _broken(facts):
        # Two flows that nothing tells apart break each other: that a NAT goes so far has to be shown, not excluded.
        reason += "; that it would also give it to two flows to one destination, and so break them, is not excluded"
        return Verdict(PortReuse.PER_DESTINATION, Certainty.LIKELY, reason, evidence)
    missing = _missing(flows, others, Difference(floor + 1))
    known = f"{PortReuse.up_to(floor)} at least, {PortReuse.up_to(ceiling)} at most: " if told else ""
    return not_determined("; ".join(filter(None, (known + reason, missing))), evidence)


def _drawn(facts: Facts, *, own: bool) -> list[Flow]:
    """Return the flows drawn over this protocol, or over the other one."""
    draws = (fact for _, fact in facts.draws if (fact.protocol is facts.protocol) is own)
    return answered(flow for fact in draws for flow in fact.flows)


def _seen(fact: Sharing) -> _Bound:
    first, second = fact.first, fact.second
    protocol = f" ({fact.other.upper()})" if fact.other else ""
    reason = (
        f"{first.local} and {second.local}{protocol} were both seen as {first.mapped} at the same time, "
        f"towards {first.remote} and {second.remote}"
    )
    return _Bound(fact.difference, 0.0, reason)


def _overlaps(flow: Flow) -> bool:
    return flow.overlap is not None


def _overlapping(flow: Flow) -> _Bound:
    assert flow.overlap
    reason = f"while {flow.remote} saw {flow.local} as {flow.mapped}, so {flow.overlap} saw another client"
    # That the other one is alive, and not forgotten by the NAT, is more than the reflector knows.
    return _Bound(Difference.between(flow.remote, flow.overlap), SUGGESTIVE, reason)


def _across(flows: list[Flow], others: list[Flow]) -> _Bound | None:
    """Return what two flows of the two protocols show that were given the same port."""
    mine = {flow.mapped: flow for flow in flows}
    for other in others:
        flow = mine.get(other.mapped)
        if flow and flow.local != other.local:
            reason = f"{flow.local} and, by the other protocol, {other.local} were both seen as {flow.mapped}"
            return _Bound(Difference.PROTOCOL, 0.0, reason)
    return None


def _refused(facts: Facts, mapping: Verdict[Dependence]) -> list[_Bound]:
    """Return what was asked for by name and not given.

    That a NAT keeps the number of a port may be luck once, where it chooses from few; so that takes two refusals. A
    second flow that had the port already, and lost it on its way to a nearer remote, takes a NAT whose mappings do not
    depend on the remote to mean anything. A neighbour may have been in the way, but where the first flow itself was;
    where it was a third flow of this host's, that is known.
    """
    held = _held(facts)
    refusals: dict[Difference, list[Sharing]] = {}
    for _, fact in facts.sharings:
        if fact.refused and not held.get((fact.first.mapped, fact.second.remote), set()) - {fact.first.local}:
            refusals.setdefault(fact.difference, []).append(fact)
    independent = mapping.value is Dependence.ENDPOINT_INDEPENDENT
    bounds = []
    for difference, found in refusals.items():
        moved = [fact for fact in found if fact.moved]
        if len(found) > len(moved) + 1:
            bounds.append(_Bound(difference, 0.0, _refusal(found[0])))
        elif moved and independent:
            chance = 0.0 if difference is Difference.NOTHING else SUGGESTIVE
            bounds.append(_Bound(difference, chance, _refusal(moved[0])))
    return bounds


def _held(facts: Facts) -> dict[tuple[Endpoint | None, Endpoint], set[Endpoint]]:
    """Return which local endpoints had an external endpoint towards a remote: there it is not free for any other."""
    held: dict[tuple[Endpoint | None, Endpoint], set[Endpoint]] = {}
    flows = [flow for _, fact in facts.draws if fact.protocol is facts.protocol for flow in fact.flows]
    asked: list[Flow | Exchange] = [*flows, *(exchange for _, exchange in facts.exchanges)]
    for one in asked:
        held.setdefault((one.mapped, one.remote), set()).add(one.local)
    return held


def _refusal(fact: Sharing) -> str:
    first, second = fact.first, fact.second
    protocol = f" over {fact.other.upper()}" if fact.other else ""
    return (
        f"{second.local} was seen as {second.mapped} by {second.remote}{protocol} and not as {first.mapped}, "
        f"which {first.local} had towards {first.remote}"
    )


def _unmet(facts: Facts, flows: list[Flow], others: list[Flow]) -> list[_Bound]:
    """Return what never met though it would have, did the NAT draw its ports without regard to it."""
    if not _at_random(flows):
        return []
    pool = widest_pool(ports(flows))
    met = {Difference.between(first.remote, second.remote) for first, second in meetings(flows)}
    counts = {apart: pairs(flows, apart) for apart in list(Difference)[1:] if apart not in met}
    if _unanswered(facts):
        counts.pop(Difference.NOTHING, None)
    if _at_random(others) and _across(flows, others) is None:
        counts[Difference.PROTOCOL] = pairs_across(flows, others)
        pool = max(pool, widest_pool(ports(others)))
    return [
        _Bound(apart, chance, f"no port was given to two {_APART[apart]}, of {count} pairs{_were_it(pool, chance)}")
        for apart, count in counts.items()
        if (chance := chance_of_none(count, pool)) <= SUGGESTIVE
    ]


def _unanswered(facts: Facts) -> bool:
    """Return whether connections failed, as the second of two on one 5-tuple would."""
    if facts.protocol is Protocol.UDP:
        return False
    return any(fact.begun > len(fact.flows) for _, fact in facts.draws if fact.protocol is facts.protocol)


def _broken(facts: Facts) -> bool:
    """Return whether flows to one destination may have broken each other, which is what sharing a port there does."""
    tried = (fact for _, fact in facts.sharings if fact.difference is Difference.NOTHING)
    return _unanswered(facts) or any(fact.second.mapped is None for fact in tried)


def _at_random(flows: list[Flow]) -> bool:
    return len(kept(flows)) * 2 < len(flows) and not in_turn(flows)


def _were_it(pool: int, chance: float) -> str:
    return f" (did it draw any of up to {pool} ports at random and share them: {chance:.1g})"


def _missing(flows: list[Flow], others: list[Flow], next_step: Difference) -> str:
    """Return what would tell whether flows share a port that differ by no more than this."""
    if len(kept(flows)) * 2 >= len(flows):
        return (
            "every local port keeps its number, so that two flows of one address cannot meet: "
            "name a second address of this host (--second-source), or run it on two hosts at once (--partner)"
        )
    if in_turn(flows):
        return "ports are given in turn, so that none comes again before all have been given"
    if next_step is Difference.NOTHING:
        return "flows that were not answered may have been given one port towards one destination, and so broken"
    pool, count = widest_pool(ports(flows)), pairs(flows, next_step)
    if next_step is Difference.PROTOCOL:
        count = pairs_across(flows, others)
    chance = chance_of_none(count, pool)
    return (
        f"of {count} pairs of {_APART[next_step]} none met, and none would with a chance of {chance:.2g} "
        f"did it draw from up to {pool} ports and share them: more flows would tell (--deep)"
    )
