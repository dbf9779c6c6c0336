"""A run after another one: a port that was used before is no fresh one, and the system does give ports again.

RFC 5780 §4.1 asks for ports that were idle for 15 minutes. That the second run gets a port of the first one is made
certain here; NATs and servers are the lab's, in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from natprobe.behaviour import Certainty, Dependence, Protocol, Verdict
from natprobe.endpoint import Endpoint
from natprobe.lab.clock import run
from natprobe.lab.host import Host
from natprobe.lab.internet import Internet
from natprobe.lab.mirror import Mirror
from natprobe.lab.policy import PRESETS
from natprobe.lab.simulation import CLIENT, REFLECTOR
from natprobe.network import Rejection
from natprobe.observation import ConnectBack, Volley
from natprobe.run import Tier, classify
from natprobe.stun import request

USED = 40404
FRESH = {Protocol.UDP: [40000], Protocol.TCP: [40000, 40001, 40002]}
"""Local ports that a run takes before that of its filtering test."""
FILTERS = {
    "eim-eif": Dependence.ENDPOINT_INDEPENDENT,
    "eim-adf": Dependence.ADDRESS_DEPENDENT,
    "eim-apdf": Dependence.ADDRESS_AND_PORT_DEPENDENT,
    "apdm-apdf": Dependence.ADDRESS_AND_PORT_DEPENDENT,
}


class Giving:
    """A generator that gives these ports when a port is asked for, and then what another one would."""

    def __init__(self, ports: Sequence[int], otherwise: Any) -> None:
        self._ports: Iterator[int] = iter(ports)
        self._otherwise = otherwise

    def choice(self, among: Sequence[int]) -> int:
        port: int = next(self._ports, 0) or self._otherwise.choice(among)
        return port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._otherwise, name)


async def use(client: Host, protocol: Protocol, remotes: Sequence[Endpoint]) -> None:
    """Send to everyone from the port, as the mapping test of an earlier run has."""
    local = Endpoint.of(CLIENT, USED)
    if protocol is Protocol.UDP:
        datagrams = await client.datagrams(local)
        for remote in remotes:
            await datagrams.send(request().encode(), remote)
        await asyncio.sleep(1)
        datagrams.close()
        return
    streams = [await client.connect(local, remote) for remote in remotes]
    for stream in streams:
        assert not isinstance(stream, Rejection)
        await stream.finish()
        stream.close()
    client.tcp.connections.clear()  # as once they linger no more (TIME_WAIT); NATs remember them for longer


def second_run(policy: str, protocol: Protocol, addresses: int) -> Verdict[Dependence]:
    """Return what a run says of filtering whose filtering test gets the port that was used before."""

    async def scene() -> Verdict[Dependence]:
        internet = Internet(1)
        client = internet.host(CLIENT, behind=internet.gateway(PRESETS[policy], "198.51.100.1"))
        Mirror(internet.host(*REFLECTOR[:addresses]))
        remotes = [Endpoint.of(address, port) for address in REFLECTOR[:2] for port in (3478, 3479)]
        await use(client, protocol, remotes)
        client.rng = Giving([*FRESH[protocol], USED], client.rng)  # type: ignore[assignment]
        asked = classify(REFLECTOR[:1], versions=[4], protocols=[protocol], tier=Tier.QUICK, network=client)
        report = await asked
        tests = (fact for fact in report.observations if isinstance(fact, Volley | ConnectBack))
        assert next(tests).local == Endpoint.of(CLIENT, USED)
        assert report.ipv4
        profile = report.ipv4.udp if protocol is Protocol.UDP else report.ipv4.tcp
        assert profile
        return profile.filtering

    return run(scene())


@pytest.mark.parametrize("addresses", [2, 3])
@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("policy", FILTERS)
def test_what_an_earlier_run_has_opened_is_no_filter_that_lets_in(
    policy: str, protocol: Protocol, addresses: int
) -> None:
    verdict = second_run(policy, protocol, addresses)
    assert verdict.value is FILTERS[policy], verdict.reason


@pytest.mark.parametrize("protocol", Protocol)
def test_the_reason_names_the_port_that_was_let_in(protocol: Protocol) -> None:
    verdict = second_run("eim-apdf", protocol, 3)
    assert verdict.certainty is Certainty.LIKELY
    assert "did to another local port, which an earlier run may have sent to it from" in verdict.reason
