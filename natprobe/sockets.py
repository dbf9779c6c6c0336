"""The network seam on real sockets: this host's own network, the only client module that opens any.

UDP is in ``udp_socket``, TCP in ``tcp_socket``, what they share in ``socket_setup``. Exceptions of the system become
those of ``errors`` there and in ``system_errors``, so that no caller meets an OSError.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from natprobe.endpoint import Address, Endpoint, parse_address
from natprobe.errors import NameNotFound
from natprobe.network import Datagrams, Listener, Rejection, Stream
from natprobe.socket_setup import endpoint_of, family, new_socket, sockaddr
from natprobe.system_errors import cannot_open, cannot_reach, no_free_port
from natprobe.tcp_socket import HostStream, open_listener, open_stream
from natprobe.udp_socket import open_datagrams

_T = TypeVar("_T")

_CHECK_RESOLVER = "check this host's resolver (/etc/resolv.conf)"
_RESOLVER_FAILED = {socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM, socket.EAI_MEMORY}
_PORT_TRIES = 8


class HostNetwork:
    """This host's own network. See ``network.Network`` for what it promises."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def resolve(self, host: str, version: int) -> tuple[Address, ...]:
        return await self._resolve(host, family(version), f"IPv{version} address")

    async def resolve_both(self, host: str) -> tuple[Address, ...]:
        """Return the addresses of both versions in one, as most programs ask for them: in the order of RFC 6724."""
        return await self._resolve(host, socket.AF_UNSPEC, "address")

    async def _resolve(self, host: str, version: socket.AddressFamily, what: str) -> tuple[Address, ...]:
        try:
            # Here, so that getaddrinfo does not import the codec in the thread, where a program's end may come upon it.
            name = host.encode("idna").decode()
            ask = partial(socket.getaddrinfo, name, None, family=version, type=socket.SOCK_DGRAM)
            found = await _in_thread(ask)
        except UnicodeError:
            raise NameNotFound(f"{host} is no name that a name server could know") from None
        except (OSError, RuntimeError) as wrong:  # RuntimeError: the system starts no thread
            text = f"{host}: no {what} found ({getattr(wrong, 'strerror', None) or wrong})"
            failed = isinstance(wrong, socket.gaierror) and wrong.errno in _RESOLVER_FAILED
            raise NameNotFound(text, _CHECK_RESOLVER if failed else "") from None
        return tuple(dict.fromkeys(parse_address(str(address[0])) for *_, address in found))

    async def source_for(self, remote: Endpoint) -> Address:
        # Connecting a UDP socket sends nothing; it only makes the kernel choose.
        with new_socket(remote.version, socket.SOCK_DGRAM) as sock:
            try:
                _connect_datagrams(sock, remote)
            except OSError as wrong:
                if wrong.errno in (errno.EAGAIN, errno.EADDRINUSE):
                    raise no_free_port() from None
                raise cannot_reach(wrong, remote) from None
            try:
                return endpoint_of(sock.getsockname()).address
            except OSError as wrong:
                raise cannot_open(wrong, remote.version) from None

    async def datagrams(self, local: Endpoint) -> Datagrams:
        return await open_datagrams(local)

    async def connect(self, local: Endpoint, remote: Endpoint) -> Stream | Rejection:
        return await open_stream(local, remote)

    async def listen(self, local: Endpoint) -> Listener:
        return await open_listener(local)


async def start_tls(stream: Stream, context: ssl.SSLContext, server_name: str) -> bytes | None:
    """Speak TLS on a connection of this module's from now on; return the server's certificate (DER).

    Raises ssl.SSLError where the two do not agree, OSError or EOFError where the connection ends before.
    """
    assert isinstance(stream, HostStream)
    await stream.start_tls(context, server_name)
    return stream.certificate


def _connect_datagrams(sock: socket.socket, remote: Endpoint) -> None:
    """Connect a UDP socket. Where the system has no port left to choose, another one does. Raises OSError."""
    for tries_left in reversed(range(_PORT_TRIES)):
        try:
            sock.connect(sockaddr(remote))
        except OSError as wrong:
            if wrong.errno != errno.EAGAIN or not tries_left:
                raise
        else:
            return
        with suppress(OSError):
            sock.bind(("", random.randint(1024, 0xFFFF)))  # noqa: S311 any that is free


async def _in_thread(function: Callable[[], _T]) -> _T:
    """Return what a function that blocks returns, or raise what it raises.

    Not in the loop's executor: a program's end waits for that, and a name server that is silent takes many seconds. The
    function must import nothing, for the thread may still be in it when the program ends.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
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
