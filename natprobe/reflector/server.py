"""The asyncio shell around the reflector's rules: sockets, the clock, and what leaves later.

A datagram costs one recvmsg, the rules, and one sendto for each reply: no transport is in between, for asyncio's reads
256 KiB at a time, which is most of what a small datagram would cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import secrets
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from natprobe import stun
from natprobe.descriptors import file_limit, raise_file_limit
from natprobe.endpoint import Address, Endpoint, parse_address
from natprobe.errors import AddressBusy, CannotRun
from natprobe.reflector.budget import Budget, Rates
from natprobe.reflector.layout import Layout
from natprobe.reflector.rules import Outgoing, Rules
from natprobe.reflector.self_test import SelfTest
from natprobe.reflector.stream import Connection, Streams
from natprobe.reflector.transport import Listener
from natprobe.system_errors import cannot_bind, cannot_open, unexpected

PORTS = (3478, 3479)  # RFC 8489 §18.6: stun, and the one above it
MAX_PENDING = 16_384
"""Delayed replies at once."""
MAX_CONNECTIONS = 4096
"""To the ports for tests. Destination ports have room of their own."""
MAX_HELD = 1 << 18
_DRAINED_AT_ONCE = 64
_RECEIVE_BUFFER = 4 << 20  # a datagram lost here looks to the client like one that a filter took
_LINUX = sys.platform == "linux"
_IP_RECVTTL = 12  # linux/in.h; the socket module has it from Python 3.14 on
_BACKLOG = 1024
_SPARE_DESCRIPTORS = 256


class Reflector:
    """A reflector on one, two or three addresses of this host, all of one family: ``async with Reflector(...)``.

    The first address is the primary one, the second the alternate, the third the quiet one. Entering binds everything
    or raises AddressBusy; leaving, or being cancelled, closes everything, connections and dials under way included.
    ``destinations`` are ports that only answer, over TCP, and hold as many connections as the limit of open files,
    which is raised as far as it goes, leaves room for. Raises ValueError for addresses or ports that make no reflector.
    """

    def __init__(
        self,
        addresses: Iterable[str | Address],
        ports: Sequence[int] = PORTS,
        compat: bool = False,
        *,
        destinations: range = range(0),
        overlap: bool = False,
        rates: Rates | None = None,
    ) -> None:
        parsed = tuple(parse_address(address) if isinstance(address, str) else address for address in addresses)
        self._layout = Layout(parsed, tuple(ports), (0,) * len(parsed), destinations)
        self._compat = compat
        self._overlap = overlap
        self._rates = rates or Rates()

    @property
    def site(self) -> Layout:
        """Where this reflector stands; its quiet ports are known once it is entered."""
        return self._layout

    @property
    def held(self) -> int:
        """How many connections the destination ports carry together at most; known once it is entered."""
        return self._streams.destinations.most

    def limits(self) -> list[str]:
        """Return, a sentence each, what clients cannot test with this reflector."""
        return self._layout.limits()

    async def __aenter__(self) -> Self:
        try:
            await self._open_all()
        except OSError as wrong:
            raise unexpected(wrong) from None
        return self

    async def _open_all(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            self._loop = asyncio.get_running_loop()
            self._sockets: dict[Endpoint, socket.socket] = {}
            self._delayed: set[asyncio.TimerHandle] = set()
            stack.callback(self._close_datagrams)
            self._bind_datagrams()
            key, instance = secrets.token_bytes(32), secrets.token_bytes(8)
            self._budget = Budget(secrets.token_bytes(32), self._rates)
            most, held = _most_connections(self._layout)
            self._rules = Rules(self._layout, key=key, instance=instance, compat=self._compat, held=held)
            self._streams = Streams(self._rules, self._budget, self._loop.time, most, held, overlap=self._overlap)
            stack.push_async_callback(self._streams.close)
            for local in itertools.chain(self._layout.listening, self._layout.reached()):
                stack.callback(self._listen(local).close)
            self._self_test = SelfTest(self._layout, lambda *datagram: self._send(Outgoing(*datagram)))
            stack.callback(self._self_test.close)
            self._streams.udp_works = lambda: self._self_test.works
            for local in self._layout.listening:
                self._loop.add_reader(self._sockets[local], self._drain, self._sockets[local], local)
            self._stack = stack.pop_all()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _bind_datagrams(self) -> None:
        for address, port in itertools.product(self._layout.addresses, self._layout.ports):
            self._open(Endpoint(address, port))
        quiet = [self._open(Endpoint(address, 0)).port for address in self._layout.addresses]
        self._layout = replace(self._layout, quiet_ports=tuple(quiet))

    def _open(self, wanted: Endpoint) -> Endpoint:
        sock = _bound(wanted, socket.SOCK_DGRAM)
        bound = wanted.with_port(sock.getsockname()[1])
        self._sockets[bound] = sock
        return bound

    def _listen(self, local: Endpoint) -> Listener:
        sock = _bound(local, socket.SOCK_STREAM)
        try:
            # Set only now: two reflectors cannot share the port, but dials can leave from it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each connection inherits it
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise _busy(local, socket.SOCK_STREAM, error) from error
        return Listener(sock, partial(Connection, self._streams, local))

    def _close_datagrams(self) -> None:
        for handle in self._delayed:
            handle.cancel()
        self._delayed.clear()
        for sock in self._sockets.values():
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()

    def _drain(self, sock: socket.socket, local: Endpoint) -> None:
        for _ in range(_DRAINED_AT_ONCE):
            try:
                data, ancillary, _, address = sock.recvmsg(stun.MAX_SIZE + 1, 128)
            except OSError:  # nothing is left, or ICMP has told of an earlier reply that did not arrive
                return
            now = self._loop.time()
            source = Endpoint.of(address[0], address[1])
            if self._self_test.recognise(data, source, local):
                continue
            replies = self._rules.answer(data, source, local, now, _received(ancillary))
            if replies and self._budget.allows(replies, len(data), now):
                self._send_all(replies)

    def _send_all(self, replies: tuple[Outgoing, ...]) -> None:
        delayed = sum(reply.delay > 0 for reply in replies)
        if delayed and len(self._delayed) + delayed > MAX_PENDING:
            return  # all or none: a part of them would look like what a filter does
        for reply in replies:
            if reply.delay > 0:
                self._send_later(reply)
            else:
                self._send(reply)

    def _send_later(self, reply: Outgoing) -> None:
        def due() -> None:
            self._delayed.discard(handle)
            self._send(reply)

        handle = self._loop.call_later(reply.delay, due)
        self._delayed.add(handle)

    def _send(self, reply: Outgoing) -> None:
        with contextlib.suppress(OSError):  # no route, no buffer: to the client it is a lost datagram
            self._sockets[reply.source].sendto(reply.data, reply.target.sockaddr)


async def serve(
    addresses: Iterable[str | Address],
    ports: Sequence[int] = PORTS,
    compat: bool = False,
    announce: Callable[[str], None] | None = None,
    destinations: range = range(0),
    *,
    overlap: bool = False,
) -> None:
    """Serve until cancelled: one reflector for the IPv4 addresses, one for the IPv6 addresses, each in the given order.

    When all is bound ``announce`` gets a line that begins with ``serving``, then one for each thing that clients
    cannot test here. Raises AddressBusy or ValueError as Reflector does.
    """
    parsed = [parse_address(address) if isinstance(address, str) else address for address in addresses]
    families = [[a for a in parsed if a.version == version] for version in (4, 6)]
    async with contextlib.AsyncExitStack() as stack:
        reflectors = [
            await stack.enter_async_context(
                Reflector(family, ports, compat, destinations=destinations, overlap=overlap)
            )
            for family in families
            if family
        ]
        if not reflectors:
            raise ValueError("a reflector needs an address")
        listening = (str(endpoint) for reflector in reflectors for endpoint in reflector.site.listening)
        many = (_told(reflector) for reflector in reflectors if destinations)
        limits = (limit for reflector in reflectors for limit in reflector.limits())
        for line in ("serving " + ", ".join(listening) + " (UDP and TCP)", *many, *limits):
            if announce is not None:
                announce(line)
        await asyncio.get_running_loop().create_future()


def _bound(local: Endpoint, kind: socket.SocketKind) -> socket.socket:
    """Return a socket bound to ``local`` and to its own family only. Raises AddressBusy or NoRoute."""
    try:
        sock = socket.socket(socket.AF_INET if local.version == 4 else socket.AF_INET6, kind)
    except OSError as error:
        raise cannot_open(error, local.version) from error
    try:
        sock.setblocking(False)
        if local.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            _tell_more(sock, local.version)
        sock.bind(local.sockaddr)
    except OSError as error:
        sock.close()
        raise _busy(local, kind, error) from error
    return sock


def _tell_more(sock: socket.socket, version: int) -> None:
    """Have each datagram come with its TTL and its DSCP, and give room for a burst of them."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    if version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    elif _LINUX:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)


