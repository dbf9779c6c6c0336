"""Scenes in memory in which something happens during a run: servers die, a NAT restarts, flows take turns.

A scene is the client's own code against the reflector's own rules, behind the lab's NAT, on a virtual clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from itertools import count
from typing import Any, cast

from natprobe.endpoint import parse_address
from natprobe.errors import CannotRun
from natprobe.lab.clock import run
from natprobe.lab.host import Host
from natprobe.lab.internet import Gateway, Internet, Node
from natprobe.lab.link import Impairment, Path
from natprobe.lab.mirror import Mirror
from natprobe.lab.nat import Nat
from natprobe.lab.packet import Packet
from natprobe.lab.policy import NatPolicy, differences
from natprobe.lab.simulation import CLIENT, REFLECTOR
from natprobe.report import Report
from natprobe.run import Tier, classify

EXTERNAL, OTHER_EXTERNAL = "198.51.100.1", "198.51.100.2"
LINE = Path.alike(Impairment(delay=0.018, jitter=0.002))
"""Forty milliseconds there and back, a tenth of it in queues, so that what is sent together does not come together."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What stands in it: a client behind a NAT, and a reflector."""

    internet: Internet
    gateway: Gateway
    client: Host
    reflector: Host
    mirror: Mirror

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def swap(self, address: str, node: Node | None) -> None:
        """Put another node at an address of the internet; None takes it away."""
        nodes = self.internet.realm.nodes
        if node is None:
            nodes.pop(parse_address(address), None)
        else:
            nodes[parse_address(address)] = node

    def restart(self) -> None:
        """Let the NAT forget all that it knew."""
        old = self.gateway.nat
        self.gateway.nat = Nat(old.policy, old.addresses, old.rng)


Happening = Callable[[Scene], Awaitable[None]]


def classified(
    policy: NatPolicy,
    happening: Happening,
    seed: int = 0,
    path: Path = LINE,
    addresses: Sequence[str] = (EXTERNAL,),
    *,
    reflector_addresses: Sequence[str] = REFLECTOR,
) -> Report | None:
    """Classify behind a NAT while something happens; None where no server was reached at all."""

    async def scene() -> Report | None:
        internet = Internet(seed)
        gateway = internet.gateway(policy, *addresses, path=path)
        client = internet.host(CLIENT, behind=gateway)
        reflector = internet.host(*reflector_addresses)
        mirror = Mirror(reflector)
        beside = asyncio.ensure_future(happening(Scene(internet, gateway, client, reflector, mirror)))
        await asyncio.sleep(0)
        try:
            return await classify(reflector_addresses[:1], versions=[4], tier=Tier.QUICK, network=client)
        except CannotRun:
            return None
        finally:
            beside.cancel()

    return run(scene())


def after(seconds: float, act: Callable[[Scene], None]) -> Happening:
    """Return what acts after so many seconds."""

    async def happening(scene: Scene) -> None:
        await asyncio.sleep(seconds)
        act(scene)

    return happening


def wrong(policy: NatPolicy, report: Report | None) -> list[str]:
    """Return the verdicts that are other values than the NAT has; not determined is none."""
    found = differences(policy, report.to_json()) if report else []
    return [line for line in found if "not determined" not in line]


def core(report: Report | None, *keys: str) -> list[Any]:
    """Return the verdicts with these names, of both protocols."""
    assert report
    assert report.ipv4
    profiles = [profile for profile in (report.ipv4.udp, report.ipv4.tcp) if profile]
    return [getattr(profile, key) for profile in profiles for key in keys]


Choice = Callable[[Packet], int]


class Balancer:
    """Hands each packet to one of several nodes, or of several gateways, as ``choose`` says."""

    def __init__(self, nodes: Sequence[Any], choose: Choice) -> None:
        self._nodes = nodes
        self._choose = choose

    def enter(self, packet: Packet) -> None:
        self._nodes[self._choose(packet) % len(self._nodes)].enter(packet)

    def leave(self, packet: Packet) -> None:
        self._nodes[self._choose(packet) % len(self._nodes)].leave(packet)


def by_flow(packet: Packet) -> int:
    """Choose by a hash of all that tells flows apart, as routers and load balancers do."""
    flow = f"{packet.protocol} {packet.source} {packet.destination}"
    return blake2s(flow.encode(), digest_size=1).digest()[0]


def by_destination(packet: Packet) -> int:
    return int(packet.destination.address)


def by_turns() -> Choice:
    """Choose for each datagram anew; TCP would not work like that."""
    turns = count()
    return lambda packet: by_flow(packet) if packet.flags else next(turns)


def two_uplinks(choose: Choice) -> Callable[[Scene], None]:
    """Return what gives the client a second way out, through a NAT of the same kind with an address of its own."""

    def act(scene: Scene) -> None:
        second = scene.internet.gateway(scene.gateway.nat.policy, OTHER_EXTERNAL, path=LINE)
        second.inside.nodes = scene.gateway.inside.nodes
        scene.gateway.inside.gateway = cast(Gateway, Balancer([scene.gateway, second], choose))

    return act


def two_reflectors(choose: Choice) -> Callable[[Scene], None]:
    """Return what puts a second reflector behind the same addresses, each with an identity and a key of its own."""

    def act(scene: Scene) -> None:
        for address in REFLECTOR:
            scene.swap(address, None)
        twin = scene.internet.host(*REFLECTOR)
        Mirror(twin)
        for address in REFLECTOR:
            scene.swap(address, Balancer([scene.reflector, twin], choose))

    return act
