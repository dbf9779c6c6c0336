"""The main test: tell a real kernel NAT how to behave, probe it, and get the behaviour back. Time after time.

Each policy is probed NATPROBE_ROUNDS times in a row (3 in CI, twice elsewhere) by one process on a client of the lab,
through the public API; the command line is what ``natprobe demo`` and test_cli are for.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest

from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS, NatPolicy, compose, differences
from natprobe.run import Tier

from .conftest import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.slow]

ROUNDS = int(os.environ.get("NATPROBE_ROUNDS", "2"))
SERVER = "198.51.100.10"
CLASSIFY = """
import asyncio, json, sys, natprobe
for _ in range(int(sys.argv[1])):
    report = asyncio.run(natprobe.classify(sys.argv[3:], tier=natprobe.Tier[sys.argv[2]]))
    print(json.dumps(report.to_json()), flush=True)
"""
MASQUERADES = ("linux-masquerade-accept", "linux-masquerade-drop", "linux-masquerade-reject")


def classify(lab: Lab, node: str = "home-1", rounds: int = 1, tier: Tier = Tier.DEFAULT) -> list[dict[str, Any]]:
    """Classify from a node so many times in a row and return the reports."""
    ended = lab.run(node, ["python", "-c", CLASSIFY, str(rounds), tier.name, SERVER], timeout=60 + 10 * rounds)
    assert ended.returncode == 0, ended.stderr
    reports = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(reports) == rounds
    return reports


def wrong(policy: NatPolicy, report: dict[str, Any]) -> list[str]:
    """Return how a report differs from the policy, with the reasons that it gives."""
    found = differences(policy, report)
    reasons = [
        f"{protocol} {key}: {verdict['reason']}"
        for protocol, profile in report["ipv4"].items()
        for key, verdict in profile.items()
        if any(line.startswith(f"{protocol} {key}") for line in found)
    ]
    return found + reasons


@pytest.mark.parametrize("name", PRESETS)
def test_every_verdict_is_right_time_after_time(lab: Lab, name: str) -> None:
    lab.apply("home", PRESETS[name])
    reports = [*classify(lab, rounds=ROUNDS, tier=Tier.QUICK), *classify(lab)]
    assert [wrong(PRESETS[name], report) for report in reports] == [[]] * (ROUNDS + 1)


def test_masquerading_gets_one_verdict_whatever_the_router_does_with_strangers(lab: Lab) -> None:
    """The largest pitfall of other tools: their own filtering test moves the mapping where INPUT accepts."""
    told = []
    for name in MASQUERADES:
        lab.apply("home", PRESETS[name])
        (report,) = classify(lab)
        for profile in report["ipv4"].values():
            assert "port-preserving" in profile["mapping"]["reason"]
            assert profile["mapping"]["certainty"] == "likely"
            assert profile["filtering"]["certainty"] == "confirmed"
        told.append(
            {
                (protocol, key): (profile[key]["value"], profile[key]["certainty"])
                for protocol, profile in report["ipv4"].items()
                for key in ("reachable", "translated", "mapping", "filtering")
            }
        )
    assert told[0] == told[1] == told[2]


def test_what_the_router_does_with_strangers_decides_whether_they_move_a_mapping(lab: Lab) -> None:
    for name in MASQUERADES:
        lab.apply("home", PRESETS[name])
        for report in classify(lab, rounds=ROUNDS):
            verdict = report["ipv4"]["udp"]["unsolicited_remap"]
            assert (verdict["value"], verdict["certainty"]) == (name == "linux-masquerade-accept", "confirmed")
            assert ("still sees that" in verdict["reason"]) is verdict["value"]  # who was sent to before is not moved


def test_the_cure_in_the_documentation_cures(lab: Lab) -> None:
    text = (ROOT / "docs" / "behaviours.md").read_text()
    (rules,) = re.findall(r"```nft\n(.*?)```", text, re.DOTALL)
    lab.apply("home", PRESETS["linux-masquerade-accept"])
    lab.must("home", ["nft", "-f", "-"], stdin=rules.replace('"wan"', f'"{lab.legs("home").uplink}"'))
    try:
        (report,) = classify(lab)
    finally:
        lab.must("home", ["nft", "delete", "table", "inet", "strangers"])
    assert report["ipv4"]["udp"]["unsolicited_remap"]["value"] is False


def test_what_is_not_preserved_is_confirmed(lab: Lab) -> None:
    lab.apply("home", PRESETS["eim-apdf"])
    (report,) = classify(lab)
    for profile in report["ipv4"].values():
        assert {profile[key]["certainty"] for key in ("mapping", "filtering")} == {"confirmed"}


@pytest.mark.parametrize(("name", "ports"), [("eim-apdf", 1), ("adm-apdf", 2), ("apdm-apdf", 4), ("none", 1)])
def test_one_local_port_holds_all_connections_at_once(lab: Lab, name: str, ports: int) -> None:
    lab.apply("home", PRESETS[name])
    (report,) = classify(lab)
    concurrent = report["ipv4"]["tcp"]["concurrent"]
    assert concurrent["certainty"] == "confirmed"
    assert concurrent["value"]["held"] == concurrent["value"]["destinations"] == 4
    assert len(concurrent["value"]["external_ports"]) == ports
    assert "the reflector counted 4" in concurrent["reason"]


@pytest.mark.parametrize(
    ("inner", "outer"), [("eim-eif", "apdm-apdf"), ("apdm-adf", "eim-eif"), ("eim-adf", "adm-eif")]
)
def test_of_two_nats_in_series_the_stricter_one_shows(lab: Lab, inner: str, outer: str) -> None:
    lab.apply("home", PRESETS[inner])
    lab.apply("cgn", PRESETS[outer])
    lab.put_behind("home", "cgn")
    try:
        (report,) = classify(lab)
    finally:
        lab.put_behind("home", None)
    assert wrong(compose(PRESETS[inner], PRESETS[outer]), report) == []


def test_a_neighbour_does_not_change_what_is_seen(lab: Lab) -> None:
    lab.apply("office", PRESETS["apdm-adf"])
    (report,) = classify(lab, node="office-1")
    assert wrong(PRESETS["apdm-adf"], report) == []
