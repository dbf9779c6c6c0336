"""What is told through one bad server, and that nothing untrue is; shared by the tests of servers and of answers."""

from __future__ import annotations

import pytest
from bad_servers import BadServer, Fault

from natprobe import Dependence, Profile, Protocol, Tier, classify
from natprobe.errors import NoServerAnswered
from natprobe.report import Report

PORTS = (34780, 34781)
EI = Dependence.ENDPOINT_INDEPENDENT


async def report_on(*servers: str, tier: Tier = Tier.QUICK) -> Report:
    """Classify UDP through these servers."""
    report = await classify(servers, versions=[4], protocols=[Protocol.UDP], tier=tier)
    assert Report.loads(report.dumps()).to_json() == report.to_json()
    return report


async def profile_of(fault: Fault, addresses: tuple[str, str]) -> Profile:
    """Classify UDP through one server with this fault, and make sure that nothing untrue is told."""
    async with BadServer(fault, addresses, PORTS) as server:
        report = await report_on(str(server.contact), tier=Tier.DEFAULT)
    profile = udp(report)
    assert profile.unsolicited_remap
    assert profile.unsolicited_remap.value in (False, None)
    return profile


def udp(report: Report) -> Profile:
    assert report.ipv4
    assert report.ipv4.udp
    profile = report.ipv4.udp
    assert profile.reachable.value is True
    assert profile.mapping.value in (EI, None)
    assert profile.filtering.value in (EI, None)
    return profile


async def failure_of(fault: Fault, addresses: tuple[str, str]) -> str:
    """Return the line with which a run ends that one server with this fault leaves without any answer."""
    async with BadServer(fault, addresses, PORTS) as server:
        with pytest.raises(NoServerAnswered) as stopped:
            await report_on(str(server.contact))
    return str(stopped.value)
