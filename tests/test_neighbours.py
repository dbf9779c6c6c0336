"""What happens beside a run: a neighbour on the same port, a NAT that forgets, strangers' packets, a server that dies.

In memory, where these can be made to happen at will; the NATs are those of the lab.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from natprobe.behaviour import Certainty, Dependence, Protocol
from natprobe.endpoint import Endpoint
from natprobe.inference import Profile
from natprobe.lab.clock import run
from natprobe.lab.host import Host
from natprobe.lab.internet import Internet
from natprobe.lab.mirror import Mirror
from natprobe.lab.policy import PRESETS
from natprobe.lab.simulation import REFLECTOR
from natprobe.report import Report
from natprobe.run import Tier, classify
from natprobe.stun import Class, Message, request, xor_mapped_attribute

PORT = 40404
EXTERNAL = "198.51.100.1"
Beside = Callable[[Internet, Host], Awaitable[None]]


def classified(policy: str, beside: Beside, *, port: int = 0) -> Report:
    """Classify UDP behind a NAT while something else happens: ``beside`` is given the internet and a neighbour."""
    reports: list[Report] = []

    async def scene() -> None:
        internet = Internet(7)
        gateway = internet.gateway(PRESETS[policy], EXTERNAL)
        client = internet.host("10.64.1.10", behind=gateway)
        neighbour = internet.host("10.64.1.11", behind=gateway)
        Mirror(internet.host(*REFLECTOR))
        doing = asyncio.ensure_future(beside(internet, neighbour))
        await asyncio.sleep(0)
        asked = partial(classify, [REFLECTOR[0]], versions=[4], protocols=[Protocol.UDP], tier=Tier.QUICK)
        reports.append(await asked(port=port, network=client))
        doing.cancel()

    run(scene())
    return reports[0]


def udp(report: Report) -> Profile:
    assert report.ipv4
    assert report.ipv4.udp
    return report.ipv4.udp


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_a_neighbour_that_holds_the_port_makes_no_other_class(taken: int) -> None:
    """Linux keeps the port towards whomever the neighbour does not talk to: of itself it looks address-dependent."""
    remotes = [Endpoint.of(REFLECTOR[number // 2], 3478 + number % 2) for number in range(4)]

    async def talk(_: Internet, neighbour: Host) -> None:
        sock = await neighbour.datagrams(Endpoint.of("10.64.1.11", PORT))
        for remote in remotes[4 - taken :]:
            await sock.send(request().encode(), remote)

    mapping = udp(classified("linux-masquerade", talk, port=PORT)).mapping
    assert mapping.value is Dependence.ENDPOINT_INDEPENDENT
    assert mapping.certainty is Certainty.CONFLICTING
    assert "not every local port is treated alike" in mapping.reason


def test_without_a_collision_nothing_is_in_conflict() -> None:
    async def nothing(_: Internet, __: Host) -> None:
        return

    assert udp(classified("linux-masquerade", nothing, port=PORT)).mapping.certainty is Certainty.LIKELY


@pytest.mark.parametrize("policy", ["eim-eif", "apdm-apdf", "linux-masquerade-accept"])
def test_what_strangers_send_all_the_while_changes_nothing(policy: str) -> None:
    """Forged answers to every port that there is a mapping for: none has the transaction ID of a question."""
    forged = Message(Class.SUCCESS, bytes(12))
    lie = Message(
        Class.SUCCESS,
        forged.transaction_id,
        (xor_mapped_attribute(Endpoint.of("192.0.2.9", 9), forged.transaction_id),),
    )

    async def pester(internet: Internet, _: Host) -> None:
        stranger = internet.host("198.51.100.66")
        sock = await stranger.datagrams(Endpoint.of("198.51.100.66", 3478))
        while True:
            for port in (*range(40000, 40012), *range(49152, 49164), PORT):
                await sock.send(lie.encode(), Endpoint.of(EXTERNAL, port))
            await asyncio.sleep(0.01)

    expected = PRESETS[policy].udp
    profile = udp(classified(policy, pester, port=PORT))
    assert (profile.mapping.value, profile.filtering.value) == (expected.mapping, expected.filtering)
    assert profile.external.value
    assert all(str(endpoint.address) == EXTERNAL for endpoint in profile.external.value)
