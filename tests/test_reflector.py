"""The reflector on real sockets, all of them on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import resource
import shutil
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from natprobe import extensions, stun
from natprobe.endpoint import Endpoint
from natprobe.errors import AddressBusy, CannotRun
from natprobe.extensions import Dial, DialOutcome, DialPlan, DialResult, Extension, PlannedReply, ReplyNumber, Source
from natprobe.reflector import Reflector, serve
from natprobe.stun import Attribute, Change, Class, Message, Type

FILLER = extensions.filler_attribute(400)
ASKING = extensions.cookie_attribute()
ROOT = Path(__file__).parent.parent

# Addresses of this process alone, for other tests may run on this host and all reflectors have the same ports.
_fresh = (f"127.{64 + (os.getpid() >> 8) % 128}.{os.getpid() & 0xFF}.{number}" for number in itertools.count(1))


def fresh(count: int) -> list[str]:
    return list(itertools.islice(_fresh, count))


@pytest.fixture
async def reflector() -> AsyncIterator[Reflector]:
    async with Reflector(fresh(3)) as started:
        yield started


@dataclass
class Asker:
    """A client on one UDP or TCP socket."""

    sock: socket.socket
    at: Endpoint
    unread: bytes = field(default=b"", init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    @property
    def local(self) -> Endpoint:
        return Endpoint.of(*self.sock.getsockname()[:2])

    async def send(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        if self.sock.type == socket.SOCK_DGRAM:
            await loop.sock_sendto(self.sock, data, self.at.sockaddr)
        else:
            await loop.sock_sendall(self.sock, data)

    async def hear(self) -> tuple[Message, Endpoint]:
        """The next message, and from where it came."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5):
            if self.sock.type == socket.SOCK_DGRAM:
                data, source = await loop.sock_recvfrom(self.sock, 4096)
                return stun.decode(data), Endpoint.of(*source[:2])
            while len(self.unread) < 4 or len(self.unread) < stun.message_length(self.unread[:4]):
                more = await loop.sock_recv(self.sock, 4096)
                assert more, "the reflector hung up"
                self.unread += more
            length = stun.message_length(self.unread[:4])
            data, self.unread = self.unread[:length], self.unread[length:]
            return stun.decode(data), self.at

    async def ask(self, *attributes: Attribute) -> Message:
        """The reply to a request."""
        request = stun.request(*attributes)
        await self.send(request.encode())
        reply, _ = await self.hear()
        assert reply.transaction_id == request.transaction_id
        return reply

    async def cookie(self) -> Attribute:
        return extensions.cookie_attribute((await self.ask(ASKING, FILLER)).value(Extension.COOKIE) or b"")

    async def hangs_up(self) -> bool:
        """Wait until the reflector ends the connection."""
        async with asyncio.timeout(5):
            try:
                return await asyncio.get_running_loop().sock_recv(self.sock, 1) == b""
            except ConnectionResetError:
                return True


def udp(to: Endpoint, port: int = 0) -> Asker:
    sock = socket.socket(socket.AF_INET if to.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1" if to.version == 4 else "::1", port))
    return Asker(sock, to)


def reusable(port: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


async def tcp(to: Endpoint, port: int = 0) -> Asker:
    sock = reusable(port)
    await asyncio.get_running_loop().sock_connect(sock, to.sockaddr)
    return Asker(sock, to)


async def is_refused(to: Endpoint) -> bool:
    """Connect to a listener that is there, and wait until the connection is reset, or a second without that."""
    loop = asyncio.get_running_loop()
    with reusable() as sock, contextlib.suppress(TimeoutError):
        try:
            async with asyncio.timeout(1):
                await loop.sock_connect(sock, to.sockaddr)
                return not await loop.sock_recv(sock, 1)
        except ConnectionResetError:
            return True
    return False


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


# UDP


async def test_every_listening_endpoint_answers_and_says_who_it_is(reflector: Reflector) -> None:
    assert len(reflector.site.listening) == 4
    for listening in reflector.site.listening:
        with udp(listening) as client:
            reply = await client.ask(FILLER)
            assert (reply.origin, reply.mapped) == (listening, client.local)
            assert reply.other == reflector.site.changed(listening, Change.ADDRESS | Change.PORT)


async def test_one_instance_is_told_at_all_endpoints_and_another_by_the_next_reflector() -> None:
    addresses, told = fresh(2), []
    for _ in range(2):
        async with Reflector(addresses) as reflector:
            for listening in reflector.site.listening:
                with udp(listening) as client:
                    told.append((await client.ask(FILLER)).value(Extension.INSTANCE))
    assert len(set(told)) == 2
    assert len(set(told[:4])) == 1


async def test_ttl_and_dscp_are_told_as_they_arrived(reflector: Reflector) -> None:
    with udp(reflector.site.listening[0]) as client:
        client.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 57)
        client.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8)
        reply = await client.ask(FILLER)
    assert extensions.read_received(reply.value(Extension.RECEIVED) or b"") == (57, 0xB8)


