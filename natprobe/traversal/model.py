"""Two NATs in symbols, and what becomes of the packets with which two peers behind them try to reach each other.

No clock and no network: a few packets are pushed through two tables until something gets through. What decides is the
key at which a mapping or a filter looks (``Dependence.key``), so that there is no list of kinds of NAT here either.
Each peer does as ICE does (RFC 8445): it learns its endpoint at one server, tells it to the other, sends checks there,
answers a check that comes in, and checks in turn the source of one that it did not know.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address
from itertools import count

from natprobe.behaviour import Dependence
from natprobe.endpoint import Endpoint

SERVER = Endpoint(IPv4Address("192.0.2.1"), 3478)
_ADDRESSES = IPv4Address("198.51.100.1"), IPv4Address("203.0.113.1")
_ROUNDS = 4
"""Enough for a check, the answer, and whatever is learnt from them."""


class Traversal(StrEnum):
    """How two peers will reach each other, from the best to the worst."""

    DIRECT = "direct"
    SAME_NAT = "same-nat"
    """Both are seen as one address: by their own addresses, or by hairpinning, or not at all."""
    TIMING = "timing"
    """Directly, if the right side sends first."""
    UNKNOWN = "unknown"
    RELAY = "relay"


class Refusal(StrEnum):
    """What a packet does that a NAT refuses, apart from not getting in."""

    NOTHING = "nothing"
    REMAPS = "remaps"
    """It takes the external port: what is sent to its source later leaves from another one, and all that follows."""
    RESETS = "resets"
    """It is answered by a TCP reset or an ICMP error, which ends the attempt (RFC 5382 §4.3 REQ-4)."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a NAT or a firewall is taken to do to one protocol; every question has an answer here."""

    mapping: Dependence
    filtering: Dependence
    translated: bool = True
    refusal: Refusal = Refusal.NOTHING
    returns: bool = True
    """Whether the answer to a packet that was let in leaves by the mapping through which that came.

    It does where sessions are kept (Linux changes the port of the sender, as the receiver sees it, if it must).
    Otherwise a mapping that depends on the destination answers from where nobody asked: RFC 4787 §4.1 does not say.
    """


class Order(StrEnum):
    """Who sends first: so much earlier that the packets arrive before the other side has sent any."""

    TOGETHER = "together"
    A = "a"
    B = "b"


class Candidate(StrEnum):
    """By which of its endpoints a peer takes part in the pair that works (RFC 8445 §5.1.1)."""

    HOST = "host"
    SERVER_REFLEXIVE = "srflx"
    PEER_REFLEXIVE = "prflx"


@dataclass(frozen=True, slots=True)
class Meeting:
    """The first check that was answered: whether A sent it, and the pair of candidates."""

    by_a: bool
    a: Candidate
    b: Candidate


@dataclass(slots=True)
class _Peer:
    """A peer and its NAT: the mappings, whom each of them lets in, and who has taken it from the outside."""

    behaviour: Behaviour
    address: IPv4Address
    mappings: dict[Hashable, Endpoint] = field(default_factory=dict)
    permits: set[tuple[Endpoint, Hashable]] = field(default_factory=set)
    occupied: set[tuple[Endpoint, Endpoint]] = field(default_factory=set)
    remotes: dict[Endpoint, bool] = field(default_factory=dict)
    """The endpoints of the other peer that this one knows, and whether it may still try."""
    ports: Iterator[int] = field(default_factory=lambda: count(1024))
    told: Endpoint = field(init=False)
    """The endpoint under which the server sees it."""

    def __post_init__(self) -> None:
        self.told = self.send(SERVER)

    def send(self, remote: Endpoint) -> Endpoint:
        """Send a packet, and return the endpoint that it comes from outside."""
        key = self.behaviour.mapping.key(remote) if self.behaviour.translated else ()
        external = self.mappings.get(key)
        if external is None or (external, remote) in self.occupied:
            external = self.mappings[key] = Endpoint(self.address, next(self.ports))
        self.permits.add((external, self.behaviour.filtering.key(remote)))
        return external

    def lets_in(self, source: Endpoint, target: Endpoint) -> bool:
        """Return whether a packet that nobody waits for gets in, and remember it if so, or what it did if not."""
        by_connection = self.behaviour.filtering is Dependence.CONNECTION_DEPENDENT
        if by_connection or (target, self.behaviour.filtering.key(source)) not in self.permits:
            if self.behaviour.refusal is Refusal.REMAPS:
                self.occupied.add((target, source))
            return False
        self.remotes.setdefault(source, True)
        return True

    def give_up(self, source: Endpoint, remote: Endpoint) -> None:
        """End the attempt at a remote that left as ``source``; a filter that knows it by that alone forgets it."""
        self.remotes[remote] = False
        self.permits.discard((source, remote))  # where the filter looks at less, another key stands there

    def candidate(self, endpoint: Endpoint) -> Candidate:
        if not self.behaviour.translated:
            return Candidate.HOST
        return Candidate.SERVER_REFLEXIVE if endpoint == self.told else Candidate.PEER_REFLEXIVE


def meet(a: Behaviour, b: Behaviour, order: Order = Order.TOGETHER) -> Meeting | None:
    """Return how two peers behind these NATs connect, or None: they do not."""
    one, other = (_Peer(behaviour, address) for behaviour, address in zip((a, b), _ADDRESSES, strict=True))
    one.remotes[other.told] = other.remotes[one.told] = True
    if order is Order.TOGETHER:  # what each sends has left before anything arrives
        one.send(other.told)
        other.send(one.told)
    turns = [(other, one), (one, other)] if order is Order.B else [(one, other), (other, one)]
    for _ in range(_ROUNDS):
        for sender, receiver in turns:
            for target in [remote for remote, trying in sender.remotes.items() if trying]:
                source = _check(sender, receiver, target)
                if source:
                    ours, theirs = sender.candidate(source), receiver.candidate(target)
                    return Meeting(True, ours, theirs) if sender is one else Meeting(False, theirs, ours)
    return None


def outcome_of(a: Behaviour, b: Behaviour) -> tuple[Traversal, Order | None]:
    """Return how two peers behind these NATs reach each other, and who has to send first if that matters."""
    works = [order for order in Order if meet(a, b, order)]
    if len(works) == len(Order):
        return Traversal.DIRECT, None
    # That one side has to be first is easier to arrange than that both keep to an instant.
    return (Traversal.TIMING, works[-1]) if works else (Traversal.RELAY, None)


def _check(sender: _Peer, receiver: _Peer, target: Endpoint) -> Endpoint | None:
    """Return where a check came from if it was answered from where it went to (RFC 8445 §7.2.5.2.1)."""
    source = sender.send(target)
    if not receiver.lets_in(source, target):
        if receiver.behaviour.refusal is Refusal.RESETS:
            sender.give_up(source, target)
        return None
    answered_from = target if receiver.behaviour.returns else receiver.send(source)
    return source if answered_from == target else None
