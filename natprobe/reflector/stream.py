"""The reflector's TCP side: connections, the messages on them, and how long one may stay.

Connections are all that the reflector remembers of its clients, and only while they live.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from natprobe import stun
from natprobe.endpoint import Address, Endpoint
from natprobe.errors import MalformedMessage
from natprobe.extensions import UdpService
from natprobe.reflector.budget import Budget, prefix_of
from natprobe.reflector.dialer import Dialer
from natprobe.reflector.rules import Rules, StreamAnswer

MESSAGE_PATIENCE = 5.0
"""Seconds that a new connection has for its first message, and any other for one that has begun."""
IDLE_PATIENCE = 60.0
HELD_PATIENCE = 600.0
"""Seconds that a connection to a destination port may be idle: its client opens a great many before it asks again."""
_BUFFER = bytearray(stun.MAX_SIZE)  # one for all: a connection takes what arrived before another one can be served
_RESET = struct.pack("ii", 1, 0)


class Patience:
    """Ends the connections that have waited so many ``seconds``.

    All wait equally long: the one that has been put in first is due first, and one timer is enough for all.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._since: OrderedDict[Connection, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, connection: Connection) -> None:
        """Have a connection wait from now on, whether it did already or not."""
        self._since[connection] = self._clock()
        self._since.move_to_end(connection)
        if self._timer is None:
            self._wait(self.seconds)

    def stop(self, connection: Connection) -> None:
        """Have a connection wait no longer."""
        self._since.pop(connection, None)
        if not self._since and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end_those_due)

    def _end_those_due(self) -> None:
        now = self._clock()
        self._timer = None
        while self._since:
            connection, since = next(iter(self._since.items()))
            if since + self.seconds > now:
                self._wait(since + self.seconds - now)
                return
            self.stop(connection)
            connection.abort()


