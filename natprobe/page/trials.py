"""The tests of a page, each on peer connections of its own: what is sent when, and the facts that come of it.

Pure: packets, messages and the time come in, packets and messages lie in the outbox, facts come out at the end.
Whoever spoofs a source can sign a check for it: nobody but a source that has answered one check gets more than one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from natprobe.behaviour import Protocol
from natprobe.endpoint import Address, Endpoint
from natprobe.observation import Draws, Exchange, Flow, Observation, Outcome, Purpose, Recognition
from natprobe.page.ice import candidate
from natprobe.page.peer import HIDDEN, Asked, Peer, Seen

PATIENCE = 2.5
"""Seconds until the page's checks count as lost. A browser sends twenty in a second, to one candidate or in turns."""


class Trial(ABC):
    """A test under way. ``done`` is when nothing more is wanted of the page; ``due`` when `tick` wants to be called."""

    def __init__(self, *peers: Peer) -> None:
        self.peers = peers
        self.began = 0.0
        self.ended = 0.0
        self.done = False
        self.due: float | None = None

    def begin(self, now: float) -> None:
        """Start: the page has offered all the peer connections."""
        self.began = now
        self.due = now + PATIENCE

    @abstractmethod
    def seen(self, peer: Peer, seen: Seen) -> None:
        """Take a check that a peer connection of this test has sent."""

    def answered(self, peer: Peer, asked: Asked, now: float) -> None:
        """Take an answer to a check that was sent to it."""

    def connected(self, peer: Peer, local: str, remote: Endpoint | None, now: float) -> None:
        """Take the page's word that it is connected: the type of its own candidate, and where the other one is."""

    def counted(self, peer: Peer, sent: Mapping[Endpoint, int], now: float) -> None:
        """Take the page's word on how many checks a peer connection has sent to whom."""

    def tick(self, now: float) -> None:
        """Send what is due, or end."""
        self.end(now)

    @abstractmethod
    def facts(self, own: Address | None) -> Iterable[Observation]:
        """Return what was observed. ``own`` is the browser's own address, if that is known."""

    def end(self, now: float) -> None:
        """End, and have the page end its part."""
        self.done, self.ended, self.due = True, now, None
        for peer in self.peers:
            peer.close()


def local_of(peer: Peer, own: Address | None) -> Endpoint:
    """Return the socket of a peer connection, as far as it is known."""
    return Endpoint(own, peer.local.port) if own and peer.local.address.is_unspecified else peer.local


def glimpse(purpose: Purpose, local: Endpoint, checks: Sequence[Seen], trial: Trial) -> Exchange:
    """Return the fact that these checks came, all from one source to one socket of ours."""
    first = checks[0]
    at = (trial.began, len(checks), first.at - trial.began)
    return Exchange(purpose, Protocol.UDP, local, first.socket, *at, Outcome.ANSWERED, mapped=first.source)


def silence(purpose: Purpose, local: Endpoint, remote: Endpoint, trial: Trial, sent: int = 1) -> Exchange:
    """Return the fact that no check came, though the page was asked for some."""
    at = (trial.began, sent, trial.ended - trial.began)
    return Exchange(purpose, Protocol.UDP, local, remote, *at, Outcome.SILENT)


class Greeting:
    """One check back to where a page's check came from: the answer proves the source, and tells the round trip."""

    def __init__(self, peer: Peer, contacted: Endpoint) -> None:
        self._peer = peer
        self._contacted = contacted
        self._pending: set[bytes] = set()
        self.seen: Seen | None = None
        self.sent = 0
        self.answer: Asked | None = None

    def meet(self, seen: Seen) -> None:
        """Take a check of the page's, and send one for it: none longer, so that nobody gains by forging a source."""
        if seen.socket != self._contacted:
            return
        self.seen = self.seen or seen
        if self.answer is None and seen.source == self.seen.source:
            self.sent += 1
            self._pending.add(self._peer.ask(seen.socket, seen.source, seen.at))

    def proves(self, asked: Asked) -> bool:
        """Return whether an answer is the first one to a greeting."""
        if self.answer is not None or asked.transaction_id not in self._pending:
            return False
        self.answer = asked
        return True


_RECOGNISED = {"host": True, "prflx": False}
"""By the type of its own candidate: of a mapped address that is no host's it makes a new one (RFC 8445 §7.2.5.3.1)."""


