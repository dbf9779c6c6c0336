"""Whole runs against a real reflector on loopback, where there is neither NAT nor filter."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from natprobe import Certainty, Dependence, Protocol, Tier, classify
from natprobe.endpoint import Address, Endpoint, parse_address
from natprobe.errors import AddressBusy, NameNotFound, NoRoute, NoServerAnswered
from natprobe.network import Rejection
from natprobe.observation import Exchange, Hold, Purpose, Volley
from natprobe.reflector import Reflector
from natprobe.report import Report
from natprobe.sockets import HostNetwork

ADDRESSES = ("127.0.21.2", "127.0.21.3", "127.0.21.4")
PORTS = (34780, 34790)
PRIMARY = f"{ADDRESSES[0]}:{PORTS[0]}"


@pytest.fixture
async def reflector() -> AsyncIterator[Reflector]:
    async with Reflector(ADDRESSES, PORTS) as serving:
        yield serving


def descriptors() -> set[str]:
    """Return what this process has open, sockets by their number."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))
    return {target for target in found if target.startswith("socket:")}


async def test_an_open_path_is_no_nat_and_no_filter(reflector: Reflector) -> None:
    report = await classify([PRIMARY])
    assert report.settled
    assert report.ipv4
    for _, profile in report.ipv4.profiles:
        assert profile.reachable.value is True
        assert profile.translated.value is False
        assert (profile.mapping.value, profile.mapping.certainty) == (
            Dependence.ENDPOINT_INDEPENDENT,
            Certainty.CONFIRMED,
        )
        assert profile.filtering.value is Dependence.ENDPOINT_INDEPENDENT
    assert report.ipv6 is None


async def test_one_local_port_holds_connections_to_all_endpoints(reflector: Reflector) -> None:
    report = await classify([PRIMARY], protocols=[Protocol.TCP])
    assert report.ipv4
    assert report.ipv4.tcp
    assert report.ipv4.tcp.concurrent
    held = report.ipv4.tcp.concurrent.value
    assert held
    assert (held.held, held.destinations) == (4, 4)
    assert held.external_ports == (held.local_port,)
    (hold,) = (fact for fact in report.observations if isinstance(fact, Hold))
    assert hold.counted == 4
    assert report.ipv4.udp is None


async def test_each_test_has_a_port_of_its_own(reflector: Reflector) -> None:
    report = await classify([PRIMARY])
    tests = {Purpose.MAPPING: "mapping", Purpose.HOLD: "mapping", Purpose.REMAP: "remap"}
    ports: dict[tuple[Protocol, str], set[int]] = {}
    for fact in report.observations:
        if isinstance(fact, Exchange) and fact.purpose is not Purpose.RECONNECT:
            ports.setdefault((fact.protocol, tests.get(fact.purpose, "filtering")), set()).add(fact.local.port)
    sizes = {(protocol, test): 1 for protocol in Protocol for test in ("mapping", "filtering")}
    assert {key: len(used) for key, used in ports.items()} == sizes | {(Protocol.UDP, "remap"): 3}
    for protocol in Protocol:
        used = [ports.get((protocol, test), set()) for test in ("mapping", "filtering", "remap")]
        assert len(set.union(*used)) == sum(map(len, used))


async def test_filtering_is_over_before_an_alternate_address_is_sent_to(reflector: Reflector) -> None:
    report = await classify([PRIMARY], protocols=[Protocol.UDP])
    volleys = [fact for fact in report.observations if isinstance(fact, Volley) and fact.purpose is Purpose.FILTERING]
    last_volley = max(volley.at for volley in volleys)
    elsewhere = [
        fact.at
        for fact in report.observations
        if isinstance(fact, Exchange) and fact.remote.address != parse_address(ADDRESSES[0])
    ]
    assert elsewhere
    assert min(elsewhere) > last_volley


async def test_the_mapping_test_leaves_from_the_port_asked_for(reflector: Reflector) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    report = await classify([PRIMARY], port=port)
    used = {
        fact.local.port
        for fact in report.observations
        if isinstance(fact, Exchange) and fact.purpose is Purpose.MAPPING
    }
    assert used == {port}


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_a_port_in_use_is_told_before_anything_is_sent(reflector: Reflector, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as neighbour:
        neighbour.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            neighbour.listen()
        port = neighbour.getsockname()[1]
        with pytest.raises(AddressBusy, match=f"port {port} is in use"):
            await classify([PRIMARY], port=port)


async def test_a_source_that_is_not_here_is_told(reflector: Reflector) -> None:
    with pytest.raises(AddressBusy, match=r"198\.51\.100\.77 is not an address of this host"):
        await classify([PRIMARY], source="198.51.100.77")


async def test_a_second_source_that_is_not_here_is_told_before_anything_is_sent(reflector: Reflector) -> None:
    with pytest.raises(AddressBusy, match=r"198\.51\.100\.77 is not an address of this host"):
        await classify([PRIMARY], second_source="198.51.100.77")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"partner": True, "tier": Tier.QUICK}, "quick tier"),
        ({"second_source": "127.0.0.1", "tier": Tier.QUICK}, "quick tier"),
        ({"partner": True, "protocols": [Protocol.UDP]}, "meet over TCP"),
        ({"second_source": "nowhere"}, "nowhere"),
    ],
)
async def test_what_contradicts_itself_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        await classify([PRIMARY], **options)


