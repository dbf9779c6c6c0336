"""One question put well: over UDP from a Mailbox, over TCP in a Conversation. What came of it is an Exchange.

UDP: copies, an adaptive wait, ICMP errors heeded, late and stray answers told apart. Each copy is a transaction of its
own, so that an answer tells its round trip and a duplicate is no second answer; an answer counts only from the endpoint
that was asked to send it (RFC 8489 §6.3.3, RFC 5780 §4.4). TCP repeats by itself: there is one copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from natprobe.behaviour import Protocol
from natprobe.endpoint import Endpoint, Scope
from natprobe.errors import MalformedMessage, NoRoute
from natprobe.extensions import Extension, read_site
from natprobe.network import Datagram, Datagrams, Network, Rejection, Stream
from natprobe.observation import Exchange, Outcome, Purpose
from natprobe.stun import HEADER_SIZE, Attribute, Class, Message, decode, message_length, request

PATIENCE = 3.0
"""Longest wait for an answer, in seconds: five round trips over a satellite."""

TCP_PATIENCE = 4.0
"""Longest wait for a TCP connection, or for an answer on one, in seconds."""

_REJECTIONS = 2
"""ICMP errors that end a question early; one alone may be stray or forged, and an answer still on its way."""


def patience(rtt: float | None) -> float:
    """Return how long to wait for an answer where the round trip is known or not, in seconds."""
    return PATIENCE if rtt is None else min(PATIENCE, max(1.0, 8 * rtt))


def gaps(known_rtt: Callable[[], float | None]) -> Iterator[float]:
    """Yield how long to listen after each copy, in seconds, ``patience`` in all: shortly first, then ever longer.

    Where the round trip is known, the first repeat goes out just after an answer would have come; it may become known
    while this waits, by an answer to another question.
    """
    rtt = known_rtt()
    gap = 0.1 if rtt is None else max(0.03, 1.5 * rtt)
    waited = 0.0
    while (left := patience(known_rtt()) - waited) > 0:
        yield min(gap, left)
        waited += gap
        gap *= 1.25


def attempt_times(rtt: float | None) -> Iterator[float]:
    """Yield how long each attempt to connect may take, in seconds, TCP_PATIENCE in all."""
    wait = 0.5 if rtt is None else max(0.1, 3 * rtt)
    left = TCP_PATIENCE
    while left > 0:
        yield min(wait, left)
        left -= wait
        wait *= 1.4


class Inbox:
    """What arrives for one asker: replies to the transactions that it expects, rejections of what it sent."""

    def __init__(self, remote: Endpoint) -> None:
        self.remote = remote
        self.transactions: set[bytes] = set()
        self.stray: str | None = None
        """What came from the remote that answers no question at all."""
        self._arrivals: asyncio.Queue[tuple[Message, Datagram] | Rejection] = asyncio.Queue()

    def put(self, arrival: tuple[Message, Datagram] | Rejection) -> None:
        self._arrivals.put_nowait(arrival)

    async def listen(self, seconds: float) -> AsyncIterator[tuple[Message, Datagram] | Rejection]:
        """Yield what arrives within so many seconds, each at once."""
        deadline = asyncio.get_running_loop().time() + seconds
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout_at(deadline):
                    arrival = await self._arrivals.get()
                yield arrival


class Mailbox:
    """A UDP socket on which many questions are open at once; each answer finds its asker by transaction ID.

    Use it as an async context manager: leaving it closes the socket.
    """

    def __init__(
        self, network: Network, datagrams: Datagrams, started: float, known_rtt: Callable[[], float | None]
    ) -> None:
        self._network = network
        self._datagrams = datagrams
        self._known_rtt = known_rtt
        self._started = started
        self._inboxes: set[Inbox] = set()
        self._asked: set[bytes] = set()
        self.cookies: dict[Endpoint, bytes] = {}
        """The cookie that each natprobe reflector gave to this socket last."""
        self._pump = asyncio.ensure_future(self._read())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._datagrams.close()
        self._pump.cancel()
        with suppress(asyncio.CancelledError):
            await self._pump

    @property
    def local(self) -> Endpoint:
        return self._datagrams.local

    def now(self) -> float:
        """Seconds since the start of the run."""
        return self._network.now() - self._started

    def since(self, datagram: Datagram, sent_at: float) -> float:
        """Return how many seconds after ``sent_at`` (of the run) a datagram arrived."""
        return datagram.at - self._started - sent_at

    @contextmanager
    def inbox(self, remote: Endpoint) -> Iterator[Inbox]:
        """Open an inbox for questions to ``remote``."""
        inbox = Inbox(remote)
        self._inboxes.add(inbox)
        try:
            yield inbox
        finally:
            self._inboxes.discard(inbox)

    async def send(self, message: Message, inbox: Inbox) -> float:
        """Send a message to the inbox's remote, its replies to come there; return when, in seconds of the run."""
        inbox.transactions.add(message.transaction_id)
        self._asked.add(message.transaction_id)
        sent_at = self.now()
        await self._datagrams.send(message.encode(), inbox.remote)
        return sent_at

    async def ask(
        self, purpose: Purpose, remote: Endpoint, *attributes: Attribute, answer_from: Endpoint | None = None
    ) -> Exchange:
        """Ask ``remote`` until an answer comes, ICMP errors settle it or patience ends; return what came of it.

        ``answer_from`` is the endpoint that the attributes ask to answer, where that is not ``remote``.
        """
        sent: dict[bytes, float] = {}
        best: dict[str, Any] = {"outcome": Outcome.SILENT}
        rejections = 0
        at = self.now()

        def result(read: dict[str, Any]) -> Exchange:
            base = (purpose, Protocol.UDP, self.local, remote, at, len(sent), self.now() - at)
            return Exchange(*base, answer_from=answer_from, **read)

        with self.inbox(remote) as inbox:
            for gap in gaps(self._known_rtt):
                message = request(*attributes)
                sent[message.transaction_id] = await self.send(message, inbox)
                async for arrival in inbox.listen(gap):
                    if isinstance(arrival, Rejection):
                        best = {"outcome": Outcome.REJECTED, "detail": arrival.reason}
                        rejections += 1
                        if rejections == _REJECTIONS:
                            return result(best)
                        continue
                    reply, datagram = arrival
                    read = reading(reply, datagram.source, answer_from or remote)
                    read["rtt"] = self.since(datagram, sent[reply.transaction_id])
                    if read["outcome"] is not Outcome.MISPLACED:
                        return result(read)
                    best = read
        if best["outcome"] is Outcome.SILENT:
            best["detail"] = inbox.stray
        return result(best)

    async def _read(self) -> None:
        while True:
            arrival = await self._datagrams.receive()
            if isinstance(arrival, Datagram):
                self._deliver(arrival)
                continue
            for inbox in self._inboxes:
                if inbox.remote == arrival.remote:
                    inbox.put(arrival)

    def _deliver(self, datagram: Datagram) -> None:
        try:
            message = decode(datagram.data)
        except MalformedMessage as wrong:
            self._note_stray(datagram.source, f"what came back is no STUN ({wrong})")
            return
        if message.class_ not in (Class.SUCCESS, Class.ERROR):
            return
        if message.transaction_id not in self._asked:
            self._note_stray(datagram.source, "what came back answers another question (wrong transaction ID)")
        for inbox in self._inboxes:
            if message.transaction_id in inbox.transactions:
                self._keep_cookie(message, datagram.source)
                inbox.put((message, datagram))

    def _note_stray(self, source: Endpoint, what: str) -> None:
        """Note it for who waits for an answer from there: nothing follows from it, but it tells who is to blame."""
        for inbox in self._inboxes:
            if inbox.remote == source:
                inbox.stray = what

    def _keep_cookie(self, message: Message, source: Endpoint) -> None:
        cookie = message.value(Extension.COOKIE)
        if cookie:
            self.cookies[source] = cookie


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
        attempts: int,
    ) -> None:
        self._now = now
        self._attempts = attempts
        self._opened_at = opened_at
        self._stream = stream if not isinstance(stream, Rejection) else None
        self._failure = Outcome.REJECTED if isinstance(stream, Rejection) else Outcome.SILENT
        self._detail = stream.reason if isinstance(stream, Rejection) else None
        self.local = self._stream.local if self._stream else local
        self.remote = remote
        self.reply: Message | None = None
        """The last reply, for what an Exchange does not keep."""

    @classmethod
    async def open(
        cls,
        network: Network,
        started: float,
        local: Endpoint,
        remote: Endpoint,
        known_rtt: Callable[[], float | None],
    ) -> Self:
        """Connect from ``local``; a connection that is refused or not answered is a conversation that failed.

        An attempt without an answer is dropped and made anew long before the system would repeat its SYN.
        """
        opening = network.now()
        stream: Stream | Rejection | None = None
        attempts = 0
        for seconds in attempt_times(known_rtt()):
            attempts += 1
            try:
                async with asyncio.timeout(seconds):
                    stream = await network.connect(local, remote)
                break
            except NoRoute as none:
                stream = Rejection(remote, str(none), network.now())
                break
            except TimeoutError:
                continue
        return cls(
            lambda: network.now() - started, local, remote, stream, opened_at=opening - started, attempts=attempts
        )

    @property
    def connected(self) -> bool:
        return self._stream is not None

    def close(self) -> None:
        if self._stream:
            self._stream.close()

    async def ask(self, purpose: Purpose, *attributes: Attribute, wait: float = TCP_PATIENCE) -> Exchange:
        """Ask once and wait so many seconds for the answer; return what came of it, of the connection at worst."""
        at = self._now()
        base = (purpose, Protocol.TCP, self.local, self.remote)
        if self._stream is None:
            waited = at - self._opened_at
            return Exchange(*base, self._opened_at, self._attempts, waited, self._failure, detail=self._detail)
        message = request(*attributes)
        await self._stream.send(message.encode())
        self.reply = None
        read: dict[str, Any] = {"outcome": Outcome.SILENT}
        try:
            async with asyncio.timeout(wait):
                self.reply = await self._receive(self._stream, message.transaction_id)
            read = reading(self.reply, self.remote, self.remote)
        except MalformedMessage as wrong:
            read["detail"] = f"what came back is no STUN ({wrong})"
        except EOFError as ended:
            read["detail"] = str(ended)
        except TimeoutError:
            pass
        waited = self._now() - at
        return Exchange(*base, at, 1, waited, rtt=waited if self.reply else None, **read)

    async def _receive(self, stream: Stream, transaction_id: bytes) -> Message:
        """Return the reply to a transaction. Raises EOFError once the connection has ended, or MalformedMessage."""
        while True:
            head = await self._exactly(stream, HEADER_SIZE)
            message = decode(head + await self._exactly(stream, message_length(head[:4]) - HEADER_SIZE))
            if message.transaction_id == transaction_id:
                return message

    async def _exactly(self, stream: Stream, size: int) -> bytes:
        data = await stream.receive(size)
        if len(data) < size:
            raise EOFError("the connection was closed" + (" within a message" if data else ""))
        return data


