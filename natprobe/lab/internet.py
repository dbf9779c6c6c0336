"""An internet in memory, on the running loop: realms of addresses, hosts in them, NATs between them, links that lose.

A realm is whatever shares one address space: the internet, a carrier's network, a LAN. A gateway joins one realm to the
next by its NAT, and NATs in series are gateways behind gateways. All randomness comes from one seed, so that a run on a
virtual clock is the same every time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from natprobe.endpoint import Address, parse_address
from natprobe.lab.host import Host
from natprobe.lab.link import Impairment, Link, Path
from natprobe.lab.nat import Dropped, Hairpinned, Nat
from natprobe.lab.packet import Packet
from natprobe.lab.policy import NatPolicy

_NO_LINK = Path()


class Fault(Protocol):
    """What goes wrong on a link, beyond what its impairments do by chance."""

    def strike(self, packet: Packet, now: float, *, up: bool) -> Iterable[tuple[Packet, float]]:
        """Return what arrives in place of a packet that sets out ``now``, and how many seconds late each does."""


class Node(Protocol):
    """Whoever can be sent to within a realm."""

    def enter(self, packet: Packet) -> None:
        """Take a packet that is for this node, or for somebody behind it."""


class Realm:
    """An address space: who is reached directly, and the gateway to everybody else."""

    def __init__(self, gateway: Gateway | None = None) -> None:
        self.nodes: dict[Address, Node] = {}
        self.gateway = gateway

    def route(self, packet: Packet) -> None:
        """Pass a packet on to where it belongs; one to nowhere is lost."""
        node = self.nodes.get(packet.destination.address)
        if node is not None:
            node.enter(packet)
        elif self.gateway is not None:
            self.gateway.leave(packet)

    def add(self, address: Address, node: Node) -> None:
        """Make an address known here, and wherever it shines through a gateway that does not translate."""
        if address in self.nodes:
            raise ValueError(f"there are two nodes with the address {address}")
        self.nodes[address] = node
        if self.gateway is not None and not self.gateway.nat.policy.translated:
            self.gateway.outside.add(address, self.gateway)


class Gateway:
    """A NAT between the realm outside, over a link, and the realm inside, over none."""

    def __init__(self, nat: Nat, outside: Realm, up: Wire, down: Wire) -> None:
        self.nat = nat
        self.outside = outside
        self.inside = Realm(self)
        self._up = up
        self._down = down
        self._loop = asyncio.get_running_loop()

    def leave(self, packet: Packet) -> None:
        """Take a packet from inside that is not for anyone there."""
        result = self.nat.outbound(packet, self._loop.time())
        if isinstance(result, Packet):
            self._up.carry(result, self.outside.route)
        elif isinstance(result, Hairpinned):
            self._loop.call_soon(self.inside.route, result.packet)
        elif result.reply is not None:
            self._loop.call_soon(self.inside.route, result.reply)

    def enter(self, packet: Packet) -> None:
        """Take a packet that the outside sends here."""
        self._down.carry(packet, self._arrive)

    def _arrive(self, packet: Packet) -> None:
        result = self.nat.inbound(packet, self._loop.time())
        if isinstance(result, Packet):
            self.inside.route(result)
        elif result.after:
            self._loop.call_later(result.after, self._refuse_late, packet, result)
        elif result.reply is not None:
            self._up.carry(result.reply, self.outside.route)

    def _refuse_late(self, packet: Packet, refusal: Dropped) -> None:
        if refusal.reply is not None and self.nat.still_unsolicited(packet, self._loop.time()):
            self._up.carry(refusal.reply, self.outside.route)


Strike = Callable[[Packet, float], Iterable[tuple[Packet, float]]]
"""`Fault.strike` in one direction."""


class Wire:
    """One direction of a link on the loop. Nothing arrives while it is being sent, however short the link."""

    def __init__(self, impairment: Impairment, rng: random.Random, strike: Strike | None = None) -> None:
        self._link = Link(impairment, rng)
        self._loop = asyncio.get_running_loop()
        self._strike = strike or _unharmed

    def carry(self, packet: Packet, to: Callable[[Packet], None]) -> None:
        now = self._loop.time()
        for at in self._link.arrivals(now):
            for arriving, late in self._strike(packet, now):
                self._loop.call_at(at + late, to, arriving)


def _unharmed(packet: Packet, _: float) -> Iterable[tuple[Packet, float]]:
    return ((packet, 0.0),)


class Internet:
    """The outermost realm and all that stands in it. Make it within a running loop."""

    def __init__(self, seed: int | str = 0, names: Mapping[str, Sequence[str]] | None = None) -> None:
        self.seed = seed
        self.realm = Realm()
        self.names = {name: tuple(map(parse_address, found)) for name, found in (names or {}).items()}
        self._parts = 0

    def gateway(
        self,
        policy: NatPolicy,
        *addresses: str,
        behind: Gateway | None = None,
        path: Path = _NO_LINK,
        fault: Fault | None = None,
    ) -> Gateway:
        """Add a NAT with these external addresses, on the internet or behind another; its hosts are ``behind`` it.

        ``fault`` strikes on its link, ``up`` being towards the realm outside.
        """
        realm = behind.inside if behind else self.realm
        own = tuple(map(parse_address, addresses))
        strike_up, strike_down = (partial(fault.strike, up=way) if fault else None for way in (True, False))
        up, down = Wire(path.up, self._dice(), strike_up), Wire(path.down, self._dice(), strike_down)
        gateway = Gateway(Nat(policy, own, self._dice()), realm, up, down)
        for address in own:
            realm.add(address, gateway)
        return gateway

    def host(self, *addresses: str, behind: Gateway | None = None, path: Path | None = None) -> Host:
        """Add a host with these addresses, the first one its own choice; without a path it is reached at once."""
        realm = behind.inside if behind else self.realm
        own = tuple(map(parse_address, addresses))
        host = Host(own, self.names, self._exit(realm, path), self._dice())
        node = host if path is None else _Far(host, Wire(path.down, self._dice()))
        for address in own:
            realm.add(address, node)
        return host

    def _exit(self, realm: Realm, path: Path | None) -> Callable[[Packet], None]:
        """Return what takes the packets of a host: its wire, or the realm itself."""
        if path is not None:
            wire = Wire(path.up, self._dice())
            return lambda packet: wire.carry(packet, realm.route)
        loop = asyncio.get_running_loop()

        def send(packet: Packet) -> None:
            node = realm.nodes.get(packet.destination.address)
            if node is not None:
                loop.call_soon(node.enter, packet)  # a neighbour must not answer while this one still sends
            elif realm.gateway is not None:
                realm.gateway.leave(packet)

        return send

    def _dice(self) -> random.Random:
        """Return a generator of its own for each part, so that no part's luck depends on what others draw."""
        self._parts += 1
        return random.Random(f"{self.seed}/{self._parts}")


class _Far:
    """A host at the end of a wire."""

    def __init__(self, host: Host, wire: Wire) -> None:
        self._host = host
        self._wire = wire

    def enter(self, packet: Packet) -> None:
        self._wire.carry(packet, self._host.enter)