async def test_two_servers_are_better_than_one_and_a_dead_one_does_no_harm(reflector: Reflector) -> None:
    report = await classify([f"127.0.21.9:{PORTS[0]}", PRIMARY])
    assert report.settled
    assert [server.kind for server in report.servers] == [None, "natprobe"]


@pytest.mark.slow
async def test_nobody_there_is_told_with_the_reason_of_each() -> None:
    with pytest.raises(
        NoServerAnswered, match=r"over TCP: connection refused; 127\.0\.21\.9:34781 over UDP: port unreach"
    ):
        await classify(["127.0.21.9:34781"])


async def test_a_name_without_an_address_is_told() -> None:
    class Deaf(HostNetwork):
        async def resolve(self, host: str, version: int) -> tuple[Address, ...]:
            raise NameNotFound(f"{host}: no such name")

    with pytest.raises(NameNotFound, match=r"nowhere\.invalid"):
        await classify(["nowhere.invalid"], network=Deaf())


async def test_a_family_without_a_route_is_told() -> None:
    class NoIpv6(HostNetwork):
        async def source_for(self, remote: object) -> Address:
            raise NoRoute("this host has no IPv6")

    with pytest.raises(NoRoute, match="no IPv6"):
        await classify(["[2001:db8::1]:3478"], network=NoIpv6())


@pytest.mark.parametrize("server", ["", "host:port", "[::1", "host:0", "host:70000"])
async def test_what_is_no_server_is_a_misuse(server: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each has its own text
        await classify([server])


async def test_a_source_of_the_other_family_is_a_misuse() -> None:
    with pytest.raises(ValueError, match="not an IPv4 address"):
        await classify([PRIMARY], versions=[4], source="::1")


async def test_nothing_stays_open(reflector: Reflector) -> None:
    before = descriptors()
    await classify([PRIMARY])
    await asyncio.wait_for(_until(lambda: descriptors() <= before), 5)


async def test_cancelling_closes_everything_wherever_it_strikes(reflector: Reflector) -> None:
    before = descriptors()
    for steps in range(0, 60, 3):
        run = asyncio.ensure_future(classify([PRIMARY]))
        for _ in range(steps):
            await asyncio.sleep(0)  # one turn of the loop: the cancellation strikes a little later each time
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run
    await asyncio.wait_for(_until(lambda: descriptors() <= before), 5)


async def test_progress_tells_of_every_answer(reflector: Reflector) -> None:
    told: list[str] = []
    report = await classify([PRIMARY], on_progress=told.append)
    exchanges = [fact for fact in report.observations if isinstance(fact, Exchange)]
    assert len(told) == len(exchanges)
    assert any("hello UDP" in line and "answered" in line for line in told)


async def test_a_report_survives_its_own_json(reflector: Reflector) -> None:
    report = await classify([PRIMARY])
    again = Report.loads(report.dumps())
    assert again.to_json() == report.to_json()


async def test_ipv6_is_probed_alike() -> None:
    try:
        reflector = Reflector(["::1"], PORTS)
        await reflector.__aenter__()
    except AddressBusy:
        pytest.skip("no IPv6 loopback here")
    try:
        report = await classify([f"[::1]:{PORTS[0]}"])
    finally:
        await reflector.__aexit__(None, None, None)
    assert report.ipv4 is None
    assert report.ipv6
    assert report.ipv6.udp
    assert report.ipv6.udp.translated.value is False
    assert "only one address" in report.ipv6.udp.filtering.reason


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_udp_is_the_control_where_tcp_alone_was_asked_for(reflector: Reflector) -> None:
    """A server that answers over UDP is up: TCP that is refused there says something about TCP."""

    class NoTcp(HostNetwork):
        async def connect(self, local: Endpoint, remote: Endpoint) -> Rejection:
            return Rejection(remote, "connection refused", self.now())

    report = await classify([PRIMARY], protocols=[Protocol.TCP], network=NoTcp())
    assert report.ipv4
    assert report.ipv4.udp is None
    assert report.ipv4.tcp
    assert report.ipv4.tcp.reachable.value is False
    assert "while UDP reaches the same server" in report.ipv4.tcp.reachable.reason


@pytest.mark.parametrize("source", ["224.0.0.1", "0.0.0.0", "255.255.255.255", "ff02::1", "::"])
async def test_a_source_that_no_host_has_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="no address of one host"):
        await classify([PRIMARY], source=source)
    with pytest.raises(ValueError, match="no address of one host"):
        await classify([PRIMARY], second_source=source)


async def test_a_second_source_that_is_the_first_or_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the second source is the first one, 127\.0\.0\.1"):
        await classify([PRIMARY], source="127.0.0.1", second_source="127.0.0.1")
    with pytest.raises(ValueError, match=r"2001:db8::1 is an IPv6 address"):
        await classify([PRIMARY], versions=[4], second_source="2001:db8::1")
