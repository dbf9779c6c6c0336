"""Questions over one TCP connection; what came of each is an Exchange. TCP repeats by itself: there is one copy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from natprobe.behaviour import Protocol
from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage, NoRoute
from natprobe.exchange import reading, rejected
from natprobe.network import Network, Rejection, Stream
from natprobe.observation import Exchange, Outcome, Purpose
from natprobe.stun import HEADER_SIZE, Attribute, Message, decode, message_length, request

TCP_PATIENCE = 4.0
"""Longest wait for a TCP connection, or for an answer on one, in seconds: time for the SYN to be repeated twice."""


class Conversation:
    """Questions over one TCP connection, one after the other; where it could not be opened, each says so."""

    def __init__(
        self,
        now: Callable[[], float],
        local: Endpoint,
        remote: Endpoint,
        stream: Stream | Rejection | None,
        *,
        opened_at: float,
    ) -> None:
        self._now = now
        self._opened_at = opened_at
        self.handshake = now() - opened_at
        """Seconds that connecting took: a round trip, if nothing was lost."""
        self._stream = stream if not isinstance(stream, Rejection) else None
        self._failure = rejected(stream) if isinstance(stream, Rejection) else {"outcome": Outcome.SILENT}
        self.local = self._stream.local if self._stream else local
        self.remote = remote
        self.transaction_id = b""
        """That of the last request."""
        self.reply: Message | None = None
        """The last reply, for what an Exchange does not keep."""

    @classmethod
    async def open(
        cls, network: Network, started: float, local: Endpoint, remote: Endpoint, patience: float = TCP_PATIENCE
    ) -> Self:
        """Connect from ``local``; a connection that is refused or not answered is a conversation that failed.

        The system repeats the SYN. Connecting anew would do it sooner, but with another sequence number, and a NAT that
        has seen the first SYN answered lets nothing through for the second.
        """
        opening = network.now()
        stream: Stream | Rejection | None = None
        try:
            async with asyncio.timeout(patience):
                stream = await network.connect(local, remote)
        except NoRoute as none:
            stream = Rejection(remote, str(none), network.now())
        except TimeoutError:
            pass  # silence
        return cls(lambda: network.now() - started, local, remote, stream, opened_at=opening - started)

    @property
    def connected(self) -> bool:
        return self._stream is not None

    async def finish(self, *, by_reset: bool = False) -> None:
        """End the connection from both ends; one whose other end takes too long is closed, and that is all."""
        if self._stream:
            with suppress(TimeoutError):
                async with asyncio.timeout(TCP_PATIENCE):
                    await (self._stream.reset() if by_reset else self._stream.finish())
            self._stream.close()

    def close(self) -> None:
        if self._stream:
            self._stream.close()

    async def ask(self, purpose: Purpose, *attributes: Attribute, wait: float = TCP_PATIENCE) -> Exchange:
        """Ask once and wait so many seconds for the answer; return what came of it, of the connection at worst."""
        at = self._now()
        base = (purpose, Protocol.TCP, self.local, self.remote)
        if self._stream is None:
            return Exchange(*base, self._opened_at, 1, self.handshake, **self._failure)
        message = request(*attributes)
        self.transaction_id = message.transaction_id
        await self._stream.send(message.encode())
        self.reply = None
        read: dict[str, Any] = {"outcome": Outcome.MUTE}
        try:
            async with asyncio.timeout(wait):
                self.reply = await self._receive(self._stream, message.transaction_id)
            read = reading(self.reply, self.remote, self.remote, self.local)
        except MalformedMessage as wrong:
            read = {"outcome": Outcome.UNREADABLE, "detail": f"what came back is no STUN message ({wrong})"}
        except EOFError as ended:
            read["detail"] = str(ended)
        except TimeoutError:
            pass
        waited = self._now() - at
        return Exchange(*base, at, 1, waited, rtt=waited if self.reply else None, **read)

    async def _receive(self, stream: Stream, transaction_id: bytes) -> Message:
        """Return the reply to a transaction. Raises EOFError once the connection has ended, or MalformedMessage."""
        while True:
            message = await read_message(stream)
            if message.transaction_id == transaction_id:
                return message


async def read_message(stream: Stream) -> Message:
    """Return the next message on a connection. Raises EOFError once it has ended, or MalformedMessage."""
    head = await _exactly(stream, HEADER_SIZE)
    return decode(head + await _exactly(stream, message_length(head[:4]) - HEADER_SIZE))


async def _exactly(stream: Stream, size: int) -> bytes:
    data = await stream.receive(size)
    if len(data) < size:
        raise EOFError("the connection was closed" + (" within a message" if data else ""))
    return data
