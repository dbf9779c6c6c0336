"""The tests that send uninvited: who comes in, and whether the NAT moves a mapping for it. Pure.

A volley is one check from each of several sockets at one instant, the first of them a control over a path that is known
to be open (``natprobe.silence``); an answer proves that the check came in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from natprobe.behaviour import Protocol
from natprobe.endpoint import Address, Endpoint
from natprobe.observation import Arrival, Exchange, Observation, Outcome, Purpose, Volley
from natprobe.page.ice import candidate
from natprobe.page.peer import Asked, Peer, Seen
from natprobe.page.trials import PATIENCE, Greeting, Trial, glimpse, local_of, silence
from natprobe.reflector.layout import Layout
from natprobe.silence import CONVINCING, tally

_GAP = 0.02
_SLOWER = 0.04
_FULL = 12
"""Volleys that convince where nothing is lost; those beyond make up for losses."""
_CAP = 4.0

_BLOCKED = 1.5
"""Seconds until the page is asked whether it has sent anything at all."""
_MANY = 10
"""Checks unanswered on a path that loses a round trip in three: one in 50,000."""


class Salvo:
    """Volleys to one peer connection, until each sender is heard or its silence is as improbable as ``chance``."""

    def __init__(self, peer: Peer, asked: Sequence[Endpoint], chance: float) -> None:
        self._peer = peer
        self._asked = tuple(asked)
        self._chance = chance
        self._shots: list[tuple[float, dict[Endpoint, Arrival]]] = []
        self._of: dict[bytes, int] = {}

    def fire(self, target: Endpoint, now: float) -> float:
        """Send a volley; return when the next one is due."""
        number = len(self._shots)
        self._shots.append((now, {}))
        first = number % len(self._asked)  # what lets only the head of a burst through must not favour the control
        for socket in (*self._asked[first:], *self._asked[:first]):
            self._of[self._peer.ask(socket, target, now)] = number
        return now + (_GAP if number + 1 < _FULL else _SLOWER)

    def answered(self, asked: Asked) -> None:
        """Take an answer, if it is one to a volley."""
        number = self._of.get(asked.transaction_id)
        if number is not None:
            arrival = Arrival(asked.socket, asked.socket, asked.took)
            self._shots[number][1].setdefault(asked.socket, arrival)

    def volleys(self, local: Endpoint, now: float) -> tuple[Volley, ...]:
        """Return the facts so far."""
        asked = self._asked
        return tuple(Volley(local, asked[0], at, asked, now - at, tuple(heard.values())) for at, heard in self._shots)

    @property
    def heard_all(self) -> bool:
        """Whether each sender has been heard, the control too."""
        return all(map(self._heard, self._asked))

    def over(self, now: float) -> bool:
        """Return whether more of it would say nothing new, or its time is up."""
        if not self._shots:
            return False
        if now - self._shots[0][0] >= _CAP or self.heard_all:
            return True
        volleys = self.volleys(self._peer.local, now)
        return all(self._heard(sender) or tally(volleys, sender).chance <= self._chance for sender in self._asked[1:])

    def _heard(self, sender: Endpoint) -> bool:
        return any(sender in heard for _, heard in self._shots)


class Filtering(Trial):
    """Who comes in, where only the contacted endpoint was sent to."""

    def __init__(self, peer: Peer, layout: Layout) -> None:
        super().__init__(peer)
        self.peer = peer
        self.contacted = layout.listening[0]
        self._site = tuple((role.name, endpoint) for role, endpoint in layout.site(self.contacted))
        self._greeting = Greeting(peer, self.contacted)
        self._salvo = Salvo(peer, list(layout.sources(self.contacted).values()), CONVINCING)
        self._volleys: tuple[Volley, ...] = ()
        self._sent = 0

    @property
    def reached(self) -> bool:
        """Whether a check came and was answered: UDP gets through, both ways."""
        return self._greeting.answer is not None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The external address that has answered, if any has."""
        return (self._greeting.answer.target.address,) if self._greeting.answer else ()

    def begin(self, now: float) -> None:
        super().begin(now)
        self.due = now + _BLOCKED
        self.peer.invite([candidate(self.contacted, 1)])

    def seen(self, peer: Peer, seen: Seen) -> None:
        self._greeting.meet(seen)

    def answered(self, peer: Peer, asked: Asked, now: float) -> None:
        if self._greeting.proves(asked):
            self.due = now
        self._salvo.answered(asked)
        if self._salvo.heard_all:
            self.end(now)

    def tick(self, now: float) -> None:
        proved = self._greeting.answer
        if proved is None and now - self.began < 2 * PATIENCE:
            self.peer.count()  # nothing came through: of how many checks?
            self.due = now + PATIENCE
        elif proved is None or self._salvo.over(now):
            self.end(now)
        else:
            self.due = self._salvo.fire(proved.target, now)

    def counted(self, peer: Peer, sent: Mapping[Endpoint, int], now: float) -> None:
        self._sent = sent.get(self.contacted, 0)
        if not self.reached and (self._sent >= _MANY or now - self.began >= 2 * PATIENCE):
            self.end(now)

    def end(self, now: float) -> None:
        self._volleys = self._salvo.volleys(self.peer.local, now)
        super().end(now)

    def facts(self, own: Address | None) -> Iterable[Observation]:
        local = local_of(self.peer, own)
        yield self._hello(local)
        yield from (replace(volley, local=local) for volley in self._volleys)

    def _hello(self, local: Endpoint) -> Exchange:
        greeting, answer = self._greeting, self._greeting.answer
        if answer is None:
            return silence(Purpose.HELLO, local, self.contacted, self, self._sent)
        waited = answer.at + answer.took - self.began
        return Exchange(
            *(Purpose.HELLO, Protocol.UDP, local, self.contacted, self.began, greeting.sent, waited),
            *(Outcome.ANSWERED, answer.took, answer.target),
            site=self._site,
        )


