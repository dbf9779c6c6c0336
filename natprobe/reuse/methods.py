"""Sockets that share one local port: how each is made ready to connect, and which way works on this host.

A connection is its pair of endpoints (RFC 9293 §3.4.1), so one local endpoint can have one to every other. What is in
the way is bind, which comes before the other end is known; the options here lift that, or postpone it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

from natprobe.endpoint import Endpoint
from natprobe.errors import AddressBusy, NoRoute
from natprobe.reuse.facts import Method

# Linux has these; Python 3.11 does not name them.
_IP_BIND_ADDRESS_NO_PORT = 24
_IP_LOCAL_PORT_RANGE = 51
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def new_socket(version: int) -> socket.socket:
    """Return a TCP socket that does not block."""
    sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


def bind(sock: socket.socket, local: Endpoint, method: Method) -> None:
    """Give a socket the local endpoint, so that others can have it too."""
    if method is Method.REUSE:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(local.sockaddr)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        one_port = struct.pack("=I", local.port << 16 | local.port)
        sock.setsockopt(socket.IPPROTO_IP, _IP_LOCAL_PORT_RANGE, one_port)
        sock.bind(local.with_port(0).sockaddr)


def choose(local: Endpoint) -> tuple[Method, Endpoint]:
    """Return the way to share ``local``, and the endpoint with its port chosen where that was 0.

    Raises AddressBusy where no way works and NoRoute where the host has no such address family.
    """
    try:
        sock = new_socket(local.version)
    except OSError:
        raise NoRoute(f"this host has no IPv{local.version}") from None
    with sock:
        try:
            bind(sock, local, Method.REUSE)
        except OSError as wrong:
            if wrong.errno == errno.EADDRINUSE and _ranged(local):
                return Method.RANGE, local
            raise AddressBusy(_why_not(local, wrong)) from None
        return Method.REUSE, local.with_port(sock.getsockname()[1])


def _ranged(local: Endpoint) -> bool:
    """Whether a range of this one port would be heeded: outside the system's own range it is passed over in silence."""
    if sys.platform != "linux":
        return False
    with suppress(OSError, ValueError), new_socket(local.version) as sock:
        bind(sock, local, Method.RANGE)
        low, high = map(int, _EPHEMERAL.read_text().split())
        return low <= local.port <= high
    return False


def _why_not(local: Endpoint, wrong: OSError) -> str:
    if wrong.errno == errno.EADDRINUSE:
        return f"local port {local.port} is held by a socket that shares it with nobody: choose another, or none"
    if wrong.errno == errno.EADDRNOTAVAIL:
        return f"{local.address} is not an address of this host"
    return f"cannot use {local} here: {os.strerror(wrong.errno or 0).lower()}"
