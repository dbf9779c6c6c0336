"""Connections back: a reflector dials the source of a live connection, and this host's own connections are controls.

A connection back that meets silence says something of a filter only where the path was alive when it was tried. So this
host connects to the reflector at the same instants. TCP repeats a SYN after a second at the earliest (RFC 6298 §2.1),
so that a connection which stands sooner has lost neither its SYN nor the answer: the path was alive then, both ways.
Data on a connection that stands already would tell less, for one segment that is lost holds up all that follow it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Self

from natprobe.conversation import TCP_PATIENCE, Conversation
from natprobe.endpoint import Endpoint
from natprobe.errors import CannotRun, MalformedMessage
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
    read_connect_back_result,
)
from natprobe.network import Listener, Stream
from natprobe.observation import ConnectBack, Dialled, Purpose
from natprobe.probes import Setting
from natprobe.server import Sender
from natprobe.silence import CONVINCING, FEW, tally_dials
from natprobe.stun import Message

ATTEMPTS = 12
"""Connect-backs from each source, each from a fresh port: they are each other's copies, so none need be repeated."""
TURNS = 3
"""Connect-backs from a source that has but one port and so must wait for each to fail; two such sources help out."""
_STRIDE = ATTEMPTS // (TURNS - 1)
"""A turn takes as long as so many attempts from fresh ports: both kinds of source are done at the same time."""
ROUNDS = 4
"""Requests to dial back, each for the sources whose silence does not convince by then."""
_SLACK = 0.085
"""Seconds that a connection back may take beyond one and a half round trips: for hosts and queues on the way."""
_MOST_PATIENCE = 1.2
"""Seconds; as much as lets the attempts be as far apart as the reflector allows."""
_SYN_REPEATED = 1.0
"""Seconds."""
_REPORTED = {
    DialOutcome.ACCEPTED: Dialled.ACCEPTED,
    DialOutcome.CONNECTED: Dialled.INTERCEPTED,
    DialOutcome.REFUSED: Dialled.REFUSED,
    DialOutcome.UNREACHABLE: Dialled.UNREACHABLE,
    DialOutcome.SILENT: Dialled.SILENT,
    DialOutcome.NOT_DIALLED: Dialled.NOT_DIALLED,
}


async def ask_back(
    setting: Setting, conversation: Conversation, listener: Listener, senders: Sequence[Sender]
) -> list[Endpoint]:
    """Have the reflector dial back from each sender, and record what came of it; return the senders that came in.

    It is asked on a conversation with it, from whose port ``listener`` listens too. Those whose silence may yet be that
    of a dead path are asked for again.
    """
    cookie = conversation.reply.value(Extension.COOKIE) if conversation.reply else None
    sources = {endpoint: Source(how) for endpoint, how in senders}
    dials: list[ConnectBack] = []
    async with _Acceptor(listener) as acceptor:
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
    patience = min(_SLACK + 1.5 * rtt, _MOST_PATIENCE)
    plan = DialPlan(tuple(map(_dial, sources.values())), patience / _STRIDE, patience)
    at = setting.now()
    async with _Controls(setting, conversation.remote, ATTEMPTS + 1, plan.spacing) as controls:
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


class _Controls:
    """So many connections from fresh ports to ``remote``, begun ``spacing`` seconds apart while the block runs."""

    def __init__(self, setting: Setting, remote: Endpoint, count: int, spacing: float) -> None:
        self._setting = setting
        self._remote = remote
        self._alive: set[int] = set()
        self._tasks = [asyncio.ensure_future(self._connect(number, number * spacing)) for number in range(count)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()

    def answered(self, numbers: Iterable[int]) -> int:
        """Return how many of the connections with these numbers were answered before their SYN was repeated."""
        return len(self._alive.intersection(numbers))

    async def _connect(self, number: int, after: float) -> None:
        await asyncio.sleep(after)
        try:
            opened = await self._setting.conversation(Endpoint(self._setting.source, 0), self._remote)
        except CannotRun:  # this host has no port or no descriptor left
            return
        with closing(opened):
            if opened.connected and opened.handshake < _SYN_REPEATED:
                self._alive.add(number)
            await opened.finish(by_reset=True)