class Mapped(Trial):
    """What each of several endpoints sees of one socket; and whether the browser knows that for its own address."""

    RECOGNITION = 6.0
    """Seconds to wait for the browser's word on what it was told to be seen as: over TCP, slow on a bad path."""

    def __init__(self, peer: Peer, endpoints: Sequence[Endpoint]) -> None:
        super().__init__(peer)
        self.peer = peer
        self._endpoints = endpoints
        self._seen: dict[Endpoint, list[Seen]] = {endpoint: [] for endpoint in endpoints}
        self._recognition: tuple[Endpoint, bool, float] | None = None
        self._whole = False

    def begin(self, now: float) -> None:
        super().begin(now)
        self.peer.invite(candidate(endpoint, number) for number, endpoint in enumerate(self._endpoints, 1))

    def seen(self, peer: Peer, seen: Seen) -> None:
        if seen.socket not in self._seen:
            return
        self._seen[seen.socket].append(seen)
        if self._whole:
            self.peer.reply(seen)
        elif all(self._seen.values()):
            # Not before: once it has an answer a browser is in no hurry to try the others.
            self._whole, self.due = True, seen.at + self.RECOGNITION
            for checks in self._seen.values():
                self.peer.reply(checks[-1])

    def connected(self, peer: Peer, local: str, remote: Endpoint | None, now: float) -> None:
        checks = self._seen.get(remote) if remote else None
        if checks and local in _RECOGNISED:
            self._recognition = checks[-1].source, _RECOGNISED[local], now
        self.end(now)

    @property
    def own_address(self) -> Address | None:
        """The browser's own address, where it has found it to be the one that it is seen at."""
        return self._recognition[0].address if self._recognition and self._recognition[1] else None

    def facts(self, own: Address | None) -> Iterable[Observation]:
        local = local_of(self.peer, own)
        for endpoint, checks in self._seen.items():
            if not checks:
                yield silence(Purpose.MAPPING, local, endpoint, self)
            for source in dict.fromkeys(seen.source for seen in checks):
                yield glimpse(Purpose.MAPPING, local, [seen for seen in checks if seen.source == source], self)
        if self._recognition:
            yield Recognition(local, *self._recognition)


class Ports(Trial):
    """Which external ports fresh sockets are given, one after the other, towards one endpoint."""

    NUMBER = 8

    def __init__(self, peers: Sequence[Peer], contacted: Endpoint) -> None:
        super().__init__(*peers)
        self._contacted = contacted
        self._seen: dict[str, Seen] = {}

    def begin(self, now: float) -> None:
        super().begin(now)
        for peer in self.peers:
            peer.invite([candidate(self._contacted, 1)])

    def seen(self, peer: Peer, seen: Seen) -> None:
        if seen.socket == self._contacted:
            self._seen.setdefault(peer.name, seen)
        if len(self._seen) == len(self.peers):
            self.end(seen.at)

    def facts(self, own: Address | None) -> Iterable[Observation]:
        locals_ = {peer.name: local_of(peer, own) for peer in self.peers}
        # In the order in which the page began them: a check that came late was one of several, the first of them lost.
        came = [(locals_[peer.name], self._seen[peer.name].source) for peer in self.peers if peer.name in self._seen]
        flows = tuple(Flow(local, self._contacted, source) for local, source in came if local.port)
        if flows:
            yield Draws(Protocol.UDP, self.began, self.ended - self.began, len(self.peers), flows)


class Streams(Trial):
    """To which TCP ports the browser can connect (RFC 6544): a signed check on the connection, and nothing less."""

    def __init__(self, peer: Peer, endpoints: Sequence[Endpoint]) -> None:
        super().__init__(peer)
        self.peer = peer
        self._endpoints = endpoints
        self._seen: dict[Endpoint, Seen] = {}

    def begin(self, now: float) -> None:
        super().begin(now)
        self.peer.invite(candidate(endpoint, number, tcp=True) for number, endpoint in enumerate(self._endpoints, 1))

    def seen(self, peer: Peer, seen: Seen) -> None:
        self._seen.setdefault(seen.socket, seen)
        if len(self._seen) == len(self._endpoints):
            self.end(seen.at)

    def facts(self, own: Address | None) -> Iterable[Observation]:
        local = Endpoint(own, 0) if own else HIDDEN
        for endpoint in self._endpoints:
            seen = self._seen.get(endpoint)
            waited = (seen.at if seen else self.ended) - self.began
            outcome = Outcome.ANSWERED if seen else Outcome.SILENT
            asked = (Purpose.CONTROL, Protocol.TCP, local, endpoint, self.began, 1, waited, outcome)
            yield Exchange(*asked, mapped=seen.source if seen else None)
