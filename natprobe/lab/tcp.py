"""TCP as far as a probe can see it (RFC 9293): handshake, simultaneous open, resets, ends, and what a loss costs.

One host's side of it, on the running loop. Times are those of Linux: a SYN is repeated after 1, 2, 4 s, data after the
round trip and at least 200 ms more (RFC 6298). Windows and congestion are left out: what is sent are a few hundred
bytes.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from natprobe.behaviour import Protocol as Transport
from natprobe.endpoint import Endpoint
from natprobe.lab.packet import Flags, Icmp, Packet, Unreachable, reset

_SYN_TRIES = 7  # tcp_syn_retries: 127 s in all
_DATA_TRIES = 15  # tcp_retries2
_FIRST_TIMEOUT = 1.0
_LEAST_TIMEOUT = 0.2
_MOST_TIMEOUT = 120.0
_ASKED_ANEW = 0.008
"""How soon Linux repeats a SYN after it has reset what was left there of an earlier attempt."""
_SEGMENT = 1448

_ABORTS = {  # what connect() says to each, for every one ends an attempt at once
    Unreachable.NETWORK: "network is unreachable",
    Unreachable.HOST: "no route to host",
    Unreachable.PORT: "connection refused",
    Unreachable.PROHIBITED: "no route to host",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a connection did not come about, or broke; ``by_icmp`` tells an ICMP error from a reset."""

    reason: str
    by_icmp: bool = False


class User(Protocol):
    """Whoever uses a connection."""

    def opened(self) -> None: ...

    def received(self, data: bytes) -> None: ...

    def ended(self, failure: Failure | None) -> None:
        """Nothing more will come: the other side has finished (None), or all is over."""


class _State(Enum):
    SYN_SENT = 1
    SYN_RECEIVED = 2
    OPEN = 3
    TIME_WAIT = 4
    GONE = 5


Pair = tuple[Endpoint, Endpoint]


class Tcp:
    """The TCP of one host: connections by their pair of endpoints, listeners by their local one."""

    def __init__(self, send: Callable[[Packet], None], rng: random.Random) -> None:
        self.send = send
        self.rng = rng
        self.loop = asyncio.get_running_loop()
        self.connections: dict[Pair, Connection] = {}
        self.listeners: dict[Endpoint, Callable[[Connection], User]] = {}

    def dial(self, local: Endpoint, remote: Endpoint, user: User) -> Connection:
        """Begin to connect. Raises ValueError where there is such a connection already.

        One in TIME-WAIT is taken over at once, as Linux does where timestamps tell the two apart (RFC 6191).
        """
        old = self.connections.get((local, remote))
        if old is not None and not old.waiting:
            raise ValueError(f"{local} is connected to {remote} already")
        connection = Connection(self, local, remote)
        connection.user = user
        connection.begin(Flags.SYN)
        return connection

    def arrive(self, packet: Packet) -> None:
        """Take a segment, or an ICMP error about one of this host's."""
        if packet.error:
            self._take_error(packet.error)
            return
        connection = self.connections.get((packet.destination, packet.source))
        if connection is not None and not (connection.waiting and packet.flags is Flags.SYN):
            connection.arrive(packet)
        elif packet.flags is Flags.SYN and packet.destination in self.listeners:
            self._admit(packet)
        elif packet.flags is not Flags.RST:
            self.send(reset(packet))

    def _admit(self, packet: Packet) -> None:
        connection = Connection(self, packet.destination, packet.source)
        connection.accepted_by = self.listeners[packet.destination]
        connection.rcv = packet.end
        connection.begin(Flags.SYN_ACK)

    def _take_error(self, error: Icmp) -> None:
        connection = self.connections.get((error.about.source, error.about.destination))
        if connection is not None:
            connection.refused(error.reason)


