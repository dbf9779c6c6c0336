"""The network seam on real sockets: the only client module that opens any.

UDP by asyncio-dgram, with the ICMP errors that Linux queues beside it (IP_RECVERR, ip(7)). TCP from a chosen local
port: SO_REUSEADDR and SO_REUSEPORT before bind on every socket, or a port cannot carry several connections and a
listener at once. Exceptions of the system become those of ``errors`` here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import asyncio_dgram
from asyncio_dgram.aio import DatagramServer

from natprobe.endpoint import Address, Endpoint, parse_address
from natprobe.errors import AddressBusy, NameNotFound, NoRoute
from natprobe.network import Datagram, Datagrams, Listener, Rejection, Stream

_T = TypeVar("_T")

# Linux has these; Python 3.11 does not name them.
_RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
_MSG_ERRQUEUE = 0x2000
_ORIGINS = {2: 4, 3: 6}  # struct sock_extended_err, ee_origin: ICMP, ICMPv6
_UNREACHABLE = {  # ICMP type and code, RFC 792 and RFC 4443 §3.1
    (4, 3, 0): "network unreachable",
    (4, 3, 1): "host unreachable",
    (4, 3, 2): "protocol unreachable",
    (4, 3, 3): "port unreachable",
    (4, 3, 9): "network administratively prohibited",
    (4, 3, 10): "host administratively prohibited",
    (4, 3, 13): "communication administratively prohibited",
    (6, 1, 0): "no route to destination",
    (6, 1, 1): "communication administratively prohibited",
    (6, 1, 3): "address unreachable",
    (6, 1, 4): "port unreachable",
}
_NO_LINGER = struct.pack("ii", 1, 0)
_NO_ROUTE = {errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.EHOSTUNREACH}


_TOO_MANY = "too many sockets are open: raise the limit (ulimit -n)"


class HostNetwork:
    """This host's own network. See ``network.Network`` for what it promises."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def resolve(self, host: str, version: int) -> tuple[Address, ...]:
        return await self._resolve(host, _family(version), f"IPv{version} address")

    async def resolve_both(self, host: str) -> tuple[Address, ...]:
        """Return the addresses of both versions in one, as most programs ask for them: in the order of RFC 6724."""
        return await self._resolve(host, socket.AF_UNSPEC, "address")

    async def _resolve(self, host: str, family: socket.AddressFamily, what: str) -> tuple[Address, ...]:
        try:
            found = await _in_thread(partial(socket.getaddrinfo, host, None, family=family, type=socket.SOCK_DGRAM))
        except OSError as wrong:
            raise NameNotFound(f"{host}: no {what} found ({wrong.strerror or wrong})") from None
        return tuple(dict.fromkeys(parse_address(str(sockaddr[0])) for *_, sockaddr in found))

    async def source_for(self, remote: Endpoint) -> Address:
        # Connecting a UDP socket sends nothing; it only makes the kernel choose.
        with _opened(remote.version, socket.SOCK_DGRAM) as sock, _routing(remote):
            sock.connect(remote.sockaddr)
            return _endpoint(sock.getsockname()).address

    async def datagrams(self, local: Endpoint) -> Datagrams:
        sock = _bound(local, socket.SOCK_DGRAM)
        if sys.platform == "linux":
            sock.setsockopt(*_RECVERR[local.version], 1)
        stream = await asyncio_dgram.from_socket(sock)
        assert isinstance(stream, DatagramServer)  # not connected, so it may send to anyone
        try:
            errors = sock.dup() if sys.platform == "linux" else None
        except OSError:
            stream.close()
            raise AddressBusy(_TOO_MANY) from None
        return _HostDatagrams(sock, stream, errors)

    async def connect(self, local: Endpoint, remote: Endpoint) -> Stream | Rejection:
        sock = _bound(local, socket.SOCK_STREAM)
        try:
            # What fails at once failed here; what fails later came from the network and is a fact about it.
            with _routing(remote):
                _start_connecting(sock, remote)
            await asyncio.get_running_loop().sock_connect(sock, remote.sockaddr)
        except OSError as refused:
            sock.close()
            return Rejection(remote, os.strerror(refused.errno or 0).lower(), self.now())
        except BaseException:
            sock.close()
            raise
        return await _HostStream.over(sock, remote)

    async def listen(self, local: Endpoint) -> Listener:
        sock = _bound(local, socket.SOCK_STREAM)
        try:
            sock.listen()
        except OSError as wrong:
            sock.close()
            raise AddressBusy(_bind_failure(local, wrong)) from None
        return _HostListener(sock)


async def start_tls(stream: Stream, context: ssl.SSLContext, server_name: str) -> bytes | None:
    """Speak TLS on a connection of this module's from now on; return the server's certificate (DER).

    Raises ssl.SSLError where the two do not agree, OSError or EOFError where the connection ends before.
    """
    assert isinstance(stream, _HostStream)
    await stream.start_tls(context, server_name)
    return stream.certificate


