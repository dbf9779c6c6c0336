"""Volleys: the same instant, several senders, one of them the control, over and over until silence means something.

A natprobe reflector sends a whole volley for one request. Of an RFC 5780 server each reply is a CHANGE-REQUEST of its
own, and volleys come ten a second. RFC 5780 §5 asks for ten transactions a second: for a second or so it is more.

Within a volley control and tests take turns at being first: what lets only the head of a burst through, a rate limit at
the server or on the way, must not treat the control better than the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.exchange import Inbox, Mailbox
from natprobe.extensions import (
    Extension,
    PlannedReply,
    Source,
    cookie_attribute,
    filler_attribute,
    read_reply_number,
    reply_from_attribute,
)
from natprobe.network import Datagram, Rejection
from natprobe.observation import Arrival, Volley
from natprobe.probes import plain_attributes
from natprobe.server import Kind, Sender, Server
from natprobe.silence import CONVINCING, settling_time, tally
from natprobe.stun import Attribute, Change, Message, change_attribute, request

T = TypeVar("T")

_GAP = {Kind.NATPROBE: 0.02, Kind.RFC5780: 0.1}
_FULL = 12
"""Volleys that convince where nothing is lost; those beyond only make up for losses and come four times as slowly."""
_CAP = 4.0
_REPLY_SIZE = {4: 52, 6: 76}
"""Bytes of a volley's reply: XOR-MAPPED-ADDRESS, RESPONSE-ORIGIN and REPLY-NUMBER."""


@dataclass(slots=True)
class Shot:
    """A volley under way."""

    remote: Endpoint
    at: float
    asked: tuple[Endpoint, ...]
    arrivals: list[Arrival] = field(default_factory=list)
    _seen: set[tuple[Endpoint, Endpoint, int | None]] = field(default_factory=set)

    def note(self, arrival: Arrival) -> None:
        """Enter a reply; another copy of it says nothing new."""
        which = arrival.asked, arrival.source, arrival.error
        if which not in self._seen:
            self._seen.add(which)
            self.arrivals.append(arrival)

    def settle(self, mailbox: Mailbox) -> Volley:
        """Return what has come of it so far."""
        waited = mailbox.now() - self.at
        return Volley(mailbox.local, self.remote, self.at, self.asked, waited, tuple(self.arrivals))


async def fire(mailbox: Mailbox, server: Server, senders: Sequence[Sender], chance: float = CONVINCING) -> list[Volley]:
    """Fire volleys until each sender has been heard, has refused, or its silence convinces; four seconds at most.

    Silence convinces when it is as improbable as ``chance`` on an open path.

    Whatever arrives later is not counted: by then other tests may have opened the filter.
    """
    shots: list[Shot] = []
    volleys: list[Volley] = []
    gun = _Gun(mailbox, server, senders)
    started = mailbox.now()
    with mailbox.inbox(server.contacted) as inbox:
        while senders and mailbox.now() - started < _CAP:
            shots.append(await gun.fire(inbox))
            gap = _GAP[server.kind] * (1 if len(shots) < _FULL else 4)
            for wait in _waits(gap, volleys):
                async for arrival in inbox.listen(wait):
                    if gun.note(arrival) and gun.all_heard:
                        return [shot.settle(mailbox) for shot in shots]
                volleys = [shot.settle(mailbox) for shot in shots]
                if all(_settled(volleys, sender, chance) for sender, _ in senders):
                    return volleys
    return volleys


def _waits(gap: float, volleys: Sequence[Volley]) -> Iterator[float]:
    """Yield the gap after a shot, in two if that shot will have settled before its end, judged by those before it."""
    settled = settling_time(volleys)
    if settled is None or settled >= gap:
        yield gap
    else:
        yield settled
        yield gap - settled


def _settled(volleys: Sequence[Volley], sender: Endpoint, chance: float) -> bool:
    counted = tally(volleys, sender)
    return counted.heard > 0 or counted.chance <= chance or refused(volleys, sender)


def refused(volleys: Sequence[Volley], sender: Endpoint) -> bool:
    """Return whether the server has answered for the sender, three times, with an error or from another endpoint."""
    return sum(a.asked == sender and a.source != sender for volley in volleys for a in volley.arrivals) >= 3


class _Gun:
    """Builds the requests of a volley and finds for each reply the shot and the sender it belongs to."""

    def __init__(self, mailbox: Mailbox, server: Server, senders: Sequence[Sender]) -> None:
        self._mailbox = mailbox
        self._server = server
        self._senders = senders
        self._asked = (server.contacted, *(endpoint for endpoint, _ in senders))
        self._shots: dict[bytes, tuple[Shot, Endpoint | None]] = {}
        self._roles = {how: endpoint for endpoint, how in senders} | {Source.SELF: server.contacted}
        self._heard: set[Endpoint] = set()
        self._turn = 0

    @property
    def all_heard(self) -> bool:
        """Whether every sender and the control have been heard at least once."""
        return self._heard.issuperset(self._asked)

    async def fire(self, inbox: Inbox) -> Shot:
        shot = Shot(self._server.contacted, self._mailbox.now(), self._asked)
        self._turn += 1
        for attributes, asked in self._requests():
            message = request(*attributes)
            self._shots[message.transaction_id] = shot, asked
            await self._mailbox.send(message, inbox)
        return shot

    def _requests(self) -> list[tuple[tuple[Attribute, ...], Endpoint | None]]:
        """Return the attributes of each request of a volley, and whom it asks; None where it asks them all."""
        if self._server.kind is Kind.NATPROBE:
            return [(self._planned(), None)]
        changes = [((change_attribute(Change(how)),), endpoint) for endpoint, how in self._senders]
        return self._in_turn([(plain_attributes(), self._server.contacted), *changes])

    def _planned(self) -> tuple[Attribute, ...]:
        replies = self._in_turn([PlannedReply(Source.SELF), *(PlannedReply(Source(how)) for _, how in self._senders)])
        room = len(replies) * _REPLY_SIZE[self._server.contacted.version]
        cookie = self._mailbox.cookies.get(self._server.contacted, b"")
        return cookie_attribute(cookie), reply_from_attribute(replies), filler_attribute(room)

    def _in_turn(self, items: Sequence[T]) -> list[T]:
        first = self._turn % len(items)
        return [*items[first:], *items[:first]]

    def note(self, arrival: tuple[Message, Datagram] | Rejection) -> bool:
        """Enter a reply at its shot; return whether it came from the endpoint that was asked to send it."""
        if isinstance(arrival, Rejection):
            return False
        message, datagram = arrival
        shot, asked = self._shots[message.transaction_id]
        asked = asked or self._sender_of(message)
        if asked is None:
            return False
        error = message.error
        after = self._mailbox.since(datagram, shot.at)
        shot.note(Arrival(asked, datagram.source, after, error[0] if error else None))
        genuine = asked == datagram.source and error is None
        if genuine:
            self._heard.add(asked)
        return genuine

    def _sender_of(self, message: Message) -> Endpoint | None:
        try:
            number = read_reply_number(message.value(Extension.REPLY_NUMBER) or b"")
        except MalformedMessage:
            return None
        return self._roles.get(number.source)
