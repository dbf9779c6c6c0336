"""A reflector on a host of the in-memory internet: the very rules, budgets and streams, on another kind of socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from natprobe.endpoint import Endpoint
from natprobe.extensions import TOKEN_MARK, Dial, DialOutcome, DialPlan, DialResult, Source
from natprobe.lab.host import Host
from natprobe.lab.packet import Packet
from natprobe.lab.tcp import Connection as Tcp
from natprobe.lab.tcp import Failure
from natprobe.reflector.budget import Budget
from natprobe.reflector.dialer import ECHO_PATIENCE, Dialer
from natprobe.reflector.layout import Layout
from natprobe.reflector.rules import Outgoing, Rules
from natprobe.reflector.server import MAX_CONNECTIONS, PORTS
from natprobe.reflector.stream import Connection, Streams

_TTL_AND_TOS = 64, 0
_SETTLED = (DialOutcome.ACCEPTED, DialOutcome.REFUSED, DialOutcome.UNREACHABLE)


Says = Callable[[bytes], bytes]
"""What a reflector says in place of a message."""


def truthfully(message: bytes) -> bytes:
    return message


class Mirror:
    """A reflector that serves from all addresses of a host, until the loop ends; the first one is the primary.

    One that misreports is given ``says``.
    """

    def __init__(
        self,
        host: Host,
        ports: Sequence[int] = PORTS,
        *,
        compat: bool = False,
        overlap: bool = False,
        says: Says = truthfully,
    ) -> None:
        quiet = [host.bind(Endpoint(address, 0), lambda _: None).port for address in host.addresses]
        self.layout = Layout(tuple(host.addresses), tuple(ports), tuple(quiet))
        key, instance = host.rng.randbytes(32), host.rng.randbytes(8)
        self.rules = Rules(self.layout, key=key, instance=instance, compat=compat)
        self._host = host
        self._says = says
        self._loop = asyncio.get_running_loop()
        self._budget = Budget(key)
        dialer = MemoryDialer(host)
        clock = self._loop.time
        self._streams = Streams(self.rules, self._budget, clock, MAX_CONNECTIONS, dialer=dialer, overlap=overlap)
        for local in self.layout.listening:
            host.bind(local, self._answer)
            host.tcp.listeners[local] = self._admit

    def _answer(self, packet: Packet) -> None:
        if packet.error:
            return
        now = self._loop.time()
        replies = self.rules.answer(packet.payload, packet.source, packet.destination, now, _TTL_AND_TOS)
        if not self._budget.allows(replies, len(packet.payload), now):
            return
        for reply in replies:
            if reply.delay > 0:
                self._loop.call_later(reply.delay, self._send, reply)
            else:
                self._send(reply)

    def _send(self, reply: Outgoing) -> None:
        self._host.send(self._says(reply.data), reply.source, reply.target)

    def _admit(self, connection: Tcp) -> _Transport:
        return _Transport(connection, Connection(self._streams, connection.local), self._says)


class _Transport(asyncio.Transport):
    """What asyncio puts between a socket and a protocol, on a connection in memory."""

    def __init__(self, connection: Tcp, protocol: Connection, says: Says) -> None:
        super().__init__()
        self._connection = connection
        self._protocol = protocol
        self._says = says
        self._lost = False

    # --- what the protocol asks of it ---------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        remote = self._connection.remote
        return {"peername": remote.sockaddr, "socket": self}.get(name, default)

    def setsockopt(self, *_: object) -> None:
        """Do nothing: an abort is an RST here in any case."""

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._connection.send(self._says(bytes(data)))

    def abort(self) -> None:
        self._connection.abort()
        self._lose()

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            self._protocol.connection_lost(None)

    # --- what the connection tells it ---------------------------------------------------------------------------------

    def opened(self) -> None:
        self._protocol.connection_made(self)

    def received(self, data: bytes) -> None:
        self._protocol.get_buffer(-1)[: len(data)] = data
        self._protocol.buffer_updated(len(data))

    def ended(self, failure: Failure | None) -> None:
        if failure is None:
            self._connection.close()
        self._lose()


class MemoryDialer(Dialer):
    """Dials from a host in memory, by callbacks: a task for each of forty attempts would cost more than all else."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host

    async def dial(
        self, plan: DialPlan, origins: dict[Source, Endpoint], target: Endpoint, transaction_id: bytes
    ) -> tuple[DialResult, ...]:
        """Carry out a plan as the Dialer of sockets does."""
        call = _Call(self._host, target, plan, transaction_id + TOKEN_MARK)
        series = [_Series(call, dial, origins.get(dial.source)) for dial in plan.dials]
        try:
            return tuple([await one.done for one in series])
        finally:
            for one in series:
                one.stop()


