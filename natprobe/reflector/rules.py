"""What the reflector answers: a request in, its replies out (RFC 8489 §6.3, RFC 5780 §6, docs/protocol.md).

Pure: no socket, no clock, no randomness; the key and the time are arguments, and nothing is remembered of a client.
Two rules stand above the rest, for a reflector sends to whoever a request *claims* to come from: the replies to a
datagram are together never longer than it, and only who holds a cookie, and so has received something at its address,
makes the reflector send from elsewhere, later or more than once. ``compat`` loosens both for standard clients alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import starmap

from natprobe import extensions, stun
from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.extensions import Dial, DialOutcome, DialPlan, DialResult, Extension, Source, UdpService
from natprobe.reflector.layout import Layout
from natprobe.stun import Attribute, Change, Class, Message, Type

COOKIE_LIFE = 60
"""Seconds for which a cookie is good."""
MAX_PLANNED = 255  # REPLY-NUMBER counts in one byte
MAX_ATTEMPTS = 16
MAX_SPACING = 0.2
MAX_PATIENCE = 3.0
MAX_MEMO = 512
MAX_TAG = 32

_KNOWN_UDP = frozenset({Type.CHANGE_REQUEST, Type.RESPONSE_PORT, Type.PADDING})
_KNOWN_TCP = frozenset({Type.PADDING})
_EXTENSIONS = frozenset(Extension)
_LIMITED_BROADCAST = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A datagram to send, ``delay`` seconds from now."""

    data: bytes
    source: Endpoint
    target: Endpoint
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class _Draft:
    """A reply whose attributes stand in order of worth; what does not fit is left out, the first part excepted."""

    request: Message
    class_: Class
    first: tuple[Attribute, ...]
    rest: tuple[Attribute, ...]
    limit: int
    padding: int = 0  # the size up to which PADDING is to fill the reply

    def encode(self, *more: Attribute) -> bytes | None:
        """Return the reply's bytes, ``more`` after its first part; None where not even that part fits."""
        chosen, left = [*self.first, *more], self.limit - stun.HEADER_SIZE
        left -= sum(map(_size, chosen))
        if left < 0:
            return None
        for attribute in self.rest:
            if _size(attribute) <= left:
                chosen.append(attribute)
                left -= _size(attribute)
        room = self.padding - (self.limit - left) - 4
        if room >= 0:
            chosen.append(Attribute(Type.PADDING, bytes(room)))
        return Message(self.class_, self.request.transaction_id, tuple(chosen)).encode()


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """The reply on a TCP connection, and what must be done before it can be sent.

    ``group`` is the tag that the connection now carries; ``plan`` says what to dial, within the caps of this module;
    ``memo`` is the message that goes to the one other connection of the group; ``overlap``, whether it was asked for.
    """

    transaction_id: bytes
    group: bytes | None
    plan: DialPlan | None
    draft: _Draft
    memo: bytes | None = None
    overlap: bool = False

    def encode(
        self, members: int = 0, results: Iterable[DialResult] = (), elsewhere: Endpoint | None = None
    ) -> bytes | None:
        """Return the reply; None for silence.

        With the live connections of the group, what became of each dial, and where another client's connection is.
        """
        more = []
        if elsewhere is not None:
            more.append(extensions.overlap_attribute(elsewhere))
        if self.group is not None:
            more.append(extensions.group_size_attribute(members))
        if self.plan is not None:
            more.append(extensions.connect_back_result_attribute(results))
        return self.draft.encode(*more)

    def undialled(self) -> tuple[DialResult, ...]:
        """Return the results that say that nothing was dialled."""
        dials = self.plan.dials if self.plan else ()
        return tuple(DialResult(dial.source, DialOutcome.NOT_DIALLED, 0) for dial in dials)


@dataclass(frozen=True, slots=True)
class _Question:
    """A request that may be answered, and what its sender may ask for."""

    message: Message
    size: int
    source: Endpoint
    local: Endpoint
    now: float
    stream: bool
    validated: bool
    trusted: bool
    """Whether a reply may leave from elsewhere, or go to another port of the sender."""
    limit: int
    """How long the reply may be."""

    def has(self, type_: int) -> bool:
        return self.message.value(type_) is not None


