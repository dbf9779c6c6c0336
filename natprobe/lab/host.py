"""A host of the in-memory internet: the seam of `natprobe.network` on it, and servers made of handlers.

It promises what `natprobe.sockets` does, error for error: fresh ports, ports in use, ICMP errors as Rejections, TCP
connections and a listener on one port.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Generic, TypeVar

from natprobe.behaviour import Protocol
from natprobe.endpoint import Address, Endpoint
from natprobe.errors import AddressBusy, NameNotFound, NoRoute
from natprobe.lab.packet import Packet, Unreachable, unreachable
from natprobe.lab.tcp import Connection, Failure, Tcp
from natprobe.network import Datagram, Datagrams, Listener, Rejection, Stream

T = TypeVar("T")

_EPHEMERAL = range(32768, 61000)  # ip_local_port_range


class Host:
    """One host, with its addresses. Implements ``network.Network``."""

    def __init__(
        self,
        addresses: Sequence[Address],
        names: Mapping[str, Sequence[Address]],
        send: Callable[[Packet], None],
        rng: random.Random,
    ) -> None:
        self.addresses = addresses
        self.rng = rng
        self.tcp = Tcp(send, rng)
        self._names = names
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[Endpoint, Callable[[Packet], None]] = {}

    # --- what the network and servers use -----------------------------------------------------------------------------

    def enter(self, packet: Packet) -> None:
        """Take a packet for this host; what nobody waits for is refused as a host refuses it (RFC 1122 §3.2.2.1)."""
        if packet.protocol is Protocol.TCP:
            self.tcp.arrive(packet)
            return
        local = packet.error.about.source if packet.error else packet.destination
        handler = self._sockets.get(local)
        if handler is not None:
            handler(packet)
        elif not packet.error:
            self._send(unreachable(packet, Unreachable.PORT, packet.destination.address))

    def bind(self, local: Endpoint, handler: Callable[[Packet], None]) -> Endpoint:
        """Have ``handler`` called with what comes to a UDP endpoint, ICMP errors about what it sent included.

        Return the endpoint, its port chosen where it was 0. Raises AddressBusy.
        """
        bound = self._own(local, {own.port for own in self._sockets})
        if bound in self._sockets:
            raise AddressBusy(f"local port {local.port} is in use: choose another, or none")
        self._sockets[bound] = handler
        return bound

    def unbind(self, local: Endpoint) -> None:
        """Give a UDP endpoint back."""
        self._sockets.pop(local, None)

    def send(self, data: bytes, local: Endpoint, remote: Endpoint) -> None:
        """Send a datagram from a UDP endpoint."""
        self._send(Packet(Protocol.UDP, local, remote, data))

    def tcp_endpoint(self, local: Endpoint) -> Endpoint:
        """Return a local endpoint for TCP, its port chosen where it is 0. Raises AddressBusy."""
        return self._own(
            local, {mine.port for mine in (*self.tcp.listeners, *(own for own, _ in self.tcp.connections))}
        )

    def _own(self, local: Endpoint, taken: Container[int]) -> Endpoint:
        if local.address not in self.addresses:
            raise AddressBusy(f"{local.address} is not an address of this host")
        if local.port:
            return local
        port = 0
        while not port or port in taken:
            port = self.rng.choice(_EPHEMERAL)
        return local.with_port(port)

    # --- network.Network ----------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._loop.time()

    async def resolve(self, host: str, version: int) -> tuple[Address, ...]:
        found = tuple(address for address in self._names.get(host, ()) if address.version == version)
        if not found:
            raise NameNotFound(f"{host}: no IPv{version} address found")
        return found

    async def source_for(self, remote: Endpoint) -> Address:
        for address in self.addresses:
            if address.version == remote.version:
                return address
        raise NoRoute(f"no route to {remote.address}: network is unreachable")

    async def datagrams(self, local: Endpoint) -> Datagrams:
        return _MemoryDatagrams(self, local)

    async def connect(self, local: Endpoint, remote: Endpoint) -> Stream | Rejection:
        stream = _MemoryStream(self._loop)
        bound = self.tcp_endpoint(local)
        if remote.version != bound.version:
            raise NoRoute(f"no route to {remote.address}: address family not supported by protocol")
        try:
            connection = stream.connection = self.tcp.dial(bound, remote, stream)
        except ValueError:
            raise NoRoute(f"no route to {remote.address}: cannot assign requested address") from None
        try:
            failure = await stream.settled
        except BaseException:
            connection.close()
            raise
        return Rejection(remote, failure.reason, self.now()) if failure else stream

    async def listen(self, local: Endpoint) -> Listener:
        return _MemoryListener(self, self.tcp_endpoint(local))


class _Arrivals(Generic[T]):
    """What has arrived, for one who waits at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[T] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> T:
        while not self._items:
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._items.popleft()

    def drain(self) -> list[T]:
        items = list(self._items)
        self._items.clear()
        return items