def _received(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int] | None:
    """Return the TTL and the DSCP/ECN byte; None where the kernel did not tell the TTL."""
    told = {(level, kind): int.from_bytes(data[:4], sys.byteorder) for level, kind, data in ancillary}
    ttl = told.get((socket.IPPROTO_IP, socket.IP_TTL), told.get((socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)))
    tos = told.get((socket.IPPROTO_IP, socket.IP_TOS), told.get((socket.IPPROTO_IPV6, socket.IPV6_TCLASS), 0))
    return None if ttl is None else (ttl & 0xFF, tos & 0xFF)


def _busy(local: Endpoint, kind: socket.SocketKind, error: OSError) -> CannotRun:
    protocol = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
    match error.errno:
        case errno.EADDRNOTAVAIL:
            return AddressBusy(f"{local.address} is not an address of this host; `ip address` lists those that are")
        case errno.EADDRINUSE if local.port:
            return AddressBusy(f"port {local.port} of {local.address} is in use ({protocol}); --port chooses another")
        case errno.EACCES if 0 < local.port < 1024:
            return AddressBusy(f"port {local.port} of {local.address} is reserved to root; --port chooses another")
        case _:
            return cannot_bind(error, local)


def _told(reflector: Reflector) -> str:
    """Return the line that tells of a reflector's destination ports."""
    ports, addresses = reflector.site.destinations, reflector.site.addresses[:2]
    where = " and ".join(map(str, addresses))
    held = f"up to {reflector.held:,} connections"
    if reflector.held < MAX_HELD:
        held += f", by the limit of open files ({file_limit():,}; ulimit -n, or LimitNOFILE= of systemd, raises it)"
    return f"Destinations: TCP ports {ports.start}-{ports.stop - 1} of {where}, {held}."


def _most_connections(layout: Layout) -> tuple[int, int]:
    """Return how many connections there may be to the ports for tests, and how many to the destination ports.

    As many as the limit of open files leaves room for; where there are destinations, an eighth of it is for tests.
    Raises CannotRun where that is not one for each destination.
    """
    listeners = len(layout.destinations) * len(layout.addresses[:2])
    needed = _SPARE_DESCRIPTORS + MAX_CONNECTIONS + listeners + (MAX_HELD if listeners else 0)
    room = raise_file_limit(needed) - _SPARE_DESCRIPTORS - listeners
    if not listeners:
        return max(16, min(MAX_CONNECTIONS, room)), 0
    most = min(MAX_CONNECTIONS, room // 8)
    if room - most < listeners:
        raise CannotRun(
            f"{listeners:,} destinations are too many for the limit of open files ({file_limit():,}): "
            "name fewer, or raise it (ulimit -n)"
        )
    return most, min(MAX_HELD, room - most)