class Remap(Trial):
    """What an endpoint sees that has sent to the socket uninvited, once it is sent to itself."""

    TRIES = 2
    """Peer connections that it is tried with."""

    def __init__(self, peer: Peer, layout: Layout) -> None:
        super().__init__(peer)
        self.peer = peer
        self._home, *others = layout.listening
        # A stranger at another address: there are filters that let in any port of one that was sent to.
        self._stranger = next((e for e in others if e.address != self._home.address), None)
        self._then = [e for e in (self._stranger, *[e for e in others if e != self._stranger][:1]) if e]
        self._greeting = Greeting(peer, self._home)
        self._salvo = Salvo(peer, [self._home, *self._then[:1]], CONVINCING ** (1 / self.TRIES))
        self._volleys: tuple[Volley, ...] | None = None
        self._after: dict[Endpoint, Seen] = {}

    def begin(self, now: float) -> None:
        super().begin(now)
        self.peer.invite([candidate(self._home, 1)])

    def seen(self, peer: Peer, seen: Seen) -> None:
        if self._volleys is None:
            self._greeting.meet(seen)
            return
        self._after.setdefault(seen.socket, seen)
        if self._after.keys() >= {self._home, *self._then}:
            self.end(seen.at)

    def answered(self, peer: Peer, asked: Asked, now: float) -> None:
        if self._greeting.proves(asked):
            self.due = now
            if self._stranger is None:
                self.end(now)
        self._salvo.answered(asked)

    def tick(self, now: float) -> None:
        proved = self._greeting.answer
        if proved is None or self._volleys is not None:
            self.end(now)
        elif self._salvo.over(now):
            self._volleys = self._salvo.volleys(self.peer.local, now)
            self.peer.add(candidate(endpoint, number) for number, endpoint in enumerate(self._then, 2))
            self.due = now + PATIENCE
        else:
            self.due = self._salvo.fire(proved.target, now)

    def facts(self, own: Address | None) -> Iterable[Observation]:
        local = local_of(self.peer, own)
        home = self._greeting.seen
        if home is None:
            yield silence(Purpose.REMAP, local, self._home, self)
            return
        yield glimpse(Purpose.REMAP, local, [home], self)
        yield from (replace(volley, local=local, purpose=Purpose.REMAP) for volley in self._volleys or ())
        if self._volleys:
            for endpoint in (*self._then, self._home):
                seen = self._after.get(endpoint)
                if seen:
                    yield glimpse(Purpose.REMAP, local, [seen], self)
                else:
                    yield silence(Purpose.REMAP, local, endpoint, self)