class _MemoryDatagrams:
    """A UDP socket."""

    def __init__(self, host: Host, local: Endpoint) -> None:
        self._host = host
        self._open = True
        self._arrivals: _Arrivals[Datagram | Rejection] = _Arrivals(asyncio.get_running_loop())
        self.local = host.bind(local, self._arrive)

    def _arrive(self, packet: Packet) -> None:
        now = self._host.now()
        if packet.error:
            about, reason = packet.error.about.destination, str(packet.error.reason)
            self._arrivals.put(Rejection(about, reason, now, packet.source.address))
        else:
            self._arrivals.put(Datagram(packet.payload, packet.source, now))

    async def send(self, data: bytes, remote: Endpoint) -> None:
        if self._open:
            self._host.send(data, self.local, remote)

    async def receive(self) -> Datagram | Rejection:
        return await self._arrivals.get()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._host.unbind(self.local)


class _MemoryStream:
    """A TCP connection, and the user of its end."""

    connection: Connection

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.settled: asyncio.Future[Failure | None] = loop.create_future()
        self._loop = loop
        self._buffer = b""
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def local(self) -> Endpoint:
        return self.connection.local

    @property
    def remote(self) -> Endpoint:
        return self.connection.remote

    async def send(self, data: bytes) -> None:
        self.connection.send(data)

    async def receive(self, size: int) -> bytes:
        while len(self._buffer) < size and not self._ended:
            await self._next()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    async def finish(self) -> None:
        self.close()
        while not self._ended:
            await self._next()

    async def reset(self) -> None:
        self.connection.abort()

    def close(self) -> None:
        self.connection.close()

    def opened(self) -> None:
        self._settle(None)

    def received(self, data: bytes) -> None:
        self._buffer += data
        self._wake()

    def ended(self, failure: Failure | None) -> None:
        self._ended = True
        self._settle(failure)
        self._wake()

    def _settle(self, failure: Failure | None) -> None:
        if not self.settled.done():
            self.settled.set_result(failure)

    async def _next(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _MemoryListener:
    """A TCP listener. What came in and was never asked for is closed with it."""

    def __init__(self, host: Host, local: Endpoint) -> None:
        self.local = local
        self._host = host
        self._waiting: _Arrivals[_MemoryStream] = _Arrivals(asyncio.get_running_loop())
        # The last one that listens gets what comes; Linux deals it out among those that share a port.
        host.tcp.listeners[local] = self._admit

    def _admit(self, connection: Connection) -> _MemoryStream:
        stream = _MemoryStream(asyncio.get_running_loop())
        stream.connection = connection
        self._waiting.put(stream)
        return stream

    async def accept(self) -> Stream:
        return await self._waiting.get()

    def close(self) -> None:
        if self._host.tcp.listeners.get(self.local) == self._admit:
            del self._host.tcp.listeners[self.local]
        for stream in self._waiting.drain():
            stream.close()
