"""One end of connections that are tried between two nodes of the lab: ``python peer.py udp|tcp|rtc``.

udp is ICE by aioice (RFC 8445), tcp is simultaneous open (RFC 6544 §7), rtc is a data channel by aiortc. Driven by
lines of JSON on stdin, attempt by attempt, until stdin ends; each is answered by one on stdout:

    {"controlling": true, "server": ["198.51.100.10", 3478]}    in: get ready
    {...}                                                       out: what the other end has to know
    {"remote": {...}, "start": 1234.5}                          in: the same from there; begin at this monotonic time
    {"connected": true, "seconds": 0.1, "other": "srflx"}       out: what came of it, and the candidate of the other end
    {"close": true}                                             in: end it, now that the other end has been heard too
    {"closed": true}                                            out: it has left nothing behind that would send

Connected means that data of the other end has arrived.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from collections.abc import Awaitable
from contextlib import ExitStack, suppress
from typing import Any

import aioice
from aioice import stun

# A check is sent at 0, 0.1, 0.3 and 0.7 s and has failed at 1.5 s; by aioice's own timers that takes 63.5 s.
stun.RETRY_RTO = 0.1
stun.RETRY_MAX = 3
PATIENCE = 2.5
"""Seconds. Room for a SYN that is sent once more, after one second."""

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
"""A connection that ends politely still sends when the NAT has become another one, whose ports are the same again."""

Told = dict[str, Any]
Address = tuple[str, int]
_FAILED = {"connected": False}


async def main(kind: str) -> None:
    session = {"udp": ice, "tcp": tcp, "rtc": rtc}[kind]
    while order := await read():
        await session(order)
        write({"closed": True})


async def read() -> Told | None:
    line = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(line) if line else None


def write(told: Told) -> None:
    print(json.dumps(told), flush=True)


async def within(patience: float, attempt: Awaitable[Told]) -> Told:
    """Return what came of an attempt, which may fail or take too long."""
    try:
        async with asyncio.timeout(patience):
            return await attempt
    except (OSError, TimeoutError):
        return _FAILED


# --- UDP: aioice ------------------------------------------------------------------------------------------------------


async def ice(order: Told) -> None:
    connection = aioice.Connection(order["controlling"], stun_server=tuple(order["server"]), use_ipv6=False)
    await connection.gather_candidates()
    candidates = [candidate.to_sdp() for candidate in connection.local_candidates]
    write({"user": connection.local_username, "password": connection.local_password, "candidates": candidates})
    if order := await read() or {}:
        write(await within(PATIENCE, _connect(connection, order["remote"], order["start"])))
        await read()
    await connection.close()


async def _connect(connection: aioice.Connection, remote: Told, start: float) -> Told:
    connection.remote_username, connection.remote_password = remote["user"], remote["password"]
    for candidate in remote["candidates"]:
        await connection.add_remote_candidate(aioice.Candidate.from_sdp(candidate))
    await connection.add_remote_candidate(None)
    await asyncio.sleep(start - time.monotonic())
    await connection.connect()
    seconds = time.monotonic() - start
    await connection.send(b"!")
    await connection.recv()
    return {"connected": True, "seconds": seconds, "other": _nominated(connection)}


def _nominated(connection: aioice.Connection) -> str:
    (pair,) = connection._nominated.values()  # noqa: SLF001 nothing public tells which pair it is
    return str(pair.remote_candidate.type)


# --- TCP: simultaneous open -------------------------------------------------------------------------------------------


async def tcp(order: Told) -> None:
    """From one port: the connection to the server, which stays open, the listener, and one attempt to connect."""
    with ExitStack() as stack:
        asking = stack.enter_context(_bound(("", 0)))
        write(await within(PATIENCE, _seen_as(asking, tuple(order["server"]))))
        listener, dialling = (stack.enter_context(_bound(asking.getsockname())) for _ in range(2))
        listener.listen()
        if order := await read() or {}:
            write(await within(PATIENCE, _meet(stack, listener, dialling, order["remote"], order["start"])))
            await read()


def _bound(local: Address) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    sock.bind(local)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    return sock


async def _seen_as(asking: socket.socket, server: Address) -> Told:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(asking, server)
    await loop.sock_sendall(asking, bytes(stun.Message(stun.Method.BINDING, stun.Class.REQUEST)))
    response = stun.parse_message(await loop.sock_recv(asking, 2048))
    seen = response.attributes["XOR-MAPPED-ADDRESS"]
    return {"endpoint": seen, "kind": "host" if seen == asking.getsockname() else "srflx"}


async def _meet(stack: ExitStack, listener: socket.socket, dialling: socket.socket, remote: Told, start: float) -> Told:
    if "endpoint" not in remote:
        raise ConnectionError
    told = tuple(remote["endpoint"])
    await asyncio.sleep(start - time.monotonic())
    ways = [asyncio.create_task(_accepted(stack, listener)), asyncio.create_task(_dialled(dialling, told))]
    try:
        for way in asyncio.as_completed(ways):
            with suppress(OSError):
                other = await way
                kind = remote["kind"] if other == told else "prflx"
                return {"connected": True, "seconds": time.monotonic() - start, "other": kind}
        return _FAILED
    finally:
        for task in ways:
            task.cancel()


async def _accepted(stack: ExitStack, listener: socket.socket) -> Address:
    connection, other = await asyncio.get_running_loop().sock_accept(listener)
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    return await _greeted(stack.enter_context(connection), other)


async def _dialled(dialling: socket.socket, told: Address) -> Address:
    await asyncio.get_running_loop().sock_connect(dialling, told)
    return await _greeted(dialling, told)


async def _greeted(connection: socket.socket, other: Address) -> Address:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, b"!")
    if not await loop.sock_recv(connection, 1):
        raise ConnectionResetError
    return other


# --- WebRTC: aiortc ---------------------------------------------------------------------------------------------------


async def rtc(order: Told) -> None:
    """Whoever is controlling offers; the other one answers, and so begins first."""
    # Slow to load, and the other kinds do without.
    from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

    url = "stun:{}:{}".format(*order["server"])
    connection = RTCPeerConnection(RTCConfiguration([RTCIceServer(url)]))
    came = asyncio.get_running_loop().create_future()
    channel = connection.createDataChannel("natprobe", negotiated=True, id=1)
    channel.on("open", lambda: channel.send("!"))
    channel.once("message", lambda _: came.set_result(time.monotonic()))
    begun = time.monotonic()
    if not order["controlling"]:
        await connection.setRemoteDescription(RTCSessionDescription(**order["remote"]))
        await connection.setLocalDescription(await connection.createAnswer())
    else:
        await connection.setLocalDescription(await connection.createOffer())
    write({"type": connection.localDescription.type, "sdp": connection.localDescription.sdp})
    if order["controlling"]:
        answer = await read()
        assert answer
        begun = time.monotonic()
        await connection.setRemoteDescription(RTCSessionDescription(**answer["remote"]))
    write(await within(PATIENCE, _opened(connection, came, begun)))
    await read()
    await connection.close()


async def _opened(connection: Any, came: asyncio.Future[float], begun: float) -> Told:
    seconds = await came - begun
    ice_connection = connection.sctp.transport.transport._connection  # noqa: SLF001 likewise
    return {"connected": True, "seconds": seconds, "other": _nominated(ice_connection)}


asyncio.run(main(sys.argv[1]))
