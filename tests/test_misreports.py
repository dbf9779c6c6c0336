"""A reflector that misreports itself sends no client anywhere, and makes no wrong class: what counts are the packets.

In memory, over every lie of ``misreports``, behind NATs of every kind, by the longest tier but the one with hundreds of
flows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from misreports import BYSTANDER, ELSEWHERE, LIES, misreporting
from scenes import wrong

from natprobe.behaviour import Protocol
from natprobe.endpoint import Endpoint, parse_address
from natprobe.errors import CannotRun
from natprobe.lab.clock import run
from natprobe.lab.internet import Internet
from natprobe.lab.link import PATHS
from natprobe.lab.mirror import Mirror
from natprobe.lab.packet import Flags, Packet
from natprobe.lab.policy import PRESETS
from natprobe.lab.simulation import CLIENT, REFLECTOR, client_behind
from natprobe.report import Report
from natprobe.run import Tier, classify

NATS = ["none", "eim-eif", "eim-adf", "apdm-apdf", "adm-adf", "linux-masquerade", "firewall", "udp-blocked"]
BUDGET = {Protocol.UDP: 30, Protocol.TCP: 9}
"""Datagrams, and SYNs of three connections with their copies, that all bystanders together may get in a run."""


@dataclass
class Outside:
    """Takes what is sent to anybody but the reflector, and answers nothing."""

    packets: Counter[tuple[Protocol, Endpoint]] = field(default_factory=Counter)

    def enter(self, packet: Packet) -> None:
        if packet.flags in (None, Flags.SYN) and packet.error is None:
            self.packets[packet.protocol, packet.destination] += 1


def classified(policy: str, lie: str, outside: Outside, seed: int = 0) -> Report | None:
    """Classify by a reflector that tells one lie; None where the run ends without a report."""

    async def scene() -> Report | None:
        internet = Internet(seed)
        client = client_behind(internet, [PRESETS[policy]], PATHS["lan"])
        mirror = Mirror(internet.host(*REFLECTOR))
        others = [Endpoint.parse(where).address for where in ELSEWHERE.values()] + [parse_address(BYSTANDER)]
        crowd = [parse_address(f"198.51.100.{100 + number}") for number in range(30)]
        for address in {*others, *crowd} - {parse_address(CLIENT), parse_address("10.64.1.20")}:
            internet.realm.nodes[address] = outside
        try:
            with misreporting(mirror.rules, lie):
                return await classify([REFLECTOR[0]], versions=[4], tier=Tier.DEFAULT, network=client)
        except CannotRun:
            return None

    return run(scene())


@pytest.mark.parametrize("policy", NATS)
@pytest.mark.parametrize("lie", LIES)
def test_no_lie_makes_a_wrong_class_or_sends_anybody_anywhere(policy: str, lie: str) -> None:
    outside = Outside()
    report = classified(policy, lie, outside)
    assert wrong(PRESETS[policy], report) == []
    forbidden = {Endpoint.parse(where) for where in ELSEWHERE.values()}
    assert not [where for _, where in outside.packets if where in forbidden]
    for protocol, most in BUDGET.items():
        assert sum(count for (over, _), count in outside.packets.items() if over is protocol) <= most, outside.packets
