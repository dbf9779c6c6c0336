"""The demonstration of docs/port-reuse.md at a sixteenth of its size: more than the figures of it, the counts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from natprobe.lab.nftables import SLOTS

from .conftest import ROOT, not_here

pytestmark = [pytest.mark.lab, pytest.mark.slow]

CONNECTIONS = 8192
GREETINGS = 3
"""Each of the three reflectors is asked first what it has."""


def test_one_external_address_carries_what_two_hosts_hold_and_an_exclusive_pool_does_not() -> None:
    program = [sys.executable, str(ROOT / "benchmarks" / "overlap.py"), "--connections", str(CONNECTIONS), "--json"]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, timeout=300)
    if "LabUnavailable" in ended.stderr:
        not_here(ended.stderr.splitlines()[-1])
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)

    shared = told["shared"]
    assert shared["alive"] == shared["counted"] == CONNECTIONS
    assert shared["conntrack"] >= CONNECTIONS
    assert shared["local_endpoints"] == ["10.64.1.10:40000", "10.64.1.11:40000"]
    assert shared["from_one_endpoint"] > CONNECTIONS / 2
    # One address and one port outside, for two hosts: port overlapping (RFC 7857 §3).
    assert shared["outside"] == {"198.51.100.1": {"lowest": 40000, "highest": 40000, "connections": CONNECTIONS}}

    # But not towards the same destination, or it would be overloading (RFC 4787 §4.2.1).
    first, second = told["colliding"].values()
    assert first["alive"] == second["alive"] == first["counted"] == second["counted"] == 300
    assert [outside["ports"] for outside in first["external"]] == [1]
    assert first["external"][0]["lowest"] == 40000
    assert [(outside["lowest"], outside["highest"]) for outside in second["external"]] != [(40000, 40000)]

    exclusive = told["exclusive"]
    assert exclusive["wanted"] >= CONNECTIONS
    assert exclusive["alive"] == exclusive["opened"] == exclusive["counted"] == SLOTS - GREETINGS
    assert exclusive["external"][0]["ports"] == exclusive["opened"]
    assert "as where a NAT shares no port between destinations" in exclusive["ended"]
