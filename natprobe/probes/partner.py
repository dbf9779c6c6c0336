"""A host behind the same NAT, met at the reflector: each of the two tests port reuse with flows of the other's.

One internal address behind a NAT that keeps ports can never ask for a port that another one holds; two hosts can. They
find each other by a tag made of what both are seen as, hold one TCP connection each to the reflector, and send each
other memos through it (docs/protocol.md). A memo can make the other one ask the reflector as what one of its local
ports is seen, and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count

import msgspec

from natprobe.behaviour import Protocol
from natprobe.conversation import TCP_PATIENCE, read_message
from natprobe.endpoint import Address, Endpoint, parse_address
from natprobe.errors import AddressBusy, MalformedMessage, NoRoute
from natprobe.extensions import Extension, filler_attribute, group_attribute, memo_attribute
from natprobe.network import Rejection, Stream
from natprobe.observation import Flow
from natprobe.probes import Setting, choose
from natprobe.probes.lines import Lines, lines_of
from natprobe.server import Kind, Server
from natprobe.stun import Class, request

PATIENCE = 60.0
"""Seconds that one waits for the other to be started."""
_PARTING = 25.0
"""Seconds that one waits for the other to be done."""
_KNOCKS = 0.25
"""Seconds between two greetings, for the other may not be there yet."""
_ANSWER = 6.0
"""Seconds that the other has for one answer."""
_AT_ONCE = 8
"""Questions of the other's that are heeded at a time."""
_ROOM = 64
"""Bytes by which a request is longer than its memo, so that its own reply has room."""


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """Is anybody there?"""


class Welcome(msgspec.Struct, tag="welcome", frozen=True):
    """The answer: one is, and this is the address that its flows come from."""

    address: str


class Ask(msgspec.Struct, tag="ask", frozen=True):
    """Ask a remote as what a local port of yours is seen."""

    number: int
    protocol: Protocol
    port: int
    remote: str


class Told(msgspec.Struct, tag="told", frozen=True):
    """The answer to an Ask: the local endpoint, None where the port is in use; as what it was seen, None if silent."""

    number: int
    local: str | None
    mapped: str | None


class Bye(msgspec.Struct, tag="bye", frozen=True):
    """One has no more questions."""


_Memo = Hello | Welcome | Ask | Told | Bye


