"""One question put well: copies, ICMP errors, answers from the wrong place or of another question, patience.

Timing and order are played on a scripted socket behind the network seam; what only a kernel does, on loopback.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from typing import cast

import pytest

from natprobe.endpoint import Endpoint
from natprobe.exchange import PATIENCE, Mailbox, gaps, patience, reading
from natprobe.extensions import Extension
from natprobe.network import Datagram, Rejection
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
    assert patience(0) == 1.2
    assert patience(0.2) == pytest.approx(1.6)


def test_the_first_repeat_waits_for_an_answer_that_is_due() -> None:
    assert next(gaps(lambda: 0.2)) > 0.2
    assert len(list(gaps(lambda: 0.04))) >= 5


def test_a_round_trip_that_becomes_known_shortens_the_wait() -> None:
    known: list[float] = []
    waits = gaps(lambda: known[0] if known else None)
    waited = next(waits)
    known.append(0.01)
    assert waited + sum(waits) == pytest.approx(1.2)


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
        (lambda count, asked, remote: [(b"garbage", remote)], Outcome.UNREADABLE, "what came back is no STUN"),
        (lambda count, asked, remote: [(b"garbage", OTHER)], Outcome.SILENT, None),
        (lambda count, asked, remote: [stranger(asked, remote)], Outcome.UNREADABLE, "wrong transaction ID"),
        (lambda count, asked, remote: [stranger(asked, OTHER)], Outcome.SILENT, None),
        (lambda count, asked, remote: [(asked.encode(), remote)], Outcome.UNREADABLE, "a STUN request or indication"),
    ],
    ids=[
        "silence",
        "misplaced",
        "one ICMP error",
        "garbage",
        "garbage of others",
        "stranger",
        "stranger elsewhere",
        "echo",
    ],
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
        (success(), "answered without a mapped address"),
        (
            success(seen("2001:db8::7")),
            "reported the mapped address [2001:db8::7]:41000, which no packet from here can have",
        ),
        (success(seen("0.0.0.0")), "reported the mapped address 0.0.0.0:41000, which no packet from here can have"),
        (success(seen("224.0.0.1")), "reported the mapped address 224.0.0.1:41000, which no packet from here can have"),
        (success(seen("192.0.2.1", 0)), "reported the mapped address 192.0.2.1:0, which no packet from here can have"),
        (Message(Class.ERROR, bytes(12)), None),
        (Message(Class.ERROR, bytes(12), (seen("192.0.2.1"),)), None),
        (request(), "answered without a mapped address"),
    ],
)
def test_an_answer_that_cannot_be_true_is_an_error(message: Message, detail: str | None) -> None:
    read = reading(message, SERVER, SERVER, LOCAL)
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
    read = reading(told, SERVER, SERVER, LOCAL)
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
