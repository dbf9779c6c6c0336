"""Whether the reflector's own UDP works: datagrams from its quiet ports to its listening ones, once a second.

That one arrives says little of the outside. That none does says that the service is at fault and not the path of a
client that hears nothing: a firewall on this host, a full receive buffer, an address that is gone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from natprobe.endpoint import Endpoint
from natprobe.reflector.layout import Layout

INTERVAL = 1.0
"""Seconds between two datagrams to an endpoint."""
PATIENCE = 3.0
"""Seconds without one after which an endpoint is deaf: three may be lost."""


class SelfTest:
    """Sends by ``send(data, source, target)`` until closed; the owner hands what arrives to `recognise`."""

    def __init__(self, layout: Layout, send: Callable[[bytes, Endpoint, Endpoint], None]) -> None:
        quiet = dict(zip(layout.addresses, layout.quiet_ports, strict=True))
        self._pairs = [(Endpoint(local.address, quiet[local.address]), local) for local in layout.listening]
        self._send = send
        self._token = secrets.token_bytes(16)
        self._loop = asyncio.get_running_loop()
        self._heard = dict.fromkeys(layout.listening, self._loop.time())
        self._timer: asyncio.Handle = self._loop.call_soon(self._beat)

    @property
    def works(self) -> bool:
        """Whether every endpoint has heard a datagram lately."""
        return self._loop.time() - min(self._heard.values()) <= PATIENCE

    def recognise(self, data: bytes, source: Endpoint, local: Endpoint) -> bool:
        """Return whether a datagram is one of the test's own, and take note of it."""
        if data != self._token or (source, local) not in self._pairs:
            return False
        self._heard[local] = self._loop.time()
        return True

    def close(self) -> None:
        """Send no more."""
        self._timer.cancel()

    def _beat(self) -> None:
        for source, local in self._pairs:
            self._send(self._token, source, local)
        self._timer = self._loop.call_later(INTERVAL, self._beat)
