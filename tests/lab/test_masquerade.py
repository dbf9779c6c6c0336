"""Plain masquerading in the states in which it is not what it was: after a collision, and after a stranger's packet.

The kernel keeps a host's port towards whomever nobody else uses it for, and takes another one where the place is taken:
by a neighbour, or by the gateway itself once it has accepted a packet that nobody asked for. Of one local port alone
this may look as if the mapping depended on the address. That it does not, only other local ports can tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS

from .test_classify import SERVER

pytestmark = [pytest.mark.lab, pytest.mark.slow]

ALTERNATE = "198.51.100.11"
CLASSIFY = """
import asyncio, json, sys, natprobe
report = asyncio.run(natprobe.classify([sys.argv[1]], port=int(sys.argv[2])))
print(json.dumps(report.to_json()["ipv4"]))
"""
HOLD = """
import socket, sys
port, server, remotes = int(sys.argv[1]), sys.argv[2], (3478, 3479)
held = []
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    for remote in remotes:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("", port))
        sock.connect((server, remote))
        if kind == socket.SOCK_DGRAM:
            sock.send(b"mine")
        held.append(sock)
print("held", flush=True)
held[-1].recv(1)
"""
STRANGER = """
import socket, sys
from natprobe.stun import Message, request, response_port_attribute
port, server = int(sys.argv[1]), sys.argv[2]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(5)
    for attributes in ([response_port_attribute(port)], []):  # the second is answered here, after the first
        sock.sendto(request(*attributes).encode(), (server, 3478))
    sock.recv(2048)
"""


def classify(lab: Lab, port: int) -> dict[str, Any]:
    """Return the profiles of home-1, its mapping tested from this local port."""
    ended = lab.run("home-1", ["python", "-c", CLASSIFY, SERVER, str(port)], timeout=60)
    assert ended.returncode == 0, ended.stderr
    profiles: dict[str, Any] = json.loads(ended.stdout)
    return profiles


@contextmanager
def neighbour_holding(lab: Lab, port: int, server: str) -> Iterator[None]:
    """Have home-2 use a port towards both ports of a server, over UDP and TCP, until the block ends."""
    with lab.start("home-2", ["python", "-c", HOLD, str(port), server]) as holding:
        try:
            assert holding.stdout
            assert holding.stderr
            assert holding.stdout.readline() == "held\n", holding.stderr.read()
            yield
        finally:
            holding.terminate()


def is_independent_but_in_conflict(mapping: dict[str, Any]) -> None:
    assert (mapping["value"], mapping["certainty"]) == ("endpoint-independent", "conflicting")
    assert "not every local port is treated alike" in mapping["reason"]


def test_a_collision_half_way_is_a_conflict_and_no_class(lab: Lab) -> None:
    """Towards the first address the port is kept, towards the second it is taken."""
    lab.apply("home", PRESETS["linux-masquerade"])
    with neighbour_holding(lab, 45678, ALTERNATE):
        profiles = classify(lab, 45678)
    for profile in profiles.values():
        is_independent_but_in_conflict(profile["mapping"])
        assert f"{SERVER}:3478 sees 45678" in profile["mapping"]["reason"]
        assert profile["filtering"]["value"] == "address-and-port-dependent"


def test_a_collision_with_the_first_one_moves_the_port_for_all(lab: Lab) -> None:
    """And so shows what a port that is kept hides: one mapping for all destinations."""
    lab.apply("home", PRESETS["linux-masquerade"])
    with neighbour_holding(lab, 45677, SERVER):
        profiles = classify(lab, 45677)
    for profile in profiles.values():
        assert (profile["mapping"]["value"], profile["mapping"]["certainty"]) == ("endpoint-independent", "confirmed")
        assert "all 4 endpoints" in profile["mapping"]["reason"]
        assert profile["filtering"]["value"] == "address-and-port-dependent"


def test_a_strangers_packet_moves_what_comes_after_it_where_it_is_accepted(lab: Lab) -> None:
    lab.apply("home", PRESETS["linux-masquerade-accept"])
    lab.must("home-1", ["python", "-c", STRANGER, "45679", ALTERNATE])
    profiles = classify(lab, 45679)
    is_independent_but_in_conflict(profiles["udp"]["mapping"])
    assert f"{SERVER}:3478 sees 45679" in profiles["udp"]["mapping"]["reason"]
    assert profiles["tcp"]["mapping"]["certainty"] == "likely"
    assert {profile["filtering"]["value"] for profile in profiles.values()} == {"address-and-port-dependent"}


@pytest.mark.parametrize("policy", ["linux-masquerade-drop", "linux-masquerade-reject"])
def test_a_strangers_packet_that_is_refused_moves_nothing(lab: Lab, policy: str) -> None:
    lab.apply("home", PRESETS[policy])
    lab.must("home-1", ["python", "-c", STRANGER, "45680", ALTERNATE])
    for profile in classify(lab, 45680).values():
        assert (profile["mapping"]["value"], profile["mapping"]["certainty"]) == ("endpoint-independent", "likely")
        assert "port-preserving" in profile["mapping"]["reason"]
