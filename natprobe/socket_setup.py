"""How a socket is made, bound and connected here, whatever it is for. What the system refuses is an OSError or an error
of ``errors``, as each function says; what the network answers is a value.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from natprobe.endpoint import Address, Endpoint, Scope, parse_address
from natprobe.errors import OWN_FIREWALL
from natprobe.system_errors import cannot_bind, cannot_open

LINUX = sys.platform == "linux"
# Linux has these; Python 3.11 does not name them.
_RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
_IP_BIND_ADDRESS_NO_PORT = 24
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
_NO_NEIGHBOUR = {"host unreachable", "address unreachable", "no route to destination", "network unreachable"}
"""What a host's own kernel says of a neighbour that answers no ARP, or where it has no route: no firewall's work."""
# Begun now, or under way already, which an interrupted connect() is too (POSIX). EAGAIN is none of these: no port.
_UNDER_WAY = {errno.EINPROGRESS, errno.EALREADY, errno.EINTR} | ({errno.EWOULDBLOCK} - {errno.EAGAIN})


def family(ip_version: int) -> socket.AddressFamily:
    return socket.AF_INET if ip_version == 4 else socket.AF_INET6


def sockaddr(endpoint: Endpoint) -> tuple[Any, ...]:
    """Return what the socket module takes. Raises OSError where the endpoint's zone is no interface of this host."""
    if endpoint.zone is None:
        return endpoint.sockaddr
    index = int(endpoint.zone) if endpoint.zone.isdecimal() else socket.if_nametoindex(endpoint.zone)
    return (*endpoint.sockaddr, 0, index)


def endpoint_of(address: Any) -> Endpoint:
    """Return the endpoint that a socket address names."""
    return Endpoint.of(address[0], address[1])


@contextmanager
def closed_on_failure(sock: socket.socket) -> Iterator[None]:
    """Close ``sock`` where the block does not end well."""
    try:
        yield
    except BaseException:
        sock.close()
        raise


def new_socket(ip_version: int, kind: socket.SocketKind) -> socket.socket:
    """Return a socket that does not block. Raises NoRoute where the host has no such IP version, or AddressBusy."""
    try:
        sock = socket.socket(family(ip_version), kind)
        with closed_on_failure(sock):
            sock.setblocking(False)
    except OSError as wrong:
        raise cannot_open(wrong, ip_version) from None
    return sock


def bound_socket(local: Endpoint, kind: socket.SocketKind, *, for_connecting: bool = False) -> socket.socket:
    """Return a socket at ``local``; TCP sockets can share it. Raises AddressBusy or NoRoute.

    Where no port is free any more, a socket ``for_connecting`` gets its port when it connects: then one is enough that
    has no connection to the same destination.
    """
    sock = new_socket(local.version, kind)
    with closed_on_failure(sock):
        try:
            if kind == socket.SOCK_STREAM:
                share_port(sock)
            bind(sock, local)
        except OSError as wrong:
            if not (for_connecting and wrong.errno == errno.EADDRINUSE and _bound_without_port(sock, local)):
                raise cannot_bind(wrong, local) from None
    return sock


def share_port(sock: socket.socket) -> None:
    """Let other sockets with the same options have the same port, connections and listeners alike."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def bind(sock: socket.socket, local: Endpoint) -> None:
    """Bind; a link-local address is looked for on every interface, for it is this host's on one of them."""
    if local.scope is not Scope.LINK_LOCAL or local.version == 4 or local.zone:
        sock.bind(sockaddr(local))
        return
    failure = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for index, _ in socket.if_nameindex():
        try:
            sock.bind((*local.sockaddr, 0, index))
        except OSError as wrong:
            if wrong.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                raise
            failure = wrong
        else:
            return
    raise failure


def _bound_without_port(sock: socket.socket, local: Endpoint) -> bool:
    """Bind to the address alone and have connect() choose the port, where the system can; return whether it did."""
    if local.port or not LINUX:
        return False
    try:
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)  # ip(7); for IPv6 too
        bind(sock, local)
    except OSError:
        return False
    return True


def start_connecting(sock: socket.socket, remote: Endpoint) -> None:
    """Begin to connect. Raises the OSError with which it ends at once: mostly this host's own, or a refusal from it."""
    code = sock.connect_ex(sockaddr(remote))
    if code and code not in _UNDER_WAY and code != errno.EISCONN:
        raise OSError(code, os.strerror(code))


async def finish_connecting(sock: socket.socket) -> int:
    """Wait until a connection stands or has failed; return 0 or the errno. Waits as long as the system does.

    connect() is not called again for that: Linux answers 0 then, the BSDs, macOS and WSL 1 EISCONN.
    """
    await writable(sock)
    if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return code
    try:
        sock.getpeername()
    except OSError as wrong:
        return wrong.errno or errno.ENOTCONN
    return 0


async def writable(sock: socket.socket) -> None:
    """Wait until ``sock`` takes more, or has failed. One at a time for each socket."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sock, settle)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


def queue_errors(sock: socket.socket, ip_version: int, *, on: bool = True) -> None:
    """Have Linux queue the ICMP errors about what a socket sends (IP_RECVERR, ip(7)), or no more; elsewhere nothing."""
    if LINUX:
        with suppress(OSError):  # without it there are fewer reasons, and no wrong ones
            sock.setsockopt(*_RECVERR[ip_version], int(on))


class QueuedError(NamedTuple):
    """An error that Linux has queued: the socket address it is about, its ICMP words (None: no ICMP), its sender."""

    destination: Any
    reason: str | None
    sender: Address | None


def next_error(sock: socket.socket, local: Address) -> QueuedError | None:
    """Return the next queued error; None if none is left.

    ``local`` is the address that was sent from: where it is also the one that rejects, this host did.
    """
    try:
        _, ancillary, _, destination = sock.recvmsg(0, 512, _MSG_ERRQUEUE)
    except OSError:
        return None
    for level, kind, data in ancillary:
        if (level, kind) in _RECVERR.values():
            return _read_error(data, local, destination)
    return QueuedError(destination, None, None)


def _read_error(data: bytes, local: Address, destination: Any) -> QueuedError:
    """Read a struct sock_extended_err."""
    _, origin, type_, code = struct.unpack_from("=IBBB", data)
    if origin not in _ORIGINS:
        return QueuedError(destination, None, None)
    sender = _offender(data)
    reason = _UNREACHABLE.get((_ORIGINS[origin], type_, code), f"ICMP type {type_} code {code}")
    here = sender == local and not _is_at(destination, local)
    return QueuedError(destination, OWN_FIREWALL if here and reason not in _NO_NEIGHBOUR else reason, sender)


def _offender(data: bytes) -> Address | None:
    """Return who sent the ICMP error (SO_EE_OFFENDER): a sockaddr behind the 16 bytes of sock_extended_err."""
    kind = int.from_bytes(data[16:18], sys.byteorder)
    where = {int(socket.AF_INET): slice(20, 24), int(socket.AF_INET6): slice(24, 40)}.get(kind)
    return parse_address(socket.inet_ntop(kind, data[where])) if where else None


def _is_at(destination: Any, address: Address) -> bool:
    return bool(destination) and endpoint_of(destination).address == address
