"""A coturn that dies, or falls silent, under a connection of aioice's that goes through it: who is suspected."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aioice
import aioice.ice
import aioice.stun
import pytest
from aioice import Connection, TransportPolicy
from ice_peers import introduce

from natprobe.behaviour import Certainty
from natprobe.webrtc import Cause, Explanation, Step, Watch, explain, watch

from .conftest import not_here
from .test_foreign_servers import ready

pytestmark = [pytest.mark.lab, pytest.mark.interop, pytest.mark.slow, pytest.mark.usefixtures("on_loopback")]

HOST = f"127.{os.getpid() >> 8 & 0x7F | 0x80}.{os.getpid() & 0xFF}.8"


@pytest.fixture
def coturn(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A coturn that relays within loopback, and its port."""
    program = shutil.which("turnserver", path="/usr/bin:/usr/local/bin:/usr/sbin")
    if not program:
        not_here("coturn is not installed: apt install coturn")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [
        *(program, "-n", "--user=user:right", "--lt-cred-mech", "--realm=lab.example", "--no-rfc5780", "--no-cli"),
        *(f"--listening-ip={HOST}", f"--relay-ip={HOST}", f"--listening-port={port}", "--no-tls", "--no-dtls"),
        *("--allow-loopback-peers", "--log-file=stdout", f"--pidfile={tmp_path}/pid", f"--userdb={tmp_path}/db"),
        "--relay-threads=1",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ready(server, "stdout", "Total General servers")
        yield server, port
    finally:
        server.send_signal(signal.SIGCONT)
        server.kill()
        server.communicate()


async def until(watched: Watch, step: Step) -> None:
    async with asyncio.timeout(20):
        while watched.first(step) is None:
            await asyncio.sleep(0.005)


def through(port: int, transport: str) -> Connection:
    """Return a connection that uses a relay only."""
    return Connection(
        True,
        turn_server=(HOST, port),
        turn_username="user",
        turn_password="right",
        turn_transport=transport,
        transport_policy=TransportPolicy.RELAY,
    )


def said(explanation: Explanation) -> tuple[Cause, Certainty, str]:
    first = explanation.findings[0]
    return first.cause, first.certainty, first.reason


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
async def test_the_relay_is_suspected_from_the_first_check_that_is_missed(
    coturn: tuple[subprocess.Popen[str], int], transport: str, end: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, port = coturn
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.1)
    monkeypatch.setattr(aioice.stun, "RETRY_RTO", 0.05)
    a, b = through(port, transport), Connection(False)
    async with watch(a) as watched:
        await introduce(a, b)
        await asyncio.gather(a.connect(), b.connect())
        assert explain(a).causes == (Cause.RELAYED,)
        server.send_signal(end)
        await until(watched, Step.CONSENT_MISSED)
        url = f"turn:{HOST}:{port}?transport={transport}"
        told = watched.first(Step.CONSENT_MISSED)
        assert told
        assert told.detail == f"1 in a row; 6 end it; the relay is suspected first: {url}"
        missed = said(explain(a))
        assert missed[0] is Cause.CONSENT_MISSED
        assert url in missed[2]
        if end is signal.SIGKILL:
            assert missed[1] is Certainty.CONFIRMED
            gone = (
                "Connection refused \\(ICMP\\)"
                if transport == "udp"
                else "the connection to it has ended|reset by peer"
            )
            assert re.search(gone, missed[2])
        else:
            assert missed[1] is Certainty.LIKELY
            assert f"through the relay {url}, so it is suspected first" in missed[2]
        closed = asyncio.create_task(a.get_event())
        await until(watched, Step.CONSENT_LOST)
        assert watched.events[-1].detail == f"the relay is suspected first: {url}"
        # aioice now tells the dead server that the allocation is to end, and waits; what was known stays known.
        while not closed.done():
            assert explain(a).causes == (Cause.CONSENT_LOST,)
            assert url in explain(a).findings[0].reason
            await asyncio.sleep(0.01)
        assert isinstance(closed.result(), aioice.ConnectionClosed)
        assert explain(a).causes == (Cause.CONSENT_LOST,)
        assert url in explain(a).findings[0].reason
    await asyncio.gather(a.close(), b.close())


async def test_misses_are_counted_without_a_watch_too(
    coturn: tuple[subprocess.Popen[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, port = coturn
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.1)
    monkeypatch.setattr(aioice.stun, "RETRY_RTO", 0.05)
    a, b = through(port, "udp"), Connection(False)
    await introduce(a, b)
    await asyncio.gather(a.connect(), b.connect())
    server.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(20):
        while explain(a).cause is not Cause.CONSENT_MISSED:
            await asyncio.sleep(0.01)
    assert "turn:" in explain(a).findings[0].reason
    await asyncio.gather(a.close(), b.close())