class Rules:
    """The reflector's answers. ``key`` (32 secret bytes) makes its cookies, ``instance`` (8 bytes) names this run.

    ``held`` is how many connections its destination ports may carry together.

    Every method takes the time in seconds of any clock that does not run backwards, the same one for all.
    """

    def __init__(self, layout: Layout, *, key: bytes, instance: bytes, compat: bool = False, held: int = 0) -> None:
        self.layout = layout
        self._key = key
        self._instance = Attribute(Extension.INSTANCE, instance)
        self._compat = compat
        self._others = {local: layout.changed(local, Change.ADDRESS | Change.PORT) for local in layout.listening}
        self._sites = {
            (local, stream): extensions.site_attribute(layout.site(local, stream=stream))
            for local in layout.listening
            for stream in (False, True)
        }
        reached = extensions.Destinations(layout.destinations, held)
        self._destinations = (extensions.destinations_attribute(reached),) if layout.destinations else ()

    def answer(
        self, data: bytes, source: Endpoint, local: Endpoint, now: float, received: tuple[int, int] | None = None
    ) -> tuple[Outgoing, ...]:
        """Return the replies to a datagram from ``source`` that came to ``local``; none for all but Binding requests.

        ``received`` is the TTL and the DSCP/ECN byte that it came with.
        """
        try:
            question = self._question(data, source, local, now, stream=False)
            return self._planned(question) or self._plain(question, received) if question else ()
        except MalformedMessage:
            return ()

    def answer_stream(
        self, data: bytes, source: Endpoint, local: Endpoint, now: float, udp: UdpService = UdpService.SERVES
    ) -> StreamAnswer | None:
        """Return the answer to a message on a TCP connection from ``source`` to ``local``; None for silence.

        ``udp`` is what becomes of this client's datagrams.
        """
        try:
            question = self._question(data, source, local, now, stream=True)
            if question is None:
                return None
            message = question.message
            # stuntman's client sends a CHANGE-REQUEST that asks for no change over TCP as well.
            known = _KNOWN_TCP if message.change else _KNOWN_TCP | {Type.CHANGE_REQUEST}
            if refused := message.unknown(known):
                return StreamAnswer(message.transaction_id, None, None, self._error(question, 420, refused))
            plan = _dial_plan(question)
            memo = _memo(message)
            overlap = message.value(Extension.OVERLAP) is not None
            told = (extensions.udp_service_attribute(udp),) if question.has(Extension.UDP_SERVICE) else ()
            success = self._success(question, local, None, *told)
            return StreamAnswer(message.transaction_id, _tag(message), plan, success, memo, overlap)
        except MalformedMessage:
            return None

    def cookie(self, source: Endpoint, now: float, *, stream: bool) -> bytes:
        """Return the cookie that proves, for a while, that its holder receives what is sent to ``source``."""
        stamp = (int(now) & 0xFFFFFFFF).to_bytes(4, "big")
        bound = stamp + bytes([stream]) + source.port.to_bytes(2, "big") + source.address.packed
        return stamp + hashlib.blake2s(bound, key=self._key, digest_size=12, person=b"natprobe").digest()

    def _question(
        self, data: bytes, source: Endpoint, local: Endpoint, now: float, *, stream: bool
    ) -> _Question | None:
        # RFC 3489 knows no server with one address: without an alternate its clients are left to find another one.
        legacy = self._compat and len(self.layout.addresses) > 1 and not stream
        message = stun.decode(data, legacy=legacy)
        if message.class_ is not Class.REQUEST or message.method != stun.BINDING or not _answerable(source, local):
            return None
        shown = message.value(Extension.COOKIE)
        validated = shown is not None and not message.legacy and self._valid(shown, source, now, stream=stream)
        return _Question(
            message,
            len(data),
            source,
            local,
            now,
            stream,
            validated=validated,
            trusted=validated or (self._compat and shown is None),
            limit=max(len(data), self._due(message, source)),
        )

    def _due(self, message: Message, source: Endpoint) -> int:
        """How long a reply may be whatever the request's length: not at all, but to a standard client with compat."""
        if not self._compat or any(attribute.type in _EXTENSIONS for attribute in message.attributes):
            return 0
        addresses = 3 if len(self.layout.addresses) > 1 else 2  # RFC 5780 §6.1, RFC 3489 §9.1
        return stun.HEADER_SIZE + addresses * _size(stun.address_attribute(0, source))

    def _valid(self, cookie: bytes, source: Endpoint, now: float, *, stream: bool) -> bool:
        made = int.from_bytes(cookie[:4], "big")
        fresh = (int(now) - made) & 0xFFFFFFFF <= COOKIE_LIFE
        return hmac.compare_digest(cookie, self.cookie(source, made, stream=stream)) and fresh

    def _planned(self, question: _Question) -> tuple[Outgoing, ...]:
        value = question.message.value(Extension.REPLY_FROM)
        if value is None or not question.validated or _contradiction(question) or self._refused(question):
            return ()
        sources = self.layout.sources(question.local)
        planned = [
            (index, reply, sources[reply.source])
            for index, reply in enumerate(extensions.read_reply_from(value)[:MAX_PLANNED])
            if reply.source in sources
        ]
        each = stun.HEADER_SIZE + 2 * _size(stun.address_attribute(0, question.source)) + 8
        planned = planned[: question.size // each]
        replies = []
        for index, reply, origin in planned:
            number = extensions.ReplyNumber(reply.source, index, len(planned))
            data = _numbered(question, origin, number)
            replies.append(Outgoing(data, origin, _target(question), reply.delay))
        return tuple(replies)

    def _plain(self, question: _Question, received: tuple[int, int] | None) -> tuple[Outgoing, ...]:
        origin, target = question.local, question.source
        if refused := self._refused(question):
            draft = self._error(question, 420, refused)
        elif _contradiction(question):
            draft = self._error(question, 400)
        else:
            origin, target = self.layout.changed(question.local, question.message.change) or origin, _target(question)
            draft = self._success(question, origin, received)
        data = draft.encode()
        return () if data is None else (Outgoing(data, origin, target),)

    def _refused(self, question: _Question) -> tuple[int, ...]:
        """The attributes to name in a 420: a plain answer, or none, would look like what a filter does."""
        message = question.message
        known = set(_KNOWN_UDP)
        if message.change and not (question.trusted and self.layout.changed(question.local, message.change)):
            known.discard(Type.CHANGE_REQUEST)
        if not question.trusted:
            known.discard(Type.RESPONSE_PORT)
        return message.unknown(known)

    def _error(self, question: _Question, code: int, unknown: tuple[int, ...] = ()) -> _Draft:
        named = (stun.unknown_attribute(unknown),) if unknown else ()
        first = (stun.error_attribute(code, ""), *named)
        return _Draft(question.message, Class.ERROR, first, self._offered(question)[:1], question.limit)

    def _success(
        self, question: _Question, origin: Endpoint, received: tuple[int, int] | None, *more: Attribute
    ) -> _Draft:
        message, standard = question.message, not question.message.legacy
        mapped = (
            stun.xor_mapped_attribute(question.source, message.transaction_id)
            if standard
            else stun.address_attribute(Type.MAPPED_ADDRESS, question.source)
        )
        rest = [*more, stun.address_attribute(Type.RESPONSE_ORIGIN if standard else Type.SOURCE_ADDRESS, origin)]
        other = self._others.get(question.local)  # a destination port has none
        if other is not None:
            rest.append(stun.address_attribute(Type.OTHER_ADDRESS if standard else Type.CHANGED_ADDRESS, other))
        if standard:
            offered = self._offered(question)
            rest += offered
            rest.append(self._instance)
            rest += [extensions.received_attribute(*received)] if received else []
            rest += self._destinations if offered else ()
        padding = question.size if question.has(Type.PADDING) else 0
        return _Draft(message, Class.SUCCESS, (mapped,), tuple(rest), question.limit, padding)

    def _offered(self, question: _Question) -> tuple[Attribute, ...]:
        """COOKIE and SITE for who asks for them, or needs a cookie and has none that is good; not at destinations."""
        wanting = (Extension.COOKIE, Extension.REPLY_FROM, Extension.CONNECT_BACK)
        site = self._sites.get((question.local, question.stream))
        if site is None or question.validated or not any(map(question.has, wanting)):
            return ()
        cookie = self.cookie(question.source, question.now, stream=question.stream)
        return extensions.cookie_attribute(cookie), site


def _dial_plan(question: _Question) -> DialPlan | None:
    value = question.message.value(Extension.CONNECT_BACK)
    if value is None or not question.validated:
        return None
    plan = extensions.read_connect_back(value)
    attempts: dict[Source, int] = {}
    for dial in plan.dials:
        attempts.setdefault(dial.source, min(dial.attempts, MAX_ATTEMPTS))
    dials = tuple(starmap(Dial, attempts.items()))
    return DialPlan(dials, min(plan.spacing, MAX_SPACING), min(plan.patience, MAX_PATIENCE))


def _numbered(question: _Question, origin: Endpoint, number: extensions.ReplyNumber) -> bytes:
    transaction_id = question.message.transaction_id
    attributes = (
        stun.xor_mapped_attribute(question.source, transaction_id),
        stun.address_attribute(Type.RESPONSE_ORIGIN, origin),
        extensions.reply_number_attribute(number),
    )
    return Message(Class.SUCCESS, transaction_id, attributes).encode()


def _target(question: _Question) -> Endpoint:
    port = question.message.response_port
    return question.source if port is None else question.source.with_port(port)


def _contradiction(question: _Question) -> bool:
    """Whether the request asks for two things of which only one can be (RFC 5780 §7.5: padding to another port)."""
    elsewhere = question.message.response_port
    padded = elsewhere is not None and question.has(Type.PADDING)
    moved = question.validated and question.has(Extension.REPLY_FROM) and bool(question.message.change)
    return padded or moved or elsewhere == 0


def _answerable(source: Endpoint, local: Endpoint) -> bool:
    """Whether a reply to ``source`` can go to a host, and to one that can have sent the request."""
    address = source.address
    if source.port == 0 or address.version != local.version or address.is_unspecified or address.is_multicast:
        return False
    if address.version == 4 and (int(address) == _LIMITED_BROADCAST or int(address) >> 24 == 0):
        return False
    return local.address.is_loopback or not address.is_loopback


def _tag(message: Message) -> bytes | None:
    tag = message.value(Extension.GROUP)
    return tag if tag and len(tag) <= MAX_TAG else None


def _memo(message: Message) -> bytes | None:
    """Return the indication that brings a message's memo to another: shorter than the request, as every reply."""
    memo = message.value(Extension.MEMO)
    if memo is None or len(memo) > MAX_MEMO or _tag(message) is None:
        return None
    return Message(Class.INDICATION, message.transaction_id, (extensions.memo_attribute(memo),)).encode()


def _size(attribute: Attribute) -> int:
    return 4 + len(attribute.value) + -len(attribute.value) % 4
