"""One ICE peer of the lab: a real aioice connection on one node, and its counterpart on another.

    python -m natprobe.lab.ice_peer '{"signalling": "/tmp/…/socket", "controlling": true}'

The two tell each other who they are through a socket in the file system, which network namespaces share, begin at an
agreed instant, and each prints one line of JSON. `ice_pair` starts both.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aioice import Candidate, Connection

from natprobe.report import Report
from natprobe.webrtc.configuration import read_ice_servers
from natprobe.webrtc.diagnosis import explain, ice_stats
from natprobe.webrtc.ice_servers import IceServer
from natprobe.webrtc.internals import fast_failure, transports
from natprobe.webrtc.watching import watch

_HEAD_START = 0.02
"""Seconds from the last word of the signalling to the start: enough that both have heard it."""
_PING = b"natprobe: are you there?"
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Role:
    """What a peer is told: ``wait`` is how many seconds after its counterpart it begins, ``reports`` are files."""

    signalling: str
    controlling: bool
    servers: tuple[dict[str, Any], ...] = ()
    wait: float = 0.0
    impatient: bool = True
    reports: tuple[str | None, str | None] = (None, None)


async def play(role: Role) -> dict[str, Any]:
    """Connect to the counterpart, or fail to, and return what came of it."""
    connection = Connection(role.controlling, **_server_options(read_ice_servers(role.servers)))
    mine, theirs = map(_read, role.reports)
    async with watch(connection, mine=mine, theirs=theirs) as watched:
        await connection.gather_candidates()
        reader, writer = await _meet(role)
        start = await _introduce(connection, role, reader, writer)
        await asyncio.sleep(start + role.wait - time.monotonic())
        began = time.monotonic()
        with suppress(ConnectionError):
            await connection.connect()
        took = time.monotonic() - began
        (transport,) = transports(connection)
        pair = transport.selected
        found = {
            "connected": pair is not None,
            "local": str(pair.local.type) if pair else None,
            "remote": str(pair.remote.type) if pair else None,
            "ms": round(took * 1000, 1),
            "heard": pair is not None and await _ping(connection),
            "explanation": explain(connection, mine=mine, theirs=theirs).to_json(),
            "stats": ice_stats(connection),
            "events": watched.to_json(),
        }
        # Whoever has finished stays for the other, whose checks it answers.
        writer.write(b"done\n")
        await asyncio.wait_for(reader.readline(), _PATIENCE * 4)
        writer.close()
        await connection.close()
    return found


def _read(name: str | None) -> Report | None:
    return Report.loads(Path(name).read_text()) if name else None


def _server_options(servers: list[IceServer]) -> dict[str, Any]:
    """Return the servers as aioice takes them: one STUN and one TURN server."""
    options: dict[str, Any] = {}
    for server in reversed(servers):
        place = (server.url.host, server.url.port)
        if not server.url.relay:
            options["stun_server"] = place
            continue
        options |= {
            "turn_server": place,
            "turn_ssl": server.url.secure,
            "turn_transport": "udp" if server.url.transport == "udp" else "tcp",
            "turn_username": server.username,
            "turn_password": server.credential,
        }
    return options


async def _meet(role: Role) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the signalling channel. The controlling peer listens."""
    if not role.controlling:
        return await asyncio.wait_for(_dial(role.signalling), _PATIENCE)
    met: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.get_running_loop().create_future()

    async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.set_result((reader, writer))

    server = await asyncio.start_unix_server(welcome, role.signalling)
    channel = await asyncio.wait_for(met, _PATIENCE)
    server.close()
    return channel


async def _dial(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            return await asyncio.open_unix_connection(path)
        except (FileNotFoundError, ConnectionRefusedError):  # the other one still gathers
            await asyncio.sleep(0.005)


async def _introduce(
    connection: Connection, role: Role, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> float:
    """Exchange descriptions and return the instant of the start, which the controlling peer sets."""
    ours: dict[str, Any] = {
        "username": connection.local_username,
        "password": connection.local_password,
        "candidates": [candidate.to_sdp() for candidate in connection.local_candidates],
    }
    if not role.controlling:
        writer.write(json.dumps(ours).encode() + b"\n")
    theirs = json.loads(await asyncio.wait_for(reader.readline(), _PATIENCE))
    if role.controlling:
        ours["start"] = time.monotonic() + _HEAD_START
        writer.write(json.dumps(ours).encode() + b"\n")
    connection.remote_username, connection.remote_password = theirs["username"], theirs["password"]
    for candidate in theirs["candidates"]:
        await connection.add_remote_candidate(Candidate.from_sdp(candidate))
    await connection.add_remote_candidate(None)
    return float(ours.get("start") or theirs["start"])


async def _ping(connection: Connection) -> bool:
    """Return whether a datagram of the counterpart came over the pair that was nominated."""
    await connection.send(_PING)
    try:
        return await asyncio.wait_for(connection.recv(), 2.0) == _PING
    except (TimeoutError, ConnectionError):
        return False


def main() -> None:
    """Play the role given as JSON in the first argument; print what came of it."""
    role = msgspec.json.decode(sys.argv[1], type=Role)
    with fast_failure() if role.impatient else nullcontext():
        print(json.dumps(asyncio.run(play(role))))  # noqa: T201 the result, read by ice_pair


if __name__ == "__main__":
    main()
