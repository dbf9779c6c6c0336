"""The check and a coturn on loopback, in this process: shared secrets, IPv6, stale nonces, what aiortc then does."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection

from natprobe.endpoint import Endpoint
from natprobe.sockets import HostNetwork
from natprobe.webrtc import Depth, IceServerState, check_ice_servers, choose_ice_servers, timed_credentials
from natprobe.webrtc.link import DatagramLink
from natprobe.webrtc.turn import TurnClient

from .conftest import not_here
from .test_foreign_servers import ready

pytestmark = [pytest.mark.lab, pytest.mark.interop, pytest.mark.slow]

HOST = f"127.{os.getpid() >> 8 & 0x7F | 0x80}.{os.getpid() & 0xFF}.6"
SECRET = "north"


@pytest.fixture(scope="module")
def port() -> int:
    """A port that nobody has on ::1, which all share."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            not_here("IPv6 is off, on loopback too")
        free: int = probe.getsockname()[1]
        return free


@pytest.fixture(scope="module", autouse=True)
def coturn(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A coturn with a shared secret, whose nonces are stale after a second."""
    program = shutil.which("turnserver", path="/usr/bin:/usr/local/bin:/usr/sbin")
    if not program:
        not_here("coturn is not installed: apt install coturn")
    directory = tmp_path_factory.mktemp("coturn")
    command = [
        *(program, "-n", "--use-auth-secret", f"--static-auth-secret={SECRET}", "--realm=lab.example", "--no-rfc5780"),
        *(
            f"--listening-ip={HOST}",
            "--listening-ip=::1",
            f"--relay-ip={HOST}",
            "--relay-ip=::1",
            "--no-tls",
            "--no-dtls",
        ),
        *(f"--listening-port={port}", "--allow-loopback-peers", "--stale-nonce=1", "--log-file=stdout", "--no-cli"),
        *(f"--pidfile={directory}/pid", f"--userdb={directory}/db", "--relay-threads=1"),
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ready(server, "stdout", "Total General servers")
        yield
    finally:
        server.terminate()
        server.communicate()


def credentials(lifetime: int = 600) -> tuple[str, str]:
    return timed_credentials(SECRET, int(time.time()) + lifetime, "me")


def server(url: str, lifetime: int = 600) -> RTCIceServer:
    return RTCIceServer(url, *credentials(lifetime))


async def test_credentials_made_from_a_shared_secret(port: int) -> None:
    valid, expired = await check_ice_servers([server(f"turn:{HOST}:{port}"), server(f"turn:{HOST}:{port}", -60)])
    assert (valid.state, valid.depth) == (IceServerState.OK, Depth.ECHO)
    assert expired.state is IceServerState.UNAUTHORIZED
    assert "these credentials were valid until" in (expired.reason or "")


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_server_is_reached_over_ipv6(port: int, transport: str) -> None:
    (found,) = await check_ice_servers([server(f"turn:[::1]:{port}?transport={transport}")])
    assert (found.state, found.family, found.depth) == (IceServerState.OK, 6, Depth.ECHO)
    assert found.relayed
    assert found.relayed.version == 4  # what a client has that asks for nothing else (RFC 8656 §7.2)
    assert found.unsupported_by_aiortc == "aiortc refuses a configuration with an IPv6 literal in it"


async def test_a_nonce_that_has_become_stale_is_replaced(port: int) -> None:
    network, remote = HostNetwork(), Endpoint.of(HOST, port)
    link = DatagramLink(await network.datagrams(Endpoint.of("127.0.0.1", 0)), remote)
    turn = TurnClient(link, *credentials())
    try:
        allocation = await turn.allocate()
        first = turn.nonce
        async with asyncio.timeout(5):
            while turn.nonce == first:
                await turn.permit(allocation.relayed)
    finally:
        await turn.release()
        await link.close()


async def test_aiortc_gathers_at_once_from_what_was_chosen(port: int) -> None:
    """A closed port and a URL that it would refuse stand before the good ones."""
    given = [
        server(f"turn:{HOST}:9"),
        RTCIceServer("stun:[::1]"),
        server(f"turn:{HOST}:{port}?transport=tcp"),
        RTCIceServer(f"stun:{HOST}:9"),
        server(f"turn:{HOST}:{port}"),
        RTCIceServer(f"stun:{HOST}:{port}"),
    ]
    chosen = choose_ice_servers(given, await check_ice_servers(given))
    assert [one.urls for one in chosen[:2]] == [f"stun:{HOST}:{port}", f"turn:{HOST}:{port}"]
    connection = RTCPeerConnection(RTCConfiguration(chosen))
    connection.createDataChannel("x")
    await connection.setLocalDescription(await connection.createOffer())
    assert "typ relay" in connection.localDescription.sdp
    await connection.close()


def test_secrets_can_stand_in_the_environment(port: int, tmp_path: Path) -> None:
    command = ["natprobe", "turn", f"turn:{HOST}:{port}", f"turn:{HOST}:{port}?transport=tcp", "--username", "me"]
    secret = os.environ | {
        "NATPROBE_TURN_SECRET": SECRET,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(command, env=secret, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok              udp  IPv4  ")
