"""Two hosts behind one NAT test it with each other's flows; a reflector tells of clients that share a port."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import msgspec
import pytest

from natprobe.behaviour import Certainty, PortAssignment, PortReuse, Protocol
from natprobe.endpoint import Endpoint
from natprobe.errors import AddressBusy
from natprobe.extensions import group_attribute, memo_attribute
from natprobe.inference import Profile, conclude
from natprobe.lab.clock import run
from natprobe.lab.host import Host
from natprobe.lab.internet import Gateway, Internet
from natprobe.lab.mirror import Mirror
from natprobe.lab.policy import PRESETS, NatPolicy, ProtocolPolicy
from natprobe.lab.simulation import REFLECTOR
from natprobe.network import Datagrams, Rejection
from natprobe.observation import Draws, Exchange, Flow, Outcome, Purpose, Sharing
from natprobe.probes.partner import PATIENCE
from natprobe.report import Report
from natprobe.run import classify
from natprobe.stun import request

HOSTS = ("10.64.1.10", "10.64.1.11")
PRESERVING = ProtocolPolicy(port_assignment=PortAssignment.PRESERVING)


def behind(policy: NatPolicy, *, apart: bool = False, overlap: bool = False) -> tuple[Internet, list[Host]]:
    """Return an internet with two hosts behind one NAT, or behind one each."""
    internet = Internet(5)
    Mirror(internet.host(*REFLECTOR), overlap=overlap)
    home = internet.gateway(policy, "198.51.100.1")
    gateways: list[Gateway] = [home, internet.gateway(policy, "198.51.100.2") if apart else home]
    return internet, [internet.host(address, behind=gw) for address, gw in zip(HOSTS, gateways, strict=True)]


async def classify_on(host: Host, *, partner: bool = True, after: float = 0.0) -> Report:
    await asyncio.sleep(after)
    return await classify([REFLECTOR[0]], versions=[4], partner=partner, network=host)


def together(policy: NatPolicy, *, apart: bool = False, after: float = 0.0) -> list[Report]:
    """Classify on two hosts, the second one begun so many seconds after the first."""

    async def scene() -> list[Report]:
        _, (one, other) = behind(policy, apart=apart)
        return list(await asyncio.gather(classify_on(one), classify_on(other, after=after)))

    return run(scene())


def profiles(report: Report) -> list[Profile]:
    assert report.ipv4
    assert report.ipv4.udp
    assert report.ipv4.tcp
    return [report.ipv4.udp, report.ipv4.tcp]


@pytest.mark.parametrize("after", [0.0, 3.0, 40.0])
def test_plain_linux_is_found_to_share_ports(after: float) -> None:
    for report in together(PRESETS["linux-masquerade"], after=after):
        for profile in profiles(report):
            assert profile.port_reuse
            assert profile.port_reuse.value is PortReuse.PER_DESTINATION, profile.port_reuse.reason
            assert profile.port_reuse.certainty is Certainty.CONFIRMED


@pytest.mark.parametrize("reuse", [level for level in PortReuse if level is not PortReuse.OVERLOADING])
def test_every_level_is_found_by_two(reuse: PortReuse) -> None:
    for report in together(NatPolicy.alike(replace(PRESERVING, port_reuse=reuse))):
        for profile in profiles(report):
            assert profile.port_reuse
            assert profile.port_reuse.value is reuse, profile.port_reuse.reason


def test_a_partner_behind_another_nat_is_none() -> None:
    for report in together(PRESETS["linux-masquerade"], apart=True):
        assert report.duration_s > PATIENCE
        assert not any(isinstance(fact, Sharing) for fact in report.observations)
        for profile in profiles(report):
            assert profile.port_reuse
            assert not profile.port_reuse.determined


def test_a_partner_that_leaves_does_not_hold_up_the_other() -> None:
    async def scene() -> Report:
        _, (one, other) = behind(PRESETS["linux-masquerade"])
        leaving = asyncio.ensure_future(classify_on(other))
        staying = asyncio.ensure_future(classify_on(one))
        while not staying.done():
            await asyncio.sleep(0.01)
            if asyncio.get_running_loop().time() > 0.9:
                leaving.cancel()
        return staying.result()

    report = run(scene())
    assert report.duration_s < PATIENCE
    assert all(profile.mapping.determined for profile in profiles(report))


@pytest.mark.parametrize(
    "memo",
    [
        b"",
        b"\xff" * 40,
        b"[]",
        msgspec.json.encode({"type": "welcome", "address": "nowhere"}),
        msgspec.json.encode({"type": "told", "number": 7, "local": "x", "mapped": None}),
        msgspec.json.encode({"type": "ask", "number": 7, "protocol": "udp", "port": 5000, "remote": "192.0.2.1:53"}),
        msgspec.json.encode(
            {"type": "ask", "number": 7, "protocol": "tcp", "port": 22, "remote": f"{REFLECTOR[0]}:3478"}
        ),
    ],
)
def test_a_partner_that_lies_makes_nobody_send_anywhere(memo: bytes) -> None:
    """A stranger who knows the tag, which is no secret, gets questions to the reflector answered and nothing else."""
    tag = hashlib.blake2s(b"natprobe partner 198.51.100.1", digest_size=16).digest()

    async def scene() -> tuple[Report, int]:
        internet, (one, other) = behind(PRESETS["linux-masquerade"])
        victim = await internet.host("192.0.2.1").datagrams(Endpoint.of("192.0.2.1", 53))
        hit = asyncio.ensure_future(victim.receive())
        stream = await other.connect(Endpoint.of(HOSTS[1], 0), Endpoint.of(REFLECTOR[0], 3478))
        assert not isinstance(stream, Rejection)

        async def lie() -> None:
            while True:
                await stream.send(request(group_attribute(tag), memo_attribute(memo)).encode())
                await asyncio.sleep(0.1)

        lying = asyncio.ensure_future(lie())
        report = await classify_on(one)
        lying.cancel()
        return report, hit.done()

    report, hit = run(scene())
    assert not hit
    assert all(profile.mapping.determined for profile in profiles(report))


def test_a_stranger_elsewhere_on_the_internet_is_no_partner() -> None:
    """The tag is no secret: who is seen as another address is not heard, whatever it says of itself."""
    tag = hashlib.blake2s(b"natprobe partner 198.51.100.1", digest_size=16).digest()
    welcome = msgspec.json.encode({"type": "welcome", "address": HOSTS[1]})

    async def scene() -> Report:
        internet, (one, _) = behind(NatPolicy.alike(PRESERVING))
        stranger = internet.host("192.0.2.9")
        stream = await stranger.connect(Endpoint.of("192.0.2.9", 0), Endpoint.of(REFLECTOR[0], 3478))
        assert not isinstance(stream, Rejection)

        async def lie() -> None:
            while True:
                await stream.send(request(group_attribute(tag), memo_attribute(welcome)).encode())
                await asyncio.sleep(0.1)

        lying = asyncio.ensure_future(lie())
        report = await classify_on(one)
        lying.cancel()
        return report

    report = run(scene())
    assert not any(isinstance(fact, Sharing) for fact in report.observations)


def test_a_partner_that_has_no_port_left_costs_no_verdict() -> None:
    """It answers the first questions and none after that: what was found out until then is kept."""

    async def scene() -> list[Report]:
        _, (one, other) = behind(NatPolicy.alike(replace(PRESERVING, port_reuse=PortReuse.PER_DESTINATION)))
        opened = other.datagrams
        times = iter(range(1000))

        async def scarce(local: Endpoint) -> Datagrams:
            if local.port and next(times) > 1:
                raise AddressBusy("no port is left")
            return await opened(local)

        other.datagrams = scarce  # type: ignore[method-assign]
        return list(await asyncio.gather(classify_on(one), classify_on(other)))

    for report in run(scene()):
        assert all(profile.mapping.determined for profile in profiles(report))


def overlaps(*, told: bool) -> list[Endpoint | None]:
    """Return what a reflector told two clients that draw from a few ports about each other's connections."""

    async def scene() -> list[Report]:
        details = replace(PRESETS["linux-masquerade"].tcp.details, port_range=(5000, 5099))
        policy = replace(PRESETS["linux-masquerade"].tcp, port_assignment=PortAssignment.RANDOM, details=details)
        _, hosts = behind(NatPolicy.alike(policy), overlap=told)
        return await asyncio.gather(*(classify_on(host, partner=False) for host in hosts))

    facts = [fact for report in run(scene()) for fact in report.observations if isinstance(fact, Draws)]
    return [flow.overlap for fact in facts for flow in fact.flows]


def test_a_reflector_tells_a_client_of_another_one_on_its_port() -> None:
    found = {where for where in overlaps(told=True) if where}
    assert found
    assert {str(where.address) for where in found} <= set(REFLECTOR)


def test_a_reflector_tells_nobody_of_others_unless_it_is_told_to() -> None:
    assert not any(overlaps(told=False))


def test_what_a_reflector_tells_of_another_client_is_evidence() -> None:
    flow = Flow(Endpoint.of("10.64.1.10", 9), Endpoint.of(REFLECTOR[0], 3478), Endpoint.of("198.51.100.1", 5000))
    other = replace(flow, overlap=Endpoint.of(REFLECTOR[1], 3478))
    asked = Exchange(Purpose.HELLO, Protocol.TCP, flow.local, flow.remote, 0.0, 1, 0.1, Outcome.ANSWERED)
    for seen, known in ((flow, False), (other, True)):
        profile = conclude([asked, Draws(Protocol.TCP, 0.0, 0.1, 1, (seen,))], Protocol.TCP, 4)
        assert profile
        assert profile.port_reuse
        assert ("per-destination-address at least" in profile.port_reuse.reason) is known
