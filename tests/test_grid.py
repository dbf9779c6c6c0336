"""The grid: every policy is probed in memory and must be found again, by the very field names that made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import after, classified

from natprobe.behaviour import Dependence, Hairpinning, PortAssignment, PortReuse, Protocol, Treatment
from natprobe.lab.details import Details, Pooling, Refresh
from natprobe.lab.link import PATHS, Impairment, Path
from natprobe.lab.policy import PRESETS, NatPolicy, ProtocolPolicy, compose, differences, expected_further
from natprobe.lab.simulation import simulate
from natprobe.run import Tier

PER_CONNECTION = Dependence.CONNECTION_DEPENDENT
TOLD_APART = [dependence for dependence in Dependence if dependence is not PER_CONNECTION]
"""What UDP can be. Over TCP a mapping may depend on the connection as well; that a filter does is not found out."""


LOSSY = {"lossy-wifi", "awful"}


def found(*policies: NatPolicy, path: str = "lan", tier: Tier = Tier.QUICK) -> list[str]:
    """Return in what the report on NATs in series differs from what they make; none if all agrees."""
    whole = policies[0] if len(policies) == 1 else compose(*policies)
    return differences(whole, simulate(policies, path, tier=tier).to_json())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_found_again_by_what_follows(name: str) -> None:
    assert found(PRESETS[name], tier=Tier.DEFAULT) == []


def wrong(*policies: NatPolicy, path: Path | str = "lan", seed: int = 0) -> list[str]:
    """Return the verdicts with another value than the NATs have; not determined is none.

    What a refused SYN gets is not compared for two in series: each refuses some senders, in its own way.
    """
    whole = policies[0] if len(policies) == 1 else compose(*policies)
    report = simulate(policies, path, seed).to_json()
    lines = [line for line in differences(whole, report) if "not determined" not in line]
    return [line for line in lines if len(policies) == 1 or "unsolicited_syn" not in line]


@pytest.mark.parametrize(("path", "name"), list(product(sorted(PATHS.keys() - LOSSY), PRESETS)))
def test_every_preset_is_found_again_over_every_path(path: str, name: str) -> None:
    assert found(PRESETS[name], path=path) == []


@pytest.mark.parametrize(("path", "name"), list(product(sorted(LOSSY), PRESETS)))
def test_over_a_lossy_path_no_class_is_wrong(path: str, name: str) -> None:
    assert [line for seed in range(3) for line in wrong(PRESETS[name], path=path, seed=seed)] == []


@pytest.mark.parametrize("path", PATHS)
def test_every_run_is_the_same_every_time(path: str) -> None:
    first, second = (simulate(PRESETS["apdm-adf"], path, seed=3).to_json() for _ in range(2))
    assert first == second
    assert first != simulate(PRESETS["apdm-adf"], path, seed=4).to_json()


@pytest.mark.parametrize(
    ("mapping", "filtering", "assignment"),
    list(product(TOLD_APART, TOLD_APART, PortAssignment)),
    ids=lambda word: "".join(part[0] for part in str(word).split("-")),
)
def test_every_class_is_found_again(mapping: Dependence, filtering: Dependence, assignment: PortAssignment) -> None:
    policy = ProtocolPolicy(mapping, filtering, assignment, PortReuse.PER_PROTOCOL)
    assert found(NatPolicy.alike(policy)) == []


@pytest.mark.parametrize(("filtering", "assignment"), list(product(TOLD_APART, PortAssignment)), ids=str)
def test_a_mapping_of_each_connection_is_found_again(filtering: Dependence, assignment: PortAssignment) -> None:
    udp = ProtocolPolicy(Dependence.ADDRESS_AND_PORT_DEPENDENT, filtering, assignment, PortReuse.PER_PROTOCOL)
    assert found(NatPolicy(udp, replace(udp, mapping=PER_CONNECTION))) == []


def test_a_filter_by_connection_reads_as_one_by_address_and_port() -> None:
    """Nothing that we do can tell them apart: the reflector never dials from the endpoint that was connected to."""
    policy = NatPolicy(tcp=ProtocolPolicy(filtering=PER_CONNECTION))
    (difference,) = found(policy)
    assert "the report says address-and-port-dependent" in difference


FINER_POINTS = {
    "step": Details(port_step=3),
    "range": Details(port_range=(5000, 5063)),
    "block": Details(port_block=64),
    "parity": Details(parity=True),
    "parity in a block": Details(parity=True, port_block=128, port_step=2),
    "filter by host": Details(filter_per_host=True),
    "refresh by both": Details(refresh=Refresh.BOTH),
    "short-lived": Details(lifetime=5, lifetime_stream=10),
    "quota": Details(quota=64, over_quota=Treatment.ICMP),
    "late refusal": Details(unsolicited_after=6),
    "hairpins": Details(hairpinning=Hairpinning.INTERNAL_SOURCE),
}


@pytest.mark.parametrize("details", FINER_POINTS.values(), ids=FINER_POINTS.keys())
@pytest.mark.parametrize(
    ("dependence", "assignment"),
    list(product(TOLD_APART, [PortAssignment.SEQUENTIAL, PortAssignment.RANDOM, PortAssignment.PRESERVING])),
    ids=str,
)
def test_the_finer_points_make_no_other_class(
    details: Details, dependence: Dependence, assignment: PortAssignment
) -> None:
    policy = ProtocolPolicy(dependence, dependence, assignment, PortReuse.PER_PROTOCOL, Treatment.ICMP, details=details)
    assert found(NatPolicy.alike(policy)) == []


@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize("mapping", TOLD_APART)
def test_a_pool_of_addresses_makes_no_other_class(pooling: Pooling, mapping: Dependence) -> None:
    policy = NatPolicy.alike(ProtocolPolicy(mapping, details=Details(pooling=pooling)))
    report = classified(policy, after(0, lambda _: None), addresses=[f"198.51.100.{number}" for number in range(1, 5)])
    assert report
    assert differences(policy, report.to_json()) == []


@pytest.mark.parametrize("filtering", TOLD_APART, ids=str)
def test_every_firewall_is_found_again(filtering: Dependence) -> None:
    assert found(NatPolicy.alike(ProtocolPolicy(filtering=filtering), translated=False)) == []


@pytest.mark.parametrize(
    ("inner", "outer"), list(product(["eim-eif", "adm-adf", "linux-masquerade", "firewall", "none"], repeat=2))
)
def test_two_nats_in_series_are_found_as_one(inner: str, outer: str) -> None:
    assert found(PRESETS[inner], PRESETS[outer]) == []


def test_the_protocols_are_told_apart() -> None:
    policy = NatPolicy(PRESETS["eim-eif"].udp, PRESETS["apdm-apdf"].tcp)
    assert found(policy) == []


def remap(*policies: NatPolicy, path: Path | str = "lan", seed: int = 0) -> bool | None:
    """Return whether an unsolicited packet was found to move a mapping of NATs in series."""
    report = simulate(policies, path, seed, protocols=[Protocol.UDP], tier=Tier.DEFAULT)
    assert report.ipv4
    assert report.ipv4.udp
    assert report.ipv4.udp.unsolicited_remap
    return report.ipv4.udp.unsolicited_remap.value


@pytest.mark.parametrize(
    ("inner", "outer", "moves"),
    [
        ("eim-eif", "linux-masquerade-accept", True),
        ("linux-masquerade-accept", "eim-eif", True),
        ("linux-masquerade-accept", "eim-adf", False),
        ("linux-masquerade-accept", "firewall", False),
        ("firewall", "linux-masquerade-accept", True),
        ("linux-masquerade-accept", "linux-fully-random", None),
    ],
)
def test_of_nats_in_series_any_that_strangers_reach_can_move_a_mapping(
    inner: str, outer: str, moves: bool | None
) -> None:
    assert remap(PRESETS[inner], PRESETS[outer]) is moves


REMAPPABLE = [name for name, policy in PRESETS.items() if expected_further(policy)["udp"]]


@pytest.mark.slow
def test_loss_neither_moves_a_mapping_nor_hides_that_it_moves() -> None:
    """One packet in ten is lost each way, over round trips from 5 to 600 ms."""
    wrong, unknown = [], 0
    for seed in range(40):
        name = REMAPPABLE[seed % len(REMAPPABLE)]
        trip = (0.005, 0.04, 0.15, 0.6)[seed // len(REMAPPABLE) % 4]
        line = Path.alike(Impairment(delay=0.45 * trip, jitter=0.05 * trip, loss=0.1))
        moves = remap(PRESETS[name], path=line, seed=seed)
        unknown += moves is None
        if moves not in (None, expected_further(PRESETS[name])["udp"]["unsolicited_remap"]):
            wrong.append((name, trip, seed))
    assert (wrong, unknown <= 1) == ([], True)


details = st.builds(
    Details,
    port_step=st.integers(1, 5),
    port_range=st.none() | st.just((2000, 2999)),
    port_block=st.none() | st.sampled_from([128, 512]),
    parity=st.booleans(),
    hairpinning=st.sampled_from(Hairpinning),
    filter_per_host=st.booleans(),
    refresh=st.sampled_from([Refresh.OUTBOUND, Refresh.BOTH]),
    lifetime=st.none() | st.just(30.0),
    unsolicited_after=st.sampled_from([0.0, 6.0]),
    quota=st.none() | st.just(60),
    over_quota=st.sampled_from(Treatment),
)


def protocol_policies(mappings: Sequence[Dependence]) -> st.SearchStrategy[ProtocolPolicy]:
    return st.builds(
        ProtocolPolicy,
        mapping=st.sampled_from(mappings),
        filtering=st.sampled_from(TOLD_APART),
        port_assignment=st.sampled_from(PortAssignment),
        port_reuse=st.just(PortReuse.PER_PROTOCOL),
        unsolicited=st.sampled_from(Treatment),
        details=details,
    )


policies = st.builds(NatPolicy, protocol_policies(TOLD_APART), protocol_policies([*Dependence]))
impairments = st.builds(
    Impairment,
    delay=st.floats(0.0001, 0.3),
    jitter=st.floats(0, 0.02),
    loss=st.floats(0, 0.1),
    reorder=st.floats(0, 0.05),
    duplicate=st.floats(0, 0.05),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    several=st.lists(policies, min_size=1, max_size=2),
    path=st.builds(Path, impairments, impairments),
    seed=st.integers(0, 2**32),
)
def test_whatever_the_nats_and_the_line_no_class_is_wrong(several: list[NatPolicy], path: Path, seed: int) -> None:
    """Not determined is an answer; another class than the NATs' is none."""
    assert wrong(*several, path=path, seed=seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eim-apdf", "apdm-apdf", "linux-masquerade"])
def test_loss_costs_less_than_the_patience_of_others(name: str) -> None:
    """A filter by address and port, one packet in ten lost each way, 40 ms; the clock is virtual."""
    line = Path.alike(Impairment(delay=0.018, jitter=0.002, loss=0.1))
    taken = [simulate(PRESETS[name], line, seed, protocols=[Protocol.UDP]).duration_s for seed in range(40)]
    assert median(taken) <= 1.2
