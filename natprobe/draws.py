"""What flows drawn from a NAT show of how it picks external ports, and what it means that none met another.

Pure; probes read here when they have seen enough, inference what it was. Two flows of different local endpoints *meet*
where both are seen as one external endpoint. How probable it is that none of many do, if the NAT would let them and
draws its ports at random, is the birthday problem: with P pairs and a pool of M ports about exp(-P/M).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import exp, log, sqrt

from natprobe.behaviour import Difference
from natprobe.endpoint import Endpoint
from natprobe.observation import Flow

ALL_PORTS = 64512
"""The ports from 1024 up: the largest pool there is."""
_FAR = 64
"""The longest step that still counts as one: beyond, neighbours' flows leave nothing to be told."""


def answered(flows: Iterable[Flow]) -> list[Flow]:
    """Return the flows of which is known as what they were seen, one of each local endpoint."""
    return list({flow.local: flow for flow in flows if flow.mapped}.values())


def kept(flows: Iterable[Flow]) -> list[Flow]:
    """Return the flows that have outside the port that they have inside."""
    return [flow for flow in flows if flow.mapped and flow.mapped.port == flow.local.port]


def ports(flows: Iterable[Flow]) -> list[int]:
    """Return the external ports that the NAT chose itself: those of the flows that did not keep theirs."""
    return [flow.mapped.port for flow in flows if flow.mapped and flow.mapped.port != flow.local.port]


def meetings(flows: Iterable[Flow]) -> Iterator[tuple[Flow, Flow]]:
    """Yield the pairs of flows of different local endpoints that were seen as one external endpoint."""
    seen: dict[Endpoint, list[Flow]] = {}
    for flow in flows:
        if flow.mapped:
            others = seen.setdefault(flow.mapped, [])
            yield from ((other, flow) for other in others if other.local != flow.local)
            others.append(flow)


def pairs(flows: Iterable[Flow], apart: Difference) -> int:
    """Return how many pairs of flows have remotes that differ in just this, and one external address to meet at."""
    remotes = Counter((flow.mapped and flow.mapped.address, flow.remote) for flow in flows)
    addresses: Counter[object] = Counter()
    outside: Counter[object] = Counter()
    for (external, remote), count in remotes.items():
        addresses[external, remote.address] += count
        outside[external] += count
    all_of = {
        Difference.ADDRESS: _pairs(outside.values()) - _pairs(addresses.values()),
        Difference.PORT: _pairs(addresses.values()) - _pairs(remotes.values()),
        Difference.NOTHING: _pairs(remotes.values()),
    }
    return all_of.get(apart, 0)


def _pairs(counts: Iterable[int]) -> int:
    return sum(count * (count - 1) // 2 for count in counts)


def pairs_across(flows: Sequence[Flow], others: Sequence[Flow]) -> int:
    """Return how many pairs of a flow and one of the other protocol might meet: they may be drawn from other ports."""
    low = max(min(ports(some), default=0) for some in (flows, others))
    high = min(max(ports(some), default=0) for some in (flows, others))
    mine, theirs = (
        Counter(flow.mapped.address for flow in some if flow.mapped and low <= flow.mapped.port <= high)
        for some in (flows, others)
    )
    return sum(count * theirs[address] for address, count in mine.items())


def chance_of_none(number_of_pairs: int, pool: int) -> float:
    """Return how probable it is that no pair meets, were each port drawn at random from a pool."""
    return exp(-number_of_pairs / pool)


def widest_pool(drawn: Sequence[int], risk: float = 1e-6) -> int:
    """Return the size of the largest pool whose draws would lie so close together, but with this risk.

    Of n draws from M ports, all lie within s ports of each other with a probability of about n (s/M)^(n-1).
    """
    count = len(drawn)
    if count < 2:
        return ALL_PORTS
    span = max(drawn) - min(drawn) + 1
    return min(ALL_PORTS, int(span * exp(log(count / risk) / (count - 1))) + 1)


def step(drawn: Sequence[int]) -> tuple[int, int, int] | None:
    """Return the step from each port to the next, how often it was that, and of how many; None without one.

    At random, two steps in three that are alike are a matter of luck; a third of them all, and four, are not.
    """
    steps = [after - before for before, after in pairwise(drawn)]
    if not steps:
        return None
    commonest, hits = Counter(steps).most_common(1)[0]
    regular = 0 < abs(commonest) <= _FAR and hits >= max(4, len(steps) / 3)
    return (commonest, hits, len(steps)) if regular else None


def in_turn(flows: Iterable[Flow]) -> bool:
    """Return whether ports come in some order, those of all flows or those towards each remote (RFC 6056 §3.3.3).

    Also where neighbours, or chance (§3.3.5), make the steps differ: then they climb, or fall, all the same.
    """
    by_remote: defaultdict[Endpoint, list[Flow]] = defaultdict(list)
    everything = list(flows)
    for flow in everything:
        by_remote[flow.remote].append(flow)
    return _ordered(ports(everything)) or (
        bool(by_remote) and all(_ordered(ports(some)) for some in by_remote.values())
    )


def _ordered(drawn: Sequence[int]) -> bool:
    """Return whether ports go in steps, or more often one way than five standard deviations of chance would have it.

    Of n steps at random n/2 go up, with a variance of (n + 2)/12.
    """
    steps = len(drawn) - 1
    ups = sum(before < after for before, after in pairwise(drawn))
    return step(drawn) is not None or abs(ups - steps / 2) > 5 * sqrt((steps + 2) / 12)
