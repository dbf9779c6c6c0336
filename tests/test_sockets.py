"""The network seam on real sockets, on loopback: shared ports, what fails here and what fails out there, no leaks."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from natprobe.endpoint import Endpoint
from natprobe.errors import NOT_SENT, AddressBusy, NameNotFound
from natprobe.network import Datagram, Datagrams, Listener, Rejection, Stream
from natprobe.sockets import HostNetwork

HERE = Endpoint.of("127.0.0.1", 0)
THERE = Endpoint.of("127.0.0.2", 0)


@pytest.fixture
def network() -> HostNetwork:
    return HostNetwork()


def open_sockets() -> set[str]:
    """Return the sockets that this process has open, by their inodes."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))
    return {target for target in found if target.startswith("socket:")}


async def becomes(condition: Callable[[], bool]) -> None:
    """Give the loop its turns until a condition holds: closing takes it one or two."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def nothing_leaks() -> AsyncIterator[None]:
    before = open_sockets()
    yield
    await becomes(lambda: open_sockets() <= before)


pytestmark = pytest.mark.usefixtures("nothing_leaks")


@contextlib.contextmanager
def unused(kind: socket.SocketKind) -> Iterator[Endpoint]:
    """Give an endpoint where nobody listens, and keep it so."""
    with closing(socket.socket(socket.AF_INET, kind)) as reserved:
        reserved.bind(THERE.sockaddr)
        endpoint = Endpoint.of(*reserved.getsockname())
        if kind == socket.SOCK_DGRAM:
            reserved.connect(HERE.with_port(9).sockaddr)  # who is connected elsewhere does not hear others
        yield endpoint


def connected(stream: Stream | Rejection) -> Stream:
    assert not isinstance(stream, Rejection), stream
    return stream


# --- TCP: one port for all --------------------------------------------------------------------------------------------


async def pair(network: HostNetwork, local: Endpoint, listener: Listener) -> tuple[Stream, Stream]:
    """Connect from ``local`` to a listener; return both ends."""
    stream = connected(await network.connect(local, listener.local))
    return stream, await listener.accept()


def close(*ends: Datagrams | Stream | Listener) -> None:
    for end in ends:
        end.close()


async def test_connections_and_a_listener_share_one_port(network: HostNetwork) -> None:
    one, two, mine = [await network.listen(address) for address in (THERE, THERE, HERE)]
    to_one, at_one = await pair(network, mine.local, one)
    to_two, at_two = await pair(network, mine.local, two)
    guest, admitted = await pair(network, THERE, mine)
    assert {stream.local for stream in (to_one, to_two, admitted)} == {mine.local}
    assert {stream.remote for stream in (at_one, at_two, guest)} == {mine.local}
    assert admitted.remote == guest.local
    close(one, two, mine, to_one, at_one, to_two, at_two, guest, admitted)


async def test_a_second_listener_may_have_the_port_too(network: HostNetwork) -> None:
    first = await network.listen(HERE)
    second = await network.listen(first.local)
    assert first.local == second.local
    first.close()
    second.close()


async def test_a_port_is_free_again_after_a_connection_from_it(network: HostNetwork) -> None:
    """TIME-WAIT must not keep a run from repeating itself from the same port."""
    one, two = await network.listen(THERE), await network.listen(THERE)
    ends = await pair(network, HERE, one)
    port = ends[0].local
    close(*ends)
    again = await pair(network, port, two)
    assert again[0].local == port
    close(one, two, *again)


async def test_a_listener_that_closes_lets_go_of_who_has_not_been_let_in(network: HostNetwork) -> None:
    listener = await network.listen(HERE)
    guest = connected(await network.connect(THERE, listener.local))
    listener.close()
    listener.close()
    assert await guest.receive(1) == b""
    guest.close()


# --- TCP: what is said ------------------------------------------------------------------------------------------------


async def test_a_stream_gives_what_was_asked_for_or_what_there_was(network: HostNetwork) -> None:
    listener = await network.listen(THERE)
    stream, other = await pair(network, HERE, listener)
    await other.send(b"hello, world")
    assert await stream.receive(5) == b"hello"
    other.close()
    assert await stream.receive(100) == b", world"
    assert await stream.receive(100) == b""
    await stream.send(b"nobody reads this")
    close(stream, stream, other, other, listener, listener)


async def test_a_stream_that_was_reset_has_ended(network: HostNetwork) -> None:
    with closing(socket.socket()) as resetting:
        resetting.bind(THERE.sockaddr)
        resetting.listen()
        stream = connected(await network.connect(HERE, Endpoint.of(*resetting.getsockname())))
        other, _ = resetting.accept()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
    assert await stream.receive(1) == b""
    await stream.send(b"nobody reads this")
    stream.close()


async def test_a_refusal_is_a_value(network: HostNetwork) -> None:
    with unused(socket.SOCK_STREAM) as nobody:
        refused = await network.connect(HERE, nobody)
    assert isinstance(refused, Rejection)
    assert (refused.remote, refused.reason) == (nobody, "connection refused")


class _AsOnTheBsds(socket.socket):
    """Says EISCONN to a second connect(), as the BSDs, macOS and WSL 1 do; Linux says that all is well."""

    _asked = False

    def connect_ex(self, address: Any) -> int:
        if self._asked:
            return errno.EISCONN
        self._asked = True
        return super().connect_ex(address)

    def connect(self, address: Any) -> None:
        if self._asked:
            raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))
        super().connect(address)


async def test_a_connection_is_made_by_one_connect(network: HostNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one says EISCONN off Linux, which is no rejection."""
    listener = await network.listen(THERE)
    monkeypatch.setattr(socket, "socket", _AsOnTheBsds)
    stream = connected(await network.connect(HERE, listener.local))
    monkeypatch.undo()
    close(stream, await listener.accept(), listener)


