"""Which dependences explain what was seen: every partition of four endpoints, every way four senders can pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import pytest

from natprobe.behaviour import Dependence
from natprobe.endpoint import Endpoint
from natprobe.inference.candidates import TOLD_APART, explaining_filter, explaining_mapping

R1, R2 = "198.51.100.10", "198.51.100.11"
GRID = tuple(Endpoint.of(address, port) for address, port in product((R1, R2), (3478, 3479)))
"""R1:3478, R1:3479, R2:3478, R2:3479."""
CONTACTED, OTHER_PORT, OTHER_ADDRESS, OTHER_BOTH = GRID

EI, AD, PD, APD = TOLD_APART


def partitions(count: int) -> Iterator[tuple[int, ...]]:
    """Yield every partition of ``count`` things, as the group of each thing; groups are numbered as they appear."""

    def extend(groups: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(groups) == count:
            yield groups
            return
        for group in range(max(groups, default=-1) + 2):
            yield from extend((*groups, group))

    return extend(())


def seen_as(groups: Sequence[int], endpoints: Sequence[Endpoint] = GRID) -> dict[Endpoint, Endpoint]:
    """Return mappings by which the endpoints fall into these groups."""
    return {remote: Endpoint.of("192.0.2.1", 40000 + group) for remote, group in zip(endpoints, groups, strict=True)}


REGULAR = {(0, 0, 0, 0): EI, (0, 0, 1, 1): AD, (0, 1, 0, 1): PD, (0, 1, 2, 3): APD}


def test_four_endpoints_have_fifteen_partitions() -> None:
    assert len(set(partitions(4))) == 15
    assert set(REGULAR) < set(partitions(4))


@pytest.mark.parametrize("groups", list(partitions(4)), ids=str)
def test_a_partition_is_explained_by_one_class_or_by_none(groups: tuple[int, ...]) -> None:
    expected = [REGULAR[groups]] if groups in REGULAR else []
    assert explaining_mapping(seen_as(groups)) == expected


@pytest.mark.parametrize(
    ("endpoints", "groups", "explaining"),
    [
        ((CONTACTED,), (0,), [EI, AD, PD, APD]),
        ((CONTACTED, OTHER_PORT), (0, 0), [EI, AD]),
        ((CONTACTED, OTHER_PORT), (0, 1), [PD, APD]),
        ((CONTACTED, OTHER_ADDRESS), (0, 0), [EI, PD]),
        ((CONTACTED, OTHER_ADDRESS), (0, 1), [AD, APD]),
        ((CONTACTED, OTHER_BOTH), (0, 0), [EI]),
        ((CONTACTED, OTHER_BOTH), (0, 1), [AD, PD, APD]),
        ((CONTACTED, OTHER_PORT, OTHER_ADDRESS), (0, 1, 2), [APD]),
        ((CONTACTED, OTHER_PORT, OTHER_ADDRESS), (0, 0, 1), [AD]),
        ((CONTACTED, OTHER_PORT, OTHER_ADDRESS), (0, 1, 0), [PD]),
        ((CONTACTED, OTHER_PORT, OTHER_ADDRESS), (0, 1, 1), []),
    ],
    ids=str,
)
def test_fewer_endpoints_leave_what_they_cannot_tell_apart(
    endpoints: tuple[Endpoint, ...], groups: tuple[int, ...], explaining: list[Dependence]
) -> None:
    assert explaining_mapping(seen_as(groups, endpoints)) == explaining


FILTERS = {
    # other port, other address, both: who comes in after CONTACTED alone was sent to
    (True, True, True): [EI],
    (True, False, False): [AD],
    (False, True, False): [PD],
    (False, False, False): [APD],
}


@pytest.mark.parametrize("came", list(product((True, False), repeat=3)), ids=str)
def test_the_truth_table_of_filtering(came: tuple[bool, bool, bool]) -> None:
    passed = dict(zip((OTHER_PORT, OTHER_ADDRESS, OTHER_BOTH), came, strict=True))
    assert explaining_filter(CONTACTED, passed) == FILTERS.get(came, [])


@pytest.mark.parametrize(
    ("passed", "explaining"),
    [
        ({}, [EI, AD, PD, APD]),
        ({OTHER_PORT: True}, [EI, AD]),
        ({OTHER_PORT: False}, [PD, APD]),
        ({OTHER_ADDRESS: True}, [EI, PD]),
        ({OTHER_ADDRESS: False}, [AD, APD]),
        ({OTHER_BOTH: True}, [EI]),
        ({OTHER_BOTH: False}, [AD, PD, APD]),
        ({OTHER_PORT: False, OTHER_BOTH: False}, [PD, APD]),
        ({OTHER_PORT: True, OTHER_BOTH: False}, [AD]),
        ({OTHER_ADDRESS: False, OTHER_BOTH: True}, []),
    ],
    ids=str,
)
def test_an_unknown_sender_leaves_what_it_would_have_told_apart(
    passed: dict[Endpoint, bool], explaining: list[Dependence]
) -> None:
    assert explaining_filter(CONTACTED, passed) == explaining


def test_a_sender_that_was_contacted_must_come_in() -> None:
    assert explaining_filter(CONTACTED, {CONTACTED: True}) == [EI, AD, PD, APD]
    assert explaining_filter(CONTACTED, {CONTACTED: False}) == []
