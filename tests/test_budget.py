"""The budgets: generous to who measures, fixed in size, and a bound on what a victim can be sent."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, ip_address

import pytest

from natprobe.endpoint import Address, Endpoint
from natprobe.reflector.budget import Buckets, Budget, Rate, Rates, prefix_of
from natprobe.reflector.rules import Outgoing

KEY = b"k" * 32
HERE = Endpoint.parse("198.51.100.2:3478")
VICTIM = ip_address("203.0.113.9")


def replies(count: int, size: int = 52, target: Address = VICTIM, delay: float = 0.0) -> tuple[Outgoing, ...]:
    return tuple(Outgoing(bytes(size), HERE, Endpoint(target, 4242), delay) for _ in range(count))


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    buckets = Buckets(Rate(10, 5), KEY)
    assert [buckets.take(b"a", 1, 100.0) for _ in range(6)] == [True] * 5 + [False]
    assert [buckets.take(b"a", 1, 100.1) for _ in range(2)] == [True, False]
    assert [buckets.take(b"a", 1, 200.0) for _ in range(6)] == [True] * 5 + [False]


def test_what_is_refused_costs_nothing() -> None:
    buckets = Buckets(Rate(1, 5), KEY)
    assert not buckets.take(b"a", 6, 0.0)
    assert buckets.take(b"a", 5, 0.0)


def test_a_clock_that_starts_at_zero_does_as_well() -> None:
    buckets = Buckets(Rate(1, 1), KEY)
    assert buckets.take(b"a", 1, 0.0)
    assert not buckets.take(b"a", 1, 0.5)


def test_prefixes_have_buckets_of_their_own_until_they_collide() -> None:
    buckets = Buckets(Rate(1, 1), KEY, slots=64)
    taken = sum(buckets.take(number.to_bytes(3, "big"), 1, 0.0) for number in range(10_000))
    assert taken <= 64


def test_who_shares_a_bucket_depends_on_the_key() -> None:
    prefixes = [number.to_bytes(3, "big") for number in range(200)]
    first, second = Buckets(Rate(1, 1), b"1" * 32), Buckets(Rate(1, 1), b"2" * 32)
    assert [first._slot(prefix) for prefix in prefixes] != [second._slot(prefix) for prefix in prefixes]


def test_the_table_never_grows() -> None:
    buckets = Buckets(Rate(1, 1), KEY, slots=64)
    before = sys.getsizeof(buckets._full_at)
    for number in range(1000):
        buckets.take(number.to_bytes(3, "big"), 1, float(number))
    assert sys.getsizeof(buckets._full_at) == before


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.1", "203.0.113.254", True),
        ("203.0.113.1", "203.0.114.1", False),
        ("2001:db8:0:1200::1", "2001:db8:0:12ff::1", True),
        ("2001:db8:0:1200::1", "2001:db8:0:1300::1", False),
    ],
)
def test_a_prefix_is_a_24_or_a_56(one: str, other: str, same: bool) -> None:
    assert (prefix_of(ip_address(one)) == prefix_of(ip_address(other))) is same


def test_twenty_classifications_in_a_row_from_one_network_pass() -> None:
    budget, now = Budget(KEY), 1000.0
    for _ in range(20):
        for _ in range(15):
            assert budget.allows(replies(5), 400, now)
            assert budget.allows(replies(1), 100, now)
            now += 0.02
        assert budget.allows_dials(VICTIM, 80, now)


def test_twenty_runs_of_a_standard_client_pass_with_compat() -> None:
    budget = Budget(KEY)
    assert all(budget.allows(replies(1, 56), 20, 1000.0) for _ in range(20 * 12))


def test_a_flood_in_a_victims_name_is_bounded_and_its_gain_more_so() -> None:
    rates = Rates(plain=Rate(20, 100), oversize=Rate(2, 10))
    budget = Budget(KEY, rates)
    sent = oversize = 0
    for packet in range(10_000):  # ten seconds of 1,000 a second, from all over the victim's network
        victim = IPv4Address(int(VICTIM) & ~0xFF | packet & 0xFF)
        now = 1000.0 + packet / 1000
        sent += budget.allows(replies(1, 100, victim), 100, now)
        oversize += budget.allows(replies(1, 56, victim), 20, now)
    assert sent == pytest.approx(rates.plain.burst + 10 * rates.plain.per_second, abs=1)
    assert oversize == pytest.approx(rates.oversize.burst + 10 * rates.oversize.per_second, abs=1)


def test_one_networks_flood_leaves_the_others_alone() -> None:
    budget = Budget(KEY, Rates(output=Rate(1e9, 1e9)))
    while budget.allows(replies(1), 100, 1000.0):
        pass
    assert budget.allows(replies(1, target=ip_address("192.0.2.1")), 100, 1000.0)
    assert budget.allows(replies(1, target=ip_address("2001:db8::1")), 100, 1000.0)


def test_the_output_of_all_is_bounded_in_bytes() -> None:
    budget = Budget(KEY, Rates(output=Rate(1000, 1000)))
    assert budget.allows(replies(1, 600), 600, 0.0)
    assert not budget.allows(replies(1, 600, ip_address("192.0.2.1")), 600, 0.0)
    assert not budget.allows_stream(600, 0.0)
    assert budget.allows_stream(400, 0.0)


def test_replies_that_are_due_late_cost_more() -> None:
    rates = Rates(several=Rate(1, 10))
    assert Budget(KEY, rates).allows(replies(5), 400, 0.0)
    assert not Budget(KEY, rates).allows(replies(5, delay=60.0), 400, 0.0)


def test_no_reply_costs_nothing() -> None:
    assert Budget(KEY, Rates(plain=Rate(1, 0))).allows((), 20, 0.0)
