"""Many connections from one local port through real kernel NATs: what each makes of that port, and why it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS

pytestmark = [pytest.mark.lab, pytest.mark.slow]

SERVER = "198.51.100.10"
DESTINATIONS = 2 * 100
"""The lab's reflector has a hundred ports that only answer, at each of two addresses."""
WANTED = 200


def reuse(lab: Lab, *arguments: str) -> tuple[int, dict[str, Any]]:
    ended = lab.run("home-1", ["natprobe", "reuse", "--json", *arguments], timeout=60)
    assert ended.returncode in (0, 3), ended.stderr
    return ended.returncode, json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("policy", "ports", "said"),
    [
        ("none", 1, "no NAT"),
        ("linux-masquerade", 1, "one external port, 41000, for all 200 connections"),
        ("eim-apdf", 1, "one external port, 4"),
        ("adm-apdf", 2, "2 external ports, one for each address"),
        ("apdm-apdf", WANTED, "each of 200 connections has an external port of its own"),
    ],
)
def test_what_a_nat_makes_of_one_port(lab: Lab, policy: str, ports: int, said: str) -> None:
    lab.apply("home", PRESETS[policy])
    status, told = reuse(lab, "-s", SERVER, "--connections", str(WANTED), "--port", "41000")
    assert (status, told["opened"], told["alive"], told["counted"]) == (0, WANTED, WANTED, WANTED)
    assert [external["ports"] for external in told["external"]] == [ports]
    assert said in told["outside"]
    assert told["local"] == "10.64.1.10:41000"


def test_few_destinations_are_the_end_and_how_to_have_more_is_told(lab: Lab) -> None:
    lab.apply("home", PRESETS["eim-apdf"])
    status, told = reuse(lab, "-s", SERVER, "--connections", "1000")
    assert (status, told["destinations"]) == (3, DESTINATIONS)
    assert told["opened"] == told["alive"] == told["counted"] == DESTINATIONS
    assert told["ended"].startswith(f"there is one connection to each of the {DESTINATIONS} destinations")


def test_a_refusal_on_the_way_is_told_by_its_name(lab: Lab) -> None:
    lab.apply("home", PRESETS["linux-masquerade"])
    refusing = "tcp dport 9050-9099 ct state new reject with icmp host-unreachable"
    chain = f"chain pass {{ type filter hook forward priority -10; {refusing}\n }}"
    lab.must("home", ["nft", "-f", "-"], stdin=f"table ip refusing {{ {chain}\n}}\n")
    try:
        status, told = reuse(lab, "-s", SERVER, "--connections", str(WANTED))
    finally:
        lab.must("home", ["nft", "delete table ip refusing"])
    assert (status, told["alive"]) == (3, told["opened"])
    assert "handshake failed" in told["ended"]
    assert "(EHOSTUNREACH)" in told["ended"]
    assert "RFC 6888" in told["ended"]
