"""Questions over one TCP connection: replies in pieces, connections that break off, that never open, that stay mute."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from typing import NoReturn

import pytest

from natprobe.conversation import TCP_PATIENCE, Conversation
from natprobe.endpoint import Address, Endpoint
from natprobe.errors import NoRoute
from natprobe.network import Datagrams, Listener, Rejection, Stream
from natprobe.observation import Outcome, Purpose
from natprobe.sockets import HostNetwork
from natprobe.stun import Attribute, Class, Message, decode, xor_mapped_attribute

LOCAL = Endpoint.parse("127.0.0.1:40000")
SERVER = Endpoint.parse("127.0.0.2:3478")
OTHER = Endpoint.parse("127.0.0.3:3479")
MAPPED = Endpoint.parse("198.51.100.1:41000")


def answer(asked: Message, *more: Attribute, mapped: Endpoint = MAPPED) -> bytes:
    attributes = (xor_mapped_attribute(mapped, asked.transaction_id), *more)
    return Message(Class.SUCCESS, asked.transaction_id, attributes).encode()


class Host:
    """A host whose connections are made by ``connecting``; it has no other sockets."""

    def __init__(self, connecting: Callable[[], Awaitable[Stream | Rejection]]) -> None:
        self._connecting = connecting

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def connect(self, local: Endpoint, remote: Endpoint) -> Stream | Rejection:
        return await self._connecting()

    async def resolve(self, host: str, version: int) -> tuple[Address, ...]:
        raise NotImplementedError

    async def source_for(self, remote: Endpoint) -> Address:
        raise NotImplementedError

    async def datagrams(self, local: Endpoint) -> Datagrams:
        raise NotImplementedError

    async def listen(self, local: Endpoint) -> Listener:
        raise NotImplementedError


Serving = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def conversation(serve: Serving) -> AsyncIterator[Conversation]:
    """Hold a conversation with a server on loopback that treats its one connection so; both ends go at the end."""
    served = asyncio.Event()

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        served.set()

    network = HostNetwork()
    server = await asyncio.start_server(serve_and_close, "127.0.0.2", 0)
    remote = Endpoint.of(*server.sockets[0].getsockname())
    async with server:
        opened = await Conversation.open(network, network.now(), Endpoint.of("127.0.0.1", 0), remote)
        yield opened
        opened.close()
        await served.wait()


async def requested(reader: asyncio.StreamReader) -> Message:
    return decode(await reader.readexactly(20))


async def replies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while not reader.at_eof():
        try:
            asked = await requested(reader)
        except asyncio.IncompleteReadError:
            return
        writer.write(answer(asked, mapped=Endpoint.of(*writer.get_extra_info("peername"))))


async def replies_late_to_another(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    asked = await requested(reader)
    writer.write(answer(Message(Class.REQUEST, bytes(12)), mapped=OTHER) + answer(asked))


async def replies_in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    whole = answer(await requested(reader))
    for byte in whole:
        writer.write(bytes([byte]))
        await writer.drain()


async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await requested(reader)


async def closes_within_a_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(await requested(reader))[:-1])


async def closes_within_a_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(await requested(reader))[:3])


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await requested(reader)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def speaks_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await requested(reader)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def is_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1000)
    await reader.read(1)  # until the client goes


@pytest.mark.parametrize("serve", [replies, replies_in_pieces, replies_late_to_another])
async def test_a_reply_is_found_in_the_stream(serve: Serving) -> None:
    async with conversation(serve) as opened:
        assert opened.connected
        exchange = await opened.ask(Purpose.HELLO)
    assert (exchange.outcome, exchange.sent, exchange.source) == (Outcome.ANSWERED, 1, opened.remote)
    assert exchange.mapped in (MAPPED, opened.local)
    assert exchange.rtt == exchange.waited


async def test_a_conversation_goes_on() -> None:
    async with conversation(replies) as opened:
        exchanges = [await opened.ask(Purpose.HOLD) for _ in range(3)]
    assert [exchange.outcome for exchange in exchanges] == [Outcome.ANSWERED] * 3


@pytest.mark.parametrize(
    ("serve", "outcome", "detail"),
    [
        (closes, Outcome.MUTE, "the connection was closed"),
        (resets, Outcome.MUTE, "the connection was closed"),
        (closes_within_a_header, Outcome.MUTE, "the connection was closed within a message"),
        (closes_within_a_message, Outcome.MUTE, "the connection was closed within a message"),
        (speaks_http, Outcome.UNREADABLE, "what came back is no STUN message (no STUN message begins at byte 0)"),
    ],
)
async def test_a_connection_that_breaks_off_says_how_and_at_once(serve: Serving, outcome: Outcome, detail: str) -> None:
    async with conversation(serve) as opened:
        exchange = await opened.ask(Purpose.HELLO)
        again = await opened.ask(Purpose.HELLO) if serve is not speaks_http else exchange
    assert (exchange.outcome, exchange.detail, exchange.rtt) == (outcome, detail, None)
    assert again.outcome is outcome
    assert exchange.waited < TCP_PATIENCE


async def test_a_silent_connection_is_waited_for_as_long_as_said() -> None:
    async with conversation(is_silent) as opened:
        exchange = await opened.ask(Purpose.HELLO, wait=0.05)
    assert (exchange.outcome, exchange.detail) == (Outcome.MUTE, None)
    assert exchange.waited >= 0.05


async def test_a_refused_connection_says_so_to_every_question() -> None:
    with closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.2", 0))
        remote = Endpoint.of(*reserved.getsockname())
    network = HostNetwork()
    opened = await Conversation.open(network, network.now(), Endpoint.of("127.0.0.1", 0), remote)
    assert not opened.connected
    for _ in range(2):
        exchange = await opened.ask(Purpose.MAPPING)
        assert (exchange.outcome, exchange.detail, exchange.sent) == (Outcome.REJECTED, "connection refused", 1)
    opened.close()


async def never() -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError


async def test_no_route_is_an_outcome_and_stops_nobody_else() -> None:
    async def nowhere() -> Stream | Rejection:
        raise NoRoute("no route to 203.0.113.1")

    host = Host(nowhere)
    opened = await Conversation.open(host, host.now(), LOCAL, SERVER)
    exchange = await opened.ask(Purpose.HELLO)
    assert (exchange.outcome, exchange.detail) == (Outcome.REJECTED, "no route to 203.0.113.1")


async def test_a_connection_that_never_opens_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("natprobe.conversation.TCP_PATIENCE", 0.05)
    host = Host(never)
    opened = await Conversation.open(host, host.now(), LOCAL, SERVER)
    exchange = await opened.ask(Purpose.HELLO)
    assert (exchange.outcome, exchange.detail, exchange.sent) == (Outcome.SILENT, None, 1)
    assert exchange.waited >= 0.05
