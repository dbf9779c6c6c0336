"""How long a mapping lives: peer connections that fall silent, each for another time, and are then sent to. Pure.

A browser gives up after some seconds without an answer and sends no more; it answers a check all the same. Until then
nothing is sent to it, for with traffic both ways many a NAT is more patient. One more peer connection is answered, so
that it stays connected and keeps its mapping in use: the control.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


class Lifetime(Trial):
    """The peer connections that fall silent, and the one that is kept in use for as long."""

    def __init__(self, control: Peer, silent: Sequence[Peer], waits: Sequence[float], proved: Filtering) -> None:
        super().__init__(control, *silent)
        self._control = control
        self._contacted = proved.contacted
        self._proved = proved
        self._in_use: Endpoint | None = None
        self._heard: set[bytes] = set()
        self._silent = {peer.name: _Silent(peer, wait) for peer, wait in zip(silent, waits, strict=True)}

    def begin(self, now: float) -> None:
        super().begin(now)
        for peer in self.peers:
            peer.invite([candidate(self._contacted, 1)])

    def seen(self, peer: Peer, seen: Seen) -> None:
        # Any port, but no address that has not answered: it might be forged.
        if seen.socket != self._contacted or seen.source.address not in self._proved.addresses:
            return
        if peer is self._control:
            self._in_use = seen.source
            peer.reply(seen)
        else:
            self._silent[peer.name].meet(seen)
            self._settle(seen.at)

    def answered(self, peer: Peer, asked: Asked, now: float) -> None:
        self._heard.add(asked.transaction_id)
        self._settle(now)

    def tick(self, now: float) -> None:
        if self._in_use is None:
            self.end(now)
            return
        for silent in self._silent.values():
            if silent.due is not None and silent.due <= now and not silent.over(self._heard, now):
                silent.fire(self._contacted, self._control, self._in_use, now)
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Find out when the next one is due; end with the last of them."""
        dues = [silent.due for silent in self._silent.values() if not silent.over(self._heard, now)]
        self.due = min((due for due in dues if due is not None), default=None)
        if self.due is None:
            self.end(now)

    def facts(self, own: Address | None) -> Iterable[Observation]:
        for silent in self._silent.values():
            if silent.last and silent.fired_at is not None:
                local, idle = local_of(silent.peer, own), silent.fired_at - silent.last.at
                sent, controls = ([pair[which] in self._heard for pair in silent.pairs] for which in (0, 1))
                yield Idle(
                    *(local, self._contacted, silent.fired_at, idle, len(silent.pairs), sum(sent), sum(controls))
                )


class _Silent:
    """A peer connection that falls silent, and is sent to once it has been so for ``wait`` seconds."""

    def __init__(self, peer: Peer, wait: float) -> None:
        self.peer = peer
        self._wait = wait
        self.last: Seen | None = None
        self.due: float | None = None
        self.fired_at: float | None = None
        self.pairs: list[tuple[bytes, bytes]] = []
        """The transactions of each packet and of its control."""

    def meet(self, seen: Seen) -> None:
        """Take a check of it: it is not silent yet. What it sends after it has been sent to does not count."""
        if self.fired_at is None:
            self.last, self.due = seen, seen.at + self._wait

    def fire(self, socket: Endpoint, control: Peer, in_use: Endpoint, now: float) -> None:
        """Send to it, and to the control at the same instant."""
        assert self.last
        self.fired_at = now if self.fired_at is None else self.fired_at
        self.pairs.append((self.peer.ask(socket, self.last.source, now), control.ask(socket, in_use, now)))
        self.due = now + (_GAP if len(self.pairs) < _FULL else _SLOWER)

    def over(self, heard: set[bytes], now: float) -> bool:
        """Return whether it has been heard, or its silence convinces, or its time is up."""
        if self.fired_at is None:
            return False
        controls = sum(control in heard for _, control in self.pairs)
        answered = any(sent in heard for sent, _ in self.pairs)
        return answered or now - self.fired_at >= _CAP or chance(len(self.pairs), controls) <= CONVINCING