async def test_each_source_really_sends(reflector: Reflector) -> None:
    for listening in reflector.site.listening:
        sources = reflector.site.sources(listening)
        with udp(listening) as client:
            plan = extensions.reply_from_attribute(PlannedReply(source) for source in sources)
            await client.send(stun.request(await client.cookie(), plan, FILLER).encode())
            for index, (source, endpoint) in enumerate(sources.items()):
                reply, came_from = await client.hear()
                assert came_from == reply.origin == endpoint
                number = extensions.read_reply_number(reply.value(Extension.REPLY_NUMBER) or b"")
                assert number == ReplyNumber(source, index, 6)


async def test_the_site_in_a_reply_is_where_the_reflector_stands(reflector: Reflector) -> None:
    with udp(reflector.site.listening[2]) as client:
        reply = await client.ask(ASKING, FILLER)
    told = extensions.read_site(reply.value(Extension.SITE) or b"")
    assert told == reflector.site.site(reflector.site.listening[2])
    assert reflector.site.quiet_ports != (0, 0, 0)


@pytest.mark.parametrize("change", [Change.PORT, Change.ADDRESS, Change.ADDRESS | Change.PORT])
async def test_a_changed_reply_comes_from_there(reflector: Reflector, change: Change) -> None:
    for listening in reflector.site.listening:
        with udp(listening) as client:
            await client.send(stun.request(await client.cookie(), stun.change_attribute(change), FILLER).encode())
            reply, came_from = await client.hear()
            assert came_from == reply.origin == reflector.site.changed(listening, change)


async def test_a_changed_reply_can_be_sent_to_another_port(reflector: Reflector) -> None:
    to = reflector.site.listening[0]
    with udp(to) as client, udp(to) as other:
        cookie, port = await client.cookie(), stun.response_port_attribute(other.local.port)
        await client.send(stun.request(cookie, port, stun.change_attribute(Change.ADDRESS), FILLER).encode())
        reply, came_from = await other.hear()
    assert came_from == reflector.site.listening[2]
    assert reply.class_ is Class.SUCCESS


async def test_delayed_replies_come_in_the_order_of_their_delays(reflector: Reflector) -> None:
    delays = (0.06, 0.0, 0.03)
    with udp(reflector.site.listening[0]) as client:
        plan = extensions.reply_from_attribute(PlannedReply(Source.SELF, delay) for delay in delays)
        request = stun.request(await client.cookie(), plan, FILLER).encode()
        start = asyncio.get_running_loop().time()
        await client.send(request)
        heard = []
        for _ in delays:
            reply, _ = await client.hear()
            elapsed = asyncio.get_running_loop().time() - start
            index = extensions.read_reply_number(reply.value(Extension.REPLY_NUMBER) or b"").index
            heard.append(index)
            assert elapsed >= delays[index] - 0.005
    assert heard == [1, 2, 0]


