"""TCP on real sockets: connections from a chosen local port, and listeners that share theirs with them.

SO_REUSEADDR and SO_REUSEPORT are set before bind on every socket, or a port cannot carry several connections and a
listener at once.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import struct
from contextlib import suppress

from natprobe.endpoint import Endpoint
from natprobe.errors import OWN_FIREWALL
from natprobe.network import Rejection
from natprobe.socket_setup import (
    bound_socket,
    closed_on_failure,
    endpoint_of,
    finish_connecting,
    next_error,
    queue_errors,
    start_connecting,
)
from natprobe.system_errors import cannot_bind, cannot_open, cannot_reach, no_free_port, words

_NO_LINGER = struct.pack("ii", 1, 0)
_REST = 1.0
"""Seconds for which nothing is accepted after the system has refused a descriptor."""
_ANSWERS = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT}
"""How a connection to this very host fails at once: the other end's doing all the same."""
_NO_PORT = {errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EAGAIN}
"""How connect() fails that has to choose a port and finds none."""


async def open_stream(local: Endpoint, remote: Endpoint) -> HostStream | Rejection:
    """Connect; waits as long as the system does. Raises AddressBusy, or NoRoute where nothing was sent at all."""
    sock = bound_socket(local, socket.SOCK_STREAM, for_connecting=True)
    with closed_on_failure(sock):
        queue_errors(sock, local.version)
        reason = await _why_not_connected(sock, local, remote)
        if reason is None:
            queue_errors(sock, local.version, on=False)  # a connection that stands outlives ICMP errors (RFC 1122)
            try:
                return await HostStream.over(sock, remote)
            except OSError as wrong:
                reason = words(wrong)
    sock.close()
    return Rejection(remote, reason, asyncio.get_running_loop().time())


async def _why_not_connected(sock: socket.socket, local: Endpoint, remote: Endpoint) -> str | None:
    """Connect; return None, or the reason that came back. Raises AddressBusy or NoRoute."""
    try:
        start_connecting(sock, remote)
    except OSError as wrong:
        # What fails at once failed here; what fails later came from the network and is a fact about it.
        if wrong.errno in _NO_PORT and local.port == 0:
            raise no_free_port() from None
        if wrong.errno == errno.EPERM:
            return OWN_FIREWALL
        if wrong.errno not in _ANSWERS:
            raise cannot_reach(wrong, remote, local.address) from None
        return words(wrong)
    try:
        code = await finish_connecting(sock)
    except OSError as wrong:
        raise cannot_open(wrong, local.version) from None
    if code == 0:
        return None
    error = next_error(sock, local.address)
    return OWN_FIREWALL if code == errno.EPERM or (error and error.reason == OWN_FIREWALL) else words(code)


async def open_listener(local: Endpoint) -> HostListener:
    """Listen at ``local``. Raises AddressBusy or NoRoute."""
    sock = bound_socket(local, socket.SOCK_STREAM)
    try:
        with closed_on_failure(sock):
            sock.listen()
            return HostListener(sock)
    except OSError as wrong:
        raise cannot_bind(wrong, local) from None


class HostStream:
    """A TCP connection on asyncio's streams."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, local: Endpoint, remote: Endpoint
    ) -> None:
        self._reader, self._writer = reader, writer
        self.local = local
        self.remote = remote

    @classmethod
    async def over(cls, sock: socket.socket, remote: Endpoint) -> HostStream:
        """Return the stream over a connected socket, which is closed where that fails. Raises OSError."""
        with closed_on_failure(sock):
            local = endpoint_of(sock.getsockname())
            reader, writer = await asyncio.open_connection(sock=sock)
        return cls(reader, writer, local, remote)

    async def send(self, data: bytes) -> None:
        with suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def receive(self, size: int) -> bytes:
        try:
            return await self._reader.readexactly(size)
        except asyncio.IncompleteReadError as ended:
            return ended.partial
        except OSError:
            return b""

    async def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        await self._writer.start_tls(context, server_hostname=server_name)

    @property
    def certificate(self) -> bytes | None:
        """The server's, once TLS is spoken."""
        tls: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return tls.getpeercert(binary_form=True)

    async def finish(self) -> None:
        with suppress(OSError):
            self._writer.write_eof()
            while await self._reader.read(4096):
                pass
        self.close()

    async def reset(self) -> None:
        with suppress(OSError):  # without it the end is a FIN
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()

    def close(self) -> None:
        self._writer.close()


class HostListener:
    """A TCP listener that shares its port. What came in and was never asked for is closed with it."""

    def __init__(self, sock: socket.socket) -> None:
        self.local = endpoint_of(sock.getsockname())
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[tuple[socket.socket, Endpoint]] = asyncio.Queue()
        # Not asyncio's own server: closing that while connections are on their way up leaves them open.
        self._loop.add_reader(sock, self._admit)

    async def accept(self) -> HostStream:
        while True:
            with suppress(OSError):  # it has gone again already
                return await HostStream.over(*await self._waiting.get())

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
        while not self._waiting.empty():
            self._waiting.get_nowait()[0].close()

    def _admit(self) -> None:
        try:
            sock, remote = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # no descriptor is left, and the socket would be ready again at once
            self._loop.remove_reader(self._sock)
            self._loop.call_later(_REST, self._resume)
            return
        sock.setblocking(False)
        self._waiting.put_nowait((sock, endpoint_of(remote)))

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._admit)
