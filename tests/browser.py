"""A browser with a page open, as the page's session sees one: an ICE agent of RFC 8445 behind a NAT of the lab.

Its checks are made by aioice's codec alone, and all of it runs on a clock of its own: a visit takes milliseconds.
"""

from __future__ import annotations

import heapq
import itertools
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from aioice import stun

from natprobe.behaviour import Protocol
from natprobe.endpoint import Endpoint, parse_address
from natprobe.lab.nat import Hairpinned, Nat
from natprobe.lab.packet import Flags, Packet
from natprobe.lab.policy import NatPolicy
from natprobe.page import ice
from natprobe.page.session import Session, Visitor
from natprobe.reflector.layout import Layout
from natprobe.report import Report

ADDRESSES = tuple(parse_address(f"198.51.100.{host}") for host in (10, 11, 12))
LAYOUT = Layout(ADDRESSES, (3480, 3481), (50010, 50011, 50012))
STREAMS = [Endpoint(ADDRESSES[0], port) for port in LAYOUT.ports]
HOME = parse_address("10.64.1.10")
EXTERNAL = parse_address("198.51.100.1")
_PACE = 0.05  # RFC 8445 §14.2
_GIVES_UP = 15.1  # Chromium, without an answer


@dataclass
class Agent:
    """A peer connection of the browser."""

    name: str
    local: Endpoint
    ufrag: str = field(default_factory=lambda: secrets.token_hex(2))
    password: str = field(default_factory=lambda: secrets.token_hex(12))
    theirs: tuple[str, str] = ("", "")
    remotes: list[Endpoint] = field(default_factory=list)
    asked: dict[bytes, Endpoint] = field(default_factory=dict)
    sent: dict[Endpoint, int] = field(default_factory=dict)
    connected: bool = False
    began: float | None = None
    closed: bool = False

    def check(self, remote: Endpoint) -> bytes:
        names = {"USERNAME": f"{self.theirs[0]}:{self.ufrag}", "PRIORITY": 1, "ICE-CONTROLLING": 1}
        message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes=names)
        message.add_message_integrity(self.theirs[1].encode())
        self.asked[message.transaction_id] = remote
        self.sent[remote] = self.sent.get(remote, 0) + 1
        return bytes(message)