async def test_no_more_replies_are_delayed_than_there_is_room_for(
    reflector: Reflector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("natprobe.reflector.server.MAX_PENDING", 3)
    with udp(reflector.site.listening[0]) as client:
        cookie = await client.cookie()
        late = extensions.reply_from_attribute([PlannedReply(Source.SELF, 600.0)] * 2)
        soon = extensions.reply_from_attribute([PlannedReply(Source.SELF), PlannedReply(Source.SELF, 0.01)] * 2)
        for plan in (late, soon):  # the second one is not sent at all, not even what is due at once
            await client.send(stun.request(cookie, plan, FILLER).encode())
        reply = await client.ask(FILLER)
    assert reply.value(Extension.REPLY_NUMBER) is None
    assert len(reflector._delayed) == 2


async def test_garbage_meets_silence_and_harms_nothing(reflector: Reflector) -> None:
    with udp(reflector.site.listening[0]) as client:
        good = stun.request(FILLER).encode()
        for garbage in (b"", b"\0" * 20, good[:-4], good + bytes(4), os.urandom(100), bytes(2049), bytes(60_000)):
            await client.send(garbage)
        await client.ask(FILLER)  # the first reply of all


async def test_quiet_ports_never_answer(reflector: Reflector) -> None:
    with udp(reflector.site.listening[0]) as client:
        for quiet in reflector.site.sending:
            await asyncio.get_running_loop().sock_sendto(client.sock, stun.request(FILLER).encode(), quiet.sockaddr)
        await client.ask(FILLER)


async def test_a_burst_longer_than_one_wake_is_answered_whole(reflector: Reflector) -> None:
    with udp(reflector.site.listening[0]) as client:
        request = stun.request(extensions.filler_attribute(40)).encode()
        for _ in range(150):
            await client.send(request)
        for _ in range(150):
            await client.hear()


async def test_a_bare_request_is_answered_with_compat_only() -> None:
    async with Reflector(fresh(2), compat=True) as reflector:
        with udp(reflector.site.listening[0]) as client:
            assert (await client.ask()).mapped == client.local


async def test_compat_stops_where_its_budget_ends() -> None:
    async with Reflector(fresh(1), compat=True) as reflector:
        with udp(reflector.site.listening[0]) as client:
            for _ in range(1000):
                await client.send(stun.request().encode())
            padded = stun.request(FILLER)
            await client.send(padded.encode())
            heard = 0
            while (await client.hear())[0].transaction_id != padded.transaction_id:
                heard += 1
    assert 100 <= heard < 600


# TCP


async def test_tcp_answers_at_every_listening_endpoint(reflector: Reflector) -> None:
    for listening in reflector.site.listening:
        with await tcp(listening) as client:
            reply = await client.ask(FILLER)
            assert (reply.origin, reply.mapped) == (listening, client.local)


async def test_messages_are_parted_however_they_arrive(reflector: Reflector) -> None:
    with await tcp(reflector.site.listening[0]) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests = [stun.request(extensions.filler_attribute(size)) for size in (40, 1900, 44, 40)]
        stream = b"".join(request.encode() for request in requests)
        for cut, end in itertools.pairwise([0, 1, 3, 4, 19, 21, 70, 2010, 2030, len(stream)]):
            await client.send(stream[cut:end])
            await asyncio.sleep(0)
        assert [(await client.hear())[0].transaction_id for _ in requests] == [r.transaction_id for r in requests]


async def test_what_is_no_stun_ends_the_connection(reflector: Reflector) -> None:
    with await tcp(reflector.site.listening[0]) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await client.hangs_up()


async def test_a_connection_without_a_message_is_ended(reflector: Reflector) -> None:
    reflector._streams.first.seconds = 0.02
    with await tcp(reflector.site.listening[0]) as client:
        await client.send(stun.request(FILLER).encode()[:-1])
        assert await client.hangs_up()


async def test_an_idle_connection_is_kept_longer_and_then_ended(reflector: Reflector) -> None:
    reflector._streams.tests.idle.seconds = 0.02
    with await tcp(reflector.site.listening[0]) as client:
        await client.ask(FILLER)
        assert await client.hangs_up()


async def test_no_more_connections_are_taken_than_there_is_room_for(reflector: Reflector) -> None:
    reflector._streams.tests.most = 8  # and so two of one prefix
    with await tcp(reflector.site.listening[0]) as first, await tcp(reflector.site.listening[1]) as second:
        await first.ask(FILLER)
        await second.ask(FILLER)
        assert await is_refused(reflector.site.listening[2])
        await first.ask(FILLER)


@pytest.mark.slow
async def test_a_client_that_does_not_read_is_not_read_from(reflector: Reflector) -> None:
    with await tcp(reflector.site.listening[0]) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)  # not less than the MSS, or it crawls
        request = stun.request(Attribute(Type.PADDING, bytes(2000))).encode()
        await client.ask(FILLER)
        (connection,) = reflector._streams.tests.live
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5):
            while connection._transport.is_reading():
                with contextlib.suppress(BlockingIOError):
                    client.sock.send(request)
                await asyncio.sleep(0)
        assert connection._transport.get_write_buffer_size() < 1 << 20
        async with asyncio.timeout(5):
            while not connection._transport.is_reading():
                await loop.sock_recv(client.sock, 65536)


async def test_a_group_counts_its_live_connections_over_all_listeners(reflector: Reflector) -> None:
    async def size(client: Asker, tag: bytes) -> int:
        reply = await client.ask(extensions.group_attribute(tag), FILLER)
        return extensions.read_group_size(reply.value(Extension.GROUP) or b"")

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(await tcp(listening)) for listening in reflector.site.listening]
        assert [await size(client, b"ours") for client in clients] == [1, 2, 3, 4]
        assert await size(clients[0], b"ours") == 4
        assert await size(clients[0], b"theirs") == 1
        assert await size(clients[1], b"ours") == 3
        clients[3].sock.close()
        async with asyncio.timeout(5):
            while await size(clients[1], b"ours") != 2:  # until the reflector has heard of it
                pass


