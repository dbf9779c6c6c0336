"""How the external port is chosen (RFC 4787 §4.2, RFC 6056 §3): what a sample of flows from fresh ports was given.

A NAT may keep the inside port where it can and choose another where it cannot, so that what it chooses is judged from
those flows alone whose port was not kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from natprobe.behaviour import Certainty, PortAssignment, Verdict
from natprobe.draws import ALL_PORTS, answered, in_turn, kept, ports, step, widest_pool
from natprobe.endpoint import Endpoint
from natprobe.inference.facts import Facts, indexes
from natprobe.observation import Flow

ENOUGH = 8
"""Flows that must have been answered."""
_Z = 1.96
_PARITIES = 10
"""Ports that must all be as odd or even as inside: by luck once in a thousand."""


@dataclass(frozen=True, slots=True)
class AssignmentVerdict(Verdict[PortAssignment]):
    """How ports are chosen; where known, the step to the next, whether odd stays odd, the lowest and the highest."""

    delta: int | None = None
    parity: bool | None = None
    range: tuple[int, int] | None = None


def judge_assignment(facts: Facts) -> AssignmentVerdict:
    """Return how the NAT picks the external port of a new flow."""
    draws = [(index, fact) for index, fact in facts.draws if fact.protocol is facts.protocol]
    flows = answered(flow for _, fact in draws for flow in fact.flows)
    evidence = indexes(draws)
    if len(flows) < ENOUGH:
        reason = f"{len(flows)} of the flows that should show it were answered, {ENOUGH} at least are needed"
        return AssignmentVerdict(None, Certainty.NOT_DETERMINED, reason, evidence)
    if all(flow.mapped == flow.local for flow in flows):
        reason = f"no NAT: {len(flows)} local ports are seen as they are"
        return AssignmentVerdict(PortAssignment.PRESERVING, Certainty.CONFIRMED, reason, evidence)
    if len(kept(flows)) * 2 >= len(flows):
        return _preserving(flows, evidence)
    asked = [flow for _, fact in facts.sharings if not fact.other for flow in (fact.second, fact.control) if flow]
    if len({flow.local for flow in kept(asked)}) > 1:  # one may be kept by luck, where there are few to choose from
        return _preserving_within(flows, kept(asked)[0], evidence)
    return _chosen(flows, evidence)


def _preserving(flows: Sequence[Flow], evidence: tuple[int, ...]) -> AssignmentVerdict:
    count, total = len(kept(flows)), len(flows)
    if count == total:
        reason = f"all of {total} local ports were kept"
        return AssignmentVerdict(PortAssignment.PRESERVING, Certainty.CONFIRMED, reason, evidence)
    low, high = _interval(count, total)
    reason = f"{count} of {total} local ports were kept (95 %: {low:.0%} to {high:.0%}), the others may have been taken"
    return AssignmentVerdict(PortAssignment.PRESERVING, Certainty.LIKELY, reason, evidence)


def _preserving_within(flows: Sequence[Flow], example: Flow, evidence: tuple[int, ...]) -> AssignmentVerdict:
    """Return the verdict where ports are kept that the NAT would choose itself, and no others."""
    bounds = min(ports(flows)), max(ports(flows))
    reason = f"{example.local.port} was kept, other local ports were given one from {bounds[0]} to {bounds[1]}"
    return AssignmentVerdict(PortAssignment.PRESERVING, Certainty.LIKELY, reason, evidence, range=bounds)


def _chosen(flows: Sequence[Flow], evidence: tuple[int, ...]) -> AssignmentVerdict:
    """Return the verdict on ports that the NAT chooses itself."""
    parity, bounds = _parity(flows), _range(flows)
    found = _step(flows)
    if found:
        (delta, hits, steps), where = found
        low, high = _interval(hits, steps)
        reason = (
            f"{hits} of {steps} ports are the one before {delta:+d}{where}: "
            f"the next one can be told with a chance of {low:.0%} to {high:.0%}"
        )
        return AssignmentVerdict(
            PortAssignment.SEQUENTIAL, Certainty.CONFIRMED, reason, evidence, delta=delta, parity=parity
        )
    if in_turn(flows):
        reason = f"{len(flows)} ports follow each other in order, with gaps that differ"
        return AssignmentVerdict(PortAssignment.SEQUENTIAL, Certainty.LIKELY, reason, evidence, parity=parity)
    offsets = {(flow.mapped.port - flow.local.port) % (1 << 16) for flow in flows if flow.mapped}
    if len(offsets) == 1:
        reason = f"all of {len(flows)} ports are the local one {offsets.pop():+d}"
        return AssignmentVerdict(PortAssignment.OTHER, Certainty.CONFIRMED, reason, evidence, parity=parity)
    low, high = min(ports(flows)), max(ports(flows))
    reason = f"no order is seen in {len(flows)} ports from {low} to {high}"
    if bounds:
        reason += f"; they are of a pool of at most {widest_pool(ports(flows))}"
    return AssignmentVerdict(PortAssignment.RANDOM, Certainty.LIKELY, reason, evidence, parity=parity, range=bounds)


def _step(flows: Sequence[Flow]) -> tuple[tuple[int, int, int], str] | None:
    """Return the regular step between ports in the order of the flows, of all of them or of those to one remote.

    A NAT may count for each destination apart (RFC 6056 §3.3.3).
    """
    of_all = step(ports(flows))
    if of_all:
        return of_all, ""
    by_remote: defaultdict[Endpoint, list[Flow]] = defaultdict(list)
    for flow in flows:
        by_remote[flow.remote].append(flow)
    of_each = [step(ports(some)) for some in by_remote.values()]
    regular = [found for found in of_each if found]
    if len(regular) < len(of_each):
        return None
    hits, steps = sum(found[1] for found in regular), sum(found[2] for found in regular)
    return (regular[0][0], hits, steps), " towards the same destination"


def _parity(flows: Sequence[Flow]) -> bool | None:
    chosen = [flow for flow in flows if flow.mapped and flow.mapped.port != flow.local.port]
    if any((flow.mapped.port ^ flow.local.port) & 1 for flow in chosen if flow.mapped):
        return False
    return True if len(chosen) >= _PARITIES else None


def _range(flows: Sequence[Flow]) -> tuple[int, int] | None:
    """Return the lowest and the highest port seen, where they show that not all ports are in use."""
    drawn = ports(flows)
    return (min(drawn), max(drawn)) if widest_pool(drawn) < ALL_PORTS else None


def _interval(hits: int, total: int) -> tuple[float, float]:
    """Return between which shares the true one lies, at 95 % (Wilson 1927)."""
    share, z = hits / total, _Z * _Z / total
    middle, half = share + z / 2, _Z * (share * (1 - share) / total + z / total / 4) ** 0.5
    return (middle - half) / (1 + z), (middle + half) / (1 + z)