class Visit:
    """A visit of the page from behind a NAT; ``run`` it, and there is its report.

    ``hides`` is whether the browser keeps its address to itself, as one does that was given no microphone; ``waits``
    are the times of silence after which it is sent to.
    """

    def __init__(
        self,
        policy: NatPolicy,
        *,
        loss: float = 0.0,
        seed: int = 1,
        hides: bool = True,
        waits: Sequence[float] = (),
        layout: Layout = LAYOUT,
    ) -> None:
        self.now = 0.0
        self.to_network: list[Packet] = []
        """All that the reflector has sent over UDP."""
        self._dice, self._loss, self._hides = random.Random(seed), loss, hides
        self._nat = Nat(policy, [EXTERNAL], random.Random(seed))
        self._agents: dict[str, Agent] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        source = Endpoint(EXTERNAL if policy.translated else HOME, 40404)
        visitor = Visitor("a browser of the tests", source, Endpoint(ADDRESSES[0], 8080), datetime.now(UTC))
        self.session = Session(layout, STREAMS, visitor, waits)

    def run(self) -> Report:
        """Run to the end."""
        self._flush()
        while not self.session.done:
            due = self.session.due
            if self._events and self._events[0][0] <= due:
                self.now, _, event = heapq.heappop(self._events)
                event()
            else:
                self.now = max(self.now, due)
                self.session.tick(self.now)
            self._flush()
        return self.session.report(self.now)

    def _later(self, event: Callable[[], None], seconds: float = 0.01) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    # --- the wire -----------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        outbox = self.session.outbox
        for message in outbox.messages:
            self._later(partial(self._obey, message))
        for datagram in outbox.datagrams:
            packet = Packet(Protocol.UDP, datagram.source, datagram.target, datagram.data)
            self.to_network.append(packet)
            self._carry(partial(self._inbound, packet))
        outbox.messages, outbox.datagrams = [], []

    def _carry(self, arrive: Callable[[], None]) -> None:
        if self._dice.random() >= self._loss:
            self._later(arrive)

    def _inbound(self, packet: Packet) -> None:
        passed = self._nat.inbound(packet, self.now)
        if isinstance(passed, Packet):
            self._receive(passed)

    def _outbound(self, packet: Packet) -> None:
        match self._nat.outbound(packet, self.now):
            case Hairpinned(turned):
                self._receive(turned)
            case Packet() as passed:
                stream = packet.protocol is Protocol.TCP
                self._carry(lambda: self._reach(passed, stream))

    def _reach(self, packet: Packet, stream: bool) -> None:
        read = ice.read(packet.payload)
        assert read
        self.session.arrived(read, packet.destination, packet.source, self.now, stream=stream)

    def _send(self, agent: Agent, remote: Endpoint, data: bytes) -> None:
        self._outbound(Packet(Protocol.UDP, agent.local, remote, data))

    # --- the browser --------------------------------------------------------------------------------------------------

    def say(self, **message: Any) -> None:
        """Have the page send a message."""
        self._later(lambda: self.session.heard(msgspec.json.encode(message), self.now))

    def _obey(self, message: dict[str, Any]) -> None:
        if "open" in message:
            self.say(type="offers", offers=[self._open(name) for name in message["open"]])
        elif "answer" in message:
            agent = self._agents[message["answer"]]
            agent.theirs = message["ufrag"], message["password"]
            self._try(agent, message["candidates"])
        elif "candidates" in message:
            self._try(self._agents[message["name"]], message["candidates"])
        elif "count" in message:
            agent = self._agents[message["count"]]
            self.say(type="counted", name=agent.name, sent=[(*e.sockaddr, n) for e, n in agent.sent.items()])
        elif "close" in message:
            self._agents[message["close"]].closed = True

    def _open(self, name: str) -> dict[str, Any]:
        agent = self._agents[name] = Agent(name, Endpoint(HOME, 50_000 + len(self._agents)))
        hosts = [(None if self._hides else str(HOME), agent.local.port)]
        return {"name": name, "ufrag": agent.ufrag, "password": agent.password, "hosts": hosts}

    def _try(self, agent: Agent, candidates: Iterable[str]) -> None:
        for candidate in candidates:
            _, _, transport, _, address, port, *_ = candidate.split()
            remote = Endpoint.of(address, int(port))
            if transport == "tcp":
                source = agent.local.with_port(agent.local.port + remote.port)
                self._outbound(Packet(Protocol.TCP, source, remote, agent.check(remote), Flags.SYN))
            else:
                agent.remotes.append(remote)
                if len(agent.remotes) == 1:
                    self._pace(agent, 0)

    def _pace(self, agent: Agent, turn: int) -> None:
        agent.began = self.now if agent.began is None else agent.began
        if not agent.closed and (agent.connected or self.now - agent.began < _GIVES_UP):
            remote = agent.remotes[turn % len(agent.remotes)]
            self._send(agent, remote, agent.check(remote))
            self._later(lambda: self._pace(agent, turn + 1), _PACE)

    def _receive(self, packet: Packet) -> None:
        agent = next((a for a in self._agents.values() if a.local == packet.destination and not a.closed), None)
        message = stun.parse_message(packet.payload)
        if agent is None:
            return
        if message.message_class == stun.Class.RESPONSE:
            if message.transaction_id in agent.asked and message.check_message_integrity(agent.theirs[1].encode()):
                self._answered(agent, packet.source, Endpoint.of(*message.attributes["XOR-MAPPED-ADDRESS"]))
        elif message.check_message_integrity(agent.password.encode()):
            mapped = {"XOR-MAPPED-ADDRESS": packet.source.sockaddr}
            answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, message.transaction_id, mapped)
            answer.add_message_integrity(agent.password.encode())
            self._send(agent, packet.source, bytes(answer))
            if packet.source not in agent.remotes:
                self._send(agent, packet.source, agent.check(packet.source))

    def _answered(self, agent: Agent, remote: Endpoint, mapped: Endpoint) -> None:
        if not agent.connected:
            agent.connected = True
            local = "host" if mapped == agent.local else "prflx"
            # Of an address that it was not told a browser tells nothing.
            told = remote.sockaddr if remote in agent.remotes else None
            self.say(type="connected", name=agent.name, local=local, remote=told)
