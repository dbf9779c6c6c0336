"""What draws show: pairs counted, chances of a birthday, pools bounded, steps told from luck."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natprobe.behaviour import Difference
from natprobe.draws import (
    ALL_PORTS,
    answered,
    chance_of_none,
    in_turn,
    kept,
    meetings,
    pairs,
    pairs_across,
    ports,
    step,
    widest_pool,
)
from natprobe.endpoint import Endpoint
from natprobe.observation import Flow

REMOTES = [Endpoint.of(f"198.51.100.1{host}", 3478 + port) for host in range(2) for port in range(2)]


def flow(local: int, remote: Endpoint = REMOTES[0], mapped: int | None = None) -> Flow:
    outside = Endpoint.of("198.51.100.1", mapped) if mapped else None
    return Flow(Endpoint.of("10.64.1.10", local), remote, outside)


@given(st.lists(st.sampled_from(REMOTES), max_size=12))
def test_every_pair_is_counted_once_under_what_it_differs_in(remotes: list[Endpoint]) -> None:
    flows = [flow(number, remote) for number, remote in enumerate(remotes, 1)]
    counted = {apart: pairs(flows, apart) for apart in Difference}
    found = [Difference.between(one.remote, other.remote) for one, other in combinations(flows, 2)]
    assert counted == {apart: found.count(apart) for apart in Difference}


@pytest.mark.parametrize(("flows", "destinations", "chance"), [(346, 4, 0.5), (718, 4, 0.05), (1091, 4, 0.001)])
def test_the_chance_that_none_meets_is_that_of_the_birthday_problem(
    flows: int, destinations: int, chance: float
) -> None:
    """How many flows it takes to 50, 95 and 99.9 %, from 64,512 ports spread over four destinations."""
    apart = round(flows * (flows - 1) / 2 * (1 - 1 / destinations))
    assert chance_of_none(apart, ALL_PORTS) == pytest.approx(chance, rel=0.01)


@pytest.mark.parametrize("size", [64, 512, 4096])
def test_the_pool_is_never_thought_smaller_than_it_is(size: int) -> None:
    dice = random.Random(size)
    for _ in range(1000):
        drawn = [20_000 + dice.randrange(size) for _ in range(48)]
        assert size <= widest_pool(drawn) < 2 * size


def test_few_draws_bound_no_pool() -> None:
    assert widest_pool([]) == widest_pool([5000]) == widest_pool([1024, 65000]) == ALL_PORTS


@pytest.mark.parametrize("delta", [1, -1, 2, 7, 64])
def test_a_step_is_seen_through_neighbours_that_take_ports_meanwhile(delta: int) -> None:
    dice = random.Random(delta)
    drawn = [40_000]
    while len(drawn) < 40:
        drawn.append(drawn[-1] + delta * (1 + (dice.random() < 0.3)))
    found = step(drawn)
    assert found is not None
    assert found[0] == delta
    assert found[1] > found[2] / 2


def test_chance_makes_no_step() -> None:
    dice = random.Random(1)
    for size in (256, 512, ALL_PORTS):
        assert not any(step([1024 + dice.randrange(size) for _ in range(48)]) for _ in range(1000))


def test_flows_meet_only_with_those_of_other_endpoints() -> None:
    first, second, again, apart = flow(1, mapped=7), flow(2, mapped=7), flow(1, REMOTES[1], mapped=7), flow(3, mapped=8)
    assert list(meetings([first, second, apart, flow(4)])) == [(first, second)]
    assert list(meetings([first, again])) == []


def test_what_was_kept_is_told_from_what_was_chosen() -> None:
    mine, chosen, lost = flow(7, mapped=7), flow(8, mapped=99), flow(9)
    assert kept([mine, chosen, lost]) == [mine]
    assert ports([mine, chosen, lost]) == [99]
    assert answered([mine, chosen, lost]) == [mine, chosen]


@pytest.mark.parametrize("most", [1, 24, 400])
def test_a_counter_that_neighbours_use_too_is_no_chance(most: int) -> None:
    """However many ports neighbours take between two of ours, they only go up."""
    dice, ports_given = random.Random(most), [2000]
    while len(ports_given) < 120:
        ports_given.append(ports_given[-1] + 1 + dice.randrange(most))
    assert in_turn(flow(number, mapped=port) for number, port in enumerate(ports_given, 1))


def test_a_counter_for_each_remote_is_seen() -> None:
    """RFC 6056 §3.3.3: each destination has a counter of its own, begun anywhere."""
    begun = dict(zip(REMOTES, (5000, 61_000, 20_000, 1500), strict=True))
    flows = [flow(n + 1, REMOTES[n % 4], begun[REMOTES[n % 4]] + n // 4) for n in range(80)]
    assert in_turn(flows)


def test_chance_is_no_order() -> None:
    dice = random.Random(3)
    for _ in range(300):
        assert not in_turn(flow(n + 1, REMOTES[n % 4], 1024 + dice.randrange(ALL_PORTS)) for n in range(200))


def test_flows_of_different_external_addresses_are_no_pairs() -> None:
    outside = [Endpoint.of(f"198.51.100.{1 + n % 2}", 7) for n in range(4)]
    flows = [Flow(Endpoint.of("10.64.1.10", n + 1), REMOTES[n // 2], seen) for n, seen in enumerate(outside)]
    assert pairs(flows, Difference.PORT) == 2
    assert pairs(flows, Difference.NOTHING) == 0


def test_protocols_with_pools_of_their_own_are_no_pairs() -> None:
    low, high = ([flow(n, mapped=start + n) for n in range(1, 40)] for start in (20_000, 40_000))
    assert pairs_across(low, high) == 0
    assert pairs_across(low, low) == 39 * 39
