"""The way to one server: requests and their answers over UDP, TCP or TLS, and what the server sends unasked."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NoReturn

from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.exchange import gaps, patience
from natprobe.integrity import signed, verified
from natprobe.network import Datagrams, Rejection, Stream
from natprobe.stun import HEADER_SIZE, MAGIC_COOKIE, MAX_SIZE, Class, Message, Type, decode, message_length
from natprobe.webrtc.outcome import IceServerState, Unusable

_REJECTIONS = 2
"""ICMP errors that end a check; one alone may be stray or forged."""
_UNSIGNED = (401, 438)
"""Errors that tell what to sign with, and so need not be signed (RFC 8489 §9.2.4)."""
_UNASKED = 256
_LATE = 3
"""Round trips after which an answer is late."""


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
        self.unsigned: Message | None = None
        """An error that should have been signed and was not, as long as no signed answer to the same request came."""
        self.on_answer: Callable[[], None] | None = None
        """Is called at each answer, when `rtt` is known."""
        self._asked_at = 0.0
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
        began = self._asked_at = loop.time()
        try:
            for copy, gap in enumerate(self._gaps(), 1):
                await self.send(data)
                await asyncio.wait((answer, self._pump), timeout=gap, return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    self._note_rtt(loop.time() - began, exact=copy == 1)
                    return answer.result()
                if self._pump.done():
                    self._pump.result()
            if self.unsigned and self.unsigned.transaction_id == request.transaction_id:
                return self.unsigned
        finally:
            del self._open[request.transaction_id]
        raise self.silence

    def _note_rtt(self, seconds: float, *, exact: bool) -> None:
        """Note a round trip; of which copy an answer is the answer, nobody can tell (Karn and Partridge)."""
        if exact:
            self.exact_rtt = min(seconds, self.exact_rtt or seconds)
        self.rtt = self.exact_rtt or min(seconds, self.rtt or seconds)
        if self.on_answer:
            self.on_answer()

    @property
    def slow(self) -> bool:
        """Whether the answer to the last request may still be on its way, by the round trips so far."""
        waited = asyncio.get_running_loop().time() - self._asked_at
        return self.rtt is not None and waited < _LATE * self.rtt

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
            if trusted is None:
                self._put_aside(message, answer)
                return
            message = trusted
        self.unsigned = None
        answer.set_result(message)

    def _put_aside(self, message: Message, answer: asyncio.Future[Message]) -> None:
        """Take an answer that is not signed only if no signed one follows it (RFC 8489 §9.2.5).

        An error may then be the server's all the same: pion/turn signs none of its own.
        """
        if message.class_ is Class.SUCCESS:
            sha256 = message.value(Type.MESSAGE_INTEGRITY_SHA256) is not None
            how = "is signed with MESSAGE-INTEGRITY-SHA256 alone" if sha256 else "is not signed with this password"
            self._stray = Unusable(IceServerState.ERROR, f"an answer came that {how}")
        elif self.unsigned is None or self.unsigned.transaction_id != message.transaction_id:
            self.unsigned = message
            wait = patience(self.exact_rtt) / 2
            asyncio.get_running_loop().call_later(wait, _settle, answer, message)


def _settle(answer: asyncio.Future[Message], message: Message) -> None:
    if not answer.done():
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
                    self._stray = _too_long(arrival.data, len(arrival.data)) or _no_stun(wrong)
            elif arrival.data[8:HEADER_SIZE] in self._open:
                said = f"it answered from {arrival.source}, and clients take no answer from there"
                self._stray = Unusable(IceServerState.ERROR, said)

    def _close(self) -> None:
        self._datagrams.close()


class StreamLink(Link):
    """Over TCP or TLS: each request goes out once."""

    def __init__(self, stream: Stream, remote: Endpoint, *, tls: bool) -> None:
        self._stream = stream
        other = "another protocol (HTTPS?)" if tls else "another protocol (TLS?)"
        self._mute = f"connected, but no answer: {other} may be spoken there"
        wanted = "; a client certificate may be wanted" if tls else ""
        self._closed = f"the connection was closed in place of an answer: {other} may be spoken there{wanted}"
        super().__init__(remote)

    async def send(self, data: bytes) -> None:
        await self._stream.send(data)

    def _gaps(self) -> Iterator[float]:
        yield float("inf")

    async def _read(self) -> NoReturn:
        while True:
            head = await self._exactly(HEADER_SIZE)
            try:
                self._deliver(head + await self._exactly(message_length(head) - HEADER_SIZE))
            except MalformedMessage as wrong:
                size = HEADER_SIZE + int.from_bytes(head[2:4], "big")
                raise (_too_long(head, size) or _no_stun(wrong)) from None

    async def _exactly(self, size: int) -> bytes:
        data = await self._stream.receive(size)
        if len(data) < size:
            raise Unusable(IceServerState.CLOSED, self._closed)
        return data

    def _close(self) -> None:
        self._stream.close()


def refusal(rejection: Rejection) -> Unusable:
    """Return what a rejection means: the port itself refuses, or something on the way."""
    refused = rejection.reason in ("port unreachable", "connection refused", "connection reset by peer")
    return Unusable(IceServerState.REFUSED if refused else IceServerState.UNREACHABLE, rejection.reason)


def _no_stun(wrong: MalformedMessage) -> Unusable:
    return Unusable(IceServerState.NOT_STUN, f"what came back is no STUN ({wrong})")


def _too_long(head: bytes, size: int) -> Unusable | None:
    """Return what a STUN message means that is legal, and longer than natprobe reads."""
    if size <= MAX_SIZE or head[4:8] != MAGIC_COOKIE.to_bytes(4, "big"):
        return None
    return Unusable(IceServerState.ERROR, f"its answer has {size} bytes, and natprobe reads {MAX_SIZE} at most")