async def test_a_memo_goes_to_the_one_other_connection_of_its_group(reflector: Reflector) -> None:
    memo = extensions.memo_attribute(b"for you alone")
    ours, theirs = extensions.group_attribute(b"ours"), extensions.group_attribute(b"theirs")
    with contextlib.ExitStack() as stack:
        one, other, stranger = [stack.enter_context(await tcp(to)) for to in reflector.site.listening[:3]]
        await stranger.ask(theirs, memo, FILLER)  # there is no other
        await other.ask(ours, FILLER)
        request = stun.request(ours, memo, FILLER)
        await one.send(request.encode())
        (received, _), (reply, _) = await other.hear(), await one.hear()
        assert (received.class_, received.transaction_id) == (Class.INDICATION, request.transaction_id)
        assert received.attributes == (memo,)
        assert reply.class_ is Class.SUCCESS
        # Of three nobody is the other one; the next thing that each hears is the answer to its own question.
        await stranger.ask(ours, FILLER)
        await one.ask(ours, memo, FILLER)
        for client in (other, stranger):
            assert (await client.ask(ours, FILLER)).class_ is Class.SUCCESS


@pytest.mark.parametrize("told", [True, False])
async def test_another_client_on_the_same_endpoint_is_told_of_if_the_reflector_is_to(told: bool) -> None:
    question = extensions.overlap_attribute()
    async with Reflector(fresh(3), overlap=told) as reflector:
        here, there = reflector.site.listening[0], reflector.site.listening[2]
        with await tcp(here) as mine, await tcp(there, mine.local.port) as same, await tcp(there) as apart:
            for client, tag in ((same, b"theirs"), (apart, b"another")):
                await client.ask(extensions.group_attribute(tag), FILLER)
            reply = await mine.ask(extensions.group_attribute(b"mine"), question, FILLER)
            value = reply.value(Extension.OVERLAP)
            assert (extensions.read_overlap(value) if value else None) == (there if told else None)
            # One's own other connection is no other client.
            await same.ask(extensions.group_attribute(b"mine"), FILLER)
            assert (await mine.ask(extensions.group_attribute(b"mine"), question, FILLER)).value(
                Extension.OVERLAP
            ) is None


# Destinations


@pytest.fixture
async def destinations() -> AsyncIterator[Reflector]:
    async with Reflector(fresh(3), destinations=range(5000, 5050)) as started:
        yield started


async def test_destinations_are_advertised_beside_the_site_and_answer(destinations: Reflector) -> None:
    main = destinations.site.listening[0]
    with udp(main) as client:
        told = extensions.read_destinations((await client.ask(ASKING, FILLER)).value(Extension.DESTINATIONS) or b"")
        assert (await client.ask(FILLER)).value(Extension.DESTINATIONS) is None
    assert told == extensions.Destinations(range(5000, 5050), destinations.held)
    reached = list(destinations.site.reached())
    assert len(reached) == 100
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(await tcp(reached[0]))
        clients = [first] + [stack.enter_context(await tcp(to, first.local.port)) for to in reached[1:]]
        replies = [await client.ask(extensions.group_attribute(b"ours"), ASKING, FILLER) for client in clients]
        assert {reply.mapped for reply in replies} == {first.local}
        assert [reply.origin for reply in replies] == reached
        assert extensions.read_group_size(replies[-1].value(Extension.GROUP) or b"") == 100
        # They have no other powers: no cookie, and so nothing that needs one.
        offered = (Extension.COOKIE, Extension.SITE, Extension.DESTINATIONS)
        assert not any(reply.value(type_) for reply in replies for type_ in offered)


async def test_a_full_house_at_the_destinations_is_in_nobodys_way(destinations: Reflector) -> None:
    destinations._streams.destinations.most = 1
    first, second, *_ = destinations.site.reached()
    with await tcp(first) as held, await tcp(destinations.site.listening[0]) as other:
        await held.ask(FILLER)
        assert await is_refused(second)
        await held.ask(FILLER)
        await other.ask(FILLER)


async def test_a_held_connection_waits_longest_and_is_then_ended(destinations: Reflector) -> None:
    destinations._streams.destinations.idle.seconds = 0.05
    with await tcp(next(destinations.site.reached())) as held:
        for _ in range(3):
            await held.ask(FILLER)
        assert await held.hangs_up()
    assert destinations._streams.destinations.idle._timer is None


async def test_an_open_file_too_many_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "setrlimit", lambda *_: (_ for _ in ()).throw(ValueError))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (460, 460))
    with pytest.raises(CannotRun, match=r"^100 destinations are too many for the limit of open files \(460\): name"):
        async with Reflector(fresh(2), destinations=range(5000, 5050)):
            pass
    monkeypatch.setattr(resource, "getrlimit", lambda _: (5000, 5000))
    async with Reflector(fresh(2), destinations=range(5000, 5050)) as reflector:
        assert reflector.held == 4644 - 4644 // 8