class _HostDatagrams:
    """A UDP socket whose ICMP errors arrive in the same queue as its datagrams."""

    def __init__(self, sock: socket.socket, stream: DatagramServer, errors: socket.socket | None) -> None:
        self.local = _endpoint(sock.getsockname())
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._arrivals: asyncio.Queue[Datagram | Rejection] = asyncio.Queue()
        self._reader = self._loop.create_task(self._read_datagrams())
        # A second descriptor of the same socket: the loop watches it for errors while asyncio-dgram has the first.
        self._errors = errors
        if self._errors is not None:
            self._loop.add_reader(self._errors, self._read_errors)

    async def send(self, data: bytes, remote: Endpoint) -> None:
        while True:
            try:
                await self._stream.send(data, remote.sockaddr)
            except OSError:
                continue  # about an earlier datagram, raised before this one was sent; the error queue tells it better
            except asyncio_dgram.TransportClosed:
                pass
            return

    async def receive(self) -> Datagram | Rejection:
        return await self._arrivals.get()

    def close(self) -> None:
        if self._errors is not None:
            self._loop.remove_reader(self._errors)
            self._errors.close()
            self._errors = None
        self._reader.cancel()
        self._stream.close()

    async def _read_datagrams(self) -> None:
        while True:
            try:
                data, source = await self._stream.recv()
            except OSError:
                continue
            except asyncio_dgram.TransportClosed:
                return
            self._arrivals.put_nowait(Datagram(data, _endpoint(source), self._loop.time()))

    def _read_errors(self) -> None:
        assert self._errors is not None
        while True:
            try:
                _, ancillary, _, destination = self._errors.recvmsg(0, 512, _MSG_ERRQUEUE)
            except OSError:
                return
            reason = _icmp_reason(ancillary)
            if reason:
                self._arrivals.put_nowait(Rejection(_endpoint(destination), reason, self._loop.time()))


class _HostStream:
    """A TCP connection on asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, remote: Endpoint) -> None:
        self._reader, self._writer = reader, writer
        self.local = _endpoint(writer.get_extra_info("sockname"))
        self.remote = remote

    @classmethod
    async def over(cls, sock: socket.socket, remote: Endpoint) -> _HostStream:
        try:
            reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        return cls(reader, writer, remote)

    async def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
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
        with contextlib.suppress(OSError):
            self._writer.write_eof()
            while await self._reader.read(4096):
                pass
        self.close()

    async def reset(self) -> None:
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def close(self) -> None:
        self._writer.close()


class _HostListener:
    """A TCP listener that shares its port. What came in and was never asked for is closed with it."""

    def __init__(self, sock: socket.socket) -> None:
        self.local = _endpoint(sock.getsockname())
        self._sock = sock
        self._waiting: asyncio.Queue[tuple[socket.socket, Endpoint]] = asyncio.Queue()
        # Not asyncio's own server: closing that while connections are on their way up leaves them open.
        asyncio.get_running_loop().add_reader(sock, self._admit)

    async def accept(self) -> Stream:
        return await _HostStream.over(*await self._waiting.get())

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
        while not self._waiting.empty():
            self._waiting.get_nowait()[0].close()

    def _admit(self) -> None:
        with contextlib.suppress(OSError):  # it may have gone again already
            sock, remote = self._sock.accept()
            sock.setblocking(False)
            self._waiting.put_nowait((sock, _endpoint(remote)))


async def _in_thread(function: Callable[[], _T]) -> _T:
    """Return what a function that blocks returns, or raise what it raises.

    Not in the loop's executor: a program's end waits for that, and a name server that is silent takes many seconds.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if future.done() else outcome())

    def work() -> None:
        try:
            result = function()
        except Exception as failure:
            settle(partial(future.set_exception, failure))
        else:
            settle(partial(future.set_result, result))

    threading.Thread(target=work, daemon=True).start()
    return await future


def _family(version: int) -> socket.AddressFamily:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _endpoint(sockaddr: Any) -> Endpoint:
    return Endpoint.of(sockaddr[0], sockaddr[1])


@contextlib.contextmanager
def _opened(version: int, kind: socket.SocketKind) -> Iterator[socket.socket]:
    try:
        sock = socket.socket(_family(version), kind)
    except OSError:
        raise NoRoute(f"this host has no IPv{version}") from None
    with sock:
        yield sock


@contextlib.contextmanager
def _routing(remote: Endpoint) -> Iterator[None]:
    """Turn the system's ways of saying that it cannot send to ``remote`` at all into NoRoute."""
    try:
        yield
    except OSError as wrong:
        if wrong.errno not in _NO_ROUTE:
            raise
        raise NoRoute(f"no route to {remote.address}: {os.strerror(wrong.errno or 0).lower()}") from None


def _start_connecting(sock: socket.socket, remote: Endpoint) -> None:
    failure = sock.connect_ex(remote.sockaddr)
    if failure not in (0, errno.EINPROGRESS):
        raise OSError(failure, os.strerror(failure))


def _bound(local: Endpoint, kind: socket.SocketKind) -> socket.socket:
    try:
        sock = socket.socket(_family(local.version), kind)
    except OSError as wrong:
        if wrong.errno in (errno.EMFILE, errno.ENFILE):
            raise AddressBusy(_TOO_MANY) from None
        raise NoRoute(f"this host has no IPv{local.version}") from None
    sock.setblocking(False)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(local.sockaddr)
    except OSError as wrong:
        sock.close()
        raise AddressBusy(_bind_failure(local, wrong)) from None
    return sock


def _bind_failure(local: Endpoint, wrong: OSError) -> str:
    if wrong.errno == errno.EADDRINUSE:
        return f"local port {local.port} is in use: choose another, or none"
    if wrong.errno == errno.EADDRNOTAVAIL:
        return f"{local.address} is not an address of this host"
    return f"cannot use {local} here: {os.strerror(wrong.errno or 0).lower()}"


def _icmp_reason(ancillary: list[tuple[int, int, bytes]]) -> str | None:
    """Return the words for a queued ICMP error (struct sock_extended_err); None for errors of another origin."""
    for level, kind, data in ancillary:
        if (level, kind) in _RECVERR.values():
            _, origin, type_, code = struct.unpack_from("=IBBB", data)
            if origin in _ORIGINS:
                return _UNREACHABLE.get((_ORIGINS[origin], type_, code), f"ICMP type {type_} code {code}")
    return None
