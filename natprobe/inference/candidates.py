"""Which dependences explain what was seen: the one idea behind the verdicts on mapping and on filtering.

A dependence says which remote endpoints a NAT treats alike (``Dependence.key``). What was seen groups the endpoints
that were tried, and a dependence explains it exactly if it groups them the same way. One left: a verdict. Several:
the test could not tell them apart. None: no dependence behaves like this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping

from natprobe.behaviour import Dependence
from natprobe.endpoint import Endpoint

TOLD_APART = (
    Dependence.ENDPOINT_INDEPENDENT,
    Dependence.ADDRESS_DEPENDENT,
    Dependence.PORT_DEPENDENT,
    Dependence.ADDRESS_AND_PORT_DEPENDENT,
)


def explaining_mapping(mapped: Mapping[Endpoint, Endpoint]) -> list[Dependence]:
    """Return the dependences that give the remotes of ``mapped`` equal and different mappings just as seen."""
    seen = _groups(mapped, mapped.__getitem__)
    return [dependence for dependence in TOLD_APART if _groups(mapped, dependence.key) == seen]


def explaining_filter(contacted: Endpoint, passed: Mapping[Endpoint, bool]) -> list[Dependence]:
    """Return the dependences that let in exactly the senders seen, where only ``contacted`` had been sent to."""
    return [
        dependence
        for dependence in TOLD_APART
        if all((dependence.key(sender) == dependence.key(contacted)) == came for sender, came in passed.items())
    ]


def _groups(endpoints: Iterable[Endpoint], key: Callable[[Endpoint], Hashable]) -> frozenset[frozenset[Endpoint]]:
    groups: defaultdict[Hashable, set[Endpoint]] = defaultdict(set)
    for endpoint in endpoints:
        groups[key(endpoint)].add(endpoint)
    return frozenset(frozenset(group) for group in groups.values())