def reading(message: Message, source: Endpoint, expected: Endpoint) -> dict[str, Any]:
    """Return what a reply from ``source`` says, as fields of an Exchange that expected it from ``expected``."""
    error = message.error
    instance = message.value(Extension.INSTANCE)
    detail = error[1] or None if error else _useless(message, source)
    if message.class_ is Class.ERROR or detail:
        outcome = Outcome.ERROR
    elif source == expected:
        outcome = Outcome.ANSWERED
    else:
        outcome, detail = Outcome.MISPLACED, f"answered from {source}"
    return {
        "outcome": outcome,
        "source": source,
        "mapped": message.mapped,
        "origin": message.origin,
        "other": message.other,
        "error": error[0] if error else None,
        "detail": detail,
        "instance": instance.hex() if instance else None,
        "site": _site(message),
    }


def _useless(message: Message, source: Endpoint) -> str | None:
    """Return why a success says nothing of this host, or None."""
    mapped = message.mapped
    if mapped is None:
        return "answered without saying what it saw"
    if mapped.version != source.version or mapped.port == 0 or mapped.scope in (Scope.UNSPECIFIED, Scope.MULTICAST):
        return f"answered that it saw {mapped}"
    return None


def _site(message: Message) -> tuple[tuple[str, Endpoint], ...]:
    value = message.value(Extension.SITE)
    try:
        return tuple((source.name, endpoint) for source, endpoint in read_site(value or b""))
    except MalformedMessage:
        return ()
