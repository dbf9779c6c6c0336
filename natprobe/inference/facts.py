"""The observations of one protocol and IP version, found by kind, each with its index: what verdicts cite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from natprobe.behaviour import Protocol
from natprobe.endpoint import Address, Endpoint, Scope
from natprobe.observation import (
    ConnectBack,
    Draws,
    Exchange,
    Hold,
    Idle,
    Observation,
    Purpose,
    Recognition,
    Sharing,
    Volley,
)
from natprobe.server import Server, describe

_CONTROLS = (Purpose.CONTROL, Purpose.CLOSED_PORT, Purpose.HAIRPIN)
T = TypeVar("T", Exchange, Volley, ConnectBack, Hold, Recognition, Idle)
Cited = tuple[int, T]


@dataclass(frozen=True)
class Facts:
    """A view of a run's observations."""

    observations: Sequence[Observation]
    protocol: Protocol
    version: int

    def _of(self, kind: type[T]) -> list[Cited[T]]:
        return [
            (index, fact)
            for index, fact in enumerate(self.observations)
            if isinstance(fact, kind) and fact.local.version == self.version
        ]

    @cached_property
    def exchanges(self) -> list[Cited[Exchange]]:
        """The exchanges over this protocol."""
        return [cited for cited in self._of(Exchange) if cited[1].protocol is self.protocol]

    @cached_property
    def elsewhere(self) -> list[Cited[Exchange]]:
        """The exchanges over the other protocol."""
        return [cited for cited in self._of(Exchange) if cited[1].protocol is not self.protocol]

    @cached_property
    def volleys(self) -> list[Cited[Volley]]:
        """The volleys of the filtering test."""
        return self._volleys(Purpose.FILTERING)

    @cached_property
    def knocks(self) -> list[Cited[Volley]]:
        """The volleys that were to be unsolicited."""
        return self._volleys(Purpose.REMAP)

    def _volleys(self, purpose: Purpose) -> list[Cited[Volley]]:
        return [cited for cited in self._of(Volley) if self.protocol is Protocol.UDP and cited[1].purpose is purpose]

    @cached_property
    def connect_backs(self) -> list[Cited[ConnectBack]]:
        return self._of(ConnectBack) if self.protocol is Protocol.TCP else []

    @cached_property
    def holds(self) -> list[Cited[Hold]]:
        return self._of(Hold) if self.protocol is Protocol.TCP else []

    @cached_property
    def recognitions(self) -> list[Cited[Recognition]]:
        return self._of(Recognition) if self.protocol is Protocol.UDP else []

    @cached_property
    def idles(self) -> list[Cited[Idle]]:
        return self._of(Idle) if self.protocol is Protocol.UDP else []

    @cached_property
    def draws(self) -> list[tuple[int, Draws]]:
        """The draws of external ports, over either protocol."""
        found = ((index, fact) for index, fact in enumerate(self.observations) if isinstance(fact, Draws))
        return [(i, fact) for i, fact in found if all(flow.local.version == self.version for flow in fact.flows)]

    @cached_property
    def sharings(self) -> list[tuple[int, Sharing]]:
        """The trials of two flows on one external port, the first of this protocol."""
        found = ((index, fact) for index, fact in enumerate(self.observations) if isinstance(fact, Sharing))
        mine = ((index, fact) for index, fact in found if fact.protocol is self.protocol)
        return [(index, fact) for index, fact in mine if fact.first.local.version == self.version]

    @property
    def asked(self) -> list[Cited[Exchange]]:
        """The exchanges that were made to learn of this protocol; a mere control is none."""
        return [cited for cited in self.exchanges if cited[1].purpose not in _CONTROLS]

    def purpose(self, *purposes: Purpose) -> list[Cited[Exchange]]:
        return [cited for cited in self.exchanges if cited[1].purpose in purposes]

    @property
    def answered(self) -> list[Cited[Exchange]]:
        """The exchanges that a server answered."""
        return [cited for cited in self.exchanges if cited[1].answered and cited[1].purpose is not Purpose.HAIRPIN]

    @cached_property
    def external_addresses(self) -> set[Address]:
        """Every external address that this host had, over whatever protocol, but its own."""
        seen = [exchange for _, exchange in (*self.answered, *self.elsewhere) if exchange.answered and exchange.mapped]
        return {e.mapped.address for e in seen if e.mapped and e.mapped.address != e.local.address}

    def doubt(self, cited: Iterable[Cited[Exchange]]) -> str | None:
        """Return why what servers report of this host may be true of their own side alone, or None.

        A server at a public address that sees a private one, not this host's own, may stand behind a proxy or a NAT, as
        which it sees everybody; or on the same private network, by another route. A port that is changed where the
        address is kept is rarely a NAT's doing.
        """
        for _, exchange in cited:
            mapped, remote = exchange.mapped, exchange.remote
            local = exchange.local
            if not mapped or mapped == local:
                continue
            if mapped.address == local.address and local.port:
                return f"{remote} reports this host's own address with another port, which few NATs make of it"
            if remote.scope is Scope.GLOBAL and mapped.scope is not Scope.GLOBAL:
                return f"{remote} reports the {mapped.scope} address {mapped.address}, perhaps of a NAT on its own side"
        return None

    @cached_property
    def dissenting(self) -> dict[Address, Address]:
        """The addresses of servers that report an external address against a majority of servers, and that address.

        A server counts once, however many addresses it has; two that agree outvote a third.
        """
        owner = {endpoint.address: server.contacted.address for server in self.servers for endpoint in server.listens}
        votes: defaultdict[Address, set[Address]] = defaultdict(set)
        reports: dict[Address, Address] = {}
        for _, exchange in self.answered:
            if exchange.mapped:
                at = exchange.remote.address
                votes[exchange.mapped.address].add(owner.get(at, at))
                reports[at] = exchange.mapped.address
        ranked = sorted(votes, key=lambda address: len(votes[address]), reverse=True)
        if len(ranked) < 2 or len(votes[ranked[0]]) <= len(votes[ranked[1]]):
            return {}
        majority = votes[ranked[0]]
        return {at: address for at, address in reports.items() if owner.get(at, at) not in majority}

    @cached_property
    def shared(self) -> set[Endpoint]:
        """The endpoints at which not always the same server answered, as far as servers tell.

        A reflector names itself; any server tells by the other address that it names.
        """
        instances: defaultdict[Address, set[str]] = defaultdict(set)
        others: defaultdict[Endpoint, set[Endpoint]] = defaultdict(set)
        for _, exchange in (*self.exchanges, *self.elsewhere):
            if exchange.purpose is Purpose.PROOF or not exchange.answered:
                continue  # a proof comes from elsewhere
            if exchange.instance:
                instances[exchange.remote.address].add(exchange.instance)
            if exchange.other:
                others[exchange.remote].add(exchange.other)
        asked = {exchange.remote for _, exchange in (*self.exchanges, *self.elsewhere)}
        return {remote for remote in asked if len(instances[remote.address]) > 1 or len(others[remote]) > 1}

    def server(self, contacted: Endpoint) -> Server | None:
        """Return what the server contacted at this endpoint said of itself, over this protocol."""
        hellos = (e for _, e in self.purpose(Purpose.HELLO) if e.answered and e.remote == contacted)
        return next((describe(hello) for hello in hellos), None)

    @property
    def servers(self) -> list[Server]:
        """The servers that answered a first request, in the order in which they did."""
        found = dict.fromkeys(e.remote for _, e in self.purpose(Purpose.HELLO) if e.answered)
        return [server for remote in found if (server := self.server(remote))]


def many_servers(shared: Iterable[Endpoint]) -> str:
    """Return what is wrong with endpoints that are `Facts.shared`, in words."""
    addresses = listing(sorted({remote.address for remote in shared}, key=str))
    return f"several servers answer at {addresses} in turn, or one that was restarted meanwhile"


def indexes(cited: Iterable[tuple[int, object]]) -> tuple[int, ...]:
    """Return the indexes alone, as evidence."""
    return tuple(index for index, _ in cited)


def own(local: Endpoint) -> str:
    """Return this host's own endpoint in words: a browser may tell the port alone (RFC 8828 §5.2)."""
    return f"port {local.port or 'unknown'} of this host" if local.address.is_unspecified else str(local)


def listing(items: Iterable[object]) -> str:
    """Return items as prose: "a, b and c"."""
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
