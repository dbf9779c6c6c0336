"""Real ICE peers, which connect, or lose each other. The fixture `on_loopback` keeps them within this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import aioice
import aioice.ice
import aioice.stun
import pytest
from aioice import Connection
from aiortc import RTCPeerConnection


async def introduce(a: Connection, b: Connection) -> None:
    """Gather, and tell each of two connections all about the other."""
    await asyncio.gather(a.gather_candidates(), b.gather_candidates())
    for one, other in ((a, b), (b, a)):
        one.remote_username, one.remote_password = other.local_username, other.local_password
        for candidate in other.local_candidates:
            await one.add_remote_candidate(candidate)
        await one.add_remote_candidate(None)


async def connect(a: Connection, b: Connection) -> None:
    """Introduce two connections and have them connect."""
    await introduce(a, b)
    await asyncio.gather(a.connect(), b.connect())


async def lose_consent(a: Connection, b: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the peer away from under a connection, and wait until it has noticed."""
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.01)
    monkeypatch.setattr(aioice.stun, "RETRY_RTO", 0.01)
    gone = asyncio.create_task(a.get_event())
    await connect(a, b)
    await b.close()
    assert isinstance(await gone, aioice.ConnectionClosed)


async def negotiate(a: RTCPeerConnection, b: RTCPeerConnection) -> None:
    """Have one peer connection offer and the other one answer."""
    await a.setLocalDescription(await a.createOffer())
    await b.setRemoteDescription(a.localDescription)
    await b.setLocalDescription(await b.createAnswer())
    await a.setRemoteDescription(b.localDescription)


@contextmanager
def silent_port() -> Iterator[int]:
    """Hold a UDP port at which everything is swallowed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        yield hole.getsockname()[1]
