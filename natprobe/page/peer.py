"""One peer connection of the page, seen from the other end: who it is, what came from it, what was asked of it.

Pure: the time is an argument, and what is to be sent lies in an outbox.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from natprobe.endpoint import Endpoint
from natprobe.page import ice
from natprobe.page.ice import Credentials
from natprobe.reflector.rules import Outgoing

HIDDEN = Endpoint(IPv4Address(0), 0)
"""Where nothing is known of the browser's own end: it keeps its address to itself (RFC 8828 §5.2)."""


@dataclass(slots=True)
class Outbox:
    """What is to leave: datagrams to the network, messages to the page."""

    datagrams: list[Outgoing] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Asked:
    """A check of ours that was answered: from which socket, to whom, when, and how long the answer took."""

    transaction_id: bytes
    socket: Endpoint
    target: Endpoint
    at: float
    took: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A check of the page's, as it came."""

    transaction_id: bytes
    socket: Endpoint
    source: Endpoint
    at: float


@dataclass(slots=True)
class Peer:
    """A peer connection by the name that the page calls it, and the two ends' credentials.

    ``own`` may be those of another peer connection of the page: then the two can also find each other.
    """

    name: str
    outbox: Outbox
    own: Credentials = field(default_factory=Credentials.fresh)
    theirs: Credentials | None = None
    local: Endpoint = HIDDEN
    """Its socket, as far as the browser tells: mostly the port alone."""
    _asked: dict[bytes, Asked] = field(default_factory=dict)

    @property
    def username(self) -> str:
        """The username of its checks."""
        assert self.theirs
        return f"{self.own.ufrag}:{self.theirs.ufrag}"

    def invite(self, candidates: Iterable[str]) -> None:
        """Have the page send checks to these candidates."""
        answer = {"ufrag": self.own.ufrag, "password": self.own.password}
        self.outbox.messages.append({"answer": self.name, **answer, "candidates": [*candidates]})

    def add(self, candidates: Iterable[str]) -> None:
        """Have it send checks to these too."""
        self.outbox.messages.append({"candidates": [*candidates], "name": self.name})

    def count(self) -> None:
        """Have the page say how many checks it has sent."""
        self.outbox.messages.append({"count": self.name})

    def close(self) -> None:
        """Have the page end the peer connection."""
        self.outbox.messages.append({"close": self.name})

    def ask(self, socket: Endpoint, target: Endpoint, now: float) -> bytes:
        """Send it a check; return the transaction that an answer will belong to."""
        assert self.theirs
        transaction_id = secrets.token_bytes(12)
        self._asked[transaction_id] = Asked(transaction_id, socket, target, now)
        self.outbox.datagrams.append(Outgoing(ice.check(transaction_id, self.own, self.theirs), socket, target))
        return transaction_id

    def reply(self, seen: Seen) -> None:
        """Answer a check of the page's."""
        data = ice.answer(seen.transaction_id, seen.source, self.own.password)
        self.outbox.datagrams.append(Outgoing(data, seen.socket, seen.source))

    def answered(self, packet: ice.Packet, socket: Endpoint, now: float) -> Asked | None:
        """Return what an answer belongs to, the first time that it comes; None if it is not the page's."""
        asked = self._asked.get(packet.transaction_id)
        if not (asked and self.theirs and asked.socket == socket and packet.verified(self.theirs.password)):
            return None
        del self._asked[packet.transaction_id]
        return Asked(asked.transaction_id, asked.socket, asked.target, asked.at, now - asked.at)
