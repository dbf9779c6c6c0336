"""Port reuse and port assignment, found again: every level of sharing behind every way of choosing ports, in memory."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import pytest

from natprobe.behaviour import Certainty, Dependence, Difference, PortAssignment, PortReuse, Protocol
from natprobe.endpoint import Endpoint
from natprobe.inference import Profile
from natprobe.lab.details import Details
from natprobe.lab.link import Impairment, Path
from natprobe.lab.policy import PRESETS, NatPolicy, ProtocolPolicy
from natprobe.lab.simulation import SECOND, simulate
from natprobe.observation import Draws, Exchange, Flow, Sharing
from natprobe.report import Report
from natprobe.run import Tier

BLOCK = Details(port_block=512)
CHOICES = {
    "preserving": ProtocolPolicy(port_assignment=PortAssignment.PRESERVING),
    "sequential": ProtocolPolicy(port_assignment=PortAssignment.SEQUENTIAL),
    "random": ProtocolPolicy(port_assignment=PortAssignment.RANDOM),
    "preserving in a block": ProtocolPolicy(port_assignment=PortAssignment.PRESERVING, details=BLOCK),
    "random in a block": ProtocolPolicy(port_assignment=PortAssignment.RANDOM, details=BLOCK),
}
TELLING = {
    "preserving": {2},
    "sequential": set(),
    "random": set(),
    "preserving in a block": {1, 2},
    "random in a block": {1, 2},
}
"""From how many addresses each way of choosing ports lets every level be told within the default tier."""


@cache
def report(choice: str, reuse: PortReuse, addresses: int, *, tier: Tier = Tier.DEFAULT, loss: float = 0.0) -> Report:
    policy = NatPolicy.alike(replace(CHOICES[choice], port_reuse=reuse))
    line = Path.alike(Impairment(0.018, 0.002, loss))
    return simulate(policy, line, seed=3, tier=tier, second_source=SECOND if addresses == 2 else None)


def profile(report: Report, protocol: Protocol) -> Profile:
    assert report.ipv4
    found = report.ipv4.udp if protocol is Protocol.UDP else report.ipv4.tcp
    assert found
    assert found.port_reuse
    assert found.port_assignment
    return found


@pytest.mark.slow
@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("reuse", PortReuse)
@pytest.mark.parametrize(
    ("choice", "addresses"), [*product(CHOICES, (1,)), ("preserving", 2), ("preserving in a block", 2)]
)
def test_every_level_is_found_again_or_said_to_be_out_of_reach(
    choice: str, addresses: int, reuse: PortReuse, protocol: Protocol
) -> None:
    verdict = profile(report(choice, reuse, addresses), protocol).port_reuse
    assert verdict
    assert verdict.value in (reuse, None), verdict.reason
    if addresses in TELLING[choice]:
        assert verdict.determined or protocol is Protocol.TCP, verdict.reason


@pytest.mark.slow
@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize(("choice", "reuse"), list(product(CHOICES, PortReuse)))
def test_loss_makes_no_other_level(choice: str, reuse: PortReuse, protocol: Protocol) -> None:
    verdict = profile(report(choice, reuse, 1, loss=0.1), protocol).port_reuse
    assert verdict
    assert verdict.value in (reuse, None), verdict.reason


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [PortReuse.EXCLUSIVE, PortReuse.PER_DESTINATION])
def test_patience_tells_what_a_few_hundred_flows_cannot(reuse: PortReuse) -> None:
    verdict = profile(report("random", reuse, 1, tier=Tier.DEEP), Protocol.UDP).port_reuse
    assert verdict
    assert verdict.value is reuse
    assert profile(report("random", PortReuse.EXCLUSIVE, 1), Protocol.UDP).port_reuse.value is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("choice", "needed"),
    [
        (
            "preserving",
            "name a second address of this host (--second-source), or run it on two hosts at once (--partner)",
        ),
        ("sequential", "ports are given in turn"),
        pytest.param("random", "more flows would tell (--deep)", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_told_says_what_would_tell_it(choice: str, needed: str) -> None:
    verdict = profile(report(choice, PortReuse.EXCLUSIVE, 1), Protocol.UDP).port_reuse
    assert verdict
    assert verdict.certainty is Certainty.NOT_DETERMINED
    assert needed in verdict.reason


@pytest.mark.slow
def test_a_verdict_that_none_met_states_its_chance_and_the_pool() -> None:
    verdict = profile(report("random in a block", PortReuse.EXCLUSIVE, 1), Protocol.UDP).port_reuse
    assert verdict
    assert "at random and share them" in verdict.reason
    assert "ports" in verdict.reason


def test_the_quick_tier_asks_nothing_of_it() -> None:
    quick = simulate(PRESETS["eim-apdf"], tier=Tier.QUICK)
    assert quick.ipv4
    assert quick.ipv4.udp
    assert quick.ipv4.udp.port_reuse is None
    assert not any(isinstance(fact, Draws | Sharing) for fact in quick.observations)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("choice", CHOICES)
def test_the_default_tier_spends_what_it_may(choice: str, loss: float) -> None:
    """Eight hundred datagrams and two seconds, at a round trip of 40 ms, on reuse alone."""
    told = report(choice, PortReuse.PER_DESTINATION, 1, loss=loss)
    facts = [fact for fact in told.observations if isinstance(fact, Draws | Sharing)]
    assert sum(fact.begun for fact in facts if isinstance(fact, Draws) and fact.protocol is Protocol.UDP) <= 700
    last_before = max(fact.at + fact.waited for fact in told.observations if isinstance(fact, Exchange))
    assert told.duration_s - last_before <= 2.0


@pytest.mark.parametrize(("name", "assignment"), [("linux-masquerade", "preserving"), ("eim-apdf", "sequential")])
def test_the_way_of_choosing_ports_is_found_again(name: str, assignment: str) -> None:
    told = simulate(PRESETS[name], tier=Tier.DEFAULT)
    for protocol in Protocol:
        assert profile(told, protocol).port_assignment.value == assignment  # type: ignore[union-attr]


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_step_is_told(step: int) -> None:
    policy = ProtocolPolicy(details=Details(port_step=step))
    told = profile(simulate(NatPolicy.alike(policy), tier=Tier.DEFAULT), Protocol.UDP).port_assignment
    assert told
    assert (told.value, told.delta) == (PortAssignment.SEQUENTIAL, step)


def test_parity_is_told() -> None:
    policy = ProtocolPolicy(port_assignment=PortAssignment.SEQUENTIAL, details=Details(parity=True))
    told = profile(simulate(NatPolicy.alike(policy), tier=Tier.DEFAULT), Protocol.UDP).port_assignment
    assert told
    assert told.parity is True


@pytest.mark.slow
def test_a_range_is_told() -> None:
    policy = ProtocolPolicy(port_assignment=PortAssignment.RANDOM, details=Details(port_range=(5000, 5999)))
    told = profile(simulate(NatPolicy.alike(policy), tier=Tier.DEFAULT), Protocol.UDP).port_assignment
    assert told
    assert told.range
    assert 5000 <= told.range[0] < told.range[1] <= 5999


def test_ports_kept_within_a_block_alone_are_kept() -> None:
    told = profile(report("preserving in a block", PortReuse.EXCLUSIVE, 1), Protocol.UDP).port_assignment
    assert told
    assert told.value is PortAssignment.PRESERVING
    assert told.range


def test_without_a_nat_there_is_nothing_to_share() -> None:
    found = profile(simulate(PRESETS["none"], tier=Tier.DEFAULT), Protocol.UDP)
    assert found.port_reuse
    assert found.port_reuse.reason == "there is no NAT that could give a port twice"
    assert found.port_assignment
    assert found.port_assignment.value is PortAssignment.PRESERVING


# --- the fact ---------------------------------------------------------------------------------------------------------

ONE, OTHER, PORT = (
    Endpoint.of("198.51.100.10", 3478),
    Endpoint.of("198.51.100.11", 3478),
    Endpoint.of("198.51.100.10", 9),
)
A, B, BESIDE = (Endpoint.of("10.64.1.10", port) for port in (1001, 2002, 2003))
E, F, KEPT = (Endpoint.of("198.51.100.1", port) for port in (2002, 3003, 2003))


def sharing(second: Flow, again: Endpoint | None = E, control: Flow | None = None) -> Sharing:
    return Sharing(Protocol.UDP, 0.0, Flow(A, ONE, E), second, Flow(A, ONE, again), control)


@pytest.mark.parametrize(
    ("fact", "difference", "shared", "refused"),
    [
        (sharing(Flow(B, OTHER, E)), Difference.ADDRESS, True, False),
        (sharing(Flow(B, PORT, E)), Difference.PORT, True, False),
        (sharing(Flow(B, ONE, E)), Difference.NOTHING, True, False),
        (sharing(Flow(B, ONE, E), again=None), Difference.NOTHING, True, False),
        (sharing(Flow(B, OTHER, E), again=None), Difference.ADDRESS, False, False),
        (sharing(Flow(B, OTHER, E), again=F), Difference.ADDRESS, False, False),
        (sharing(Flow(B, OTHER, None)), Difference.ADDRESS, False, False),
        (sharing(Flow(B, OTHER, F)), Difference.ADDRESS, False, False),
        (sharing(Flow(B, OTHER, F), control=Flow(BESIDE, OTHER, KEPT)), Difference.ADDRESS, False, True),
        (sharing(Flow(B, OTHER, F), control=Flow(BESIDE, OTHER, F)), Difference.ADDRESS, False, False),
        (sharing(Flow(B, PORT, F), control=Flow(B, OTHER, E)), Difference.PORT, False, True),
        (sharing(Flow(B, PORT, F), control=Flow(B, OTHER, F)), Difference.PORT, False, False),
        (sharing(Flow(B, PORT, F), control=Flow(B, OTHER, None)), Difference.PORT, False, False),
    ],
)
def test_two_flows_share_a_port_only_while_both_are_alive(
    fact: Sharing, difference: Difference, shared: bool, refused: bool
) -> None:
    """A port that was taken from the first is not shared; one is refused only where it would have been given."""
    assert (fact.difference, fact.shared, fact.refused) == (difference, shared, refused)


# --- beyond one mapping -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("reuse", list(PortReuse)[:4])
@pytest.mark.parametrize("choice", ["preserving", "random in a block"])
def test_a_nat_with_a_mapping_for_each_destination_is_not_misread(choice: str, reuse: PortReuse) -> None:
    dependent = replace(CHOICES[choice], mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT, port_reuse=reuse)
    for seed in range(2):
        told = simulate(NatPolicy.alike(dependent), "cable", seed, tier=Tier.DEFAULT, second_source=SECOND)
        for protocol in Protocol:
            verdict = profile(told, protocol).port_reuse
            assert verdict
            assert verdict.value in (reuse, None), verdict.reason
