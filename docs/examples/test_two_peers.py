"""A CI test: two peers behind two NATs connect, or fail for the right reason. No hardware, no server, no root.

    pip install natprobe pytest && pytest test_two_peers.py

The fixtures come with natprobe. In CI set NATPROBE_LAB_COMPULSORY=1: where there can be no lab, that is then a failure.
"""

from __future__ import annotations

import json

import pytest

from natprobe.lab.policy import parse_policy

YOUR_PROGRAM = """
import asyncio, sys
asyncio.run(asyncio.wait_for(asyncio.open_connection(sys.argv[1], 3478), 5))
"""


@pytest.mark.parametrize("home", ["eim-eif", "linux-masquerade"])
def test_they_connect_without_a_relay(ice_pair, home):
    pair = ice_pair(home, "eim-apdf")
    assert pair.connected, json.dumps(pair.home.explanation, indent=2)
    assert "relay" not in pair.candidates


def test_behind_these_two_they_need_a_relay(ice_pair):
    pair = ice_pair("apdm-apdf", "eim-apdf")
    assert not pair.connected
    assert pair.home.cause == "nat-pair"
    assert pair.ms < 2500  # and not the 64 s that aioice takes by itself


def test_the_one_who_answers_must_not_be_too_late(ice_pair):
    """This NAT moves the port of a flow towards whoever has sent to it first."""
    assert ice_pair("linux-masquerade-accept", "eim-apdf", skew=0.2).connected
    assert not ice_pair("linux-masquerade-accept", "eim-apdf", skew=-0.2).connected


def test_a_program_of_your_own_behind_a_nat(nat_lab):
    nat_lab.apply("home", parse_policy("apdm-apdf"))
    ended = nat_lab.run("home-1", ["python", "-c", YOUR_PROGRAM, "198.51.100.10"])
    assert ended.returncode == 0, ended.stderr
