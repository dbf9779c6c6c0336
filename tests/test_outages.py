"""A path that is dead for a while is no filter and no blocked protocol, whenever it dies (issue 9, kind 2e)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from scenes import wrong

from natprobe.behaviour import Certainty, Protocol
from natprobe.errors import CannotRun
from natprobe.inference import conclude
from natprobe.lab.link import Impairment, Path
from natprobe.lab.packet import Flags, Packet
from natprobe.lab.policy import PRESETS, expected
from natprobe.lab.simulation import simulate
from natprobe.observation import ConnectBack, Exchange, Purpose
from natprobe.report import Report
from natprobe.run import Tier

LINE = Path.alike(Impairment(delay=0.010))
FAR = Path.alike(Impairment(delay=0.150))


@dataclass
class Outage:
    """Loses what sets out within some time, in the directions given: ``up`` is towards the internet."""

    begins: float
    lasts: float
    directions: Sequence[bool] = (True, False)

    def strike(self, packet: Packet, now: float, *, up: bool) -> tuple[tuple[Packet, float], ...]:
        dead = up in self.directions and self.begins <= now < self.begins + self.lasts
        return () if dead else ((packet, 0.0),)


def classified(policy: str, outage: Outage, path: Path = LINE, tier: Tier = Tier.QUICK) -> Report | None:
    try:
        return simulate(PRESETS[policy], path, tier=tier, fault=outage)
    except CannotRun:
        return None


STRICTEST = "address-and-port-dependent"
OPEN = [name for name, policy in PRESETS.items() if expected(policy)["tcp"]["filtering"] != STRICTEST]


@pytest.mark.parametrize("lasts", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("policy", OPEN)
def test_no_outage_reads_as_a_filter(policy: str, lasts: float) -> None:
    """Each begins while the greeting or the connections back are under way; whichever, the values are right."""
    for moment in range(1, 5):
        report = classified(policy, Outage(moment * 0.025, lasts))
        assert wrong(PRESETS[policy], report) == [], moment


@pytest.mark.parametrize("direction", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("path", [LINE, FAR], ids=["20 ms", "300 ms"])
def test_nor_does_one_of_a_single_direction(path: Path, direction: bool) -> None:
    """Far away SYNs arrive, and answers leave, when the controls beside them are long gone."""
    for moment in range(0, 24, 2):
        begins = moment * 2.5 * path.up.delay
        for lasts in (0.3, 1.0):
            report = classified("none", Outage(begins, lasts, [direction]), path)
            assert wrong(PRESETS["none"], report) == [], (begins, lasts)


def test_what_an_outage_hid_is_asked_again() -> None:
    """The first connections back meet a dead path: by a second request the filter is known, and surely."""
    dialling = _begins(lambda fact: isinstance(fact, ConnectBack))
    report = classified("none", Outage(dialling + 0.005, 0.5))
    assert report
    assert report.ipv4
    assert report.ipv4.tcp
    assert report.ipv4.tcp.filtering.value == "endpoint-independent"
    assert report.ipv4.tcp.filtering.certainty is Certainty.CONFIRMED
    requests = [fact for fact in report.observations if isinstance(fact, Exchange) and _asks_back(fact)]
    assert len(requests) == 2


def _begins(wanted: Callable[[object], bool]) -> float:
    """Return when the first such observation was begun, in a run without a fault."""
    report = simulate(PRESETS["none"], LINE)
    return min(fact.at for fact in report.observations if wanted(fact))  # type: ignore[union-attr]


def _asks_back(fact: Exchange) -> bool:
    return fact.protocol is Protocol.TCP and fact.purpose is Purpose.FILTERING


@dataclass
class NoControls:
    """Loses the SYNs of this host's controls alone: those to the reflector that begin while it dials."""

    begins: float

    def strike(self, packet: Packet, now: float, *, up: bool) -> tuple[tuple[Packet, float], ...]:
        lost = up and packet.flags is Flags.SYN and now >= self.begins
        return () if lost else ((packet, 0.0),)


def test_silence_without_controls_is_not_determined() -> None:
    dialling = _begins(lambda fact: isinstance(fact, ConnectBack))
    report = simulate(PRESETS["eim-apdf"], LINE, fault=NoControls(dialling))
    assert report.ipv4
    assert report.ipv4.tcp
    verdict = report.ipv4.tcp.filtering
    assert verdict.value is None
    assert "0 controls answered" in verdict.reason


def test_where_nothing_is_lost_one_request_is_enough() -> None:
    report = simulate(PRESETS["eim-apdf"], LINE)
    assert report.ipv4
    assert report.ipv4.tcp
    assert report.ipv4.tcp.filtering.certainty is Certainty.CONFIRMED
    requests = [fact for fact in report.observations if isinstance(fact, Exchange) and _asks_back(fact)]
    dialled = [fact for fact in report.observations if isinstance(fact, ConnectBack)]
    assert len(requests) == 1
    assert all(fact.controls == fact.attempts for fact in dialled)
    # Of a report by a version that had no controls the verdict is what it was.
    before = [replace(fact, controls=None) if isinstance(fact, ConnectBack) else fact for fact in report.observations]
    profile = conclude(before, Protocol.TCP, 4)
    assert profile
    assert (profile.filtering.value, profile.filtering.certainty) == (STRICTEST, Certainty.CONFIRMED)
