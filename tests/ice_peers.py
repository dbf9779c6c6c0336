"""Real ICE peers on loopback, which aioice leaves out unless it is told that this is the host's address."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import aioice.ice
import pytest
from aioice import Connection


@pytest.fixture
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have aioice gather its host candidates on 127.0.0.1 alone."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


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


@contextmanager
def silent_port() -> Iterator[int]:
    """Hold a UDP port at which everything is swallowed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        yield hole.getsockname()[1]