@pytest.mark.slow
async def test_an_idle_connection_takes_little_memory(destinations: Reflector) -> None:
    """Half of what asyncio's own transport and a timer take."""
    live, loop = destinations._streams.destinations.live, asyncio.get_running_loop()
    request = stun.request(FILLER).encode()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(reusable()) for _ in destinations.site.reached()]
        for client, to in zip(clients, destinations.site.reached(), strict=True):
            assert client.connect_ex(to.sockaddr) == errno.EINPROGRESS
        tracemalloc.start()
        try:
            await until(lambda: len(live) == len(clients))
            for client in clients:
                await loop.sock_sendall(client, request)
            for client in clients:
                assert await loop.sock_recv(client, 4096)
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert taken / len(clients) < 1600


async def test_out_of_descriptors_it_rests_and_then_goes_on(
    reflector: Reflector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("natprobe.reflector.transport._REST", 0.02)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with reusable() as waiting:
        try:
            os.close(next_one := os.dup(waiting.fileno()))
            resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, limits[1]))
            await asyncio.get_running_loop().sock_connect(waiting, reflector.site.listening[0].sockaddr)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await Asker(waiting, reflector.site.listening[0]).ask(FILLER)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        _, source = await Asker(waiting, reflector.site.listening[0]).hear()
        assert source == reflector.site.listening[0]


def test_destinations_are_others_than_the_ports() -> None:
    with pytest.raises(ValueError, match="are others than its ports"):
        Reflector(["127.0.0.1"], destinations=range(3000, 4000))


# Connect-back

ALL = tuple(list(Source)[1:6])


async def dial(
    client: Asker, *sources: Source, attempts: int = 1, spacing: float = 0.01, patience: float = 2.0
) -> dict[Source, DialResult]:
    plan = DialPlan(tuple(Dial(source, attempts) for source in sources), spacing, patience)
    reply = await client.ask(await client.cookie(), extensions.connect_back_attribute(plan))
    results = extensions.read_connect_back_result(reply.value(Extension.CONNECT_BACK_RESULT) or b"")
    assert [result.source for result in results] == list(sources)
    return {result.source: result for result in results}


def outcomes(results: dict[Source, DialResult]) -> set[DialOutcome]:
    return {result.outcome for result in results.values()}


@dataclass
class Listening:
    """A listener on the port that a client connects from; ``answer`` says what it does with a token."""

    sock: socket.socket
    tokens: dict[Endpoint, bytes] = field(default_factory=dict)

    @classmethod
    @contextlib.asynccontextmanager
    async def echoing(cls, port: int, garble: bool = False) -> AsyncIterator[Listening]:
        with reusable(port) as sock:
            sock.listen()
            listening = cls(sock)
            async with asyncio.TaskGroup() as group:
                accepting = group.create_task(listening._accept(group, garble))
                yield listening
                accepting.cancel()

    async def _accept(self, group: asyncio.TaskGroup, garble: bool) -> None:
        while True:
            accepted, source = await asyncio.get_running_loop().sock_accept(self.sock)
            group.create_task(self._echo(accepted, Endpoint.of(*source), garble))

    async def _echo(self, accepted: socket.socket, source: Endpoint, garble: bool) -> None:
        loop = asyncio.get_running_loop()
        with accepted, contextlib.suppress(ConnectionResetError):
            self.tokens[source] = await loop.sock_recv(accepted, 16)
            await loop.sock_sendall(accepted, bytes(16) if garble else self.tokens[source])
            await loop.sock_recv(accepted, 1)


async def test_a_client_that_listens_is_reached_from_every_source(reflector: Reflector) -> None:
    local = reflector.site.listening[0]
    with await tcp(local) as client:
        async with Listening.echoing(client.local.port) as listening:
            results = await dial(client, *ALL)
    assert {(result.outcome, result.attempts) for result in results.values()} == {(DialOutcome.ACCEPTED, 1)}
    origins = reflector.site.dialled_from(local)
    fixed = {origins[source] for source in (Source.ALTERNATE_SAME_PORT, Source.QUIET_SAME_PORT)}
    assert fixed < set(listening.tokens)
    assert {end.address for end in listening.tokens} == {origin.address for origin in origins.values()}
    assert len({end.port for end in listening.tokens} & set(reflector.site.ports)) == 1
    assert all(token.endswith(b"natp") and len(token) == 16 for token in listening.tokens.values())


