"""The reflector in memory is the reflector: it answers late, counts groups and dials back as on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from natprobe.behaviour import Treatment
from natprobe.endpoint import Endpoint
from natprobe.extensions import (
    Dial,
    DialOutcome,
    DialPlan,
    DialResult,
    Extension,
    PlannedReply,
    Source,
    cookie_attribute,
    filler_attribute,
    group_attribute,
    read_group_size,
    reply_from_attribute,
)
from natprobe.lab.clock import run
from natprobe.lab.internet import Internet
from natprobe.lab.mirror import MemoryDialer, Mirror
from natprobe.lab.policy import NatPolicy, ProtocolPolicy
from natprobe.network import Datagram, Datagrams, Network, Rejection, Stream
from natprobe.reflector.dialer import Dialer
from natprobe.sockets import HostNetwork
from natprobe.stun import HEADER_SIZE, Attribute, Message, decode, message_length, request

ADDRESSES = ("198.51.100.10", "198.51.100.11", "198.51.100.12")
CLIENT = "198.51.100.77"


def at(address: str, port: int = 0) -> Endpoint:
    return Endpoint.of(address, port)


PRIMARY = at(ADDRESSES[0], 3478)


async def asked(socket: Datagrams, *attributes: Attribute) -> Datagram:
    await socket.send(request(*attributes, filler_attribute(400)).encode(), PRIMARY)
    return await heard(socket)


async def heard(socket: Datagrams) -> Datagram:
    arrival = await socket.receive()
    assert isinstance(arrival, Datagram)
    return arrival


def test_several_replies_come_from_where_and_when_they_were_asked_for() -> None:
    async def ask() -> None:
        internet = Internet(1)
        mirror = Mirror(internet.host(*ADDRESSES))
        client = internet.host(CLIENT)
        socket = await client.datagrams(at(CLIENT))
        cookie = decode((await asked(socket, cookie_attribute())).data).value(Extension.COOKIE)
        assert cookie
        planned = [PlannedReply(Source.SELF), PlannedReply(Source.QUIET, 1.5), PlannedReply(Source.ALTERNATE, 0.5)]
        first = await asked(socket, cookie_attribute(cookie), reply_from_attribute(planned))
        second, third = await heard(socket), await heard(socket)
        sources = mirror.layout.sources(PRIMARY)
        assert [a.source for a in (first, second, third)] == [sources[p.source] for p in sorted_by_delay(planned)]
        assert [second.at - first.at, third.at - first.at] == pytest.approx([0.5, 1.5])

    run(ask())


def sorted_by_delay(planned: list[PlannedReply]) -> list[PlannedReply]:
    return sorted(planned, key=lambda reply: reply.delay)


def test_what_it_sent_in_vain_disturbs_it_not() -> None:
    async def ask() -> None:
        internet = Internet(1)
        Mirror(internet.host(*ADDRESSES))
        client = internet.host(CLIENT)
        gone = await client.datagrams(at(CLIENT))
        await gone.send(request().encode(), PRIMARY)
        gone.close()
        await asyncio.sleep(1)
        assert (await asked(await client.datagrams(at(CLIENT)))).source == PRIMARY

    run(ask())


async def exchanged(stream: Stream, *attributes: Attribute) -> Message:
    await stream.send(request(*attributes, filler_attribute(100)).encode())
    head = await stream.receive(HEADER_SIZE)
    return decode(head + await stream.receive(message_length(head[:4]) - HEADER_SIZE))


def test_connections_of_a_group_are_counted_while_they_live() -> None:
    async def count() -> list[int]:
        internet = Internet(1)
        Mirror(internet.host(*ADDRESSES))
        client = internet.host(CLIENT)
        tag, counts, streams = group_attribute(b"tag"), [], []
        for _ in range(3):
            stream = await client.connect(at(CLIENT), PRIMARY)
            assert not isinstance(stream, Rejection)
            streams.append(stream)
            counts.append(read_group_size((await exchanged(stream, tag)).value(Extension.GROUP) or b""))
        streams[0].close()
        await asyncio.sleep(1)
        counts.append(read_group_size((await exchanged(streams[1], tag)).value(Extension.GROUP) or b""))
        return counts

    assert run(count()) == [1, 2, 3, 2]


def test_what_speaks_no_stun_is_reset_and_who_is_silent_too_long_as_well() -> None:
    async def speak() -> None:
        internet = Internet(1)
        Mirror(internet.host(*ADDRESSES))
        client = internet.host(CLIENT)
        for said, patience in ((b"GET / HTTP/1.1\r\n", 0.1), (b"", 5.1)):
            stream = await client.connect(at(CLIENT), PRIMARY)
            assert not isinstance(stream, Rejection)
            await stream.send(said)
            began = client.now()
            assert await stream.receive(1) == b""
            assert client.now() - began < patience

    run(speak())


# --- connect-back, on both kinds of socket ----------------------------------------------------------------------------

Scene = Callable[[Network, Dialer, str], Awaitable[None]]


def in_memory(scene: Scene) -> None:
    async def staged() -> None:
        internet = Internet(1)
        client, reflector = internet.host("127.0.0.1"), internet.host("127.0.0.2")
        await scene(client, MemoryDialer(reflector), "127.0.0.2")

    run(staged())


def on_loopback(scene: Scene) -> None:
    asyncio.run(scene(HostNetwork(), Dialer(), "127.0.0.2"))  # type: ignore[arg-type]


stages = pytest.mark.parametrize("stage", [on_loopback, in_memory], ids=["loopback", "memory"])
PLAN = DialPlan((Dial(Source.QUIET, 3),), 0.02, 0.2)


@stages
@pytest.mark.parametrize(
    ("doorman", "outcome"),
    [
        ("returns the token", DialOutcome.ACCEPTED),
        ("returns another", DialOutcome.CONNECTED),
        ("hangs up", DialOutcome.CONNECTED),
    ],
)
def test_a_listener_accepts_by_returning_the_token(
    stage: Callable[[Scene], None], doorman: str, outcome: DialOutcome
) -> None:
    async def scene(network: Network, dialer: Dialer, reflector: str) -> None:
        listener = await network.listen(at("127.0.0.1"))

        async def open_the_door() -> None:
            while True:
                guest = await listener.accept()
                token = await guest.receive(16)
                if doorman != "hangs up":
                    await guest.send(token if doorman == "returns the token" else bytes(16))
                guest.close()

        opening = asyncio.ensure_future(open_the_door())
        (result,) = await dialer.dial(PLAN, {Source.QUIET: at(reflector)}, listener.local, bytes(12))
        assert result.outcome is outcome
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        listener.close()

    stage(scene)


@stages
def test_a_port_without_a_listener_refuses_at_the_first_attempt(stage: Callable[[Scene], None]) -> None:
    async def scene(network: Network, dialer: Dialer, reflector: str) -> None:
        listener = await network.listen(at("127.0.0.1"))
        listener.close()
        (result,) = await dialer.dial(PLAN, {Source.QUIET: at(reflector)}, listener.local, bytes(12))
        assert result == DialResult(Source.QUIET, DialOutcome.REFUSED, 1)

    stage(scene)


@stages
def test_what_has_no_origin_is_not_dialled(stage: Callable[[Scene], None]) -> None:
    async def scene(_: Network, dialer: Dialer, __: str) -> None:
        (result,) = await dialer.dial(PLAN, {}, at("127.0.0.1", 9), bytes(12))
        assert result == DialResult(Source.QUIET, DialOutcome.NOT_DIALLED, 0)

    stage(scene)


@pytest.mark.parametrize(("port", "took"), [(0, 2 * 0.02 + 0.2), (3478, 3 * 0.2)], ids=["fresh ports", "one port"])
def test_silence_takes_as_long_as_the_plan_says(port: int, took: float) -> None:
    async def dial() -> None:
        reflector = Internet(1).host("127.0.0.2")
        origins = {Source.QUIET: at("127.0.0.2", port)}
        (result,) = await MemoryDialer(reflector).dial(PLAN, origins, at("203.0.113.1", 9), bytes(12))
        assert result == DialResult(Source.QUIET, DialOutcome.SILENT, 3)
        assert reflector.now() == pytest.approx(took)
        assert not reflector.tcp.connections

    run(dial())


@pytest.mark.parametrize(
    ("treatment", "outcome"),
    [
        (Treatment.ICMP, DialOutcome.UNREACHABLE),
        (Treatment.RESET, DialOutcome.REFUSED),
        (Treatment.DROPPED, DialOutcome.SILENT),
    ],
)
def test_how_a_nat_refuses_is_told_apart(treatment: Treatment, outcome: DialOutcome) -> None:
    async def dial() -> DialOutcome:
        internet = Internet(1)
        internet.gateway(NatPolicy.alike(ProtocolPolicy(unsolicited=treatment)), "198.51.100.1")
        dialer = MemoryDialer(internet.host(ADDRESSES[0]))
        origins = {Source.QUIET: at(ADDRESSES[0])}
        (result,) = await dialer.dial(PLAN, origins, at("198.51.100.1", 40000), bytes(12))
        return result.outcome

    assert run(dial()) is outcome
