"""The seam between natprobe and the world: what a network must offer, as protocols, and the values that cross it.

``sockets`` is the real one. Whatever else implements this — an internet in memory on a virtual clock — is probed by
the same code. A refusal is a value here, not an exception; exceptions mean that this host could not do its part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from natprobe.endpoint import Address, Endpoint


@dataclass(frozen=True, slots=True)
class Datagram:
    """Bytes that arrived, from where, and when (on the network's clock)."""

    data: bytes
    source: Endpoint
    at: float


@dataclass(frozen=True, slots=True)
class Rejection:
    """An ICMP error or a reset in answer to what was sent to ``remote``; ``reason`` in the words of the RFC.

    ``sender`` is the host that sent the ICMP error, where the system tells. Where this host itself refused to send,
    ``reason`` is OWN_FIREWALL or begins with NOT_SENT (both in ``errors``).
    """

    remote: Endpoint
    reason: str
    at: float
    sender: Address | None = None


class Datagrams(Protocol):
    """A UDP socket bound to one local endpoint."""

    @property
    def local(self) -> Endpoint: ...

    async def send(self, data: bytes, remote: Endpoint) -> None:
        """Hand a datagram to the network; what becomes of it, this host's own refusal too, ``receive`` reports."""

    async def receive(self) -> Datagram | Rejection:
        """Wait for the next arrival."""

    def close(self) -> None:
        """Give the port back. May be called twice."""


class Stream(Protocol):
    """A TCP connection."""

    @property
    def local(self) -> Endpoint: ...

    @property
    def remote(self) -> Endpoint: ...

    async def send(self, data: bytes) -> None:
        """Send all of ``data``; silently nothing once the connection is gone."""

    async def receive(self, size: int) -> bytes:
        """Wait for exactly ``size`` bytes; fewer when the connection has ended."""

    async def finish(self) -> None:
        """End the connection as TCP does: send no more, and wait until the other end has nothing more to send either.

        Afterwards the same local endpoint can connect to the same remote again, where the system lets it (TIME-WAIT).
        """

    async def reset(self) -> None:
        """End the connection by a RST, after which any system lets the two endpoints connect again."""

    def close(self) -> None:
        """End the connection. May be called twice."""


class Listener(Protocol):
    """A TCP listener."""

    @property
    def local(self) -> Endpoint: ...

    async def accept(self) -> Stream: ...

    def close(self) -> None:
        """Stop listening. May be called twice."""


class Network(Protocol):
    """A host's view of a network.

    Every TCP socket can share its local port with every other one of the same Network: connections to several
    destinations, and a listener beside them. Port 0 means any free one. Opening raises AddressBusy where a socket with
    that local endpoint cannot be had and NoRoute where ``remote`` cannot be reached from here at all; no OSError.
    """

    def now(self) -> float:
        """Seconds on a clock that never steps."""

    async def resolve(self, host: str, version: int) -> tuple[Address, ...]:
        """Return the addresses of a name, of IP version 4 or 6, best first. Raises NameNotFound."""

    async def source_for(self, remote: Endpoint) -> Address:
        """Return the address from which this host would send to ``remote``. Raises NoRoute or AddressBusy."""

    async def datagrams(self, local: Endpoint) -> Datagrams: ...

    async def connect(self, local: Endpoint, remote: Endpoint) -> Stream | Rejection:
        """Connect; waits as long as the system does, so put a time limit around it."""

    async def listen(self, local: Endpoint) -> Listener: ...
