"""One visit of a page: which test comes when, who gets which packet, and the report at the end.

Pure: the time is an argument (seconds since the visit began), what is to be sent lies in the outbox. Filtering is
tested first, while nothing has been sent to any other address than the one that served the page: there are filters that
are kept by host. All else follows at once, each on a socket of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_address

import msgspec

from natprobe.behaviour import Protocol
from natprobe.endpoint import Address, Endpoint
from natprobe.observation import Exchange, Observation, Outcome, Purpose, Resolution
from natprobe.page import ice
from natprobe.page.hairpin import Hairpin
from natprobe.page.ice import Credentials
from natprobe.page.lifetime import LONGEST as LONGEST_LIFETIME
from natprobe.page.lifetime import Lifetime
from natprobe.page.peer import HIDDEN, Outbox, Peer, Seen
from natprobe.page.trials import Mapped, Ports, Streams, Trial
from natprobe.page.volleys import Filtering, Remap
from natprobe.reflector.layout import Layout
from natprobe.report import Report, Vantage
from natprobe.version import VERSION

MOST_PACKETS = 5_000
"""Datagrams to a page in all, and from it; a visit over a good path takes 250, one with lifetimes 2,000."""
LONGEST = 30.0
"""Seconds; what takes so long is the page's TCP, on a path that loses packets."""

_PROGRESS = (
    ("Who is let in?", 0.2),
    ("What do others see of this browser?", 0.6),
    ("Which ports is it given?", 0.9),
    ("Waiting for the router to forget. Leave this page open for two minutes.", None),
)
"""What is tested in each stage, and how much has been done by then, if that can be said."""


class Offer(msgspec.Struct, forbid_unknown_fields=True):
    """A peer connection is there: its credentials, and its own candidates (address None where the browser hides it)."""

    name: str
    ufrag: str
    password: str
    hosts: list[tuple[str | None, int]]


class Offers(msgspec.Struct, tag="offers", forbid_unknown_fields=True):
    """All peer connections at once: on a path that loses packets each message of its own takes its time over TCP."""

    offers: list[Offer]


class Connected(msgspec.Struct, tag="connected", forbid_unknown_fields=True):
    """A peer connection got an answer: what type its own candidate is, and whom it found."""

    name: str
    local: str
    remote: tuple[str, int] | None


class Counted(msgspec.Struct, tag="counted", forbid_unknown_fields=True):
    """How many checks a peer connection has sent, and to whom (an address and a port)."""

    name: str
    sent: list[tuple[str, int, int]]


