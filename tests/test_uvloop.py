"""natprobe as a library in a program that runs on uvloop: the same answers, ICMP errors too, and no crash."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("uvloop")

PROGRAM = """
import asyncio, socket, uvloop
import natprobe
from natprobe.reflector.server import Reflector
from natprobe.reuse import hold
from natprobe.webrtc import check_ice_servers

ADDRESSES = ["127.78.0.1", "127.78.0.2", "127.78.0.3"]

async def main():
    async with Reflector(ADDRESSES, (34782, 34783), compat=True):
        server = ADDRESSES[0] + ":34782"
        report = await natprobe.classify([server], versions=(4,), tier=natprobe.Tier.QUICK)
        print(*(p.mapping.value for p in (report.ipv4.udp, report.ipv4.tcp)))
        print(*(p.filtering.value for p in (report.ipv4.udp, report.ipv4.tcp)))
        checks = await check_ice_servers([f"stun:{server}", "stun:127.78.0.99:9"], versions=(4,))
        print(*(check.state for check in checks), checks[1].reason)
        print((await hold([server], connections=2)).alive)
    try:
        await natprobe.classify(["127.78.0.99:9"], versions=(4,), tier=natprobe.Tier.QUICK)
    except natprobe.CannotRun as failure:
        print(failure)

uvloop.run(main())
"""


def test_classifying_checking_holding_and_reflecting_work_on_uvloop() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    mapping, filtering, checks, held, refused = done.stdout.splitlines()
    assert mapping == "endpoint-independent endpoint-independent"
    assert filtering == "endpoint-independent endpoint-independent"
    assert checks == "ok refused port unreachable"
    assert held == "2"
    assert "over UDP: port unreachable" in refused
    assert "over TCP: connection refused" in refused
