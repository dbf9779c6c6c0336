"""The way to one server: requests and their answers over UDP, TCP or TLS, and what the server sends unasked."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from typing import NoReturn

from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.exchange import gaps
from natprobe.integrity import signed, verified
from natprobe.network import Datagrams, Rejection, Stream
from natprobe.stun import HEADER_SIZE, Class, Message, decode, message_length
from natprobe.webrtc.outcome import IceServerState, Unusable

_REJECTIONS = 2
"""ICMP errors that end a check; one alone may be stray or forged."""
_UNSIGNED = (401, 438)
"""Errors that tell what to sign with, and so need not be signed (RFC 8489 §9.2.4)."""
_UNASKED = 256


class Link(ABC):
    """What both kinds have in common. Made inside a running loop; ``close`` gives the socket back."""

    _mute = "no answer: the packets are lost on the way, or nobody is there"

    def __init__(self, remote: Endpoint) -> None:
        self.remote = remote
        self.exact_rtt: float | None = None
        """The shortest time from a request that was sent once to its answer, in seconds."""
        self.rtt: float | None = None
        """The same; until there is one, from the first of several copies, which may be too long."""
        self.unasked: asyncio.Queue[Message] = asyncio.Queue(_UNASKED)
        """Indications; those that nobody fetches are lost."""
        self._stray: Unusable | None = None
        """What came in place of an answer, and may not be the server's doing."""
        self._open: dict[bytes, tuple[asyncio.Future[Message], bytes | None]] = {}
        self._pump = asyncio.ensure_future(self._read())

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Send a whole message."""

    @abstractmethod
    async def _read(self) -> NoReturn:
        """Deliver what arrives, for ever. Raises Unusable where nothing more can."""

    @abstractmethod
    def _gaps(self) -> Iterator[float]:
        """Yield how long to listen after each copy of a request, in seconds."""

    @abstractmethod
    def _close(self) -> None: ...

    async def close(self) -> None:
        self._close()
        self._pump.cancel()
        with suppress(asyncio.CancelledError, Unusable):
            await self._pump

    async def ask(self, request: Message, key: bytes | None = None) -> Message:
        """Return the answer, an error too, to a request signed with ``key`` if given; it must be signed with it too.

        Copies are the same transaction: a server must not take the second for a second wish (RFC 8656 §7.2).
        Raises Unusable where none can come, or none has.
        """
        data = signed(request, key) if key else request.encode()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Message] = loop.create_future()
        self._open[request.transaction_id] = answer, key
        began = loop.time()
        try:
            for copy, gap in enumerate(self._gaps(), 1):
                await self.send(data)
                await asyncio.wait((answer, self._pump), timeout=gap, return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    self._note_rtt(loop.time() - began, exact=copy == 1)
                    return answer.result()
                if self._pump.done():
                    self._pump.result()
        finally:
            del self._open[request.transaction_id]
        raise self.silence

    def _note_rtt(self, seconds: float, *, exact: bool) -> None:
        """Note a round trip; of which copy an answer is the answer, nobody can tell (Karn and Partridge)."""
        if exact:
            self.exact_rtt = min(seconds, self.exact_rtt or seconds)
        self.rtt = self.exact_rtt or min(seconds, self.rtt or seconds)

    @property
    def silence(self) -> Unusable:
        """What it means that no answer came."""
        if self._stray:
            return self._stray
        if self.rtt is None:
            return Unusable(IceServerState.TIMEOUT, self._mute)
        return Unusable(IceServerState.TIMEOUT, "it answered at first, and then no more")

    def _deliver(self, data: bytes) -> None:
        """Give a message to who waits for it. Raises MalformedMessage."""
        message = decode(data)
        if message.class_ is Class.INDICATION:
            with suppress(asyncio.QueueFull):
                self.unasked.put_nowait(message)
        answer, key = self._open.get(message.transaction_id, (None, None))
        if answer is None or answer.done() or message.class_ not in (Class.SUCCESS, Class.ERROR):
            return
        if key and not (message.error and message.error[0] in _UNSIGNED):
            trusted = verified(data, key)
            if trusted is None:  # to be thrown away, for the true one may follow (RFC 8489 §9.2.5)
                self._stray = Unusable(IceServerState.ERROR, "an answer came that is not signed with this password")
                return
            message = trusted
        answer.set_result(message)


class DatagramLink(Link):
    """Over UDP: requests are repeated, ICMP errors heeded."""

    def __init__(self, datagrams: Datagrams, remote: Endpoint) -> None:
        self._datagrams = datagrams
        super().__init__(remote)

    async def send(self, data: bytes) -> None:
        await self._datagrams.send(data, self.remote)

    def _gaps(self) -> Iterator[float]:
        return gaps(lambda: self.exact_rtt)

    async def _read(self) -> NoReturn:
        rejections = 0
        while True:
            arrival = await self._datagrams.receive()
            if isinstance(arrival, Rejection):
                self._stray = refusal(arrival)
                rejections += 1
                if rejections == _REJECTIONS:
                    raise self._stray
            elif arrival.source == self.remote:
                try:
                    self._deliver(arrival.data)
                except MalformedMessage as wrong:
                    self._stray = _no_stun(wrong)

    def _close(self) -> None:
        self._datagrams.close()


class StreamLink(Link):
    """Over TCP or TLS: each request goes out once."""

    _mute = "connected, but no answer"

    def __init__(self, stream: Stream, remote: Endpoint) -> None:
        self._stream = stream
        super().__init__(remote)

    async def send(self, data: bytes) -> None:
        await self._stream.send(data)

    def _gaps(self) -> Iterator[float]:
        yield float("inf")

    async def _read(self) -> NoReturn:
        while True:
            try:
                head = await self._exactly(HEADER_SIZE)
                self._deliver(head + await self._exactly(message_length(head) - HEADER_SIZE))
            except MalformedMessage as wrong:
                raise _no_stun(wrong) from None

    async def _exactly(self, size: int) -> bytes:
        data = await self._stream.receive(size)
        if len(data) < size:
            raise Unusable(IceServerState.CLOSED, "the connection was closed in place of an answer")
        return data

    def _close(self) -> None:
        self._stream.close()


def refusal(rejection: Rejection) -> Unusable:
    """Return what a rejection means: the port itself refuses, or something on the way."""
    refused = rejection.reason in ("port unreachable", "connection refused", "connection reset by peer")
    return Unusable(IceServerState.REFUSED if refused else IceServerState.UNREACHABLE, rejection.reason)


def _no_stun(wrong: MalformedMessage) -> Unusable:
    return Unusable(IceServerState.NOT_STUN, f"what came back is no STUN ({wrong})")