@pytest.mark.parametrize("code", [errno.EINPROGRESS, errno.EALREADY, errno.EINTR, errno.EISCONN])
async def test_a_connect_that_is_under_way_is_waited_for(
    network: HostNetwork, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class UnderWay(socket.socket):
        def connect_ex(self, address: Any) -> int:
            super().connect_ex(address)
            return code

    listener = await network.listen(THERE)
    monkeypatch.setattr(socket, "socket", UnderWay)
    stream = connected(await network.connect(HERE, listener.local))
    monkeypatch.undo()
    close(stream, await listener.accept(), listener)


async def test_cancelling_a_connection_attempt_leaves_nothing(network: HostNetwork) -> None:
    with closing(socket.socket()) as full:
        full.bind(THERE.sockaddr)
        full.listen(0)
        remote = Endpoint.of(*full.getsockname())
        queued = connected(await network.connect(HERE, remote))  # the queue has room for one
        waiting = asyncio.create_task(network.connect(HERE, remote))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        queued.close()


@pytest.mark.parametrize("end", ["finish", "reset"])
async def test_a_connection_that_was_ended_makes_room_for_another_between_the_same_endpoints(
    network: HostNetwork, end: str
) -> None:
    listener = await network.listen(THERE)
    local = HERE
    for _ in range(3):
        client, server = await pair(network, local, listener)
        local = client.local
        ending = asyncio.create_task(getattr(client, end)())
        assert await server.receive(1) == b""
        server.close()
        await ending
    listener.close()


async def test_a_connection_that_was_reset_is_finished(network: HostNetwork) -> None:
    listener = await network.listen(THERE)
    client, server = await pair(network, HERE, listener)
    await client.send(b"unread, so that closing resets")
    server.close()
    await client.finish()
    assert await client.receive(1) == b""
    listener.close()


# --- what fails here --------------------------------------------------------------------------------------------------

Opening = Callable[[HostNetwork, Endpoint], Awaitable[object]]


async def open_datagrams(network: HostNetwork, local: Endpoint) -> object:
    return await network.datagrams(local)


async def open_listener(network: HostNetwork, local: Endpoint) -> object:
    return await network.listen(local)


async def open_connection(network: HostNetwork, local: Endpoint) -> object:
    return await network.connect(local, THERE.with_port(9))


OPENINGS = [open_datagrams, open_listener, open_connection]


@pytest.mark.parametrize("opening", OPENINGS)
async def test_a_port_in_use_is_told_with_its_number(network: HostNetwork, opening: Opening) -> None:
    kind = socket.SOCK_DGRAM if opening is open_datagrams else socket.SOCK_STREAM
    with closing(socket.socket(socket.AF_INET, kind)) as holder:
        holder.bind(HERE.sockaddr)  # without SO_REUSEPORT: it shares with nobody
        taken = Endpoint.of(*holder.getsockname())
        with pytest.raises(AddressBusy, match=f"local port {taken.port} is in use"):
            await opening(network, taken)


@pytest.mark.parametrize("opening", OPENINGS)
async def test_an_address_of_another_host_is_told(network: HostNetwork, opening: Opening) -> None:
    with pytest.raises(AddressBusy, match=r"192\.0\.2\.77 is not an address of this host"):
        await opening(network, Endpoint.of("192.0.2.77", 0))


def has_ipv6() -> bool:
    addresses = Path("/proc/net/if_inet6")
    return addresses.exists() and bool(addresses.read_text())


async def test_the_source_is_the_one_that_the_system_would_take(network: HostNetwork) -> None:
    assert await network.source_for(THERE.with_port(3478)) == HERE.address


async def test_a_name_without_an_address_is_told(network: HostNetwork) -> None:
    with pytest.raises(NameNotFound, match=r"^127\.0\.0\.1: no IPv6 address found"):
        await network.resolve("127.0.0.1", 6)
    assert await network.resolve("127.0.0.1", 4) == (HERE.address,)


# --- UDP --------------------------------------------------------------------------------------------------------------


async def test_datagrams_come_with_their_source(network: HostNetwork) -> None:
    here, there = await network.datagrams(HERE), await network.datagrams(THERE)
    before = network.now()
    await here.send(b"ping", there.local)
    arrival = await there.receive()
    assert isinstance(arrival, Datagram)
    assert (arrival.data, arrival.source) == (b"ping", here.local)
    assert before <= arrival.at <= network.now()
    close(here, there, here, there)


async def test_icmp_errors_arrive_with_whom_they_are_about(network: HostNetwork) -> None:
    here, there = await network.datagrams(HERE), await network.datagrams(THERE)
    with unused(socket.SOCK_DGRAM) as nobody:
        await here.send(b"anyone?", nobody)
        rejected = await here.receive()
    assert isinstance(rejected, Rejection)
    assert (rejected.remote, rejected.reason) == (nobody, "port unreachable")
    await there.send(b"still here", here.local)
    arrival = await here.receive()
    assert isinstance(arrival, Datagram)
    close(here, there)


async def test_an_icmp_error_costs_no_later_datagram_more_than_a_copy(network: HostNetwork) -> None:
    """The kernel tells of an earlier error by failing a later send: copies must get through all the same."""
    here, there = await network.datagrams(HERE), await network.datagrams(THERE)
    with unused(socket.SOCK_DGRAM) as nobody:
        for number in range(5):
            await here.send(b"anyone?", nobody)
            await here.send(bytes([number]), there.local)
            await here.send(bytes([number]), there.local)
            arrival = await there.receive()
            assert isinstance(arrival, Datagram)
            while arrival.data != bytes([number]):
                arrival = await there.receive()
                assert isinstance(arrival, Datagram)
    close(here, there)


async def test_what_cannot_be_sent_is_a_rejection_and_harms_nothing_else(network: HostNetwork) -> None:
    """A server may name any address as its other one, and the rest of the run must not suffer."""
    here, there = await network.datagrams(HERE), await network.datagrams(THERE)
    for _ in range(3):
        await here.send(b"nowhere", Endpoint.of("255.255.255.255", 3478))
        await here.send(b"martian", Endpoint.of("203.0.113.1", 3478))  # from a loopback address
    for _ in range(3):
        for address in ("255.255.255.255", "203.0.113.1"):
            refused = await here.receive()
            assert isinstance(refused, Rejection)
            assert refused.remote == Endpoint.of(address, 3478)
            assert refused.reason.startswith(NOT_SENT)
    await here.send(b"ping", there.local)
    await here.send(b"ping", there.local)
    assert isinstance(await there.receive(), Datagram)
    close(here, there)


async def test_sending_on_a_closed_socket_does_nothing(network: HostNetwork) -> None:
    here = await network.datagrams(HERE)
    here.close()
    await here.send(b"too late", THERE.with_port(9))


async def test_two_sockets_never_share_a_udp_port(network: HostNetwork) -> None:
    first = await network.datagrams(HERE)
    with pytest.raises(AddressBusy):
        await network.datagrams(first.local)
    first.close()


@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6, not even loopback")
async def test_ipv6_is_served_alike(network: HostNetwork) -> None:
    loopback = Endpoint.of("::1", 0)
    here, there = await network.datagrams(loopback), await network.datagrams(loopback)
    await here.send(b"ping", there.local)
    arrival = await there.receive()
    assert isinstance(arrival, Datagram)
    assert arrival.source == here.local
    await here.send(b"anyone?", Endpoint.of("::1", 9))
    rejected = await here.receive()
    assert isinstance(rejected, Rejection)
    assert rejected.reason == "port unreachable"
    listener = await network.listen(loopback)
    ends = await pair(network, loopback, listener)
    assert ends[0].remote == ends[1].local == listener.local
    close(here, there, listener, *ends)
