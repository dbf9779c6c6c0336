"""On real packets: a reflector that misreports itself makes no wrong class and sends no client anywhere.

One reflector for each lie of ``misreports``, on ports of its own; all are asked at once from behind a real NAT, while a
counter on the client counts what it sends to anybody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from misreports import BYSTANDER, LIES

from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS, differences

from .conftest import ROOT, open_here
from .test_foreign_servers import CLASSIFY, ready

pytestmark = [pytest.mark.lab, pytest.mark.slow]

ADDRESSES = ("198.51.100.10", "198.51.100.11", "198.51.100.12")
PORTS = {lie: 4000 + 2 * number for number, lie in enumerate(LIES)}
STRAY = """
table inet stray {{
    counter elsewhere {{ }}
    chain leaving {{
        type filter hook output priority filter;
        oifname "lo" ip daddr 127.0.0.0/8 ip saddr != 127.0.0.0/8 counter name elsewhere
        oifname != "lo" ip daddr != {{ {own}, {bystander} }} counter name elsewhere
    }}
}}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab with all the reflectors up in it, and a counter on the client."""
    program = str(ROOT / "tests" / "misreports.py")
    with open_here() as lab:
        commands = [["python", program, str(port), lie, *ADDRESSES] for lie, port in PORTS.items()]
        servers = [ready(lab.start("reflector", command), "stderr", "serving") for command in commands]
        rules = STRAY.format(own=", ".join(ADDRESSES), bystander=BYSTANDER)
        lab.must("home-1", ["nft", "-f", "-"], stdin=rules)
        yield lab
        for server in servers:
            server.terminate()
    for server in servers:
        server.communicate()


def strays(lab: Lab) -> int:
    """Return how many packets the client has sent to where it had no business."""
    listing = json.loads(lab.must("home-1", ["nft", "-j", "list", "counter", "inet", "stray", "elsewhere"]))
    (counter,) = (entry["counter"] for entry in listing["nftables"] if "counter" in entry)
    return int(counter["packets"])


@pytest.mark.parametrize("name", ["none", "eim-eif", "eim-adf", "apdm-apdf", "linux-masquerade", "udp-blocked"])
def test_no_lie_makes_a_wrong_class_or_sends_a_packet_elsewhere(lab: Lab, name: str) -> None:
    lab.apply("home", PRESETS[name])
    servers = json.dumps([[f"{ADDRESSES[0]}:{port}"] for port in PORTS.values()])
    ended = lab.run("home-1", ["python", "-c", CLASSIFY, servers, "QUICK"], timeout=120)
    assert ended.returncode == 0, ended.stderr
    found = {}
    for lie, report in zip(PORTS, json.loads(ended.stdout), strict=True):
        lines = [report] if isinstance(report, str) else differences(PRESETS[name], report)
        found[lie] = [line for line in lines if "not determined" not in line]
    assert found == {lie: [] for lie in LIES}
    assert strays(lab) == 0
