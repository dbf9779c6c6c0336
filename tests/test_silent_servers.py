"""A protocol is blocked where the path drops it; a server that is silent over it is the server's affair.

In memory, behind the lab's NATs, with a reflector that is mute, over budget, dies or comes back; each verdict is right
or not determined.
"""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address

import pytest
from scenes import Happening, Scene, after, classified, core, wrong

from natprobe.behaviour import Certainty, Protocol, Treatment
from natprobe.endpoint import Endpoint
from natprobe.lab.link import Impairment, Path
from natprobe.lab.packet import Packet
from natprobe.lab.policy import PRESETS
from natprobe.lab.simulation import REFLECTOR
from natprobe.reflector.budget import Budget, Rate, Rates
from natprobe.reflector.rules import Outgoing
from natprobe.report import Report

OPEN = [name for name, policy in PRESETS.items() if policy.udp.outbound is Treatment.ACCEPTED]
MOST = OPEN[::3]


def filtered(protocol: Protocol, *ports: int) -> partial[Happening]:
    """Return what drops a protocol at the reflector's host: at these ports of its own, or at all."""

    def act(scene: Scene) -> None:
        host = scene.reflector

        class Firewall:
            def enter(self, packet: Packet) -> None:
                if packet.protocol is not protocol or (ports and packet.destination.port not in ports):
                    host.enter(packet)

        for address in REFLECTOR:
            scene.swap(address, Firewall())

    return partial(after, act=act)


def reachable(report: Report | None, protocol: Protocol) -> tuple[bool | None, Certainty, str]:
    verdict = core(report, "reachable")[protocol is Protocol.TCP]
    return verdict.value, verdict.certainty, verdict.reason


@pytest.mark.parametrize("policy", MOST)
@pytest.mark.parametrize("protocol", Protocol)
def test_a_service_that_is_mute_over_one_protocol_is_no_blocked_protocol(policy: str, protocol: Protocol) -> None:
    """Its host answers at a port where nobody listens: packets get there."""
    report = classified(PRESETS[policy], filtered(protocol, 3478, 3479)(0.0))
    assert wrong(PRESETS[policy], report) == []
    value, _, reason = reachable(report, protocol)
    assert value is None
    assert f"the host at {REFLECTOR[0]} itself refuses packets to its port 33434" in reason


@pytest.mark.parametrize("policy", MOST)
@pytest.mark.parametrize("protocol", Protocol)
def test_one_port_that_is_mute_is_not_the_last_that_is_asked(policy: str, protocol: Protocol) -> None:
    report = classified(PRESETS[policy], filtered(protocol, 3478)(0.0))
    assert wrong(PRESETS[policy], report) == []
    value, certainty, reason = reachable(report, protocol)
    assert (value, certainty) == (True, Certainty.CONFIRMED)
    assert "3479" in reason


@pytest.mark.parametrize("protocol", Protocol)
def test_what_cannot_be_told_from_a_blocked_path_is_never_confirmed(protocol: Protocol) -> None:
    """A firewall at the server that drops all of a protocol, closed ports included."""
    value, certainty, reason = reachable(classified(PRESETS["eim-apdf"], filtered(protocol)(0.0)), protocol)
    assert certainty is not Certainty.CONFIRMED
    assert value is None or "unless that server's own firewall" in reason


def test_a_reflector_that_hears_no_udp_says_so() -> None:
    def act(scene: Scene) -> None:
        scene.mirror._streams.udp_works = lambda: False

    async def happening(scene: Scene) -> None:
        act(scene)
        await filtered(Protocol.UDP)(0.0)(scene)

    value, _, reason = reachable(classified(PRESETS["eim-apdf"], happening), Protocol.UDP)
    assert value is None
    assert f"{REFLECTOR[0]}:3478 says that its own UDP does not work" in reason


@pytest.mark.parametrize("policy", MOST)
def test_a_reflector_that_is_out_of_budget_says_so(policy: str) -> None:
    """A flood that claims to come from the client's network has spent it."""

    async def happening(scene: Scene) -> None:
        spent = Rates(plain=Rate(0.001, 1), several=Rate(0.001, 1))
        scene.mirror._streams.budget = scene.mirror._budget = Budget(b"key", spent)
        for last in range(0, 256, 3):  # of every prefix that may be the client's
            for network in ((198, 51, 100), (10, 64, 1)):
                source = Endpoint(IPv4Address(bytes((*network, last))), 1)
                scene.mirror._budget.allows([Outgoing(b"", source, source)], 0, scene.loop.time())

    report = classified(PRESETS[policy], happening)
    value, _, reason = reachable(report, Protocol.UDP)
    assert wrong(PRESETS[policy], report) == []
    assert value is None
    assert "sends no more UDP to this network" in reason


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0, 3.0, 4.5])
@pytest.mark.parametrize("policy", MOST)
def test_an_outage_at_the_start_blocks_nothing(policy: str, seconds: float) -> None:
    def outage(scene: Scene) -> None:
        for address in REFLECTOR:
            scene.swap(address, None)
        scene.loop.call_later(seconds, back, scene)

    def back(scene: Scene) -> None:
        for address in REFLECTOR:
            scene.swap(address, scene.reflector)

    report = classified(PRESETS[policy], after(0.0, outage))
    assert wrong(PRESETS[policy], report) == []


@pytest.mark.parametrize("loss", [0.1, 0.2])
def test_a_blocked_path_is_told_whatever_is_lost(loss: float) -> None:
    line = Path.alike(Impairment(delay=0.018, jitter=0.002, loss=loss))
    for seed in range(10):
        report = classified(PRESETS["udp-blocked"], after(0.0, lambda _: None), seed, line)
        assert reachable(report, Protocol.UDP)[0] is False
        assert wrong(PRESETS["udp-blocked"], report) == []
