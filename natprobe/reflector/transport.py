"""TCP connections for those who hold a hundred thousand of them: all that asyncio's own transport adds is left out.

There is no buffer, no dictionary and no timer for a connection; an idle one is a socket and two small objects. A
protocol sees what it would see of asyncio's: it cannot tell the two apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

_ACCEPTED_AT_ONCE = 64
_REST = 1.0
"""Seconds for which nothing is accepted after the system has refused a descriptor."""


class LeanTransport(asyncio.Transport):
    """A connection, read for its protocol from now on; while something of it is unsent, nothing more is read."""

    __slots__ = ("_loop", "_peer", "_protocol", "_sock", "_unsent")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, peer: Any, protocol: asyncio.BufferedProtocol
    ) -> None:
        self._loop, self._sock, self._peer, self._protocol = loop, sock, peer, protocol
        self._unsent = b""
        protocol.connection_made(self)
        if not self.is_closing():
            loop.add_reader(sock, self._read)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": self._peer, "socket": self._sock}.get(name, default)

    def is_closing(self) -> bool:
        return self._sock.fileno() < 0

    def is_reading(self) -> bool:
        return not (self.is_closing() or self._unsent)

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, now or when there is room. What cannot be sent any more is noticed by the next read."""
        if self.is_closing():
            return
        if self._unsent:
            self._unsent += data
            return
        with contextlib.suppress(OSError):
            data = memoryview(data)[self._sock.send(data) :]
        if data:
            self._unsent = bytes(data)
            self._loop.remove_reader(self._sock)
            self._loop.add_writer(self._sock, self._write)

    def abort(self) -> None:
        self._lose(None)

    def _read(self) -> None:
        try:
            size = self._sock.recv_into(self._protocol.get_buffer(-1))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as lost:
            self._lose(lost)
            return
        if size:
            self._protocol.buffer_updated(size)
        else:
            self._lose(None)

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as lost:
            self._lose(lost)
            return
        if not self._unsent:
            self._loop.remove_writer(self._sock)
            self._loop.add_reader(self._sock, self._read)

    def _lose(self, why: Exception | None) -> None:
        if not self.is_closing():
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._protocol.connection_lost(why)


class Listener:
    """A listening socket whose connections are given to protocols that ``make`` returns; it owns the socket."""

    __slots__ = ("_loop", "_make", "_sock")

    def __init__(self, sock: socket.socket, make: Callable[[], asyncio.BufferedProtocol]) -> None:
        self._loop, self._sock, self._make = asyncio.get_running_loop(), sock, make
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor is left, and the socket would be ready again at once
                self._loop.remove_reader(self._sock)
                self._loop.call_later(_REST, self._resume)
                return
            sock.setblocking(False)
            LeanTransport(self._loop, sock, peer, self._make())

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._accept)
