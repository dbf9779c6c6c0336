"""The in-memory internet: it keeps the seam's promises as real sockets do, and loses what it shall lose."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from math import sqrt

import pytest

from natprobe.behaviour import Dependence, Hairpinning, PortAssignment, Protocol, Treatment
from natprobe.endpoint import Address, Endpoint, parse_address
from natprobe.errors import AddressBusy, NameNotFound, NoRoute
from natprobe.lab.clock import run
from natprobe.lab.details import Details
from natprobe.lab.host import Host
from natprobe.lab.internet import Internet
from natprobe.lab.link import PATHS, Impairment, Link, Path
from natprobe.lab.packet import Flags, Packet
from natprobe.lab.policy import PRESETS, NatPolicy, ProtocolPolicy
from natprobe.lab.simulation import simulate
from natprobe.network import Datagram, Network, Rejection, Stream
from natprobe.run import classify
from natprobe.sockets import HostNetwork

HOST, OTHER = "127.0.0.1", "127.0.0.2"
Scene = Callable[[Network], Awaitable[None]]


def in_memory(scene: Scene) -> None:
    async def staged() -> None:
        internet = Internet(1, {"both.test": ["192.0.2.1", "2001:db8::1"]})
        await scene(internet.host(HOST, OTHER))

    run(staged())


def on_loopback(scene: Scene) -> None:
    async def staged() -> None:
        await scene(HostNetwork())

    asyncio.run(staged())


@pytest.fixture(params=[on_loopback, in_memory], ids=["loopback", "memory"])
def stage(request: pytest.FixtureRequest) -> Callable[[Scene], None]:
    """Run a scene with a Network that has the addresses 127.0.0.1 and 127.0.0.2: the real one, and ours."""
    found: Callable[[Scene], None] = request.param
    return found


Stage = Callable[[Scene], None]


def at(address: str, port: int = 0) -> Endpoint:
    return Endpoint.of(address, port)


# --- the promises of a Network ----------------------------------------------------------------------------------------


def test_a_datagram_arrives_with_its_source(stage: Stage) -> None:
    async def scene(network: Network) -> None:
        one, two = await network.datagrams(at(HOST)), await network.datagrams(at(OTHER))
        assert one.local.port
        await one.send(b"hello", two.local)
        arrival = await two.receive()
        assert isinstance(arrival, Datagram)
        assert (arrival.data, arrival.source) == (b"hello", one.local)
        assert arrival.at <= network.now()
        one.close()
        two.close()
        two.close()
        await two.send(b"into nowhere", one.local)

    stage(scene)


def test_a_closed_port_is_told_as_a_rejection(stage: Stage) -> None:
    async def scene(network: Network) -> None:
        gone = await network.datagrams(at(OTHER))
        remote = gone.local
        gone.close()
        await asyncio.sleep(0)
        socket = await network.datagrams(at(HOST))
        await socket.send(b"anyone?", remote)
        arrival = await socket.receive()
        assert isinstance(arrival, Rejection)
        assert (arrival.remote, arrival.reason) == (remote, "port unreachable")
        socket.close()

    stage(scene)


def test_a_udp_port_belongs_to_one(stage: Stage) -> None:
    async def scene(network: Network) -> None:
        socket = await network.datagrams(at(HOST))
        with pytest.raises(AddressBusy, match=f"local port {socket.local.port} is in use: choose another, or none"):
            await network.datagrams(socket.local)
        listener = await network.listen(socket.local)  # TCP's ports are others
        listener.close()
        socket.close()

    stage(scene)


@pytest.mark.parametrize("what", ["datagrams", "listen", "connect"])
def test_another_hosts_address_cannot_be_had(stage: Stage, what: str) -> None:
    async def scene(network: Network) -> None:
        foreign = at("203.0.113.77")
        remote = [at(HOST, 9)] if what == "connect" else []
        with pytest.raises(AddressBusy, match=r"203\.0\.113\.77 is not an address of this host"):
            await getattr(network, what)(foreign, *remote)

    stage(scene)


def test_a_connection_carries_data_both_ways_and_ends(stage: Stage) -> None:
    async def scene(network: Network) -> None:
        listener = await network.listen(at(OTHER))
        one, two = await asyncio.gather(network.connect(at(HOST), listener.local), listener.accept())
        assert not isinstance(one, Rejection)
        assert (one.remote, two.remote) == (two.local, one.local)
        await one.send(b"ping" * 1000)
        assert await two.receive(4000) == b"ping" * 1000
        await two.send(b"pong")
        two.close()
        two.close()
        assert await one.receive(100) == b"pong"
        assert await one.receive(1) == b""
        one.close()
        await one.send(b"too late")
        listener.close()
        listener.close()

    stage(scene)


def test_a_port_without_a_listener_refuses(stage: Stage) -> None:
    async def scene(network: Network) -> None:
        listener = await network.listen(at(OTHER))
        listener.close()
        answer = await network.connect(at(HOST), listener.local)
        assert isinstance(answer, Rejection)
        assert (answer.remote, answer.reason) == (listener.local, "connection refused")

    stage(scene)


def test_one_port_carries_connections_to_several_destinations_and_a_listener(stage: Stage) -> None:
    async def scene(network: Network) -> None:
        mine = await network.listen(at(HOST))
        first, second = await network.listen(at(OTHER)), await network.listen(at(OTHER))
        streams = [await network.connect(mine.local, there.local) for there in (first, second)]
        inbound = await network.connect(at(OTHER), mine.local)
        assert not isinstance(inbound, Rejection)
        opened = [stream for stream in streams if not isinstance(stream, Rejection)]
        assert [stream.local for stream in opened] == [mine.local, mine.local]
        for stream in (*opened, inbound, await first.accept(), await second.accept(), await mine.accept()):
            stream.close()
        for listener in (mine, first, second):
            listener.close()

    stage(scene)


def test_the_same_connection_twice_has_no_route(stage: Stage) -> None:
    async def scene(network: Network) -> None:
        listener = await network.listen(at(OTHER))
        one = await network.connect(at(HOST), listener.local)
        assert not isinstance(one, Rejection)
        with pytest.raises(NoRoute, match="cannot assign requested address"):
            await network.connect(one.local, listener.local)
        for stream in (one, await listener.accept()):
            stream.close()
        listener.close()

    stage(scene)


def test_what_a_listener_did_not_accept_is_closed_with_it(stage: Stage) -> None:
    async def scene(network: Network) -> None:
        listener = await network.listen(at(OTHER))
        stream = await network.connect(at(HOST), listener.local)
        assert not isinstance(stream, Rejection)
        async with asyncio.timeout(10):
            await asyncio.sleep(0.01)  # until it has been admitted
            listener.close()
            assert await stream.receive(1) == b""
        stream.close()

    stage(scene)


def test_a_host_sends_from_its_own_address(stage: Stage) -> None:
    async def scene(network: Network) -> None:
        assert await network.source_for(at(HOST, 9)) == parse_address(HOST)

    stage(scene)


def test_names_are_looked_up_in_the_table() -> None:
    async def scene(network: Network) -> None:
        assert await network.resolve("both.test", 4) == (parse_address("192.0.2.1"),)
        assert await network.resolve("both.test", 6) == (parse_address("2001:db8::1"),)
        with pytest.raises(NameNotFound, match=r"nowhere\.test: no IPv4"):
            await network.resolve("nowhere.test", 4)
        with pytest.raises(NoRoute):
            await network.source_for(Endpoint.parse("[2001:db8::1]:1"))

    in_memory(scene)


# --- TCP over lines that lose -----------------------------------------------------------------------------------------


class _Lossy:
    """Two hosts on a line on which the packets at the numbers given, counted from 0, are lost."""

    def __init__(self, *lost: int) -> None:
        self.internet = Internet(1)
        self.sent: list[tuple[float, Flags | None]] = []
        self.loop = asyncio.get_running_loop()
        self.one = self._host("192.0.2.1", set(lost))
        self.two = self._host("192.0.2.2", set(lost))

    def _host(self, address: str, lost: set[int]) -> Host:
        def send(packet: Packet) -> None:
            number = len(self.sent)
            self.sent.append((round(self.loop.time(), 3), packet.flags))
            if number not in lost:
                self.loop.call_later(0.05, self.internet.realm.route, packet)

        host = Host((parse_address(address),), {}, send, random.Random(address))
        self.internet.realm.add(host.addresses[0], host)
        return host

    async def connected(self) -> tuple[Stream, Stream]:
        listener = await self.two.listen(at("192.0.2.2", 80))
        one, two = await asyncio.gather(self.one.connect(at("192.0.2.1"), listener.local), listener.accept())
        assert not isinstance(one, Rejection)
        return one, two


def test_a_handshake_and_an_exchange_take_the_fewest_segments() -> None:
    async def exchange() -> None:
        line = _Lossy()
        one, two = await line.connected()
        await one.send(b"ping")
        await two.send(await two.receive(4))
        assert await one.receive(4) == b"ping"
        assert [flags for _, flags in line.sent] == [
            *(Flags.SYN, Flags.SYN_ACK, Flags.ACK),
            *(Flags.ACK, Flags.ACK, Flags.ACK, Flags.ACK),
        ]

    run(exchange())


def test_a_syn_is_repeated_after_1_2_and_4_seconds_and_given_up_after_two_minutes() -> None:
    async def dial() -> None:
        line = _Lossy(*range(100))
        answer = await line.one.connect(at("192.0.2.1"), at("192.0.2.2", 80))
        assert isinstance(answer, Rejection)
        assert (answer.reason, line.one.now()) == ("connection timed out", 127.0)
        assert [when for when, _ in line.sent] == [0, 1, 3, 7, 15, 31, 63]

    run(dial())


@pytest.mark.parametrize(("lost", "after"), [(0, 1.1), (1, 1.1), (2, 0.1)], ids=["SYN", "SYN-ACK", "ACK"])
def test_a_handshake_survives_the_loss_of_any_segment(lost: int, after: float) -> None:
    async def shake() -> None:
        line = _Lossy(lost)
        listener = await line.two.listen(at("192.0.2.2", 80))
        one = await line.one.connect(at("192.0.2.1"), listener.local)
        assert not isinstance(one, Rejection)
        assert line.one.now() == pytest.approx(after)
        await one.send(b"x")
        assert await (await listener.accept()).receive(1) == b"x"

    run(shake())


@pytest.mark.parametrize("lost", range(3, 9))
def test_data_arrives_whole_and_in_order_whatever_is_lost(lost: int) -> None:
    async def talk() -> None:
        line = _Lossy(lost)
        one, two = await line.connected()
        await one.send(b"first")
        await one.send(b"second")
        assert await two.receive(11) == b"firstsecond"
        await two.send(b"third")
        assert await one.receive(5) == b"third"
        assert line.one.now() < 1.2
        one.close()
        assert await two.receive(1) == b""

    run(talk())


def test_data_is_repeated_after_the_round_trip_and_200_ms() -> None:
    async def talk() -> None:
        line = _Lossy(3)
        one, two = await line.connected()
        await one.send(b"lost")
        assert await two.receive(4) == b"lost"
        assert line.one.now() == pytest.approx(0.15 + 0.3 + 0.05)

    run(talk())


def test_both_ends_may_begin_at_once() -> None:
    async def meet() -> None:
        line = _Lossy()
        here, there = at("192.0.2.1", 1000), at("192.0.2.2", 2000)
        one, two = await asyncio.gather(line.one.connect(here, there), line.two.connect(there, here))
        assert not isinstance(one, Rejection)
        assert not isinstance(two, Rejection)
        await one.send(b"we met")
        assert await two.receive(6) == b"we met"

    run(meet())


def test_an_attempt_that_is_given_up_does_not_spoil_the_next_from_the_same_port() -> None:
    async def twice() -> None:
        line = _Lossy(1)  # the answer to the first attempt
        listener = await line.two.listen(at("192.0.2.2", 80))
        here = at("192.0.2.1", 1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await line.one.connect(here, listener.local)
        # The half-open end there objects, is reset, and the SYN, repeated at once, finds the way free.
        stream = await line.one.connect(here, listener.local)
        assert not isinstance(stream, Rejection)
        assert line.one.now() == pytest.approx(0.3 + 0.1 + 0.008 + 0.1)

    run(twice())


# --- links ------------------------------------------------------------------------------------------------------------


def arrivals(impairment: Impairment, count: int = 20_000, every: float = 0.01) -> list[tuple[float, ...]]:
    link = Link(impairment, random.Random(1))
    return [link.arrivals(number * every) for number in range(count)]


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.2])
def test_as_much_is_lost_as_was_said(loss: float) -> None:
    lost = sum(not times for times in arrivals(Impairment(loss=loss)))
    assert abs(lost - 20_000 * loss) < 4 * sqrt(20_000 * loss * (1 - loss))


def test_bursts_have_the_share_and_the_length_that_was_said() -> None:
    lost = [not times for times in arrivals(Impairment(burst_share=0.05, burst_length=0.1), 200_000, 0.001)]
    bursts = sum(now and not before for before, now in zip([False, *lost], lost, strict=False))
    assert sum(lost) / len(lost) == pytest.approx(0.05, rel=0.2)
    assert sum(lost) * 0.001 / bursts == pytest.approx(0.1, rel=0.2)


def test_jitter_delays_and_keeps_the_order() -> None:
    times = [when for (when,) in arrivals(Impairment(delay=0.02, jitter=0.01), every=0.001)]
    assert times == sorted(times)
    assert min(t - n * 0.001 for n, t in enumerate(times)) >= 0.02


def test_reordering_lets_others_overtake() -> None:
    times = [when for (when,) in arrivals(Impairment(delay=0.02, reorder=0.1, reorder_by=0.005), every=0.001)]
    overtaken = sum(b < a for a, b in pairwise(times))
    assert overtaken / len(times) == pytest.approx(0.09, rel=0.15)


def test_a_duplicate_arrives_twice() -> None:
    assert sum(len(times) == 2 for times in arrivals(Impairment(duplicate=0.1))) == pytest.approx(2000, rel=0.15)


def test_a_perfect_link_keeps_packets_apart_and_in_order() -> None:
    link = Link(Impairment(), random.Random(1))
    assert len({link.arrivals(1.0) for _ in range(100)}) == 100


# --- NATs and whole runs ----------------------------------------------------------------------------------------------


def test_a_gateway_refuses_late_what_it_refuses_late() -> None:
    async def dial() -> tuple[Rejection | Stream, float]:
        policy = NatPolicy.alike(ProtocolPolicy(unsolicited=Treatment.ICMP, details=Details(unsolicited_after=6.0)))
        internet = Internet(1)
        internet.gateway(policy, "198.51.100.1", path=PATHS["cable"])
        outsider = internet.host("198.51.100.10")
        return await outsider.connect(at("198.51.100.10"), at("198.51.100.1", 80)), outsider.now()

    answer, when = run(dial())
    assert isinstance(answer, Rejection)
    assert answer.reason == "no route to host"
    assert 6.0 < when < 6.1


def test_two_hosts_behind_one_nat_meet_by_hairpin() -> None:
    async def meet() -> Endpoint:
        open_nat = ProtocolPolicy(
            filtering=Dependence.ENDPOINT_INDEPENDENT, details=Details(hairpinning=Hairpinning.EXTERNAL_SOURCE)
        )
        internet = Internet(1)
        home = internet.gateway(NatPolicy.alike(open_nat), "198.51.100.1")
        one, two = internet.host("10.0.0.1", behind=home), internet.host("10.0.0.2", behind=home)
        mine, other = await one.datagrams(at("10.0.0.1")), await two.datagrams(at("10.0.0.2"))
        await mine.send(b"opens", at("198.51.100.99", 1))
        await asyncio.sleep(1)
        await other.send(b"round the corner", at("198.51.100.1", 40000))
        arrival = await mine.receive()
        assert isinstance(arrival, Datagram)
        return arrival.source

    assert run(meet()) == at("198.51.100.1", 40001)


def test_neighbours_speak_without_their_gateway() -> None:
    async def speak() -> Endpoint:
        internet = Internet(1)
        home = internet.gateway(PRESETS["apdm-apdf"], "198.51.100.1")
        one, two = internet.host("10.0.0.1", behind=home), internet.host("10.0.0.2", behind=home)
        mine, other = await one.datagrams(at("10.0.0.1", 5)), await two.datagrams(at("10.0.0.2", 6))
        await mine.send(b"hello", other.local)
        arrival = await other.receive()
        assert isinstance(arrival, Datagram)
        return arrival.source

    assert run(speak()) == at("10.0.0.1", 5)


def test_an_error_finds_its_way_back_through_two_nats() -> None:
    async def send() -> Rejection | Datagram:
        internet = Internet(1)
        carrier = internet.gateway(PRESETS["linux-masquerade"], "198.51.100.3", path=PATHS["lte"])
        home = internet.gateway(PRESETS["eim-eif"], "100.64.0.1", behind=carrier)
        client = internet.host("10.0.0.1", behind=home)
        internet.host("198.51.100.10")
        socket = await client.datagrams(at("10.0.0.1"))
        await socket.send(b"anyone?", at("198.51.100.10", 9))
        return await socket.receive()

    arrival = run(send())
    assert isinstance(arrival, Rejection)
    assert arrival.reason == "port unreachable"


def test_an_address_is_given_once() -> None:
    async def build() -> None:
        internet = Internet(1)
        internet.host("192.0.2.1")
        with pytest.raises(ValueError, match=r"two nodes with the address 192\.0\.2\.1"):
            internet.host("192.0.2.1")

    run(build())


@pytest.mark.parametrize("path", ["lan", "lossy-wifi", "awful"])
def test_the_same_seed_gives_the_same_report(path: str) -> None:
    policy = PRESETS["adm-apdf"]
    one, again, other = (simulate(policy, path, seed).dumps() for seed in (7, 7, 8))
    assert one == again != other


def test_several_policies_are_nats_in_series() -> None:
    inner = NatPolicy.alike(ProtocolPolicy(port_assignment=PortAssignment.PRESERVING))
    outer = NatPolicy.alike(replace(inner.udp, mapping=Dependence.ADDRESS_DEPENDENT))
    report = simulate([inner, outer], protocols=[Protocol.UDP])
    assert report.ipv4
    assert report.ipv4.udp
    assert report.ipv4.udp.mapping.value is Dependence.ADDRESS_DEPENDENT


def test_a_server_of_a_tests_own_is_a_host_with_a_handler() -> None:
    async def ask() -> tuple[bytes, Address]:
        internet = Internet(1)
        server, client = internet.host("192.0.2.9"), internet.host("192.0.2.1", path=Path.alike(Impairment(0.01)))

        def echo(packet: Packet) -> None:
            server.send(packet.payload[::-1], packet.destination, packet.source)

        remote = server.bind(at("192.0.2.9", 7), echo)
        socket = await client.datagrams(at("192.0.2.1"))
        await socket.send(b"olleh", remote)
        arrival = await socket.receive()
        assert isinstance(arrival, Datagram)
        return arrival.data, arrival.source.address

    assert run(ask()) == (b"hello", parse_address("192.0.2.9"))


# --- names and addresses that no host has -----------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.251", "255.255.255.255", "240.0.0.1", "ff02::1", "::"])
def test_an_address_of_no_host_is_no_server(address: str) -> None:
    async def scene() -> None:
        await classify([f"[{address}]:3478"], network=Internet().host("198.51.100.9"))

    with pytest.raises(ValueError, match=r"address: name one host"):
        run(scene())


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.251", "255.255.255.255"])
def test_a_name_that_stands_for_no_host_is_left_out(address: str) -> None:
    async def scene() -> None:
        network = Internet(names={"sink.example": [address]}).host("198.51.100.9")
        await classify(["sink.example"], versions=[4], network=network)

    with pytest.raises(NameNotFound, match=f"sink.example stands for {address}, which is no address of a host"):
        run(scene())
