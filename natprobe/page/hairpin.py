"""Whether the NAT turns packets around: two peer connections of one page are told of each other's external endpoints.

Each is given the other one's credentials as the reflector's, so that its first checks, to the reflector, show its
external endpoint, and those that follow can be answered by the other one alone. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from natprobe.behaviour import Protocol
from natprobe.endpoint import Address, Endpoint
from natprobe.observation import Exchange, Observation, Outcome, Purpose
from natprobe.page.ice import candidate
from natprobe.page.peer import HIDDEN, Peer, Seen
from natprobe.page.trials import Trial, local_of


class Hairpin(Trial):
    """Two peer connections that look for each other by way of the NAT."""

    WAIT = 0.7
    """Seconds that they are given. It all happens on this side of the NAT, with twenty checks a second from each."""
    ANSWER = 1.5
    """Seconds for the page to count them, or for the second one to say that it is connected too."""

    def __init__(self, one: Peer, other: Peer, contacted: Endpoint) -> None:
        super().__init__(one, other)
        self._other = {one.name: other, other.name: one}
        self._contacted = contacted
        self._external: dict[str, Endpoint] = {}
        self._found: dict[str, tuple[Endpoint | None, float]] = {}
        self._sent: dict[str, int] = {}
        self._counting = False

    def begin(self, now: float) -> None:
        super().begin(now)
        for peer in self.peers:
            theirs = self._other[peer.name].theirs
            assert theirs
            peer.own = theirs
        for peer in self.peers:
            peer.invite([candidate(self._contacted, 1)])

    def seen(self, peer: Peer, seen: Seen) -> None:
        if seen.socket != self._contacted or peer.name in self._external:
            return
        self._external[peer.name] = seen.source
        self._other[peer.name].add([candidate(seen.source, 2)])
        if len(self._external) == len(self.peers):
            self.due = seen.at + self.WAIT

    def connected(self, peer: Peer, local: str, remote: Endpoint | None, now: float) -> None:
        self._found[peer.name] = remote, now
        self.due = now + self.ANSWER
        if len(self._found) == len(self.peers):
            self.end(now)

    def counted(self, peer: Peer, sent: Mapping[Endpoint, int], now: float) -> None:
        other = self._external.get(self._other[peer.name].name)
        self._sent[peer.name] = sent.get(other, 0) if other else 0
        if len(self._sent) == len(self.peers):
            self.end(now)

    def tick(self, now: float) -> None:
        if self._counting or self._found or len(self._external) < len(self.peers):
            self.end(now)
            return
        self._counting, self.due = True, now + self.ANSWER
        for peer in self.peers:
            peer.count()

    def facts(self, own: Address | None) -> Iterable[Observation]:
        for peer in self.peers:
            target = self._other[peer.name]
            if target.name in self._external:
                yield self._fact(peer, target, local_of(peer, own))

    def _fact(self, peer: Peer, target: Peer, local: Endpoint) -> Exchange:
        external, sent = self._external[target.name], self._sent.get(peer.name, 0)
        asked = (Purpose.HAIRPIN, Protocol.UDP, local, external, self.began)
        if target.name not in self._found:
            return Exchange(*asked, sent, self.ended - self.began, Outcome.SILENT)
        remote, at = self._found[target.name]
        # A browser tells no address but those that it was told: another one is from inside.
        source = self._external.get(peer.name) if remote == self._external.get(peer.name) else HIDDEN
        return Exchange(*asked, max(1, sent), at - self.began, Outcome.ANSWERED, mapped=source)
