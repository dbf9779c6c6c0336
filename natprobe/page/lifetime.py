"""How long a mapping lives: peer connections that fall silent, each for another time, and are then sent to. Pure.

A browser gives up after some seconds without an answer and sends no more; it answers a check all the same. Until then
nothing is sent to it, for with traffic both ways many a NAT is more patient. One more peer connection is answered, so
that it stays connected and keeps its mapping in use: the control.
"""

from __future__ import annotations

from collections.abc import Iterable

from natprobe.endpoint import Address, Endpoint
from natprobe.observation import Idle, Observation
from natprobe.page.ice import candidate
from natprobe.page.peer import Asked, Peer, Seen
from natprobe.page.trials import Trial, local_of
from natprobe.page.volleys import Filtering
from natprobe.silence import CONVINCING, chance

WAITS = (10.0, 25.0, 50.0, 110.0)
"""Seconds of silence; RFC 4787 REQ-5 wants two minutes, and what keeps mappings alive counts on half a minute."""
LONGEST = max(WAITS) + 40.0
"""Seconds that all of it may take: Chromium gives up after 15, Firefox after 6."""
_GAP = 0.02
_FULL = 12
_SLOWER = 0.1
_CAP = 4.0


class InUse(Trial):
    """The control: a peer connection that is kept connected for as long as others are silent."""

    def __init__(self, peer: Peer, contacted: Endpoint) -> None:
        super().__init__(peer)
        self.peer = peer
        self.source: Endpoint | None = None
        """Where it was seen last."""
        self.heard: set[bytes] = set()
        self.contacted = contacted

    def begin(self, now: float) -> None:
        super().begin(now)
        self.due = now + LONGEST
        self.peer.invite([candidate(self.contacted, 1)])

    def seen(self, peer: Peer, seen: Seen) -> None:
        if seen.socket == self.contacted:
            self.source = seen.source
            self.peer.reply(seen)

    def answered(self, peer: Peer, asked: Asked, now: float) -> None:
        self.heard.add(asked.transaction_id)

    def facts(self, own: Address | None) -> Iterable[Observation]:
        return ()


class Silent(Trial):
    """One peer connection that falls silent, is left alone for ``wait`` seconds, and is then sent to."""

    def __init__(self, peer: Peer, proved: Filtering, control: InUse, wait: float) -> None:
        super().__init__(peer)
        self.peer = peer
        self._proved, self._control, self._wait = proved, control, wait
        self._contacted = control.contacted
        self._last: Seen | None = None
        self._asked_at: float | None = None
        self._sent: set[bytes] = set()
        self._controls: set[bytes] = set()
        self._heard = 0

    def begin(self, now: float) -> None:
        super().begin(now)
        self.peer.invite([candidate(self._contacted, 1)])

    def seen(self, peer: Peer, seen: Seen) -> None:
        if self._asked_at is None and seen.socket == self._contacted:
            self._last, self.due = seen, seen.at + self._wait

    def answered(self, peer: Peer, asked: Asked, now: float) -> None:
        if asked.transaction_id in self._sent:
            self._heard += 1
            self.end(now)

    def tick(self, now: float) -> None:
        last, control = self._last, self._control.source
        # Any port, but no address that has not answered: it might be forged.
        if last is None or control is None or last.source.address not in self._proved.addresses:
            self.end(now)
            return
        self._asked_at = self._asked_at or now
        if now - self._asked_at >= _CAP or chance(len(self._sent), self._came()) <= CONVINCING:
            self.end(now)
            return
        self._sent.add(self.peer.ask(self._contacted, last.source, now))
        self._controls.add(self._control.peer.ask(self._contacted, control, now))
        self.due = now + (_GAP if len(self._sent) < _FULL else _SLOWER)

    def _came(self) -> int:
        return len(self._controls & self._control.heard)

    def facts(self, own: Address | None) -> Iterable[Observation]:
        if self._asked_at is not None and self._last is not None:
            idle, sent = self._asked_at - self._last.at, len(self._sent)
            local = local_of(self.peer, own)
            yield Idle(local, self._contacted, self._asked_at, idle, sent, self._heard, self._came())