class Partner:
    """The other host, for as long as both have questions."""

    address: Address

    def __init__(self, setting: Setting, server: Server, stream: Stream, tag: bytes) -> None:
        self._setting = setting
        self._remotes = {str(endpoint): endpoint for endpoint in server.listens}
        self._stream = stream
        self._tag = group_attribute(tag)
        self._numbers = count()
        self._questions: dict[int, asyncio.Future[Told]] = {}
        self._lines = {protocol: lines_of(setting, protocol) for protocol in Protocol}
        self._tasks: set[asyncio.Task[None]] = set()
        self.met = asyncio.Event()
        self.parted = asyncio.Event()

    def lines(self, protocol: Protocol) -> Lines:
        """Return flows of the other host's."""
        return _PartnerLines(self, protocol)

    async def ask(self, protocol: Protocol, port: int, remote: Endpoint) -> Flow:
        """Have the other ask ``remote`` as what its local ``port`` is seen. Raises AddressBusy where it cannot."""
        number = next(self._numbers)
        answer = self._questions[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send(Ask(number, protocol, port, str(remote)))
            async with asyncio.timeout(_ANSWER):
                told = await answer
        except TimeoutError:
            raise AddressBusy("the partner does not answer any more") from None
        finally:
            del self._questions[number]
        try:
            local, mapped = (Endpoint.parse(text) if text else None for text in (told.local, told.mapped))
        except ValueError:
            raise AddressBusy("what the partner answers makes no sense") from None
        if local is None:
            raise AddressBusy(f"the partner's port {port} is in use")
        return Flow(local, remote, mapped)

    # --- the meeting --------------------------------------------------------------------------------------------------

    async def greet(self) -> None:
        """Say hello until the other answers. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while not self.met.is_set():
                await self._send(Hello())
                with suppress(TimeoutError):
                    async with asyncio.timeout(_KNOCKS):
                        await self.met.wait()

    async def part(self) -> None:
        """Say goodbye, and stay for the other's questions until it does too."""
        await self._send(Bye())
        with suppress(TimeoutError):
            async with asyncio.timeout(_PARTING):
                await self.parted.wait()

    async def read(self) -> None:
        """Heed what the other sends, until the connection ends."""
        while (memo := await self._receive()) is not None:
            match memo:
                case Hello() if not self.parted.is_set():
                    await self._send(Welcome(str(self._setting.source)))
                case Welcome():
                    with suppress(ValueError):
                        self.address = parse_address(memo.address)
                        self.met.set()
                case Ask() if len(self._tasks) < _AT_ONCE:
                    task = asyncio.ensure_future(self._answer(memo))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                case Told():
                    question = self._questions.get(memo.number)
                    if question is not None and not question.done():
                        question.set_result(memo)
                case Bye():
                    self.parted.set()
        self.parted.set()

    def close(self) -> None:
        """Break off whatever is under way."""
        for task in self._tasks:
            task.cancel()
        for lines in self._lines.values():
            lines.close()
        self._stream.close()

    async def _answer(self, asked: Ask) -> None:
        remote = self._remotes.get(asked.remote)
        if remote is None or not 1024 <= asked.port <= 0xFFFF:
            await self._send(Told(asked.number, None, None))
            return
        try:
            flow = await self._lines[asked.protocol].ask(Endpoint(self._setting.source, asked.port), remote)
        except (AddressBusy, NoRoute):
            await self._send(Told(asked.number, None, None))
            return
        await self._send(Told(asked.number, str(flow.local), str(flow.mapped) if flow.mapped else None))

    async def _send(self, memo: _Memo) -> None:
        data = msgspec.json.encode(memo)
        message = request(self._tag, memo_attribute(data), filler_attribute(_ROOM))
        await self._stream.send(message.encode())

    async def _receive(self) -> _Memo | None:
        """Return the next memo; None once the connection has ended, or where what comes is none."""
        while True:
            try:
                message = await read_message(self._stream)
                value = message.value(Extension.MEMO)
                if message.class_ is Class.INDICATION and value is not None:
                    memo: _Memo = msgspec.json.decode(value, type=_Memo)
                    return memo
            except (EOFError, MalformedMessage, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return None


class _PartnerLines:
    """Flows of the other host's, of one protocol."""

    def __init__(self, partner: Partner, protocol: Protocol) -> None:
        self.sent = 0
        self._partner = partner
        self._protocol = protocol

    async def ask(self, local: Endpoint, remote: Endpoint) -> Flow:
        return await self._partner.ask(self._protocol, local.port, remote)

    def close(self) -> None: ...


@asynccontextmanager
async def meeting(setting: Setting, known: Sequence[Server], external: Address) -> AsyncIterator[Partner | None]:
    """Meet another host that is seen as ``external`` too and looks for a partner; None where none came in a minute.

    ``known`` are servers reached over TCP; if there is no natprobe reflector among them, there is nowhere to meet.
    """
    server = choose(known)
    stream: Stream | Rejection | None = None
    if server.kind is Kind.NATPROBE:
        with suppress(TimeoutError, NoRoute):
            async with asyncio.timeout(TCP_PATIENCE):
                stream = await setting.network.connect(Endpoint(setting.source, 0), server.contacted)
    if stream is None or isinstance(stream, Rejection):
        yield None
        return
    tag = hashlib.blake2s(f"natprobe partner {external}".encode(), digest_size=16).digest()
    partner = Partner(setting, server, stream, tag)
    reading = asyncio.ensure_future(partner.read())
    try:
        with suppress(TimeoutError):
            await partner.greet()
        yield partner if partner.met.is_set() else None
        if partner.met.is_set():
            await partner.part()
    finally:
        reading.cancel()
        partner.close()
