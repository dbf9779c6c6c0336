"""The grid: every policy is probed in memory and must be found again, by the very field names that made it."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natprobe.behaviour import Dependence, PortAssignment, PortReuse, Protocol, Treatment
from natprobe.lab.link import Impairment, Path
from natprobe.lab.policy import PRESETS, NatPolicy, ProtocolPolicy, compose, differences, expected_further
from natprobe.lab.simulation import simulate
from natprobe.run import Tier

TOLD_APART = [dependence for dependence in Dependence if dependence is not Dependence.CONNECTION_DEPENDENT]


def found(*policies: NatPolicy, path: str = "lan", tier: Tier = Tier.QUICK) -> list[str]:
    """Return in what the report on NATs in series differs from what they make; none if all agrees."""
    whole = policies[0] if len(policies) == 1 else compose(*policies)
    return differences(whole, simulate(policies, path, tier=tier).to_json())


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("tier", Tier)
def test_every_preset_is_found_again(name: str, tier: Tier) -> None:
    assert found(PRESETS[name], tier=tier) == []


@pytest.mark.parametrize(
    ("mapping", "filtering", "assignment"),
    list(product(TOLD_APART, TOLD_APART, PortAssignment)),
    ids=lambda word: "".join(part[0] for part in str(word).split("-")),
)
def test_every_class_is_found_again(mapping: Dependence, filtering: Dependence, assignment: PortAssignment) -> None:
    policy = ProtocolPolicy(mapping, filtering, assignment, PortReuse.PER_PROTOCOL)
    assert found(NatPolicy.alike(policy)) == []


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
    for seed in range(200):
        name = REMAPPABLE[seed % len(REMAPPABLE)]
        trip = (0.005, 0.04, 0.15, 0.6)[seed // len(REMAPPABLE) % 4]
        line = Path.alike(Impairment(delay=0.45 * trip, jitter=0.05 * trip, loss=0.1))
        moves = remap(PRESETS[name], path=line, seed=seed)
        unknown += moves is None
        if moves not in (None, expected_further(PRESETS[name])["udp"]["unsolicited_remap"]):
            wrong.append((name, trip, seed))
    assert (wrong, unknown <= 4) == ([], True)


protocol_policies = st.builds(
    ProtocolPolicy,
    mapping=st.sampled_from(TOLD_APART),
    filtering=st.sampled_from(TOLD_APART),
    port_assignment=st.sampled_from(PortAssignment),
    port_reuse=st.just(PortReuse.PER_PROTOCOL),
    unsolicited=st.sampled_from(Treatment),
)
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
    policy=st.builds(NatPolicy, protocol_policies, protocol_policies),
    path=st.builds(Path, impairments, impairments),
    seed=st.integers(0, 2**32),
)
def test_whatever_the_nat_and_the_line_no_class_is_wrong(policy: NatPolicy, path: Path, seed: int) -> None:
    """Not determined is an answer; another class than the NAT's is none."""
    report = simulate(policy, path, seed).to_json()
    wrong = [line for line in differences(policy, report) if "not determined" not in line]
    assert wrong == []