class Connection:
    """One end of a connection. Its user is told, at once and in order, of all that comes."""

    def __init__(self, tcp: Tcp, local: Endpoint, remote: Endpoint) -> None:
        self.local = local
        self.remote = remote
        self.user: User | None = None
        self.accepted_by: Callable[[Connection], User] | None = None
        self.rcv = 0
        self._tcp = tcp
        self._first = self._next = tcp.rng.getrandbits(31)
        self._unacked: deque[Packet] = deque()
        self._early: dict[int, Packet] = {}  # what came before its turn
        self._state = _State.SYN_SENT
        self._timer: asyncio.TimerHandle | None = None
        self._tries = 0
        self._timeout = _FIRST_TIMEOUT
        self._asked_at = 0.0
        self._finished = self._heard_all = False

    @property
    def opening(self) -> bool:
        return self._state in (_State.SYN_SENT, _State.SYN_RECEIVED)

    @property
    def waiting(self) -> bool:
        """Whether only the memory of it is left (RFC 9293 §3.3.2, TIME-WAIT)."""
        return self._state is _State.TIME_WAIT

    # --- what the user does -------------------------------------------------------------------------------------------

    def begin(self, flags: Flags) -> None:
        """Send the SYN, or the answer to one."""
        self._state = _State.SYN_SENT if flags is Flags.SYN else _State.SYN_RECEIVED
        self._tcp.connections[self.local, self.remote] = self
        self._asked_at = self._tcp.loop.time()
        self._queue(flags)

    def send(self, data: bytes) -> None:
        """Send all of ``data``; nothing once the connection is gone or was closed."""
        if self._state is _State.OPEN and not self._finished:
            for start in range(0, len(data), _SEGMENT):
                self._queue(Flags.ACK, data[start : start + _SEGMENT])

    def close(self) -> None:
        """End the connection by a FIN behind all that was sent; an attempt is just forgotten. May be called twice."""
        if self.opening:
            self._vanish()
        elif self._state is _State.OPEN and not self._finished:
            self._finished = True
            self._queue(Flags.FIN)

    def abort(self) -> None:
        """End the connection by a RST. May be called twice."""
        if self._state in (_State.OPEN, _State.SYN_RECEIVED):
            self._tcp.send(Packet(Transport.TCP, self.local, self.remote, b"", Flags.RST, self._next, self.rcv))
        self._vanish()

    # --- what arrives -------------------------------------------------------------------------------------------------

    def arrive(self, packet: Packet) -> None:
        """Take a segment of this connection (RFC 9293 §3.10.7)."""
        if self._state is _State.SYN_SENT:
            self._arrive_first(packet)
        elif packet.flags is Flags.RST:
            if packet.seq == self.rcv:  # RFC 5961 §3.2
                self._break(Failure("connection reset by peer"))
        elif packet.flags is Flags.SYN:
            if self._state is _State.SYN_RECEIVED and packet.end == self.rcv:
                self._tcp.send(self._unacked[0])
            else:
                self._acknowledge()
        else:
            self._arrive_later(packet)

    def refused(self, why: Unreachable) -> None:
        """Take an ICMP error: it ends an attempt, and changes nothing afterwards (RFC 5461)."""
        if self._state is _State.SYN_SENT:
            self._break(Failure(_ABORTS[why], by_icmp=True))

    def _arrive_first(self, packet: Packet) -> None:
        if packet.flags is Flags.SYN:  # both ends have begun (§3.5, figure 7)
            self.rcv = packet.end
            self._state = _State.SYN_RECEIVED
            self._unacked.clear()
            self._next = self._first
            self._queue(Flags.SYN_ACK)
        elif packet.ack != self._next:  # an answer to an attempt that was given up
            if packet.flags is not Flags.RST:
                self._tcp.send(reset(packet))
                if not self._tries:
                    self._set_timer(_ASKED_ANEW)
        elif packet.flags is Flags.RST:
            self._break(Failure("connection refused"))
        elif packet.flags is Flags.SYN_ACK:
            self.rcv = packet.end
            self._take_ack(packet.ack)
            self._acknowledge()
            self._open()

    def _arrive_later(self, packet: Packet) -> None:
        if self._state is _State.SYN_RECEIVED and packet.ack != self._next:
            self._tcp.send(reset(packet))
            return
        self._take_ack(packet.ack)
        if self._state is _State.SYN_RECEIVED:
            self._open()
        if packet.flags is Flags.SYN_ACK:
            self._acknowledge()
        elif packet.end > packet.seq:
            self._take_data(packet)
        self._end_if_done()

    def _open(self) -> None:
        self._state = _State.OPEN
        if self.accepted_by is not None:
            self.user = self.accepted_by(self)
        if self.user is not None:
            self.user.opened()

    def _take_ack(self, ack: int) -> None:
        if not self._unacked or ack < self._unacked[0].end:
            return
        rtt = self._tcp.loop.time() - self._asked_at  # of the copy that was answered, as timestamps tell (RFC 7323 §4)
        self._timeout = rtt + max(_LEAST_TIMEOUT, 2 * rtt)
        while self._unacked and ack >= self._unacked[0].end:
            self._unacked.popleft()
        self._tries = 0
        self._set_timer()

    def _take_data(self, packet: Packet) -> None:
        if packet.seq >= self.rcv:
            self._early[packet.seq] = packet
        answered = self._next
        while (due := self._early.pop(self.rcv, None)) is not None:
            self.rcv = due.end
            if due.payload and self.user is not None:
                self.user.received(due.payload)
            if due.flags is Flags.FIN:
                self._heard_all = True
                if self.user is not None:
                    self.user.ended(None)
        if self._next == answered and self._state is not _State.GONE:
            self._acknowledge()  # whatever else was sent meanwhile has done so

    def _end_if_done(self) -> None:
        if self._finished and self._heard_all and not self._unacked and self._state is _State.OPEN:
            self._state = _State.TIME_WAIT

    # --- what is sent -------------------------------------------------------------------------------------------------

    def _queue(self, flags: Flags, payload: bytes = b"") -> None:
        packet = Packet(Transport.TCP, self.local, self.remote, payload, flags, self._next, self.rcv)
        self._next = packet.end
        self._unacked.append(packet)
        if len(self._unacked) == 1:
            self._asked_at = self._tcp.loop.time()
            self._set_timer()
        self._tcp.send(packet)

    def _acknowledge(self) -> None:
        self._tcp.send(Packet(Transport.TCP, self.local, self.remote, b"", Flags.ACK, self._next, self.rcv))

    def _set_timer(self, sooner: float = _MOST_TIMEOUT) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unacked:
            wait = min(self._timeout * 2**self._tries, sooner)
            self._timer = self._tcp.loop.call_later(wait, self._repeat)

    def _repeat(self) -> None:
        self._tries += 1
        if self._tries >= (_SYN_TRIES if self.opening else _DATA_TRIES):
            self._break(Failure("connection timed out"))
            return
        self._asked_at = self._tcp.loop.time()
        self._tcp.send(self._unacked[0]._replace(ack=self.rcv))
        self._set_timer()

    def _break(self, failure: Failure) -> None:
        self._vanish()
        if self.user is not None:
            self.user.ended(failure)

    def _vanish(self) -> None:
        self._state = _State.GONE
        self._unacked.clear()
        self._set_timer()
        if self._tcp.connections.get((self.local, self.remote)) is self:
            del self._tcp.connections[self.local, self.remote]
