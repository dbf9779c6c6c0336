"""The grid: every policy is probed in memory and must be found again, by the very field names that made it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natprobe.behaviour import Dependence, PortAssignment, PortReuse, Treatment
from natprobe.lab.link import Impairment, Path
from natprobe.lab.policy import PRESETS, NatPolicy, ProtocolPolicy, compose, differences
from natprobe.lab.simulation import simulate

PER_CONNECTION = Dependence.CONNECTION_DEPENDENT
TOLD_APART = [dependence for dependence in Dependence if dependence is not PER_CONNECTION]
"""What UDP can be. Over TCP a mapping may depend on the connection as well; that a filter does is not found out."""


def found(*policies: NatPolicy, path: str = "lan") -> list[str]:
    """Return in what the report on NATs in series differs from what they make; none if all agrees."""
    whole = policies[0] if len(policies) == 1 else compose(*policies)
    return differences(whole, simulate(policies, path).to_json())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_found_again(name: str) -> None:
    assert found(PRESETS[name]) == []


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