async def test_the_token_begins_with_the_transaction_id_of_the_request(reflector: Reflector) -> None:
    with await tcp(reflector.site.listening[0]) as client:
        cookie = await client.cookie()
        async with Listening.echoing(client.local.port) as listening:
            plan = DialPlan((Dial(Source.QUIET, 1),), 0.0, 2.0)
            reply = await client.ask(cookie, extensions.connect_back_attribute(plan))
    assert list(listening.tokens.values()) == [reply.transaction_id + b"natp"]


async def test_who_accepts_without_the_token_is_someone_else(reflector: Reflector) -> None:
    with await tcp(reflector.site.listening[0]) as client:
        async with Listening.echoing(client.local.port, garble=True):
            assert outcomes(await dial(client, *ALL)) == {DialOutcome.CONNECTED}


async def test_a_port_without_a_listener_refuses_at_once(reflector: Reflector) -> None:
    with await tcp(reflector.site.listening[0]) as client:
        results = await dial(client, *ALL, attempts=16, spacing=0.2)
    assert set(results.values()) == {DialResult(source, DialOutcome.REFUSED, 1) for source in ALL}


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    """A listener whose backlog is full: it answers no SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(reusable())
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener


async def test_silence_is_told_as_silence(reflector: Reflector, deaf: socket.socket) -> None:
    with await tcp(reflector.site.listening[0], port=deaf.getsockname()[1]) as client:
        # Those with fresh ports are tried twice at once, the others in turn.
        results = await dial(client, *ALL, attempts=2, patience=0.05)
    assert set(results.values()) == {DialResult(source, DialOutcome.SILENT, 2) for source in ALL}


async def test_what_the_reflector_cannot_dial_from_is_no_verdict() -> None:
    async with Reflector(fresh(1)) as reflector:
        with await tcp(reflector.site.listening[0]) as client:
            results = await dial(client, Source.SELF, Source.ALTERNATE, Source.QUIET, Source.LISTENS)
    assert set(results.values()) == {DialResult(source, DialOutcome.NOT_DIALLED, 0) for source in results}


async def test_no_more_is_dialled_at_once_than_is_allowed(
    reflector: Reflector, deaf: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("natprobe.reflector.dialer.AT_ONCE", 2)
    with await tcp(reflector.site.listening[0], port=deaf.getsockname()[1]) as client:
        results = await dial(client, Source.QUIET, attempts=6, patience=0.1)
    assert results[Source.QUIET] == DialResult(Source.QUIET, DialOutcome.SILENT, 2)


async def test_a_connection_answers_others_while_it_dials(reflector: Reflector, deaf: socket.socket) -> None:
    with await tcp(reflector.site.listening[0], port=deaf.getsockname()[1]) as client:
        cookie = await client.cookie()
        plan = extensions.connect_back_attribute(DialPlan((Dial(Source.QUIET, 1),), 0.0, 0.1))
        dialling = stun.request(cookie, plan)
        await client.send(dialling.encode())
        again = await client.ask(cookie, plan)  # one plan at a time
        told = extensions.read_connect_back_result(again.value(Extension.CONNECT_BACK_RESULT) or b"")
        assert told == (DialResult(Source.QUIET, DialOutcome.NOT_DIALLED, 0),)
        reply, _ = await client.hear()
        assert reply.transaction_id == dialling.transaction_id


async def test_no_dial_outlives_its_connection(reflector: Reflector, deaf: socket.socket) -> None:
    with await tcp(reflector.site.listening[0], port=deaf.getsockname()[1]) as client:
        plan = extensions.connect_back_attribute(DialPlan((Dial(Source.QUIET, 1),), 0.0, 3.0))
        await client.send(stun.request(await client.cookie(), plan).encode())
        await until(lambda: reflector._streams.dialer._under_way == 1)
        client.sock.close()
        await until(lambda: not reflector._streams.dialer._under_way and not reflector._streams._dials)


ICMP = """
import asyncio, sys
from natprobe.endpoint import Endpoint
from natprobe.extensions import Dial, DialPlan, Source
from natprobe.reflector.dialer import Dialer

async def main():
    for here, target in (("127.0.0.1", "127.0.0.2"), ("::1", "::1")):
        origins = {Source.QUIET: Endpoint.of(here, 0)}
        plan = DialPlan((Dial(Source.QUIET, 1),), 0.0, 1.0)
        for port in (1001, 1002, 1003, 1004):
            (result,) = await Dialer().dial(plan, origins, Endpoint.of(target, port), bytes(12))
            print(result.outcome.name)

