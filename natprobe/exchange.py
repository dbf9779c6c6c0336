"""One question put well over UDP: copies, an adaptive wait, ICMP errors heeded, late and stray answers told apart.

Each copy is a transaction of its own, so that an answer tells its round trip and a duplicate is no second answer; an
answer counts only from the endpoint that was asked to send it (RFC 8489 §6.3.3, RFC 5780 §4.4). What came of it is an
Exchange. The same over TCP is a ``conversation``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from natprobe.behaviour import Protocol
from natprobe.endpoint import NO_HOST, Endpoint, Scope
from natprobe.errors import MalformedMessage
from natprobe.extensions import Extension, read_site, read_udp_service
from natprobe.network import Datagram, Datagrams, Network, Rejection
from natprobe.observation import Exchange, Outcome, Purpose
from natprobe.stun import Attribute, Class, Message, Type, decode, request

PATIENCE = 3.0
"""Longest wait for an answer, in seconds: five round trips over a satellite."""

_REJECTIONS = 2
"""ICMP errors that end a question early; one alone may be stray or forged, and an answer still on its way."""


def patience(rtt: float | None) -> float:
    """Return how long to wait for an answer where the round trip is known or not, in seconds."""
    return PATIENCE if rtt is None else min(PATIENCE, max(1.2, 8 * rtt))


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
        gap *= 1.15


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
        self._inboxes: dict[int, Inbox] = {}
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
        self._inboxes[id(inbox)] = inbox
        try:
            yield inbox
        finally:
            del self._inboxes[id(inbox)]

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
                        best = rejected(arrival)
                        rejections += 1
                        if rejections == _REJECTIONS:
                            return result(best)
                        continue
                    reply, datagram = arrival
                    read = reading(reply, datagram.source, answer_from or remote, self.local)
                    read["rtt"] = self.since(datagram, sent[reply.transaction_id])
                    if read["outcome"] is not Outcome.MISPLACED:
                        return result(read)
                    best = read
        if best["outcome"] is Outcome.SILENT and inbox.stray:
            best = {"outcome": Outcome.UNREADABLE, "source": remote, "detail": inbox.stray}
        return result(best)

    async def _read(self) -> None:
        while True:
            arrival = await self._datagrams.receive()
            if isinstance(arrival, Datagram):
                self._deliver(arrival)
                continue
            for inbox in self._inboxes.values():
                if inbox.remote == arrival.remote:
                    inbox.put(arrival)

    def _deliver(self, datagram: Datagram) -> None:
        try:
            message = decode(datagram.data)
        except MalformedMessage as wrong:
            self._note_stray(datagram.source, f"what came back is no STUN message ({wrong})")
            return
        if message.class_ not in (Class.SUCCESS, Class.ERROR):
            self._note_stray(datagram.source, "what came back is a STUN request or indication, not a response")
            return
        if message.transaction_id not in self._asked:
            self._note_stray(datagram.source, "what came back answers another question (wrong transaction ID)")
        for inbox in self._inboxes.values():
            if message.transaction_id in inbox.transactions:
                self._keep_cookie(message, datagram.source)
                inbox.put((message, datagram))

    def _note_stray(self, source: Endpoint, what: str) -> None:
        """Note it for who waits for an answer from there: nothing follows from it, but it tells who is to blame."""
        for inbox in self._inboxes.values():
            if inbox.remote == source:
                inbox.stray = what

    def _keep_cookie(self, message: Message, source: Endpoint) -> None:
        cookie = message.value(Extension.COOKIE)
        if cookie:
            self.cookies[source] = cookie


def rejected(rejection: Rejection) -> dict[str, Any]:
    """Return what a rejection says, as fields of an Exchange."""
    source = None if rejection.sender is None else Endpoint(rejection.sender, 0)
    return {"outcome": Outcome.REJECTED, "source": source, "detail": rejection.reason}


def reading(message: Message, source: Endpoint, expected: Endpoint, local: Endpoint) -> dict[str, Any]:
    """Return what a reply from ``source`` to ``local`` says, as fields of an Exchange: ``expected`` was to send it."""
    error = message.error
    instance = message.value(Extension.INSTANCE)
    detail = _refusal(*error) if error else _useless(message, source, local)
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
        "udp_service": _udp_service(message),
        "site": _site(message),
    }


def _refusal(code: int, phrase: str) -> str | None:
    """Return the words of an error response: the code's where the server sends none, and what is meant by it here."""
    words = phrase.strip(" \0") or _PHRASES.get(code, "")
    meant = ": the server wants credentials even for a Binding request" if code in (401, 403) else ""
    return words + meant or None


_PHRASES = {400: "Bad Request", 401: "Unauthenticated", 403: "Forbidden", 420: "Unknown Attribute", 500: "Server Error"}
"""RFC 8489 §14.8, RFC 8656 §19.5."""
_UNDERSTOOD = (*Type, 0x000B, 0x0021)  # REFLECTED-FROM (RFC 3489 §11.2.11), XOR-ONLY: sent by servers of that time
_DRAFT_XOR_MAPPED_ADDRESS = 0x8020
"""Of the drafts before RFC 5389; servers of that time send nothing else."""


def _useless(message: Message, source: Endpoint, local: Endpoint) -> str | None:
    """Return why a success says nothing of this host, or None."""
    mapped = message.mapped
    if mapped is None and message.value(_DRAFT_XOR_MAPPED_ADDRESS) is not None:
        return "answered in the form of a draft of 2005 (attribute 0x8020): the server is too old"
    if mapped is None:
        return "answered without a mapped address"
    if not message.legacy and (unknown := message.unknown(_UNDERSTOOD)):
        named = ", ".join(f"0x{type_:04x}" for type_ in unknown)
        return f"answered with an attribute that a client must understand and none does ({named}; RFC 8489 §6.3.3)"
    if mapped.version != source.version or mapped.port == 0 or not _can_be_seen(mapped, source, local):
        return f"reported the mapped address {mapped}, which no packet from here can have"
    return None


def _can_be_seen(mapped: Endpoint, source: Endpoint, local: Endpoint) -> bool:
    """Return whether a packet that arrives at ``source`` may come from ``mapped``.

    Loopback and link-local addresses do not leave their host or link (RFC 1122 §3.2.1.3, RFC 3927 §2.6.2).
    """
    if mapped.scope in NO_HOST:
        return False
    local_only = mapped.scope in (Scope.LOOPBACK, Scope.LINK_LOCAL)
    return not local_only or mapped.scope in (source.scope, local.scope)


def _site(message: Message) -> tuple[tuple[str, Endpoint], ...]:
    value = message.value(Extension.SITE)
    try:
        return tuple((source.name, endpoint) for source, endpoint in read_site(value or b""))
    except MalformedMessage:
        return ()


def _udp_service(message: Message) -> str | None:
    value = message.value(Extension.UDP_SERVICE)
    try:
        return read_udp_service(value).name.lower() if value else None
    except MalformedMessage:
        return None
