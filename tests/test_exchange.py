"""One question put well: copies, ICMP errors, answers from the wrong place or of another question, patience.

Timing and order are played on a scripted socket behind the network seam; what only a kernel does, on loopback.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, closing, suppress
from typing import NoReturn, cast

import pytest

from natprobe.endpoint import Address, Endpoint
from natprobe.errors import NoRoute
from natprobe.exchange import (
    PATIENCE,
    TCP_PATIENCE,
    Conversation,
    Mailbox,
    attempt_times,
    gaps,
    patience,
    reading,
)
from natprobe.extensions import Extension
from natprobe.network import Datagram, Datagrams, Listener, Rejection, Stream
from natprobe.observation import Exchange, Outcome, Purpose
from natprobe.sockets import HostNetwork
from natprobe.stun import (
    Attribute,
    Class,
    Message,
    Type,
    address_attribute,
    decode,
    error_attribute,
    request,
    xor_mapped_attribute,
)

LOCAL = Endpoint.parse("127.0.0.1:40000")
SERVER = Endpoint.parse("127.0.0.2:3478")
OTHER = Endpoint.parse("127.0.0.3:3479")
MAPPED = Endpoint.parse("192.0.2.1:41000")
RTT = 0.02

Event = tuple[bytes, Endpoint] | Rejection


def answer(asked: Message, *more: Attribute, mapped: Endpoint = MAPPED) -> bytes:
    attributes = (xor_mapped_attribute(mapped, asked.transaction_id), *more)
    return Message(Class.SUCCESS, asked.transaction_id, attributes).encode()


class Script:
    """A socket whose ``react`` says what each datagram sent brings back, at once."""

    def __init__(self, react: Callable[[int, Message, Endpoint], Iterable[Event]]) -> None:
        self.local = LOCAL
        self.sent: list[tuple[Message, Endpoint]] = []
        self.closed = False
        self._react = react
        self._arrivals: asyncio.Queue[Datagram | Rejection] = asyncio.Queue()

    async def send(self, data: bytes, remote: Endpoint) -> None:
        message = decode(data)
        self.sent.append((message, remote))
        for event in self._react(len(self.sent), message, remote):
            self.bring(event)

    def bring(self, event: Event) -> None:
        if isinstance(event, Rejection):
            self._arrivals.put_nowait(event)
            return
        data, source = event
        self._arrivals.put_nowait(Datagram(data, source, asyncio.get_running_loop().time()))

    async def receive(self) -> Datagram | Rejection:
        return await self._arrivals.get()

    def close(self) -> None:
        self.closed = True


class Host:
    """A host whose connections are made by ``connecting``; it has no other sockets."""

    def __init__(self, connecting: Callable[[int], Awaitable[Stream | Rejection]]) -> None:
        self.attempts = 0
        self._connecting = connecting

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def connect(self, local: Endpoint, remote: Endpoint) -> Stream | Rejection:
        self.attempts += 1
        return await self._connecting(self.attempts)

    async def resolve(self, host: str, version: int) -> tuple[Address, ...]:
        raise NotImplementedError

    async def source_for(self, remote: Endpoint) -> Address:
        raise NotImplementedError

    async def datagrams(self, local: Endpoint) -> Datagrams:
        raise NotImplementedError

    async def listen(self, local: Endpoint) -> Listener:
        raise NotImplementedError


def rejection(remote: Endpoint = SERVER, reason: str = "port unreachable") -> Rejection:
    return Rejection(remote, reason, 0.0)


@asynccontextmanager
async def mailbox(script: Script, rtt: float | None = RTT) -> AsyncIterator[Mailbox]:
    network = HostNetwork()
    async with Mailbox(network, script, network.now(), lambda: rtt) as opened:
        yield opened


async def ask(script: Script, *, answer_from: Endpoint | None = None) -> Exchange:
    async with mailbox(script) as opened:
        return await opened.ask(Purpose.HELLO, SERVER, answer_from=answer_from)


# --- patience ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rtt", [None, 0.0, 0.01, 0.1, 0.3, 1.0, 5.0])
def test_copies_are_spread_over_the_whole_wait(rtt: float | None) -> None:
    waits = list(gaps(lambda: rtt))
    assert sum(waits) == pytest.approx(patience(rtt))
    assert all(wait > 0 for wait in waits)
    assert waits[:-1] == sorted(waits[:-1])


def test_patience_has_bounds() -> None:
    assert patience(None) == patience(10) == PATIENCE
    assert patience(0) == 1.0
    assert patience(0.2) == pytest.approx(1.6)


def test_the_first_repeat_waits_for_an_answer_that_is_due() -> None:
    assert next(gaps(lambda: 0.2)) > 0.2
    assert len(list(gaps(lambda: 0.04))) >= 5


def test_a_round_trip_that_becomes_known_shortens_the_wait() -> None:
    known: list[float] = []
    waits = gaps(lambda: known[0] if known else None)
    waited = next(waits)
    known.append(0.01)
    assert waited + sum(waits) == pytest.approx(1.0)


@pytest.mark.parametrize("rtt", [None, 0.01, 0.3])
def test_attempts_to_connect_are_spread_over_the_whole_wait(rtt: float | None) -> None:
    assert sum(attempt_times(rtt)) == pytest.approx(TCP_PATIENCE)
    assert len(list(attempt_times(rtt))) >= 3


# --- UDP: what comes back ---------------------------------------------------------------------------------------------


async def test_an_answer_ends_the_question() -> None:
    script = Script(lambda count, asked, remote: [(answer(asked), remote)])
    exchange = await ask(script)
    assert exchange.outcome is Outcome.ANSWERED
    assert (exchange.sent, exchange.mapped, exchange.source) == (1, MAPPED, SERVER)
    assert exchange.rtt is not None
    assert 0 <= exchange.rtt <= exchange.waited
    assert script.closed


async def test_copies_are_sent_until_one_is_answered() -> None:
    script = Script(lambda count, asked, remote: [(answer(asked), remote)] if count == 3 else [])
    exchange = await ask(script)
    assert (exchange.outcome, exchange.sent) == (Outcome.ANSWERED, 3)
    assert len({message.transaction_id for message, _ in script.sent}) == 3
    assert exchange.rtt is not None
    assert exchange.rtt < RTT < exchange.waited


async def test_an_answer_to_an_earlier_copy_is_one_with_the_round_trip_of_that_copy() -> None:
    first: list[Message] = []

    def react(count: int, asked: Message, remote: Endpoint) -> Iterable[Event]:
        first.append(asked)
        return [(answer(first[0]), remote)] if count == 2 else []

    exchange = await ask(Script(react))
    assert (exchange.outcome, exchange.sent) == (Outcome.ANSWERED, 2)
    assert exchange.rtt is not None
    assert exchange.rtt > RTT


async def test_the_right_answer_after_a_misplaced_one_counts() -> None:
    script = Script(lambda count, asked, remote: [(answer(asked), OTHER), (answer(asked), SERVER)])
    exchange = await ask(script)
    assert (exchange.outcome, exchange.source) == (Outcome.ANSWERED, SERVER)


async def test_an_answer_is_expected_from_whoever_was_asked_to_give_it() -> None:
    script = Script(lambda count, asked, remote: [(answer(asked), SERVER), (answer(asked), OTHER)])
    exchange = await ask(script, answer_from=OTHER)
    assert (exchange.outcome, exchange.source, exchange.answer_from) == (Outcome.ANSWERED, OTHER, OTHER)


async def test_an_error_response_ends_the_question() -> None:
    refusal = (error_attribute(420, "Unknown Attribute"),)
    script = Script(
        lambda count, asked, remote: [(Message(Class.ERROR, asked.transaction_id, refusal).encode(), remote)]
    )
    exchange = await ask(script)
    assert (exchange.outcome, exchange.error, exchange.detail) == (Outcome.ERROR, 420, "Unknown Attribute")
    assert exchange.sent == 1


async def test_two_icmp_errors_end_the_question_and_one_does_not() -> None:
    script = Script(lambda count, asked, remote: [rejection()])
    exchange = await ask(script)
    assert (exchange.outcome, exchange.sent, exchange.detail) == (Outcome.REJECTED, 2, "port unreachable")

    script = Script(lambda count, asked, remote: [rejection()] if count == 1 else [(answer(asked), remote)])
    exchange = await ask(script)
    assert (exchange.outcome, exchange.sent, exchange.detail) == (Outcome.ANSWERED, 2, None)


async def test_an_icmp_error_is_about_whom_it_names() -> None:
    def react(count: int, asked: Message, remote: Endpoint) -> Iterable[Event]:
        return [rejection(OTHER)] if remote == OTHER else [rejection(OTHER), (answer(asked), remote)]

    async with mailbox(Script(react)) as opened:
        dead, alive = await asyncio.gather(opened.ask(Purpose.HELLO, OTHER), opened.ask(Purpose.HELLO, SERVER))
    assert (dead.outcome, alive.outcome) == (Outcome.REJECTED, Outcome.ANSWERED)


async def test_each_of_many_questions_gets_its_own_answer() -> None:
    remotes = [SERVER.with_port(port) for port in range(1000, 1010)]
    pending: list[Event] = []

    def react(count: int, asked: Message, remote: Endpoint) -> Iterable[Event]:
        pending.append((answer(asked, mapped=MAPPED.with_port(remote.port)), remote))
        return reversed(pending) if count == len(remotes) else []

    async with mailbox(Script(react)) as opened:
        exchanges = await asyncio.gather(*(opened.ask(Purpose.MAPPING, remote) for remote in remotes))
    assert [(e.remote.port, e.mapped and e.mapped.port) for e in exchanges] == [(r.port, r.port) for r in remotes]


async def test_a_late_answer_to_an_earlier_question_answers_no_other() -> None:
    asked_before: list[Message] = []

    def react(count: int, asked: Message, remote: Endpoint) -> Iterable[Event]:
        if count == 1:
            asked_before.append(asked)
            return [(answer(asked, mapped=MAPPED), remote)]
        if count == 2:
            return [(answer(asked_before[0], mapped=MAPPED.with_port(1)), remote)]
        return [(answer(asked, mapped=MAPPED.with_port(2)), remote)]

    script = Script(react)
    async with mailbox(script) as opened:
        await opened.ask(Purpose.HELLO, SERVER)
        later = await opened.ask(Purpose.MAPPING, SERVER)
    assert (later.sent, later.mapped) == (2, MAPPED.with_port(2))


async def test_requests_and_indications_are_no_answers() -> None:
    def react(count: int, asked: Message, remote: Endpoint) -> Iterable[Event]:
        echoes = [Message(kind, asked.transaction_id, asked.attributes) for kind in (Class.REQUEST, Class.INDICATION)]
        return [*((echo.encode(), remote) for echo in echoes), *([(answer(asked), remote)] if count == 2 else [])]

    assert (await ask(Script(react))).sent == 2


async def test_the_cookie_of_each_reflector_is_kept_apart() -> None:
    def react(count: int, asked: Message, remote: Endpoint) -> Iterable[Event]:
        return [(answer(asked, Attribute(Extension.COOKIE, remote.port.to_bytes(2, "big"))), remote)]

    async with mailbox(Script(react)) as opened:
        await asyncio.gather(opened.ask(Purpose.HELLO, SERVER), opened.ask(Purpose.HELLO, OTHER))
        assert opened.cookies == {SERVER: (3478).to_bytes(2, "big"), OTHER: (3479).to_bytes(2, "big")}


def stranger(asked: Message, remote: Endpoint) -> tuple[bytes, Endpoint]:
    return answer(Message(Class.REQUEST, bytes(12))), remote


@pytest.mark.slow
@pytest.mark.parametrize(
    ("react", "outcome", "detail"),
    [
        (lambda count, asked, remote: [], Outcome.SILENT, None),
        (lambda count, asked, remote: [(answer(asked), OTHER)], Outcome.MISPLACED, f"answered from {OTHER}"),
        (lambda count, asked, remote: [rejection()] if count == 1 else [], Outcome.REJECTED, "port unreachable"),
        (lambda count, asked, remote: [(b"garbage", remote)], Outcome.SILENT, "what came back is no STUN"),
        (lambda count, asked, remote: [(b"garbage", OTHER)], Outcome.SILENT, None),
        (lambda count, asked, remote: [stranger(asked, remote)], Outcome.SILENT, "wrong transaction ID"),
        (lambda count, asked, remote: [stranger(asked, OTHER)], Outcome.SILENT, None),
    ],
    ids=["silence", "misplaced", "one ICMP error", "garbage", "garbage of others", "stranger", "stranger elsewhere"],
)
async def test_what_patience_ends_with(
    react: Callable[[int, Message, Endpoint], Iterable[Event]], outcome: Outcome, detail: str | None
) -> None:
    exchange = await ask(Script(react))
    assert exchange.outcome is outcome
    assert exchange.rtt is None or outcome is Outcome.MISPLACED
    assert exchange.waited >= patience(RTT) - 0.01
    assert exchange.sent == len(list(gaps(lambda: RTT)))
    assert exchange.detail == detail or (detail and detail in str(exchange.detail))


@pytest.mark.slow
async def test_a_server_is_not_blamed_for_repeating_itself() -> None:
    """A duplicate of an answer that was taken is late, not wrong."""
    before: list[Message] = []

    def react(count: int, asked: Message, remote: Endpoint) -> Iterable[Event]:
        before.append(asked)
        return [(answer(before[0]), remote)]

    async with mailbox(Script(react)) as opened:
        await opened.ask(Purpose.HELLO, SERVER)
        exchange = await opened.ask(Purpose.PROOF, SERVER)
    assert (exchange.outcome, exchange.detail) == (Outcome.SILENT, None)


# --- what an answer says ----------------------------------------------------------------------------------------------


def success(*attributes: Attribute) -> Message:
    return Message(Class.SUCCESS, bytes(12), attributes)


def seen(endpoint: str, port: int = 41000) -> Attribute:
    return address_attribute(Type.MAPPED_ADDRESS, Endpoint.of(endpoint, port))


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (success(), "answered without saying what it saw"),
        (success(seen("2001:db8::7")), "answered that it saw [2001:db8::7]:41000"),
        (success(seen("0.0.0.0")), "answered that it saw 0.0.0.0:41000"),
        (success(seen("224.0.0.1")), "answered that it saw 224.0.0.1:41000"),
        (success(seen("192.0.2.1", 0)), "answered that it saw 192.0.2.1:0"),
        (Message(Class.ERROR, bytes(12)), None),
        (Message(Class.ERROR, bytes(12), (seen("192.0.2.1"),)), None),
        (request(), "answered without saying what it saw"),
    ],
)
def test_an_answer_that_cannot_be_true_is_an_error(message: Message, detail: str | None) -> None:
    read = reading(message, SERVER, SERVER)
    assert read["outcome"] is Outcome.ERROR
    if detail:
        assert read["detail"] == detail


def test_an_answer_is_read_in_full() -> None:
    told = success(
        seen("192.0.2.1"),
        address_attribute(Type.RESPONSE_ORIGIN, SERVER),
        address_attribute(Type.OTHER_ADDRESS, OTHER),
        Attribute(Extension.INSTANCE, b"\x01\x02"),
        Attribute(Extension.SITE, b"broken"),
    )
    read = reading(told, SERVER, SERVER)
    assert (read["outcome"], read["mapped"], read["origin"], read["other"]) == (
        Outcome.ANSWERED,
        MAPPED,
        SERVER,
        OTHER,
    )
    assert (read["instance"], read["site"], read["error"], read["detail"]) == ("0102", (), None, None)


# --- UDP on loopback --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def real_mailbox() -> AsyncIterator[Mailbox]:
    network = HostNetwork()
    datagrams = await network.datagrams(Endpoint.of("127.0.0.1", 0))
    async with Mailbox(network, datagrams, network.now(), lambda: RTT) as opened:
        yield opened


class Echo(asyncio.DatagramProtocol):
    """Answers every request but the first ``deaf`` ones."""

    def __init__(self, deaf: int) -> None:
        self.deaf = deaf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.deaf -= 1
        if self.deaf < 0:
            self.transport.sendto(answer(decode(data), mapped=Endpoint.of(*addr)), addr)


async def test_over_real_sockets_copies_reach_a_server_that_loses_the_first() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Echo(2), ("127.0.0.2", 0))
    async with real_mailbox() as opened:
        exchange = await opened.ask(Purpose.HELLO, Endpoint.of(*transport.get_extra_info("sockname")))
        assert (exchange.outcome, exchange.sent, exchange.mapped) == (Outcome.ANSWERED, 3, opened.local)
    transport.abort()
    await asyncio.sleep(0)


async def test_over_real_sockets_a_closed_port_is_told_by_icmp() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as reserved:
        reserved.bind(("127.0.0.2", 0))
        remote = Endpoint.of(*reserved.getsockname())
    async with real_mailbox() as opened:
        exchange = await opened.ask(Purpose.HELLO, remote)
    assert (exchange.outcome, exchange.detail) == (Outcome.REJECTED, "port unreachable")
    assert 2 <= exchange.sent <= 3
    assert exchange.waited < patience(RTT)


# --- TCP --------------------------------------------------------------------------------------------------------------


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
        opened = await Conversation.open(network, network.now(), Endpoint.of("127.0.0.1", 0), remote, lambda: RTT)
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
    ("serve", "detail"),
    [
        (closes, "the connection was closed"),
        (resets, "the connection was closed"),
        (closes_within_a_header, "the connection was closed within a message"),
        (closes_within_a_message, "the connection was closed within a message"),
        (speaks_http, "what came back is no STUN (no STUN message begins at byte 0)"),
    ],
)
async def test_a_connection_that_breaks_off_says_how_and_at_once(serve: Serving, detail: str) -> None:
    async with conversation(serve) as opened:
        exchange = await opened.ask(Purpose.HELLO)
        again = await opened.ask(Purpose.HELLO) if serve is not speaks_http else exchange
    assert (exchange.outcome, exchange.detail, exchange.rtt) == (Outcome.SILENT, detail, None)
    assert again.outcome is Outcome.SILENT
    assert exchange.waited < TCP_PATIENCE


async def test_a_silent_connection_is_waited_for_as_long_as_said() -> None:
    async with conversation(is_silent) as opened:
        exchange = await opened.ask(Purpose.HELLO, wait=0.05)
    assert (exchange.outcome, exchange.detail) == (Outcome.SILENT, None)
    assert exchange.waited >= 0.05


async def test_a_refused_connection_says_so_to_every_question() -> None:
    with closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.2", 0))
        remote = Endpoint.of(*reserved.getsockname())
    network = HostNetwork()
    opened = await Conversation.open(network, network.now(), Endpoint.of("127.0.0.1", 0), remote, lambda: RTT)
    assert not opened.connected
    for _ in range(2):
        exchange = await opened.ask(Purpose.MAPPING)
        assert (exchange.outcome, exchange.detail, exchange.sent) == (Outcome.REJECTED, "connection refused", 1)
    opened.close()


async def never(attempt: int) -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError


async def test_an_attempt_that_is_lost_is_made_anew() -> None:
    async def second(attempt: int) -> Stream | Rejection:
        return rejection(reason="connection refused") if attempt == 2 else await never(attempt)

    host = Host(second)
    opened = await Conversation.open(host, host.now(), LOCAL, SERVER, lambda: RTT)
    exchange = await opened.ask(Purpose.HELLO)
    assert (exchange.outcome, exchange.sent, host.attempts) == (Outcome.REJECTED, 2, 2)
    assert exchange.waited >= next(attempt_times(RTT))


async def test_no_route_is_an_outcome_and_stops_nobody_else() -> None:
    async def nowhere(attempt: int) -> Stream | Rejection:
        raise NoRoute("no route to 203.0.113.1")

    host = Host(nowhere)
    opened = await Conversation.open(host, host.now(), LOCAL, SERVER, lambda: RTT)
    exchange = await opened.ask(Purpose.HELLO)
    assert (exchange.outcome, exchange.detail, host.attempts) == (Outcome.REJECTED, "no route to 203.0.113.1", 1)


@pytest.mark.slow
async def test_silence_to_every_attempt_is_silence() -> None:
    host = Host(never)
    opened = await Conversation.open(host, host.now(), LOCAL, SERVER, lambda: RTT)
    exchange = await opened.ask(Purpose.HELLO)
    assert (exchange.outcome, exchange.detail) == (Outcome.SILENT, None)
    assert exchange.sent == host.attempts == len(list(attempt_times(RTT)))
    assert exchange.waited >= TCP_PATIENCE - 0.01