asyncio.run(main())
"""
FIREWALL = """
set -e
ip link set lo up
nft -f - <<RULES
table inet firewall {
  chain output {
    type filter hook output priority 0
    tcp dport 1001 reject with icmpx port-unreachable
    tcp dport 1002 reject with icmpx admin-prohibited
    tcp dport 1003 reject with tcp reset
  }
}
RULES
exec "$@"
"""


@pytest.mark.lab
def test_icmp_is_told_from_a_reset() -> None:
    """A firewall's usual answer, port unreachable, reads like an RST to who does not look at the error queue."""
    unshare, nft = shutil.which("unshare"), shutil.which("nft")
    missing = "unshare or nft is not installed" if not (unshare and nft) else None
    if not missing and subprocess.run(["unshare", "-rnm", "true"], check=False, capture_output=True).returncode:
        missing = "no user namespaces here"
    if missing:
        (pytest.fail if os.environ.get("NATPROBE_LAB_COMPULSORY") == "1" else pytest.skip)(missing)
    command = ["unshare", "-rnm", "sh", "-c", FIREWALL, "sh", sys.executable, "-c", ICMP]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout.split() == ["UNREACHABLE", "UNREACHABLE", "REFUSED", "REFUSED"] * 2


# Beginning and end


async def test_two_addresses_and_one_do_what_they_can() -> None:
    async with Reflector(fresh(2)) as reflector:
        assert [limit.split(":")[0] for limit in reflector.limits()] == ["No quiet address"]
        with udp(reflector.site.listening[0]) as client:
            plan = extensions.reply_from_attribute([PlannedReply(Source.QUIET), PlannedReply(Source.ALTERNATE)])
            await client.send(stun.request(await client.cookie(), plan, FILLER).encode())
            reply, came_from = await client.hear()
            assert came_from.address == reflector.site.addresses[1]
    async with Reflector(fresh(1)) as reflector:
        assert [limit.split(":")[0] for limit in reflector.limits()] == ["One address only"]
        with udp(reflector.site.listening[0]) as client:
            reply = await client.ask(await client.cookie(), stun.change_attribute(Change.ADDRESS), FILLER)
            assert reply.error == (420, "")
            assert (await client.ask(FILLER)).other is None


def free_ports(address: str) -> tuple[int, int]:
    with socket.socket(socket.AF_INET6) as first, socket.socket(socket.AF_INET6) as second:
        first.bind((address, 0))
        second.bind((address, 0))
        return first.getsockname()[1], second.getsockname()[1]


async def test_ipv6_works_likewise() -> None:
    try:
        ports = free_ports("::1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    async with Reflector(["::1"], ports) as reflector:
        to = reflector.site.listening[0]
        with udp(to) as client:
            client.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 57)
            client.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xB8)
            reply = await client.ask(ASKING, FILLER)
            assert (reply.origin, reply.mapped) == (to, client.local)
            assert extensions.read_received(reply.value(Extension.RECEIVED) or b"") == (57, 0xB8)
            await client.send(stun.request(await client.cookie(), stun.change_attribute(Change.PORT), FILLER).encode())
            assert (await client.hear())[1] == reflector.site.listening[1]
        with socket.socket(socket.AF_INET6) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, to.sockaddr)
            with Asker(sock, to) as client:
                assert (await client.ask(FILLER)).mapped == client.local
                results = await dial(client, Source.SAME_ADDRESS)
                assert outcomes(results) == {DialOutcome.REFUSED}


async def test_an_address_of_another_host_is_named() -> None:
    with pytest.raises(AddressBusy, match=r"^198\.51\.100\.9 is not an address of this host"):
        async with Reflector(["198.51.100.9"]):
            pass


@pytest.mark.parametrize(("kind", "protocol"), [(socket.SOCK_DGRAM, "UDP"), (socket.SOCK_STREAM, "TCP")])
async def test_a_port_in_use_is_named_and_nothing_stays_open(kind: socket.SocketKind, protocol: str) -> None:
    first, second = fresh(2)
    before = descriptors()
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind((second, 3479))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        with pytest.raises(AddressBusy, match=rf"^port 3479 of {second} is in use \({protocol}\)"):
            async with Reflector([first, second]):
                pass
    assert descriptors() == before
    async with Reflector([first, second]):
        pass


async def test_two_reflectors_cannot_share_a_port(reflector: Reflector) -> None:
    with pytest.raises(AddressBusy):
        async with Reflector(reflector.site.addresses[:1]):
            pass


@pytest.mark.parametrize("addresses", [[], ["127.0.0.1"] * 2, ["127.0.0.1", "::1"], fresh(4)])
def test_a_set_that_is_no_reflector_is_misuse(addresses: list[str]) -> None:
    with pytest.raises(ValueError, match="a reflector"):
        Reflector(addresses)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 (Path would open one more)


