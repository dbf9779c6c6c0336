"""Many connections from one local port through real kernel NATs: what each makes of that port, and why it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from natprobe.lab.backend import READY, Lab
from natprobe.lab.policy import PRESETS

pytestmark = [pytest.mark.lab, pytest.mark.slow]

MAIN = "198.51.100.10"
SERVER = f"{MAIN}:3500"
ADDRESSES = (MAIN, "198.51.100.11")
PORTS = 100
WANTED = 200


@pytest.fixture(scope="module")
def many(lab: Lab) -> Iterator[Lab]:
    """The lab with a second reflector, which has destinations."""
    where = [word for address in ADDRESSES for word in ("--address", address)]
    command = ["natprobe", "reflect", *where, "--port", "3500", "--destinations", f"5000-{5000 + PORTS - 1}"]
    with lab.start("reflector", command) as serving:
        assert serving.stderr is not None
        said = serving.stderr.readline()
        assert said.startswith(READY), said
        yield lab
        serving.terminate()


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
def test_what_a_nat_makes_of_one_port(many: Lab, policy: str, ports: int, said: str) -> None:
    many.apply("home", PRESETS[policy])
    status, told = reuse(many, "-s", SERVER, "--connections", str(WANTED), "--port", "41000")
    assert (status, told["opened"], told["alive"], told["counted"]) == (0, WANTED, WANTED, WANTED)
    assert [external["ports"] for external in told["external"]] == [ports]
    assert said in told["outside"]
    assert told["local"] == "10.64.1.10:41000"


def test_few_destinations_are_the_end_and_how_to_have_more_is_told(many: Lab) -> None:
    many.apply("home", PRESETS["eim-apdf"])
    status, told = reuse(many, "-s", MAIN)
    assert (status, told["opened"], told["alive"], told["destinations"]) == (3, 4, 4, 4)
    assert told["ended"].startswith("there is one connection to each of the 4 destinations")


def test_a_refusal_on_the_way_is_told_by_its_name(many: Lab) -> None:
    many.apply("home", PRESETS["linux-masquerade"])
    refusing = "tcp dport 5050-5099 ct state new reject with icmp host-unreachable"
    chain = f"chain pass {{ type filter hook forward priority -10; {refusing}; }}"
    many.must("home", ["nft", "-f", "-"], stdin=f"table ip refusing {{ {chain} }}\n")
    try:
        status, told = reuse(many, "-s", SERVER, "--connections", str(WANTED))
    finally:
        many.must("home", ["nft", "delete table ip refusing"])
    assert (status, told["alive"]) == (3, told["opened"])
    assert "handshake failed" in told["ended"]
    assert "(EHOSTUNREACH)" in told["ended"]
    assert "RFC 6888" in told["ended"]
