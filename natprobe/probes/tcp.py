"""The TCP tests: who answers, who may connect in, and how mappings depend on the remote (RFC 5382 §4).

All connections of a test leave from one local port and stay open together, for closing one and opening the next tests
something else. Filtering comes first and has a port of its own, as over UDP. Connections in are asked of the reflector
on a live connection, whose source is the only address it will dial; a listener shares the port with it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self

from natprobe.conversation import TCP_PATIENCE, Conversation
from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.extensions import (
    TOKEN_MARK,
    TOKEN_SIZE,
    Dial,
    DialOutcome,
    DialPlan,
    DialResult,
    Extension,
    Source,
    connect_back_attribute,
    cookie_attribute,
    filler_attribute,
    group_attribute,
    read_connect_back_result,
    read_group_size,
)
from natprobe.network import Listener, Stream
from natprobe.observation import ConnectBack, Dialled, Exchange, Hold, Purpose
from natprobe.probes import (
    FURTHER_PORTS,
    Further,
    Setting,
    Targets,
    answers,
    choose,
    hello_attributes,
    irregular,
    may_have_been_let_in_before,
    plain_attributes,
    ports_are_drawn,
    proven,
    uncontacted,
)
from natprobe.probes.dial_controls import DialControls
from natprobe.probes.reconnect import reconnecting, worth_waiting
from natprobe.server import Kind, Sender, Server, describe
from natprobe.silence import CONVINCING, FEW, tally_dials
from natprobe.stun import Attribute, Message

ATTEMPTS = 12
"""Connect-backs from each source, each from a fresh port: they are each other's copies, so none need be repeated."""
TURNS = 3
"""Connect-backs from a source that has but one port and so must wait for each to fail; two such sources help out."""
_STRIDE = ATTEMPTS // (TURNS - 1)
"""A turn takes as long as so many attempts from fresh ports: both kinds of source are done at the same time."""
ROUNDS = 4
"""Requests to dial back, each for the sources whose silence does not convince by then."""
_MOST_PATIENCE = 1.2
"""Seconds; as much as lets the attempts be as far apart as the reflector allows."""
KNOCKS = 8
"""Ports from which a greeting is sent, one after the other, until one is answered."""
KNOCK_GAP = 0.5
_REPORTED = {
    DialOutcome.ACCEPTED: Dialled.ACCEPTED,
    DialOutcome.CONNECTED: Dialled.INTERCEPTED,
    DialOutcome.REFUSED: Dialled.REFUSED,
    DialOutcome.UNREACHABLE: Dialled.UNREACHABLE,
    DialOutcome.SILENT: Dialled.SILENT,
    DialOutcome.NOT_DIALLED: Dialled.NOT_DIALLED,
}


async def probe_tcp(setting: Setting, servers: Sequence[Endpoint]) -> list[Server]:
    """Record who answers, who may connect in, how mappings depend, and how many connections one port holds.

    Returns the servers that answered.
    """
    local = await setting.free_tcp_port(setting.port)
    async with reconnecting(setting, servers) as one_has_told:
        hellos = await _test_filtering(setting, servers)
        known = _described(hellos, servers)
        await setting.filters_tested.wait()
        if known:
            mappings = await _test_mapping(setting, local, Targets.of(known), repeat=ports_are_drawn(hellos))
            if worth_waiting(mappings):
                await one_has_told()
            known = proven(known, mappings)
    return known


async def _test_mapping(setting: Setting, local: Endpoint, targets: Targets, *, repeat: bool) -> list[Exchange]:
    """Hold connections from one port, and from others where what it shows may be owed to chance; return all answers."""
    repeating = [hold(setting, await setting.free_tcp_port(), targets.to_repeat())] if repeat else []
    mappings, *_ = await asyncio.gather(hold(setting, local, targets.at_once, targets.served), *repeating)
    failed = not all(mapping.answered for mapping in mappings)
    for _ in range(FURTHER_PORTS if irregular(mappings) else failed):
        mappings += await hold(setting, await setting.free_tcp_port(), targets.at_once, targets.served)
    return mappings


def _described(hellos: Sequence[Exchange], servers: Sequence[Endpoint]) -> list[Server]:
    """Return what the servers that answered said of themselves, in the order in which they were named."""
    return [describe(hello) for hello in sorted(hellos, key=lambda hello: servers.index(hello.remote))]


async def _test_filtering(setting: Setting, servers: Sequence[Endpoint]) -> list[Exchange]:
    """Greet the servers from a listener's port, have a reflector dial back, and return the servers' answers."""
    async with _greeting(setting, servers) as (door, hellos):
        known = _described(hellos, servers)
        server = choose(known) if known else None
        if server is None or server.kind is not Kind.NATPROBE:
            return hellos
        senders = uncontacted(server, servers)
        heard = await _ask_back(setting, door, server, senders)
    if may_have_been_let_in_before(server, heard):
        async with _greeting(setting, [server.contacted]) as (another, answered):
            if answered:
                await _ask_back(setting, another, server, senders)
    return hellos