async def test_closing_leaves_nothing(deaf: socket.socket) -> None:
    """Neither descriptors nor tasks nor timers, though a dial, a delayed reply and a connection are under way."""
    addresses, before = fresh(3), descriptors()
    for _ in range(2):  # the second time on ports that have only just been left
        async with Reflector(addresses) as reflector:
            to = reflector.site.listening[0]
            with udp(to) as client, await tcp(to, port=deaf.getsockname()[1]) as other, await tcp(to) as held:
                late = extensions.reply_from_attribute([PlannedReply(Source.QUIET, 600.0)])
                await client.send(stun.request(await client.cookie(), late, FILLER).encode())
                plan = extensions.connect_back_attribute(DialPlan((Dial(Source.QUIET, 16),), 0.1, 3.0))
                await other.send(stun.request(await other.cookie(), plan).encode())
                await client.ask(FILLER)
                await held.ask(FILLER)
                await until(lambda: bool(reflector._delayed and reflector._streams._dials))
                late_handles = set(reflector._delayed)
                await reflector.__aexit__(None, None, None)
                assert await held.hangs_up()
            assert all(handle.cancelled() for handle in late_handles)
            assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.sleep(0)
        assert descriptors() == before


async def test_cancelling_closes_as_well() -> None:
    before, started = descriptors(), asyncio.Event()

    async def stay() -> None:
        async with Reflector(fresh(3)):
            started.set()
            await asyncio.get_running_loop().create_future()

    task = asyncio.get_running_loop().create_task(stay())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert descriptors() == before


async def test_serving_says_where_and_what_it_cannot_do_and_ends_when_cancelled() -> None:
    said: list[str] = []
    announced = asyncio.Event()

    def announce(line: str) -> None:
        said.append(line)
        announced.set()

    addresses = fresh(1)
    task = asyncio.get_running_loop().create_task(serve(addresses, (3478, 3479), announce=announce))
    await announced.wait()
    with udp(Endpoint.of(addresses[0], 3478)) as client:
        await client.ask(FILLER)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert said[0] == f"serving {addresses[0]}:3478, {addresses[0]}:3479 (UDP and TCP)"
    assert said[1].startswith("One address only")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0", "stands for all addresses"),
        ("::", "stands for all addresses"),
        ("255.255.255.255", "reserved address, or the one for broadcasts"),
        ("240.0.0.1", "reserved address"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("fe80::1", "link-local"),
        ("::1%lo", "is no address that can be served"),
        ("localhost", "is no address that can be served"),
        ("", "is no address that can be served"),
    ],
)
def test_what_no_host_can_serve_is_misuse_and_the_addresses_that_can_are_named(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        Reflector([address])
    assert "this host has " in str(refused.value)
    assert "127.0.0.1" in str(refused.value)


async def test_a_networks_broadcast_address_is_refused_with_those_that_can_be_served() -> None:
    before = descriptors()
    with pytest.raises(AddressBusy, match=r"127\.255\.255\.255 is a broadcast address: this host has .*127\.0\.0\.1"):
        async with Reflector(["127.255.255.255"]):
            pass
    assert descriptors() == before


@pytest.mark.parametrize("ports", [(0,), (3478, 0), (70000,), (4000, 4000), (1, 2, 3)])
def test_ports_that_are_none_or_not_different_are_misuse(ports: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ports"):
        Reflector(["127.0.0.1"], ports)


def test_a_mapped_address_is_served_as_what_it_stands_for() -> None:
    assert str(Reflector(["::ffff:127.0.0.1"]).site.addresses[0]) == "127.0.0.1"
    with pytest.raises(ValueError, match=r"different addresses of an IP version, not 127\.0\.0\.1, 127\.0\.0\.1"):
        Reflector(["127.0.0.1", "::ffff:127.0.0.1"])


def test_a_private_address_is_warned_of() -> None:
    assert "10.5.0.2 is private: clients outside" in " ".join(Reflector(["10.5.0.2"]).limits())
    assert "private" not in " ".join(Reflector(["198.51.100.1"]).limits())


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, ["IPv4 and IPv6: One address only: whether"]),
        (2, ["IPv4: No quiet address: filtering", "IPv6: One address only: whether"]),
    ],
)
async def test_limits_are_told_once_and_for_each_ip_version(count: int, said: list[str]) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    ports = (free_port("::1"), free_port("::1"))
    task = asyncio.get_running_loop().create_task(serve([*fresh(count), "::1"], ports, announce=lines.put_nowait))
    assert (await lines.get()).startswith("serving ")
    for line in said:
        assert (await lines.get()).startswith(line)
    assert lines.empty()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def free_port(address: str) -> int:
    with socket.create_server((address, 0), family=socket.AF_INET6) as free:
        port: int = free.getsockname()[1]
        return port


async def test_serving_nothing_is_misuse() -> None:
    with pytest.raises(ValueError, match="needs an address"):
        await serve([])
