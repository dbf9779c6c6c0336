"""The reflector's TCP side: connections, the messages on them, and how long one may stay.

Connections are all that the reflector remembers of its clients, and only while they live.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from natprobe import stun
from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.reflector.budget import Budget, prefix_of
from natprobe.reflector.dialer import Dialer
from natprobe.reflector.rules import Rules, StreamAnswer

MESSAGE_PATIENCE = 5.0
"""Seconds that a new connection has for its first message, and any other for one that has begun."""
IDLE_PATIENCE = 60.0
_BUFFER = bytearray(stun.MAX_SIZE)  # one for all: a connection takes what arrived before another one can be served
_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Streams:
    """All TCP connections of a reflector, at most ``most`` of them, and a quarter of that from one prefix."""

    rules: Rules
    budget: Budget
    clock: Callable[[], float]
    most: int
    message_patience: float = MESSAGE_PATIENCE
    idle_patience: float = IDLE_PATIENCE
    dialer: Dialer = field(default_factory=Dialer)
    groups: Counter[bytes] = field(default_factory=Counter)
    _live: set[Connection] = field(default_factory=set)
    _by_prefix: Counter[bytes] = field(default_factory=Counter)
    _dials: set[asyncio.Task[None]] = field(default_factory=set)
    _empty: asyncio.Event = field(default_factory=asyncio.Event)

    def admit(self, connection: Connection) -> bool:
        """Count a connection in and return True; False where there is no room for one more."""
        prefix = prefix_of(connection.source.address)
        if len(self._live) >= self.most or self._by_prefix[prefix] >= max(1, self.most // 4):
            return False
        self._live.add(connection)
        self._by_prefix[prefix] += 1
        return True

    def dismiss(self, connection: Connection) -> None:
        """Count out a connection that was admitted; any other is not counted, and may be given as well."""
        if connection in self._live:
            self._live.remove(connection)
            _uncount(self._by_prefix, prefix_of(connection.source.address))
        if not self._live:
            self._empty.set()

    def dial_for(self, connection: Connection, answer: StreamAnswer) -> asyncio.Task[None]:
        """Begin the dials of an answer, which is sent when all are done."""
        task = asyncio.get_running_loop().create_task(self._dial(connection, answer))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return task

    async def _dial(self, connection: Connection, answer: StreamAnswer) -> None:
        assert answer.plan is not None
        origins = self.rules.layout.dialled_from(connection.local)
        results = await self.dialer.dial(answer.plan, origins, connection.source, answer.transaction_id)
        connection.send(answer.encode(connection.members, results))

    async def close(self) -> None:
        """Reset every connection, break off every dial, and wait until they are gone."""
        self.most = 0  # for those that the loop has accepted and not yet told of
        for connection in tuple(self._live):
            connection.abort()
        for dial in tuple(self._dials):
            dial.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        self._empty.clear()
        if self._live:
            await self._empty.wait()


class Connection(asyncio.BufferedProtocol):
    """One TCP connection: parts the stream into messages, answers each, and ends what is no STUN or takes too long."""

    def __init__(self, streams: Streams, local: Endpoint) -> None:
        self.local = local
        self.source = local  # until connection_made
        self._streams = streams
        self._received = b""
        self._group: bytes | None = None
        self._dial: asyncio.Task[None] | None = None

    @property
    def members(self) -> int:
        """How many live connections carry the tag of this one."""
        return self._streams.groups[self._group] if self._group is not None else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = self._call_later(self._streams.message_patience)
        peer = transport.get_extra_info("peername")
        if peer is None:  # gone already
            self.abort()
            return
        self.source = Endpoint.of(peer[0], peer[1])
        if not self._streams.admit(self):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self._timer.cancel()
        self._streams.dismiss(self)
        self._join(None)
        if self._dial is not None:
            self._dial.cancel()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 (asyncio's signature)
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self._received += _BUFFER[:nbytes]
        try:
            while len(self._received) >= 4:
                length = stun.message_length(self._received[:4])
                if len(self._received) < length:
                    break
                message, self._received = self._received[:length], self._received[length:]
                self._take(message)
        except MalformedMessage:
            self.abort()

    def pause_writing(self) -> None:
        # Who does not read its replies is not asked for more requests; the timer ends what lasts.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def send(self, data: bytes | None) -> None:
        if data is not None and self._streams.budget.allows_stream(len(data), self._streams.clock()):
            self._transport.write(data)

    def abort(self) -> None:
        """End the connection with an RST, which leaves no TIME-WAIT here to keep the port busy."""
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _take(self, message: bytes) -> None:
        answer = self._streams.rules.answer_stream(message, self.source, self.local, self._streams.clock())
        if answer is None:
            return
        self._timer.cancel()
        self._timer = self._call_later(self._streams.idle_patience)
        if answer.group is not None:
            self._join(answer.group)
        if answer.plan is not None and self._may_dial(answer):
            self._dial = self._streams.dial_for(self, answer)
        else:
            self.send(answer.encode(self.members, answer.undialled()))

    def _may_dial(self, answer: StreamAnswer) -> bool:
        attempts = sum(dial.attempts for dial in answer.plan.dials) if answer.plan else 0
        idle = self._dial is None or self._dial.done()
        return idle and self._streams.budget.allows_dials(self.source.address, attempts, self._streams.clock())

    def _join(self, group: bytes | None) -> None:
        if self._group is not None:
            _uncount(self._streams.groups, self._group)
        if group is not None:
            self._streams.groups[group] += 1
        self._group = group

    def _call_later(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self.abort)


def _uncount(counter: Counter[bytes], key: bytes) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
