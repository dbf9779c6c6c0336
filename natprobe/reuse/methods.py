"""Sockets that share one local port: how each is made ready to connect, and which way works on this host.

A connection is its pair of endpoints (RFC 9293 §3.4.1), so one local endpoint can have one to every other. What is in
the way is bind, which comes before the other end is known; the options here lift that, or postpone it.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from contextlib import suppress

from natprobe.endpoint import Endpoint
from natprobe.errors import AddressBusy, CannotRun
from natprobe.reuse.facts import Method
from natprobe.socket_setup import bind as bind_to
from natprobe.socket_setup import new_socket, share_port
from natprobe.system_errors import cannot_bind, port_range

# Linux has these; Python 3.11 does not name them.
_IP_BIND_ADDRESS_NO_PORT = 24
_IP_LOCAL_PORT_RANGE = 51


def bind(sock: socket.socket, local: Endpoint, method: Method) -> None:
    """Give a socket the local endpoint, so that others can have it too."""
    if method is Method.REUSE:
        share_port(sock)
        bind_to(sock, local)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        one_port = struct.pack("=I", local.port << 16 | local.port)
        sock.setsockopt(socket.IPPROTO_IP, _IP_LOCAL_PORT_RANGE, one_port)
        bind_to(sock, local.with_port(0))


def choose(local: Endpoint) -> tuple[Method, Endpoint]:
    """Return the way to share ``local``, and the endpoint with its port chosen where that was 0.

    Raises AddressBusy where no way works and NoRoute where the host has no such address family.
    """
    with new_socket(local.version, socket.SOCK_STREAM) as sock:
        try:
            bind(sock, local, Method.REUSE)
            return Method.REUSE, local.with_port(sock.getsockname()[1])
        except OSError as wrong:
            if wrong.errno == errno.EADDRINUSE and _ranged(local):
                return Method.RANGE, local
            raise _why_not(local, wrong) from None


def _ranged(local: Endpoint) -> bool:
    """Whether a range of this one port would be heeded: outside the system's own range it is passed over in silence."""
    ports = port_range()
    if sys.platform != "linux" or ports is None or not ports[0] <= local.port <= ports[1]:
        return False
    with suppress(OSError, CannotRun), new_socket(local.version, socket.SOCK_STREAM) as sock:
        bind(sock, local, Method.RANGE)
        return True
    return False


def _why_not(local: Endpoint, wrong: OSError) -> CannotRun:
    if wrong.errno == errno.EADDRINUSE and local.port:
        return AddressBusy(
            f"local port {local.port} is held by a socket that shares it with nobody: choose another, or none"
        )
    return cannot_bind(wrong, local)