Message = Offers | Connected | Counted
_DECODER = msgspec.json.Decoder(Message)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who came by HTTP: the browser by the name that it gives itself, from where, to which endpoint, and when."""

    browser: str
    source: Endpoint
    served_by: Endpoint
    date: datetime


class Session:
    """A visit. ``done`` is when there is nothing more to wait for, ``due`` when `tick` wants to be called."""

    def __init__(
        self, layout: Layout, streams: Sequence[Endpoint], visitor: Visitor, waits: Sequence[float] = ()
    ) -> None:
        self.outbox = Outbox()
        self._visitor = visitor
        self._contacted = layout.listening[0]
        self._filtering = Filtering(self._peer("filtering"), layout)
        self._mapping = Mapped(self._peer("mapping"), layout.listening)
        remaps = [Remap(self._peer(f"remap {number}"), layout) for number in range(Remap.TRIES)]
        hairpin = Hairpin(self._peer("hairpin one"), self._peer("hairpin other"), self._contacted)
        self._streams = Streams(self._peer("streams"), streams)
        ports = Ports([self._peer(f"port {number}") for number in range(Ports.NUMBER)], self._contacted)
        # Of ports that are given out in turn the others would take some.
        together = [self._mapping, *remaps, hairpin, self._streams]
        self._stages: list[list[Trial]] = [[self._filtering], together, [ports]]
        if waits:
            silent = [self._peer(f"silent {number}") for number in range(len(waits))]
            self._stages.append([Lifetime(self._peer("in use"), silent, waits, self._filtering)])
        self._longest = LONGEST + (LONGEST_LIFETIME if waits else 0.0)
        self._stage = -1
        self._arrivals = 0
        self._trials = [trial for stage in self._stages for trial in stage]
        self._peers = {peer.name: (trial, peer) for trial in self._trials for peer in trial.peers}
        self.outbox.messages.append({"open": [*self._peers]})

    def _peer(self, name: str) -> Peer:
        return Peer(name, self.outbox)

    # --- what comes in ------------------------------------------------------------------------------------------------

    def heard(self, text: str | bytes, now: float) -> None:
        """Take a message of the page. Raises ValueError for one that makes no sense."""
        message: Message = _DECODER.decode(text)
        match message:
            case Offers(offers):
                for offer in offers:
                    self._offered(self._named(offer.name)[1], offer)
            case Connected(name, local, remote):
                trial, peer = self._named(name)
                found = Endpoint.of(*remote) if remote else None
                if trial in self._under_way:
                    trial.connected(peer, local, found, now)
            case Counted(name, counts):
                trial, peer = self._named(name)
                sent = {Endpoint.of(address, port): max(0, number) for address, port, number in counts}
                if trial in self._under_way:
                    trial.counted(peer, sent, now)
        self._go_on(now)

    def _named(self, name: str) -> tuple[Trial, Peer]:
        if name not in self._peers:
            raise ValueError("no such peer connection")
        return self._peers[name]

    def _offered(self, peer: Peer, offer: Offer) -> None:
        if peer.theirs:
            raise ValueError("a peer connection is offered once")
        peer.theirs = Credentials(offer.ufrag, offer.password)
        peer.local = _host(offer.hosts, self._contacted.version)

    def arrived(
        self, packet: ice.Packet, socket: Endpoint, source: Endpoint, now: float, *, stream: bool = False
    ) -> bool:
        """Take a check or an answer, over UDP or in a TCP stream; return whether it is of this visit's page."""
        if self._arrivals >= MOST_PACKETS:
            return False
        for trial in self._under_way:
            for peer in trial.peers if stream is (trial is self._streams) else ():
                if self._deliver(trial, peer, packet, (socket, source, now)):
                    self._arrivals += 1
                    self._go_on(now)
                    return True
        return False

    def _deliver(self, trial: Trial, peer: Peer, packet: ice.Packet, where: tuple[Endpoint, Endpoint, float]) -> bool:
        socket, source, now = where
        if not packet.username:
            asked = peer.answered(packet, socket, now)
            if asked:
                trial.answered(peer, asked, now)
            return asked is not None
        if packet.username != peer.username or not packet.verified(peer.own.password):
            return False
        trial.seen(peer, Seen(packet.transaction_id, socket, source, now))
        return True

    # --- what comes when ----------------------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When `tick` wants to be called."""
        return min([self._longest, *(trial.due for trial in self._under_way if trial.due is not None)])

    @property
    def begun(self) -> bool:
        """Whether anything has been tested at all."""
        return self._filtering.began > 0

    @property
    def done(self) -> bool:
        """Whether all tests have ended."""
        return self._stage == len(self._stages)

    def tick(self, now: float) -> None:
        """Do what is due."""
        for trial in self._under_way:
            if now >= self._longest:
                trial.end(now)
            elif trial.due is not None and trial.due <= now:
                trial.tick(now)
        if now >= self._longest:
            self._stage = len(self._stages)
        self._go_on(now)

    @property
    def _under_way(self) -> list[Trial]:
        stage = self._stages[self._stage] if 0 <= self._stage < len(self._stages) else []
        return [trial for trial in stage if not trial.done]

    def _go_on(self, now: float) -> None:
        """Begin the next tests once all peer connections are there and the tests before have ended."""
        if not all(peer.theirs for _, peer in self._peers.values()):
            return
        while not self.done and not self._under_way:
            self._stage += 1
            self._begin(now)

    def _begin(self, now: float) -> None:
        if self.done:
            return
        text, value = _PROGRESS[self._stage]
        self.outbox.messages.append({"progress": text, "value": value})
        for trial in self._stages[self._stage]:
            if trial is self._streams or trial is self._filtering or self._filtering.reached:
                trial.begin(now)
            else:
                trial.done = True  # UDP does not get through

    # --- what came of it ----------------------------------------------------------------------------------------------

    def report(self, now: float) -> Report:
        """Return the report: the conclusions are drawn where they always are."""
        told = self._filtering.peer.local.address
        own = self._mapping.own_address or (None if told.is_unspecified else told)
        vantage = replace(Vantage.here([own] if own else []), platform=self._visitor.browser)
        return Report.of(VERSION, self._visitor.date, now, vantage, tuple(self._facts(own)))

    def _facts(self, own: Address | None) -> Iterator[Observation]:
        yield Resolution(str(self._contacted), (self._contacted,))
        yield self._visit(own)
        for trial in self._trials:
            if trial.began:
                yield from trial.facts(own)

    def _visit(self, own: Address | None) -> Exchange:
        """Return the page's own connection: it shows that the reflector is up, and that TCP gets through."""
        visitor, local = self._visitor, Endpoint(own, 0) if own else HIDDEN
        asked = (Purpose.CONTROL, Protocol.TCP, local, visitor.served_by, 0.0, 1, 0.0, Outcome.ANSWERED)
        return Exchange(*asked, mapped=visitor.source, instance=VERSION)


def _host(hosts: Sequence[tuple[str | None, int]], version: int) -> Endpoint:
    """Return the socket of a peer connection, as far as its candidates tell it."""
    told = [Endpoint.of(ip_address(address), port) for address, port in hosts if address]
    for endpoint in told:
        if endpoint.version == version:
            return endpoint
    hidden = [port for address, port in hosts if not address]
    # Of two ports one may be that of the other IP version, and which cannot be told.
    return HIDDEN.with_port(hidden[0]) if len(hidden) == 1 else HIDDEN