@dataclass(frozen=True, slots=True)
class _Call:
    """What all attempts of a plan have in common."""

    host: Host
    target: Endpoint
    plan: DialPlan
    token: bytes


class _Series:
    """The attempts from one source: spaced, or in turn where they share a port; over once one shows the fate of all."""

    def __init__(self, call: _Call, dial: Dial, origin: Endpoint | None) -> None:
        self.call = call
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[DialResult] = self.loop.create_future()
        self._dial = dial
        self._origin = origin
        self._in_turn = origin is not None and origin.port != 0
        self._made = 0
        self._outcomes = [DialOutcome.NOT_DIALLED]
        self._live: list[_Attempt] = []
        spacing = call.plan.spacing
        self._timers = [self.loop.call_later(number * spacing, self._begin) for number in range(self._first_wave())]
        if origin is None:
            self._finish()

    def _first_wave(self) -> int:
        return 0 if self._origin is None else 1 if self._in_turn else self._dial.attempts

    def _begin(self) -> None:
        assert self._origin is not None
        self._made += 1
        attempt = _Attempt(self)
        self._live.append(attempt)
        attempt.begin(self._origin)

    def note(self, outcome: DialOutcome) -> None:
        """Take note of how an attempt ended."""
        self._outcomes.append(outcome)
        if outcome in _SETTLED or len(self._outcomes) > self._dial.attempts:
            self._finish()
        elif self._in_turn:
            self._begin()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(DialResult(self._dial.source, min(self._outcomes), self._made))
        self.stop()

    def stop(self) -> None:
        """Break off what is under way."""
        for timer in self._timers:
            timer.cancel()
        for attempt in self._live:
            attempt.drop()


@dataclass(slots=True)
class _Attempt:
    """One connect-back: connected in time, and the token returned by the client itself?"""

    series: _Series
    over: bool = False
    _heard: bytes = b""
    _connection: Tcp | None = None
    _timer: asyncio.TimerHandle = field(init=False)

    def begin(self, origin: Endpoint) -> None:
        """Dial; how it ends is told to the series."""
        call = self.series.call
        self._timer = self.series.loop.call_later(call.plan.patience, self._end, DialOutcome.SILENT)
        try:
            self._connection = call.host.tcp.dial(call.host.tcp_endpoint(origin), call.target, self)
        except ValueError:
            self._end(DialOutcome.NOT_DIALLED)

    def opened(self) -> None:
        self._timer.cancel()
        self._timer = self.series.loop.call_later(ECHO_PATIENCE, self._end, DialOutcome.CONNECTED)
        assert self._connection is not None
        self._connection.send(self.series.call.token)

    def received(self, data: bytes) -> None:
        self._heard += data
        if len(self._heard) >= len(self.series.call.token):
            self._end(DialOutcome.ACCEPTED if self._heard == self.series.call.token else DialOutcome.CONNECTED)

    def ended(self, failure: Failure | None) -> None:
        if failure is None or failure.reason == "connection reset by peer":
            self._end(DialOutcome.CONNECTED)
        elif failure.by_icmp:
            self._end(DialOutcome.UNREACHABLE)
        else:
            self._end(DialOutcome.REFUSED)

    def _end(self, outcome: DialOutcome) -> None:
        if not self.over:
            self.drop()
            self.series.note(outcome)

    def drop(self) -> None:
        """Leave no trace, as closing with a linger of no time does."""
        if not self.over:
            self.over = True
            self._timer.cancel()
            if self._connection is not None:
                self._connection.abort()