@asynccontextmanager
async def _greeting(setting: Setting, servers: Sequence[Endpoint]) -> AsyncIterator[tuple[_Door, list[Exchange]]]:
    """Say hello to servers from a door that is open for the block, and give it and their answers.

    A SYN is repeated after a second at the earliest, so that the copies of a greeting leave from other ports: the first
    door from which anything is heard is the one that is used.
    """
    doors: list[_Door] = []

    async def knock(number: int) -> tuple[_Door, list[Exchange]]:
        await asyncio.sleep(number * KNOCK_GAP)
        doors.append(_Door(setting, await setting.network.listen(Endpoint(setting.source, 0))))
        return doors[number], await doors[number].greet(servers)

    knocking = [asyncio.ensure_future(knock(number)) for number in range(KNOCKS)]
    try:
        done, others = await asyncio.wait(knocking, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        yield done.pop().result()
    finally:  # without an await, at which a cancellation could strike
        for task in knocking:
            task.cancel()
        for door in doors:
            door.close()


class _Door:
    """A listener, and conversations from its port: the other ends may dial back here."""

    def __init__(self, setting: Setting, listener: Listener) -> None:
        self._setting = setting
        self.listener = listener
        self.conversations: dict[Endpoint, Conversation] = {}

    async def greet(self, servers: Sequence[Endpoint]) -> list[Exchange]:
        """Say hello to every server, and return the answers."""
        return await answers(map(self._greet, servers), self._setting.record)

    async def _greet(self, server: Endpoint) -> Exchange:
        self.conversations[server] = await self._setting.conversation(self.listener.local, server)
        return await self.conversations[server].ask(Purpose.HELLO, *hello_attributes())

    def close(self) -> None:
        self.listener.close()
        for conversation in self.conversations.values():
            conversation.close()


@asynccontextmanager
async def _open_together(
    setting: Setting, local: Endpoint, remotes: Iterable[Endpoint], further: Further = lambda _: ()
) -> AsyncIterator[list[Conversation]]:
    """Hold a conversation with each remote from one local endpoint, all open until the block ends.

    ``further`` returns the remotes to connect to once the first ones have, by those to which a connection stands.
    """
    opened: dict[Endpoint, Conversation] = {}

    async def open_all(remotes: Iterable[Endpoint]) -> None:
        async def open_one(remote: Endpoint) -> None:
            opened[remote] = await setting.conversation(local, remote)

        await asyncio.gather(*map(open_one, remotes))

    try:
        await open_all(remotes)
        await open_all(further([remote for remote, conversation in opened.items() if conversation.connected]))
        yield list(opened.values())
    finally:
        for conversation in opened.values():
            conversation.close()


async def _ask_back(setting: Setting, door: _Door, server: Server, senders: Sequence[Sender]) -> list[Endpoint]:
    """Have the reflector dial back from each sender, and record what came of it; return the senders that came in.

    Those whose silence may yet be that of a dead path are asked for again.
    """
    conversation = door.conversations[server.contacted]
    cookie = conversation.reply.value(Extension.COOKIE) if conversation.reply else None
    sources = {endpoint: Source(how) for endpoint, how in senders}
    dials: list[ConnectBack] = []
    async with _Acceptor(door.listener) as acceptor:
        for _ in range(ROUNDS):
            made = await _dial_back(setting, conversation, cookie or b"", sources, acceptor)
            for dial in made:
                setting.record(dial)
            dials += made
            undecided = {dial.source for dial in made if dial.outcome is Dialled.SILENT and not _convinces(dials, dial)}
            sources = {endpoint: how for endpoint, how in sources.items() if endpoint in undecided}
            if not sources:
                break
    return [dial.source for dial in dials if dial.outcome is Dialled.ACCEPTED]


def _convinces(dials: Sequence[ConnectBack], last: ConnectBack) -> bool:
    tally = tally_dials(dial for dial in dials if dial.source == last.source)
    return tally.chance <= (FEW if last.source.port else CONVINCING)


async def _dial_back(
    setting: Setting,
    conversation: Conversation,
    cookie: bytes,
    sources: Mapping[Endpoint, Source],
    acceptor: _Acceptor,
) -> list[ConnectBack]:
    """Have the reflector dial back from some sources once, with controls beside; return what came of each."""
    rtt = min(conversation.handshake, setting.known_rtt() or conversation.handshake)
    patience = min(0.1 + 1.5 * rtt, _MOST_PATIENCE)
    plan = DialPlan(tuple(map(_dial, sources.values())), patience / _STRIDE, patience)
    at = setting.now()
    async with DialControls(setting, conversation.remote, ATTEMPTS + 1, plan.spacing) as controls:
        exchange = await conversation.ask(
            Purpose.FILTERING,
            cookie_attribute(cookie),
            connect_back_attribute(plan),
            filler_attribute(128),
            wait=(TURNS + 1) * plan.patience + TCP_PATIENCE,
        )
    setting.record(exchange)
    accepted = acceptor.accepted(conversation.transaction_id + TOKEN_MARK)
    results = _results(conversation.reply)
    dials = []
    for endpoint, source in sources.items():
        result = results.get(source, DialResult(source, DialOutcome.NOT_DIALLED, 0))
        from_there = [at for at in accepted if _is_from(endpoint, at, conversation.remote.port)]
        outcome, came_from = _outcome(_REPORTED[result.outcome], from_there, accepted)
        base = (conversation.local, conversation.remote, endpoint, at, result.attempts, setting.now() - at)
        beside = range(0, ATTEMPTS + 1, _STRIDE) if _takes_turns(source) else range(ATTEMPTS)
        dials.append(ConnectBack(*base, outcome, came_from, controls.answered(beside[: result.attempts])))
    return dials


def _is_from(named: Endpoint, source: Endpoint, port: int) -> bool:
    """Return whether a connection comes from ``named``; port 0 stands for any but ``port``, the reflector's own."""
    return source.address == named.address and (source.port == named.port if named.port else source.port != port)


def _outcome(
    reported: Dialled, from_there: Sequence[Endpoint], accepted: Sequence[Endpoint]
) -> tuple[Dialled, Endpoint | None]:
    """Return what became of the connect-backs from one source, and the source of the connection that says so.

    What was accepted is for this host to say, and from where: a reflector behind a NAT, or one that misreports, calls
    its addresses by names that no packet bears.
    """
    if from_there:
        return Dialled.ACCEPTED, from_there[0]
    if reported is Dialled.ACCEPTED:
        return Dialled.MISPLACED, next(iter(accepted), None)
    return reported, None


def _dial(source: Source) -> Dial:
    return Dial(source, TURNS if _takes_turns(source) else ATTEMPTS)


def _takes_turns(source: Source) -> bool:
    return source in (Source.ALTERNATE_SAME_PORT, Source.QUIET_SAME_PORT)


def _results(reply: Message | None) -> dict[Source, DialResult]:
    value = reply.value(Extension.CONNECT_BACK_RESULT) if reply else None
    try:
        return {result.source: result for result in read_connect_back_result(value or b"")}
    except MalformedMessage:
        return {}


class _Acceptor:
    """Accepts connections and returns each one's token, which proves to the reflector that it reached this host."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._streams: list[Stream] = []
        self._tokens: list[tuple[Endpoint, bytes]] = []
        self._tasks = [asyncio.ensure_future(self._accept())]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for stream in self._streams:
            stream.close()

    def accepted(self, token: bytes) -> list[Endpoint]:
        """Return the sources of the connections that brought ``token``, in the order in which they did."""
        return [source for source, brought in self._tokens if brought == token]

    async def _accept(self) -> None:
        while True:
            stream = await self._listener.accept()
            self._streams.append(stream)
            self._tasks.append(asyncio.ensure_future(self._return_token(stream)))

    async def _return_token(self, stream: Stream) -> None:
        token = await stream.receive(TOKEN_SIZE)
        self._tokens.append((stream.remote, token))
        await stream.send(token)


async def hold(
    setting: Setting, local: Endpoint, endpoints: Sequence[Endpoint], further: Further = lambda _: ()
) -> list[Exchange]:
    """From ``local``, hold a connection to every endpoint at once; record each mapping, and that all were alive.

    The reflector counts the live connections that carry this run's tag; another server's connections are counted by
    their answers after the last one was opened. Returns what each endpoint told of its mapping.
    """
    at = setting.now()
    tag = group_attribute(os.urandom(16))
    async with _open_together(setting, local, endpoints, further) as conversations:
        mappings = await _ask_all(conversations, Purpose.MAPPING, tag)
        # The second answers are the proof: by then every connection has been opened, and none closed.
        again = await _ask_all([c for c in conversations if c.connected], Purpose.HOLD, tag)
        for exchange in (*mappings, *again):
            setting.record(exchange)
        held = [exchange for exchange in again if exchange.answered]
        counts = [count for c in conversations if (count := _group_size(c.reply)) is not None]
        mapped = tuple(exchange.mapped for exchange in held if exchange.mapped)
        remotes = tuple(exchange.remote for exchange in held)
        setting.record(Hold(local, remotes, mapped, at, len(held), max(counts, default=None)))
    return mappings


async def _ask_all(conversations: Sequence[Conversation], purpose: Purpose, tag: Attribute) -> list[Exchange]:
    return await asyncio.gather(*(c.ask(purpose, tag, *plain_attributes()) for c in conversations))


def _group_size(reply: Message | None) -> int | None:
    value = reply.value(Extension.GROUP) if reply else None
    try:
        return read_group_size(value) if value else None
    except MalformedMessage:
        return None
