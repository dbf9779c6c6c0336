"""Connect-back: the reflector dials the client to learn what the filter in its way does to a SYN (RFC 5382 §4.3).

The target is always the observed source of a live connection, which the caller sees to. What is sent over a dialled
connection is a token of 16 bytes and nothing else, and no attempt outlives its patience, for a host that is silent
is sent a SYN again and again.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from natprobe.endpoint import Endpoint
from natprobe.extensions import TOKEN_MARK, Dial, DialOutcome, DialPlan, DialResult, Source

ECHO_PATIENCE = 2.0
"""Seconds for the token to come back: by then the path is known to be open, and a busy client may take its time."""
AT_ONCE = 256
"""Attempts under way at once, over all clients."""

_SETTLED = (DialOutcome.ACCEPTED, DialOutcome.REFUSED, DialOutcome.UNREACHABLE)
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.ENOPROTOOPT, errno.EPROTO)
_RESET = struct.pack("ii", 1, 0)
_LINUX = sys.platform == "linux"
_IP_RECVERR, _IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h; the socket module has no names for them
_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # linux/errqueue.h: struct sock_extended_err
_FROM_ICMP = (2, 3)


class Dialer:
    """Dials, at most AT_ONCE attempts at a time; what is more counts as not made."""

    def __init__(self) -> None:
        self._under_way = 0

    async def dial(
        self, plan: DialPlan, origins: dict[Source, Endpoint], target: Endpoint, transaction_id: bytes
    ) -> tuple[DialResult, ...]:
        """Carry out a plan and return one result for each of its dials, in their order.

        ``origins`` says from where each source dials; one that is missing there is not dialled from. Cancellable.
        """
        token = transaction_id + TOKEN_MARK
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._dial_from(dial, origins.get(dial.source), target, plan, token))
                for dial in plan.dials
            ]
        return tuple(task.result() for task in tasks)

    async def _dial_from(
        self, dial: Dial, origin: Endpoint | None, target: Endpoint, plan: DialPlan, token: bytes
    ) -> DialResult:
        """Make the attempts of one source, until one shows what becomes of all."""
        outcomes, made = [DialOutcome.NOT_DIALLED], 0
        # From one port, two connections to one target cannot be told apart: there the attempts take turns.
        turn = asyncio.Lock() if origin and origin.port else nullcontext()

        async def attempt(number: int) -> DialOutcome:
            nonlocal made
            await asyncio.sleep(number * plan.spacing)
            async with turn:
                with self._dialling(origin, target) as dialling:
                    if dialling is None:
                        return DialOutcome.NOT_DIALLED
                    made += 1
                    outcome = await _outcome(dialling, target, plan.patience, token)
                    made -= outcome is DialOutcome.NOT_DIALLED
                    return outcome

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(attempt(number)) for number in range(dial.attempts if origin else 0)]
            for earliest in asyncio.as_completed(tasks):
                outcomes.append(await earliest)
                if outcomes[-1] in _SETTLED:
                    break
            for task in tasks:
                task.cancel()
        return DialResult(dial.source, min(outcomes), made)  # the outcomes are numbered from the best one on

    @contextmanager
    def _dialling(self, origin: Endpoint | None, target: Endpoint) -> Iterator[socket.socket | None]:
        """Give a socket to dial from, or None where there is none to be had; it is gone without a trace afterwards."""
        if origin is None or self._under_way >= AT_ONCE:
            yield None
            return
        self._under_way += 1
        try:
            try:
                dialling = socket.socket(socket.AF_INET if target.version == 4 else socket.AF_INET6)
            except OSError:  # no descriptor is left
                yield None
                return
            with dialling:
                yield dialling if _prepared(dialling, origin) else None
        finally:
            self._under_way -= 1


def _prepared(dialling: socket.socket, origin: Endpoint) -> bool:
    """Bind beside the listener that may hold the same port, and see to it that closing leaves no TIME-WAIT."""
    try:
        dialling.setblocking(False)
        dialling.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if origin.port:
            dialling.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            dialling.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if _LINUX and origin.version == 4:
            dialling.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        elif _LINUX:
            dialling.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        dialling.bind(origin.sockaddr)
    except OSError:
        return False
    return True


async def _outcome(dialling: socket.socket, target: Endpoint, patience: float, token: bytes) -> DialOutcome:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(patience):
            await loop.sock_connect(dialling, target.sockaddr)
    except TimeoutError:  # also the kernel's own ETIMEDOUT
        if not _connected(dialling):
            return DialOutcome.SILENT
    except OSError as failed:
        return _failure(dialling, target, failed)
    try:
        async with asyncio.timeout(ECHO_PATIENCE):
            return await _echoed(dialling, token)
    except OSError:  # TimeoutError is one
        return DialOutcome.CONNECTED


def _connected(dialling: socket.socket) -> bool:
    """Whether the connection stands although its time is up: a busy loop may see the end of the wait first."""
    try:
        dialling.getpeername()
    except OSError:
        return False
    return True


async def _echoed(dialling: socket.socket, token: bytes) -> DialOutcome:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(dialling, token)
    heard = b""
    while len(heard) < len(token) and (more := await loop.sock_recv(dialling, len(token) - len(heard))):
        heard += more
    return DialOutcome.ACCEPTED if heard == token else DialOutcome.CONNECTED


def _failure(dialling: socket.socket, target: Endpoint, failed: OSError) -> DialOutcome:
    """Return what a connection failed by; what this host itself keeps back says nothing of the client's filter."""
    sender = _icmp_sender(dialling)
    if sender is not None:
        here = sender == dialling.getsockname()[0] != str(target.address)
        return DialOutcome.NOT_DIALLED if here else DialOutcome.UNREACHABLE
    if failed.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
        return DialOutcome.REFUSED
    if failed.errno in _UNREACHABLE and not _LINUX:
        return DialOutcome.UNREACHABLE
    return DialOutcome.NOT_DIALLED


def _icmp_sender(dialling: socket.socket) -> str | None:
    """Return whose ICMP error ended a connection; None where none did: a port unreachable reads like an RST."""
    if not _LINUX:
        return None
    try:
        _, ancillary, _, _ = dialling.recvmsg(0, 512, socket.MSG_ERRQUEUE)
    except OSError:
        return None
    for _, _, data in ancillary:
        if len(data) >= _EXTENDED_ERROR.size and _EXTENDED_ERROR.unpack_from(data)[1] in _FROM_ICMP:
            return _address(data[_EXTENDED_ERROR.size :])
    return None


def _address(sockaddr: bytes) -> str:
    """Return the address of a struct sockaddr; "" for one of another family."""
    family = int.from_bytes(sockaddr[:2], sys.byteorder)
    where = {int(socket.AF_INET): slice(4, 8), int(socket.AF_INET6): slice(8, 24)}.get(family)
    return socket.inet_ntop(family, sockaddr[where]) if where else ""
