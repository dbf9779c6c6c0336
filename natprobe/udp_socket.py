"""UDP on real sockets: asyncio-dgram, with the ICMP errors that Linux queues beside it (IP_RECVERR, ip(7)).

Every datagram is sent by the socket itself, because only then does this host's refusal belong to that datagram: a
transport reports it at some later call, if at all. On other loops than asyncio's own, datagrams are read here too:
libuv, and so uvloop, takes a queued ICMP error on the socket of a UDP transport for a bug of its own and aborts.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import suppress
from typing import Any

import asyncio_dgram
from asyncio_dgram.aio import DatagramServer

from natprobe.endpoint import Endpoint
from natprobe.network import Datagram, Rejection
from natprobe.socket_setup import (
    LINUX,
    bound_socket,
    closed_on_failure,
    endpoint_of,
    next_error,
    queue_errors,
    sockaddr,
    writable,
)
from natprobe.system_errors import cannot_open, not_sent

_LARGEST = 0xFFFF
_READ_AT_ONCE = 64
_TRIES = 3
"""Each call fails once for an ICMP error about an earlier datagram (ip(7)): what fails again is about this one."""
_FULL = {errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM}


async def open_datagrams(local: Endpoint) -> HostDatagrams:
    """Return a UDP socket at ``local``. Raises AddressBusy or NoRoute."""
    sock = bound_socket(local, socket.SOCK_DGRAM)
    try:
        with closed_on_failure(sock):
            queue_errors(sock, local.version)
            bound = endpoint_of(sock.getsockname())
            if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
                return HostDatagrams(sock, bound, reads=True)
            # A second descriptor of the same socket: the first one is asyncio-dgram's.
            own = sock.dup()
            datagrams = HostDatagrams(own, bound)  # first, because asyncio only logs that it cannot watch a socket
            try:
                await datagrams.receive_through(sock)
            except BaseException:
                datagrams.close()
                raise
            return datagrams
    except OSError as wrong:
        raise cannot_open(wrong, local.version) from None


class HostDatagrams:
    """A UDP socket whose ICMP errors, and whose own refusals, arrive in the same queue as its datagrams."""

    def __init__(self, sock: socket.socket, local: Endpoint, *, reads: bool = False) -> None:
        self.local = local
        self._sock = sock
        self._reads = reads
        self._stream: DatagramServer | None = None
        self._pump: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._arrivals: asyncio.Queue[Datagram | Rejection] = asyncio.Queue()
        self._waiting_for_room = asyncio.Lock()
        with closed_on_failure(sock):
            sock.setblocking(False)
            if LINUX or reads:
                self._loop.add_reader(sock, self._read)

    async def receive_through(self, sock: socket.socket) -> None:
        """Receive datagrams by asyncio-dgram, which owns ``sock`` from now on. Raises OSError."""
        stream = await asyncio_dgram.from_socket(sock)
        assert isinstance(stream, DatagramServer)  # not connected, so it may send to anyone
        self._stream = stream
        self._pump = self._loop.create_task(self._read_stream(stream))

    async def send(self, data: bytes, remote: Endpoint) -> None:
        failure: OSError | None = None
        for _ in range(_TRIES):
            if self._sock.fileno() < 0:
                return
            try:
                self._sock.sendto(data, sockaddr(remote))
            except OSError as wrong:
                failure = wrong
                if wrong.errno in _FULL:
                    await self._wait_for_room()
            else:
                return
        assert failure is not None
        self._arrivals.put_nowait(Rejection(remote, not_sent(failure, remote, self.local.address), self._loop.time()))

    async def receive(self) -> Datagram | Rejection:
        return await self._arrivals.get()

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
        if self._stream and self._pump:
            self._pump.cancel()
            self._stream.close()

    async def _wait_for_room(self) -> None:
        async with self._waiting_for_room:
            with suppress(OSError, ValueError):  # closed meanwhile
                await writable(self._sock)

    async def _read_stream(self, stream: DatagramServer) -> None:
        while True:
            try:
                data, source = await stream.recv()
            except OSError:
                continue  # about an earlier datagram; the error queue describes it better
            except asyncio_dgram.TransportClosed:
                return
            self._arrived(data, source)

    def _read(self) -> None:
        """Take the queued errors, and the datagrams where no transport does."""
        while error := next_error(self._sock, self.local.address):
            if error.reason and error.destination:
                about, now = endpoint_of(error.destination), self._loop.time()
                self._arrivals.put_nowait(Rejection(about, error.reason, now, error.sender))
        if self._reads:
            self._read_datagrams()
            # libuv watches a descriptor no more that had an error.
            self._loop.remove_reader(self._sock)
            self._loop.add_reader(self._sock, self._read)

    def _read_datagrams(self) -> None:
        for _ in range(_READ_AT_ONCE):
            try:
                data, source = self._sock.recvfrom(_LARGEST)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            self._arrived(data, source)

    def _arrived(self, data: bytes, source: Any) -> None:
        self._arrivals.put_nowait(Datagram(data, endpoint_of(source), self._loop.time()))
