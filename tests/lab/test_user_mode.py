"""NATs that nobody here wrote and that are no kernel's: slirp4netns and passt, as containers without root have them.

They are the only ones here that treat UDP and TCP differently by design: a datagram socket of theirs serves an inside
port whoever it talks to, while each TCP connection is made anew by the system that they run on, from a port of its own.
Each runs on a node of the lab, behind a plain router, and has a namespace of its own behind it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS

from .conftest import not_here, open_here
from .test_classify import CLASSIFY, SERVER

pytestmark = [pytest.mark.lab, pytest.mark.slow]

OUTSIDE = "10.64.1.10"
INSIDE = "10.0.2.100"
SLIRP = """
    ready=$(mktemp -u); mkfifo $ready; exec 3<>$ready; rm $ready
    unshare --net sh -c '
        nsenter --target=$PPID --net slirp4netns --configure --ready-fd=3 $$ tap0 >/dev/null 2>&1 &
        head -c1 <&3 >/dev/null  # it says when the interface is there
        "$@"; status=$?
        kill $!; wait; exit $status
    ' sh "$@"
"""
PASTA = ["pasta", "--quiet", "--config-net", "--runas", "0:0", "--address", INSIDE, "--gateway", "10.0.2.2"]
NO_FORWARDS = [word for option in ("-t", "-u", "-T", "-U") for word in (option, "none")]
STACKS = {
    "slirp4netns": ["sh", "-c", SLIRP, "sh"],
    "pasta": [*PASTA, "--netmask", "24", *NO_FORWARDS, "--"],
}


@pytest.fixture(scope="module")
def routed() -> Iterator[Lab]:
    with open_here() as lab:
        lab.apply("home", PRESETS["none"])
        yield lab


def behind(lab: Lab, stack: str) -> dict[str, Any]:
    """Return the profiles of a client behind a stack."""
    if not shutil.which(stack):
        not_here(f"{stack} is not installed: apt install {'passt' if stack == 'pasta' else stack}")
    command: Sequence[str] = [
        *STACKS[stack],
        *lab.inside("home-1", ["python"])[-1:],
        "-c",
        CLASSIFY,
        "1",
        "DEFAULT",
        SERVER,
    ]
    ended = lab.run("home-1", command)
    if not ended.stdout:
        not_here(f"{stack} does not run here: {ended.stderr.strip().splitlines()[-1:]}")
    profiles: dict[str, Any] = json.loads(ended.stdout)["ipv4"]
    return profiles


def value(profile: dict[str, Any], *keys: str) -> tuple[object, ...]:
    return tuple(profile[key]["value"] for key in keys)


@pytest.mark.parametrize("stack", STACKS)
def test_udp_and_tcp_differ_by_design(routed: Lab, stack: str) -> None:
    profiles = behind(routed, stack)
    udp, tcp = profiles["udp"], profiles["tcp"]
    assert value(udp, "translated", "mapping", "filtering") == (True, "endpoint-independent", "endpoint-independent")
    assert value(tcp, "translated", "mapping", "filtering") == (
        True,
        "connection-dependent",
        "address-and-port-dependent",
    )
    # They speak TCP without timestamps: to be connected to again from one port, a client must reset.
    assert "that one was reset" in tcp["mapping"]["reason"]
    assert all(external.startswith(OUTSIDE) for external in udp["external"]["value"])
    # Each connection is one of the system's own, and each has a port of its own.
    assert len(tcp["concurrent"]["value"]["external_ports"]) == 4
    assert "got a reset" in tcp["filtering"]["reason"]


@pytest.mark.parametrize(("stack", "keeps"), [("slirp4netns", False), ("pasta", True)])
def test_only_one_of_them_keeps_ports(routed: Lab, stack: str, keeps: bool) -> None:
    """Nothing translates behind them, so that a public server reports a private address: no more than likely."""
    mapping = behind(routed, stack)["udp"]["mapping"]
    assert mapping["certainty"] == "likely"
    assert ("port-preserving" in mapping["reason"]) == keeps
    assert ("reports the private address" in mapping["reason"]) != keeps