@dataclass(slots=True)
class Pool:
    """Room for ``most`` connections, of which one prefix may have one of ``shares`` parts; all may ``idle`` so long."""

    most: int
    shares: int
    idle: Patience
    live: set[Connection] = field(default_factory=set)
    _by_prefix: Counter[bytes] = field(default_factory=Counter)

    def admit(self, connection: Connection) -> bool:
        """Count a connection in and return True; False where there is no room for one more."""
        prefix = prefix_of(connection.source.address)
        if len(self.live) >= self.most or self._by_prefix[prefix] >= max(1, self.most // self.shares):
            return False
        self.live.add(connection)
        self._by_prefix[prefix] += 1
        return True

    def dismiss(self, connection: Connection) -> None:
        """Count out a connection that was admitted; any other is not counted, and may be given as well."""
        self.idle.stop(connection)
        if connection in self.live:
            self.live.remove(connection)
            _uncount(self._by_prefix, prefix_of(connection.source.address))


@dataclass(slots=True)
class Streams:
    """All TCP connections of a reflector.

    At most ``most`` of them at the ports for tests, a quarter of that from one prefix; and ``held``, which may all be
    one client's, at the destination ports: who fills these is in nobody's way but there.
    """

    rules: Rules
    budget: Budget
    clock: Callable[[], float]
    most: int
    held: int = 0
    dialer: Dialer = field(default_factory=Dialer)
    overlap: bool = False
    """Whether clients are told that another client has the same external endpoint."""
    udp_works: Callable[[], bool] = lambda: True
    groups: defaultdict[bytes, set[Connection]] = field(default_factory=lambda: defaultdict(set))
    sources: defaultdict[Endpoint, set[Connection]] = field(default_factory=lambda: defaultdict(set))
    """The connections from each external endpoint, where overlaps are told."""
    first: Patience = field(init=False)
    """For the first message of a connection."""
    tests: Pool = field(init=False)
    destinations: Pool = field(init=False)
    _dials: set[asyncio.Task[None]] = field(default_factory=set)
    _empty: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.first = Patience(MESSAGE_PATIENCE, self.clock)
        self.tests = Pool(self.most, 4, Patience(IDLE_PATIENCE, self.clock))
        self.destinations = Pool(self.held, 1, Patience(HELD_PATIENCE, self.clock))

    def pool(self, local: Endpoint) -> Pool:
        """Return where the connections to one of the reflector's ports belong."""
        return self.destinations if local.port in self.rules.layout.destinations else self.tests

    def dismiss(self, connection: Connection) -> None:
        """Forget a connection."""
        self.first.stop(connection)
        connection.pool.dismiss(connection)
        if not (self.tests.live or self.destinations.live):
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

    def udp_service(self, client: Address) -> UdpService:
        """Return what becomes of a client's datagrams."""
        if not self.udp_works():
            return UdpService.DEAF
        return UdpService.EXHAUSTED if self.budget.is_spent(client, self.clock()) else UdpService.SERVES

    async def close(self) -> None:
        """Reset every connection, break off every dial, and wait until they are gone."""
        for pool in (self.tests, self.destinations):
            pool.most = 0  # for those that the loop has accepted and not yet told of
            for connection in tuple(pool.live):
                connection.abort()
        for dial in tuple(self._dials):
            dial.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        self._empty.clear()
        if self.tests.live or self.destinations.live:
            await self._empty.wait()


class Connection(asyncio.BufferedProtocol):
    """One TCP connection: parts the stream into messages, answers each, and ends what is no STUN or takes too long."""

    __slots__ = ("_dial", "_received", "_streams", "_transport", "group", "local", "pool", "source")

    def __init__(self, streams: Streams, local: Endpoint) -> None:
        self.local = local
        self.source = local  # until connection_made
        self.pool = streams.pool(local)
        self._streams = streams
        self._received = b""
        self.group: bytes | None = None
        self._dial: asyncio.Task[None] | None = None

    @property
    def members(self) -> int:
        """How many live connections carry the tag of this one."""
        return len(self._streams.groups[self.group]) if self.group is not None else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._streams.first.start(self)
        peer = transport.get_extra_info("peername")
        if peer is None:  # gone already
            self.abort()
            return
        self.source = Endpoint.of(peer[0], peer[1])
        if not self.pool.admit(self):
            self.abort()
        elif self._streams.overlap:
            self._streams.sources[self.source].add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self._streams.dismiss(self)
        self._join(None)
        if self._streams.overlap:
            _discard(self._streams.sources, self.source, self)
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

    def send(self, data: bytes | None) -> None:
        if data is not None and self._streams.budget.allows_stream(len(data), self._streams.clock()):
            self._transport.write(data)

    def abort(self) -> None:
        """End the connection with an RST, which leaves no TIME-WAIT here to keep the port busy."""
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _take(self, message: bytes) -> None:
        udp = self._streams.udp_service(self.source.address)
        answer = self._streams.rules.answer_stream(message, self.source, self.local, self._streams.clock(), udp)
        if answer is None:
            return
        self._streams.first.stop(self)
        self.pool.idle.start(self)
        if answer.group is not None:
            self._join(answer.group)
        if answer.plan is not None and self._may_dial(answer):
            self._dial = self._streams.dial_for(self, answer)
        else:
            elsewhere = self._elsewhere() if answer.overlap else None
            self.send(answer.encode(self.members, answer.undialled(), elsewhere))
        if answer.memo is not None:
            self._pass_on(answer.memo)

    def _elsewhere(self) -> Endpoint | None:
        """Return where another client is connected from this very external endpoint, at this moment."""
        others = self._streams.sources.get(self.source, ())
        return next((other.local for other in others if other.group and other.group != self.group), None)

    def _pass_on(self, memo: bytes) -> None:
        """Give a memo to the one other connection of the group from this address; more than a pair is no meeting.

        If that one does not read what it was given before, the memo is lost: nothing is kept for it here.
        """
        group = self._streams.groups[self.group] if self.group is not None else set()
        others = [other for other in group if other is not self and other.source.address == self.source.address]
        if len(others) == 1:
            others[0].receive(memo)

    def receive(self, memo: bytes) -> None:
        """Send a memo of somebody else's, if all before it has been sent."""
        if not self._transport.get_write_buffer_size():
            self.send(memo)

    def _may_dial(self, answer: StreamAnswer) -> bool:
        attempts = sum(dial.attempts for dial in answer.plan.dials) if answer.plan else 0
        idle = self._dial is None or self._dial.done()
        return idle and self._streams.budget.allows_dials(self.source.address, attempts, self._streams.clock())

    def _join(self, group: bytes | None) -> None:
        if self.group is not None:
            _discard(self._streams.groups, self.group, self)
        if group is not None:
            self._streams.groups[group].add(self)
        self.group = group


K = TypeVar("K")


def _discard(sets: dict[K, set[Connection]], key: K, connection: Connection) -> None:
    sets[key].discard(connection)
    if not sets[key]:
        del sets[key]


def _uncount(counter: Counter[bytes], key: bytes) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
