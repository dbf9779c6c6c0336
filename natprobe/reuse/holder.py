"""The connections themselves: opened one beside the other from one local port, kept, asked again, and let go.

A held connection is a socket and a small object: nobody watches it, for a connection that ends is noticed when it is
asked again, which is the proof. A few workers at a time open and ask.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Self, TypeVar

from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.extensions import Extension, filler_attribute, group_attribute, read_group_size
from natprobe.reuse.facts import CLOSED, NO_STUN, SILENCE, Failure, Method, Opened, Stage
from natprobe.reuse.methods import bind
from natprobe.socket_setup import family, finish_connecting, start_connecting
from natprobe.stun import HEADER_SIZE, Message, decode, message_length, request

T = TypeVar("T")

IN_FLIGHT = 64
"""Connections that are being opened, or asked, at the same time."""
PATIENCE = 4.0
"""Seconds for a connection to stand: time for the SYN to be repeated twice."""
ANSWER_PATIENCE = 10.0
"""Seconds for an answer: a server with thousands of connections may have others to see to."""
GIVE_UP = 16
"""Failures without a success between them after which no more are tried."""
_RESET = struct.pack("ii", 1, 0)
_ROOM = 108  # in a request, for all that its reply may hold


class _Failed(Exception):
    """A connection that came no farther than ``stage``."""

    def __init__(self, stage: Stage, error: str) -> None:
        super().__init__(stage, error)
        self.stage, self.error = stage, error


class _NoMore(Exception):
    """So many in a row have failed that those under way, and all others, would fare no better."""


class _Held:
    """A connection that is open."""

    __slots__ = ("mapped", "remote", "sock")

    def __init__(self, sock: socket.socket, remote: Endpoint, mapped: Endpoint | None) -> None:
        self.sock, self.remote, self.mapped = sock, remote, mapped


class Holder:
    """Connections from ``local``, at most ``pace`` of them begun in a second: a context manager that resets them all.

    ``opened`` and ``failures`` tell what happened so far, ``alive`` what the last proof has shown.
    """

    def __init__(self, local: Endpoint, method: Method, pace: float) -> None:
        self.local = local
        self.method = method
        self.opened: list[Opened] = []
        self.alive = 0
        self._pace = pace
        self._held: list[_Held] = []
        self._failures: dict[tuple[Stage, str], Failure] = {}
        self._in_a_row = 0
        self._ended = False
        self._group = group_attribute(os.urandom(16))
        self._counts: dict[bytes, int] = {}
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for held in self._held:
            _reset(held.sock)
        self._held.clear()

    @property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(self._failures.values())

    @property
    def counted(self) -> int | None:
        """How many connections the reflectors last counted alive at once, all of them together; None without one."""
        return sum(self._counts.values()) if self._counts else None

    @property
    def mappings(self) -> Iterator[tuple[Endpoint, Endpoint]]:
        """Where each held connection leads, and how it is seen from there."""
        return ((held.remote, held.mapped) for held in self._held if held.mapped)

    async def open(self, remotes: Iterable[Endpoint], on_progress: Callable[[int], None]) -> None:
        """Open a connection to each, until this host refuses one, or the network so many that it will refuse all."""

        async def open_one(remote: Endpoint) -> None:
            try:
                await self._open(remote)
                self._in_a_row = 0
            except _Failed as failed:
                self._note(failed, remote)
                self._ended |= failed.stage.final
                self._in_a_row += 1
                if self._in_a_row >= GIVE_UP:
                    raise _NoMore from None
            on_progress(len(self._held))

        try:
            await self._work(open_one, (remote for remote in remotes if not self._ended))
        except* _NoMore:
            pass

    async def prove(self, on_progress: Callable[[int], None]) -> None:
        """Ask on every connection once more, now that all are open, and count the answers."""
        self.alive = 0
        self._counts.clear()

        async def ask_again(held: _Held) -> None:
            try:
                await self._ask(held.sock, Stage.PROOF)
                self.alive += 1
            except _Failed as failed:
                self._note(failed, held.remote)
            on_progress(self.alive)

        await self._work(ask_again, self._held)

    async def _work(self, do: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
        todo, due = iter(items), self._loop.time()

        async def worker() -> None:
            nonlocal due
            for item in todo:
                due = max(due, self._loop.time() - 0.1) + 1 / self._pace
                if (wait := due - self._loop.time()) > 0:
                    await asyncio.sleep(wait)
                await do(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(worker())

    async def _open(self, remote: Endpoint) -> None:
        stage = Stage.SOCKET
        try:
            sock = socket.socket(family(remote.version), socket.SOCK_STREAM)
        except OSError as wrong:
            raise _Failed(stage, _name(wrong)) from None
        try:
            sock.setblocking(False)
            began = time.perf_counter()
            stage = Stage.BIND
            bind(sock, self.local, self.method)
            bound = time.perf_counter()
            stage = Stage.CONNECT
            start_connecting(sock, remote)
            called = time.perf_counter()
            await self._connected(sock)
            stands = time.perf_counter()
            reply = await self._ask(sock, Stage.EXCHANGE)
        except BaseException as failed:
            _reset(sock)
            if isinstance(failed, OSError):
                raise _Failed(stage, _name(failed)) from None
            raise
        self.opened.append(Opened(remote, bound - began, called - bound, stands - called))
        self._held.append(_Held(sock, remote, reply.mapped))

    async def _connected(self, sock: socket.socket) -> None:
        async with _in_time(PATIENCE, Stage.HANDSHAKE):
            code = await finish_connecting(sock)
        if code:
            raise _Failed(Stage.HANDSHAKE, _code(code))

    async def _ask(self, sock: socket.socket, stage: Stage) -> Message:
        """Return the reply to a question on a connection."""
        asked = request(self._group, filler_attribute(_ROOM))
        try:
            async with _in_time(ANSWER_PATIENCE, stage):
                await self._loop.sock_sendall(sock, asked.encode())
                while (reply := await self._hear(sock)).transaction_id != asked.transaction_id:
                    pass
        except MalformedMessage:
            raise _Failed(stage, NO_STUN) from None
        except EOFError:
            raise _Failed(stage, CLOSED) from None
        except OSError as wrong:
            raise _Failed(stage, _name(wrong)) from None
        self._count(reply)
        return reply

    async def _hear(self, sock: socket.socket) -> Message:
        """Return the next message of a connection. Raises MalformedMessage, or EOFError once it has ended."""
        data, wanted = b"", HEADER_SIZE
        while len(data) < wanted:
            more = await self._loop.sock_recv(sock, wanted - len(data))
            if not more:
                raise EOFError
            data += more
            if len(data) == HEADER_SIZE:
                wanted = message_length(data[:4])
        return decode(data)

    def _count(self, reply: Message) -> None:
        group, instance = reply.value(Extension.GROUP), reply.value(Extension.INSTANCE)
        if group and instance and len(group) == 4:
            self._counts[instance] = max(read_group_size(group), self._counts.get(instance, 0))

    def _note(self, failed: _Failed, remote: Endpoint) -> None:
        key = failed.stage, failed.error
        first = self._failures.get(key)
        count, held = (first.count, first.held) if first else (0, len(self._held))
        self._failures[key] = Failure(*key, count + 1, held, first.remote if first else remote)


@asynccontextmanager
async def _in_time(seconds: float, stage: Stage) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:  # also the kernel's own ETIMEDOUT
        raise _Failed(stage, SILENCE) from None


def _reset(sock: socket.socket) -> None:
    """Close with an RST: what TIME-WAIT held back could not be connected to again from the same port."""
    with suppress(OSError):  # then it ends by a FIN
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def _name(wrong: OSError) -> str:
    return _code(wrong.errno or 0)


def _code(code: int) -> str:
    return errno.errorcode.get(code, os.strerror(code))
