"""What goes wrong in the middle of a run, or all the while: no class is wrong, and the reason names the culprit.

Each happening is put at one moment after another of the run. The NATs are those of the lab, the truth is their policy;
a verdict is right, or it is not determined.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial

import pytest
from scenes import (
    EXTERNAL,
    LINE,
    Happening,
    Scene,
    after,
    by_destination,
    by_flow,
    by_turns,
    classified,
    core,
    two_reflectors,
    two_uplinks,
    wrong,
)

from natprobe.behaviour import Certainty, Dependence, Treatment, Verdict
from natprobe.lab.link import Impairment, Path
from natprobe.lab.packet import Packet
from natprobe.lab.policy import PRESETS
from natprobe.lab.simulation import CLIENT, REFLECTOR, simulate
from natprobe.report import Report

PRIMARY, ALTERNATE, QUIET = REFLECTOR
POLICIES = ["eim-eif", "eim-adf", "apdm-apdf", "linux-fully-random"]
NATS = [name for name, policy in PRESETS.items() if policy.udp.outbound is Treatment.ACCEPTED]
GREETED = 0.1
"""After two round trips all servers have been greeted, over UDP and over TCP."""
MOMENTS = 10


def each_moment(policy: str, happening: partial[Happening]) -> list[Report]:
    """Return the reports of runs in which it happens at one moment after another, none of them with a wrong class."""
    whole = undisturbed(policy)
    reports = []
    for number in range(MOMENTS):
        moment = GREETED + (whole - GREETED) * number / MOMENTS
        report = classified(PRESETS[policy], happening(moment), seed=number)
        assert report, "the servers had been greeted by then"
        assert wrong(PRESETS[policy], report) == [], f"after {moment:.3f} s"
        reports.append(report)
    return reports


@cache
def undisturbed(policy: str) -> float:
    return simulate(PRESETS[policy], LINE).duration_s


def open_questions(reports: list[Report]) -> list[Verdict[object]]:
    """Return the verdicts on mapping and filtering that are not determined."""
    verdicts: list[Verdict[object]] = [v for report in reports for v in core(report, "mapping", "filtering")]
    return [verdict for verdict in verdicts if not verdict.determined]


def dies(*addresses: str) -> partial[Happening]:
    """Return what lets nothing through to these addresses of the reflector any more."""

    def act(scene: Scene) -> None:
        for address in addresses:
            scene.swap(address, None)

    return partial(after, act=act)


# --- servers that die -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "dead", [(PRIMARY,), (ALTERNATE,), (QUIET,), REFLECTOR], ids=["primary", "alternate", "quiet", "all"]
)
def test_a_reflector_that_dies_half_way_is_named(policy: str, dead: tuple[str, ...]) -> None:
    for verdict in open_questions(each_moment(policy, dies(*dead))):
        assert any(address in verdict.reason for address in dead), verdict.reason


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_a_service_that_ends_half_way_is_named(policy: str) -> None:
    """Its host lives on, and refuses what comes."""

    def act(scene: Scene) -> None:
        scene.swap(PRIMARY, None)
        scene.swap(PRIMARY, scene.internet.host(PRIMARY))

    for verdict in open_questions(each_moment(policy, partial(after, act=act))):
        assert PRIMARY in verdict.reason, verdict.reason


# --- mappings that are lost -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("policy", [*POLICIES, "adm-adf", "linux-masquerade-accept"])
def test_a_nat_that_restarts_makes_no_other_class(policy: str) -> None:
    """All mappings are others from then on: of itself a mapping test in the middle of it looks address-dependent."""
    for verdict in open_questions(each_moment(policy, partial(after, act=Scene.restart))):
        assert f"{PRIMARY}:3478 did not tell what came of it" in verdict.reason or "moved" in verdict.reason


@pytest.mark.slow
def test_a_mapping_that_moved_is_in_conflict_with_that_of_other_ports() -> None:
    """The answers of the endpoints differ by some milliseconds, and by a round trip; in these the NAT restarts."""
    whole = undisturbed("eim-eif")
    mappings = [
        verdict
        for number in range(100)
        for verdict in core(classified(PRESETS["eim-eif"], after(whole - number / 500, Scene.restart)), "mapping")
    ]
    assert {mapping.value for mapping in mappings} == {Dependence.ENDPOINT_INDEPENDENT}
    moved = [mapping for mapping in mappings if mapping.certainty is Certainty.CONFLICTING]
    assert moved
    assert all("it was lost meanwhile" in mapping.reason for mapping in moved)


# --- answers that come late -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [*POLICIES, "linux-masquerade-accept", "firewall"])
@pytest.mark.parametrize("late", [0.05, 0.15, 0.4])
def test_what_comes_once_more_and_late_changes_nothing(policy: str, late: float) -> None:
    """Every packet from outside comes twice, the second time while another test is under way."""

    def act(scene: Scene) -> None:
        arrive = scene.gateway.enter

        class Echo:
            def enter(self, packet: Packet) -> None:
                arrive(packet)
                scene.loop.call_later(late, arrive, packet)

        scene.swap(EXTERNAL if PRESETS[policy].translated else CLIENT, Echo())

    report = classified(PRESETS[policy], after(0, act))
    assert wrong(PRESETS[policy], report) == []
    # A FIN that comes once more while the next connection begins: TCP resets it, and the NAT takes the port away.
    lost = [verdict for verdict in core(report, "reachable", "mapping", "filtering") if not verdict.determined]
    assert lost == [] or PRESETS[policy].tcp.mapping is Dependence.CONNECTION_DEPENDENT


# --- several servers behind one address -------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [*POLICIES, "linux-masquerade", "none"])
@pytest.mark.parametrize("turns", [by_flow, by_turns()], ids=["flow", "packet"])
def test_two_reflectors_behind_one_address_are_found_out(policy: str, turns: object) -> None:
    report = classified(PRESETS[policy], after(0, two_reflectors(turns)), seed=1)  # type: ignore[arg-type]
    assert wrong(PRESETS[policy], report) == []
    named = f"several servers answer at {PRIMARY}"
    assert all(mapping.determined for mapping in core(report, "mapping"))
    for filtering in core(report, "filtering"):
        # What was heard was heard; silence says nothing.
        found_out = named in filtering.reason or f"another reflector answers at {ALTERNATE}" in filtering.reason
        assert found_out if not filtering.determined else filtering.value == "endpoint-independent"
    assert report
    assert report.ipv4
    assert report.ipv4.tcp
    assert report.ipv4.tcp.concurrent
    assert named in report.ipv4.tcp.concurrent.reason


@pytest.mark.parametrize("policy", ["eim-eif", "none"])
def test_another_reflector_at_the_alternate_address_proves_nothing(policy: str) -> None:
    """Who dials from there does not hear who answers: an open path would read as address-dependent."""

    def act(scene: Scene) -> None:
        two_reflectors(lambda packet: str(packet.destination.address) != PRIMARY)(scene)

    report = classified(PRESETS[policy], after(0, act))
    assert wrong(PRESETS[policy], report) == []


# --- several ways out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["eim-eif", "adm-adf", "apdm-apdf", "linux-masquerade"])
def test_two_uplinks_by_destination_are_what_they_look_like_and_no_more_than_likely(policy: str) -> None:
    """From inside it is a NAT whose mapping depends on the address, whatever each of the two does."""
    report = classified(PRESETS[policy], after(0, two_uplinks(by_destination)))
    endpoints = PRESETS[policy].udp.mapping is Dependence.ADDRESS_AND_PORT_DEPENDENT
    seen = Dependence.ADDRESS_AND_PORT_DEPENDENT if endpoints else Dependence.ADDRESS_DEPENDENT
    for mapping in core(report, "mapping"):
        assert (mapping.value, mapping.certainty) == (seen, Certainty.LIKELY)
        assert "there may be several ways out" in mapping.reason


@pytest.mark.parametrize("policy", ["eim-eif", "adm-adf", "linux-masquerade"])
@pytest.mark.parametrize("seed", range(12))
def test_two_uplinks_by_flow_are_no_certain_class_and_named(policy: str, seed: int) -> None:
    report = classified(PRESETS[policy], after(0, two_uplinks(by_flow)), seed)
    for mapping in core(report, "mapping"):
        assert mapping.certainty in (Certainty.NOT_DETERMINED, Certainty.LIKELY)
        assert "there may be several ways out" in mapping.reason
    assert [line for line in wrong(PRESETS[policy], report) if "mapping" not in line] == []


def test_two_uplinks_by_turns_are_no_class() -> None:
    """Of TCP they let pass whole connections."""
    report = classified(PRESETS["eim-adf"], after(0, two_uplinks(by_turns())))
    udp, _ = core(report, "mapping")
    assert not udp.determined
    assert "there may be several ways out" in udp.reason


# --- whatever, whenever -----------------------------------------------------------------------------------------------

HAPPENINGS: dict[str, Callable[[Scene], None]] = {
    "the primary address dies": lambda scene: scene.swap(PRIMARY, None),
    "the alternate address dies": lambda scene: scene.swap(ALTERNATE, None),
    "the NAT restarts": Scene.restart,
    "a second reflector joins": two_reflectors(by_flow),
}
LOSING = Path.alike(Impairment(delay=0.018, jitter=0.004, loss=0.03, duplicate=0.02, reorder=0.02))


@pytest.mark.slow
@pytest.mark.parametrize("happening", HAPPENINGS)
def test_whenever_it_happens_and_over_a_line_that_loses_no_class_is_wrong(happening: str) -> None:
    dice = random.Random(happening)
    for seed in range(30):
        policy = PRESETS[dice.choice(NATS)]
        report = classified(policy, after(dice.uniform(0.03, 0.9), HAPPENINGS[happening]), seed, LOSING)
        assert wrong(policy, report) == [], seed


@pytest.mark.slow
@pytest.mark.parametrize("dead", [PRIMARY, ALTERNATE])
def test_of_two_addresses_one_dies_while_servers_are_still_greeted(dead: str) -> None:
    """Without a quiet address filtering is tested from a second port as well; and one protocol may just have got in."""
    line = Path.alike(Impairment(delay=0.018, jitter=0.004, loss=0.1))
    for number in range(30):
        policy = PRESETS[POLICIES[number % len(POLICIES)]]
        happening = dies(dead)(0.03 + number * 0.04)
        for seed in (1, number):
            report = classified(policy, happening, seed, line, reflector_addresses=REFLECTOR[:2])
            assert wrong(policy, report) == [], (number, seed)
