"""Real connections between two hosts of the lab, each behind its own NAT: for the benchmark and for the tests."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from natprobe.behaviour import Certainty, Dependence, PortReuse, Treatment, Verdict
from natprobe.lab.backend import Lab
from natprobe.lab.policy import NatPolicy
from natprobe.report import Report
from natprobe.traversal import Order, PathPrediction, Traversal

PEER = Path(__file__).with_name("peer.py")
NODES = {"home": "home-1", "office": "office-1"}
DELAY = 0.05
"""One way, before home: both send before anything of the other's arrives if they begin within this time."""
LEAD = 0.3
"""How much earlier the first one begins: several times the delay."""
_SOON = 0.05

Told = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one attempt to connect: A is at home, B in the office."""

    connected: bool
    pair: str | None
    """By which candidates, A's before B's, each as the other saw it."""
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A lab with a peer on either side."""

    lab: Lab
    home: Process
    office: Process

    async def behind(self, home: NatPolicy, office: NatPolicy) -> None:
        """Give both gateways a policy; they forget whatever they knew."""
        await asyncio.to_thread(self.lab.apply, "home", home)
        await asyncio.to_thread(self.lab.apply, "office", office)

    async def attempt(self, order: Order = Order.TOGETHER) -> Attempt:
        """Have the two peers connect, one of them first or both at the same instant."""
        server = str(self.lab.topology.reflector_addresses[0]), 3478
        peers = self.home, self.office
        offers = await _all(_ask(peer, controlling=peer is self.home, server=server) for peer in peers)
        begin = time.monotonic() + _SOON
        starts = begin + LEAD * (order is Order.B), begin + LEAD * (order is Order.A)
        told = zip(peers, reversed(offers), starts, strict=True)
        a, b = await _all(_ask(peer, remote=offer, start=start) for peer, offer, start in told)
        return await self._ended(a, b)

    async def call(self, *, a_offers: bool) -> Attempt:
        """Have the two peers, which must be of kind rtc, open a data channel.

        The one that answers begins first, for its answer is on the way for a while: here as long as a lead.
        """
        server = str(self.lab.topology.reflector_addresses[0]), 3478
        caller, callee = (self.home, self.office) if a_offers else (self.office, self.home)
        offer = await _ask(caller, controlling=True, server=server)
        answer = await _ask(callee, controlling=False, server=server, remote=offer)
        await asyncio.sleep(LEAD)
        ours, theirs = await _all([_ask(caller, remote=answer), _line(callee)])
        return await (self._ended(ours, theirs) if a_offers else self._ended(theirs, ours))

    async def _ended(self, a: Told, b: Told) -> Attempt:
        await _all(_ask(peer, close=True) for peer in (self.home, self.office))
        if not (a["connected"] and b["connected"]):
            return Attempt(False, None, None)
        return Attempt(True, f"{b['other']}-{a['other']}", max(a["seconds"], b["seconds"]))


@asynccontextmanager
async def peers(lab: Lab, kind: str) -> AsyncIterator[Pair]:
    """Start a peer (see peer.py) on either side of the lab; they end with the block."""
    async with AsyncExitStack() as stack:
        home, office = [await stack.enter_async_context(_peer(lab, node, kind)) for node in NODES.values()]
        yield Pair(lab, home, office)


@asynccontextmanager
async def _peer(lab: Lab, node: str, kind: str) -> AsyncIterator[Process]:
    command = lab.inside(node, ["python", str(PEER), kind])
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=sys.stderr)
    try:
        yield process
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


async def _ask(peer: Process, **order: Any) -> Told:
    assert peer.stdin
    peer.stdin.write(json.dumps(order).encode() + b"\n")
    return await _line(peer)


async def _line(peer: Process) -> Told:
    assert peer.stdout
    line = await peer.stdout.readline()
    if not line:
        raise RuntimeError(f"a peer has ended, with status {await peer.wait()}")
    answer: Told = json.loads(line)
    return answer


async def _all(awaitables: Iterable[Awaitable[Told]]) -> list[Told]:
    return list(await asyncio.gather(*awaitables))


def works(predicted: PathPrediction, order: Order) -> bool:
    """Return whether a prediction has it that they connect if this one begins."""
    match predicted.outcome:
        case Traversal.DIRECT:
            return True
        case Traversal.TIMING:
            return order in (Order.TOGETHER, predicted.first)
        case _:
            return False


# --- reports ----------------------------------------------------------------------------------------------------------


def classify(lab: Lab, gateway: str, policy: NatPolicy) -> Report:
    """Return the report that ``natprobe classify`` makes behind a gateway of this policy."""
    lab.apply(gateway, policy)
    server = str(lab.topology.reflector_addresses[0])
    ended = lab.run(NODES[gateway], ["natprobe", "classify", "-4", "-s", server, "--json"], timeout=60)
    return told_by_the_lab(Report.loads(ended.stdout), policy)


def told_by_the_lab(report: Report, policy: NatPolicy) -> Report:
    """Return the report with what the policy does to packets that it refuses, where no test has told."""
    assert report.ipv4
    udp, tcp = report.ipv4.udp, report.ipv4.tcp
    if udp and udp.unsolicited_remap is None:
        udp = replace(udp, unsolicited_remap=_told(remaps(policy)))
    if tcp and tcp.unsolicited_syn is None:
        tcp = replace(tcp, unsolicited_syn=_told(policy.tcp.unsolicited))
    return replace(report, ipv4=replace(report.ipv4, udp=udp, tcp=tcp))


def _told(value: T) -> Verdict[T]:
    return Verdict(value, Certainty.CONFIRMED, "the lab's policy has it so")


def remaps(policy: NatPolicy) -> bool:
    """Whether a packet that comes in uninvited takes the port from its owner: it does where the kernel accepts it."""
    udp = policy.udp
    accepts = udp.unsolicited is Treatment.ACCEPTED and udp.port_reuse is PortReuse.PER_DESTINATION
    return policy.translated and accepts and udp.mapping is Dependence.ENDPOINT_INDEPENDENT
