"""Many connections from one local port: the figures, what is concluded of them, and real ones on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from natprobe import extensions, stun
from natprobe.endpoint import Endpoint, parse_address
from natprobe.errors import AddressBusy, CannotRun, NoServerAnswered
from natprobe.extensions import Extension, Source
from natprobe.reflector import Reflector
from natprobe.reuse import hold
from natprobe.reuse.capacity import capacity
from natprobe.reuse.conclusions import outside, why_ended
from natprobe.reuse.facts import (
    CLOSED,
    SILENCE,
    External,
    Failure,
    Holding,
    Method,
    Opened,
    Stage,
    Step,
    external,
    steps,
)
from natprobe.reuse.methods import choose
from natprobe.stun import Attribute, Class, Message

LOCAL = Endpoint.parse("10.64.1.10:40000")
REMOTES = [Endpoint.parse(f"198.51.100.{host}:{port}") for port in range(5000, 5050) for host in (10, 11)]

# --- figures ----------------------------------------------------------------------------------------------------------


def test_steps_are_the_medians_of_equal_stretches() -> None:
    opened = [Opened(remote, n * 1e-6, n * 1e-5, n * 1e-3) for n, remote in enumerate(REMOTES[:20])]
    assert steps(opened, rows=4) == (
        Step(5, 2.0, 20.0, 2.0),
        Step(10, 7.0, 70.0, 7.0),
        Step(15, 12.0, 120.0, 12.0),
        Step(20, 17.0, 170.0, 17.0),
    )
    assert [step.held for step in steps(opened[:11], rows=4)] == [3, 6, 9, 11]
    assert steps([]) == ()


def seen_as(*ports: int) -> tuple[tuple[Endpoint, Endpoint], ...]:
    mapped = (Endpoint.of("198.51.100.1", port) for port in ports)
    return tuple(zip(REMOTES, mapped, strict=False))


def test_what_an_external_address_carried_is_counted() -> None:
    (one,) = external(seen_as(7, 8, 7, 9, 7))
    assert (one.connections, one.ports, one.busiest, one.lowest, one.highest) == (5, 3, 3, 7, 9)
    assert one.towards == ((REMOTES[0].address, 1), (REMOTES[1].address, 2))
    two = external([*seen_as(7), (REMOTES[1], Endpoint.parse("198.51.100.2:7"))])
    assert [str(address.address) for address in two] == ["198.51.100.1", "198.51.100.2"]
    assert external([]) == ()


# --- conclusions ------------------------------------------------------------------------------------------------------


def holding(*ports: int, **more: object) -> Holding:
    """A holding of connections that were seen from these external ports, all of them alive."""
    plain = Holding(LOCAL, Method.REUSE, 64, 100, len(ports), len(ports), 1.0, 1.0, external=external(seen_as(*ports)))
    return replace(plain, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ([40001] * 8, "seen from 198.51.100.1: one external port, 40001, for all 8 connections"),
        ([7, 8] * 4, "seen from 198.51.100.1: 2 external ports, one for each address that was connected to"),
        (range(8), "each of 8 connections has an external port of its own, of 0 to 7"),
        ([7, 8, 8, 9], "3 external ports for 4 connections, the busiest of them for 2"),
        ([], "nobody told how the connections are seen from outside"),
    ],
)
def test_what_one_port_became_outside(ports: list[int], said: str) -> None:
    assert outside(holding(*ports)).endswith(said)


def test_without_a_nat_it_is_said_so() -> None:
    own = external((remote, LOCAL) for remote in REMOTES[:3])
    assert outside(holding(1, 2, 3, external=own)).startswith(
        "no NAT: all 3 connections are seen from 10.64.1.10:40000"
    )


def failed(stage: Stage, error: str, held: int = 4, count: int = 16) -> tuple[Failure, ...]:
    return (Failure(stage, error, count, held, REMOTES[-1]),)


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        (failed(Stage.SOCKET, "EMFILE"), "ulimit -n"),
        (failed(Stage.SOCKET, "ENFILE"), "fs.file-max"),
        (failed(Stage.BIND, "EADDRINUSE"), "choose another with --port"),
        (failed(Stage.CONNECT, "EADDRNOTAVAIL"), "by both ends alone"),
        (failed(Stage.CONNECT, "ENOBUFS"), "no memory left"),
        (failed(Stage.HANDSHAKE, "ECONNREFUSED"), "nobody listens there"),
        (failed(Stage.HANDSHAKE, "EHOSTUNREACH"), "RFC 6888"),
        (failed(Stage.EXCHANGE, "no STUN"), "or the server's"),
        ((), "one connection to each of the 100 destinations: natprobe reflect --destinations"),
    ],
)
def test_an_end_is_told_with_what_to_do(failures: tuple[Failure, ...], said: str) -> None:
    assert said in why_ended(holding(1, 2, 3, 4, failures=failures))


def test_enough_is_no_failure() -> None:
    assert (
        why_ended(holding(1, 2, wanted=2, failures=failed(Stage.HANDSHAKE, SILENCE))) == "as many as were asked for (2)"
    )


@pytest.mark.parametrize(
    ("error", "how"),
    [(CLOSED, "the servers closed them"), ("ECONNRESET", "were reset"), (SILENCE, "the path is down"), ("EIO", "EIO")],
)
def test_the_reason_does_not_contradict_the_figure(error: str, how: str) -> None:
    said = why_ended(holding(1, 2, wanted=2, alive=0, failures=failed(Stage.PROOF, error, count=2)))
    assert said.startswith("all 2 that were asked for were opened, but 2 of them ")
    assert how in said
    fewer = why_ended(holding(1, 2, wanted=9, alive=1, failures=failed(Stage.PROOF, error, count=1)))
    assert fewer.startswith("1 of them ")


@pytest.mark.parametrize("error", [SILENCE, "ECONNREFUSED", "EHOSTUNREACH"])
def test_what_gets_through_after_a_pause_was_no_limit_on_the_number(error: str) -> None:
    said = why_ended(holding(1, 1, 1, again=2, failures=failed(Stage.HANDSHAKE, error)))
    assert "2 got through when they were tried again after a pause: a limit on new connections in a second" in said
    assert "no more get through" not in said


def test_this_hosts_own_refusal_outweighs_the_networks() -> None:
    both = (*failed(Stage.HANDSHAKE, SILENCE), *failed(Stage.SOCKET, "EMFILE", count=1))
    assert why_ended(holding(1, 2, failures=both)).startswith("socket failed once (EMFILE), first at 4 held, towards")


SILENT = failed(Stage.HANDSHAKE, SILENCE)


def test_a_pool_that_is_used_up_is_told_from_any_other_limit() -> None:
    assert why_ended(holding(1, 1, 1, 1, failures=SILENT)).endswith("of connections or of the memory for them")
    assert why_ended(holding(40000, failures=SILENT)).endswith("of connections or of the memory for them")
    used_up = why_ended(holding(1, 2, 3, 4, failures=SILENT))
    assert "a NAT shares no port between destinations and has none for this host but these 4;" in used_up


@pytest.mark.parametrize(
    ("opened", "highest", "said"),
    [
        (2000, 42999, "a limit on connections would look alike, with ports that are given out in sequence"),
        (64, 64_000, "none need come twice (chance 96.9%)"),
        (2000, 64_000, "would have left a port that comes twice, if they are drawn at random (chance of none: 3e-14)"),
    ],
)
def test_how_sure_that_is_hangs_on_how_many_there_were(opened: int, highest: int, said: str) -> None:
    one = External(parse_address("198.51.100.1"), opened, opened, 1, 41000, highest, ())
    many = holding(opened=opened, alive=opened, wanted=9999, external=(one,), failures=SILENT)
    assert why_ended(many).endswith(said)


def test_the_pool_is_not_blamed_where_the_connections_died_too() -> None:
    assert "only 3 of 4 that were open lived on: the path itself" in why_ended(
        holding(1, 2, 3, 4, alive=3, failures=SILENT)
    )
    assert "nothing is left" in why_ended(holding(1, 2, 3, 4, alive=0, failures=SILENT))


def test_a_full_reflector_is_named() -> None:
    full = failed(Stage.EXCHANGE, CLOSED)
    assert "have room for 4 connections" in why_ended(holding(1, 1, 1, 1, room=4, failures=full))
    assert "a limit on the way" in why_ended(holding(1, 1, 1, 1, room=400, failures=full))


@pytest.mark.parametrize(
    ("share", "shared"), [(1, 64_512), (0.2, 322_560), (0.1, 645_120), (0.05, 1_290_240), (0.01, 6_451_200)]
)
def test_capacity_is_the_pool_over_the_busiest_share(share: float, shared: int) -> None:
    assert (capacity(share).exclusive, capacity(share).shared) == (64_512, shared)


@pytest.mark.parametrize("share", [0, -1, 1.01, float("nan")])
def test_a_share_that_is_none_is_misuse(share: float) -> None:
    with pytest.raises(ValueError, match="the share of the busiest destination"):
        capacity(share)


# --- on loopback ------------------------------------------------------------------------------------------------------

_fresh = (f"127.{192 + (os.getpid() >> 8) % 32}.{os.getpid() & 0xFF}.{number}" for number in itertools.count(1))


def fresh(count: int) -> list[str]:
    """Addresses of this process alone, for other tests may run on this host."""
    return list(itertools.islice(_fresh, count))


@pytest.fixture
async def reflector() -> AsyncIterator[Reflector]:
    async with Reflector(fresh(2), destinations=range(5000, 5100)) as started:
        yield started


def name(reflector: Reflector) -> str:
    return str(reflector.site.listening[0])


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 (Path would open one more)


async def until_only(before: set[str]) -> None:
    """Wait until no more is open than before: the reflector, which is in this process, takes a moment to hear of it."""
    async with asyncio.timeout(5):
        while descriptors() != before:
            await asyncio.sleep(0)


async def test_one_port_holds_a_connection_to_every_destination(reflector: Reflector) -> None:
    before, said = descriptors(), []
    found = await hold([name(reflector)], connections=1000, on_progress=lambda *told: said.append(told))
    assert (found.opened, found.alive, found.counted, found.destinations) == (200, 200, 200, 200)
    assert found.method is Method.REUSE
    assert found.room == reflector.held
    assert [one.busiest for one in found.external] == [200]
    assert not found.translated
    assert found.steps[-1].held == 200
    assert all(step.bind_us > 0 < step.connect_us for step in found.steps)
    assert why_ended(found).startswith("there is one connection to each of the 200 destinations")
    assert (said[0], said[199], said[-1]) == (("open", 1, 200), ("open", 200, 200), ("alive", 200, 200))
    await until_only(before)


async def test_all_were_open_before_the_first_was_proven(reflector: Reflector) -> None:
    live: list[int] = []

    async def count() -> None:
        live.append(len(reflector._streams.destinations.live))

    found = await hold([name(reflector)], connections=150, before_proof=count)
    assert live == [150]
    assert found.alive == found.wanted == 150


async def test_a_connection_that_died_meanwhile_is_not_alive(reflector: Reflector) -> None:
    async def kill_one() -> None:
        next(iter(reflector._streams.destinations.live)).abort()

    found = await hold([name(reflector)], before_proof=kill_one)
    assert (found.opened, found.alive) == (64, 63)
    (failure,) = found.failures
    assert failure.stage is Stage.PROOF
    assert failure.error in ("ECONNRESET", CLOSED)


async def test_a_full_reflector_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("natprobe.reflector.server.MAX_HELD", 30)
    async with Reflector(fresh(1), destinations=range(5000, 5100)) as reflector:
        found = await hold([name(reflector)], connections=100)
    assert found.opened == found.alive == 30
    assert "have room for 30 connections and no more" in why_ended(found)


async def test_a_port_is_not_connected_to_itself(reflector: Reflector) -> None:
    here = next(reflector.site.reached())
    found = await hold([name(reflector)], connections=300, source=str(here.address), port=here.port)
    assert (found.local, found.opened, found.destinations) == (here, 199, 199)


@pytest.mark.skipif(sys.platform != "linux", reason="IP_LOCAL_PORT_RANGE is Linux's")
async def test_beside_a_socket_that_shares_its_port_with_nobody_a_range_of_one_port_helps(reflector: Reflector) -> None:
    with socket.socket() as other:
        other.setblocking(False)
        other.connect_ex(next(reflector.site.reached()).sockaddr)  # the port is the system's choice
        try:
            other.setsockopt(socket.IPPROTO_IP, 51, struct.pack("=I", 0))
        except OSError:
            pytest.skip("this kernel has no IP_LOCAL_PORT_RANGE (Linux 6.3)")
        port = other.getsockname()[1]
        found = await hold([name(reflector)], connections=100, port=port)
    assert found.method is Method.RANGE
    assert found.alive == 99  # the other socket has the hundredth
    (failure,) = found.failures
    assert (failure.stage, failure.error) == (Stage.CONNECT, "EADDRNOTAVAIL")


def test_a_port_that_cannot_be_shared_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        assert port >= low
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", low - 1000))
        with pytest.raises(
            AddressBusy, match=rf"^local port {low - 1000} is held by a socket that shares it with nobody"
        ):
            choose(Endpoint.of("127.0.0.1", low - 1000))
    with pytest.raises(AddressBusy, match=r"^198\.51\.100\.9 is not an address of this host"):
        choose(Endpoint.of("198.51.100.9", 0))


async def test_cancelling_leaves_nothing(reflector: Reflector) -> None:
    before, reached = descriptors(), asyncio.Event()

    async def stay() -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(hold([name(reflector)], connections=100, before_proof=stay))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_only(before)


# --- whom it connects to ----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def saying(*attributes: Attribute) -> AsyncIterator[Endpoint]:
    """A server over TCP that answers every request with these, whatever it was asked."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readexactly(20)
                await reader.readexactly(stun.message_length(head[:4]) - 20)
                mapped = stun.xor_mapped_attribute(Endpoint.of(*writer.get_extra_info("peername")[:2]), head[8:20])
                writer.write(Message(Class.SUCCESS, head[8:20], (mapped, *attributes)).encode())
        writer.close()

    (address,) = fresh(1)
    async with await asyncio.start_server(answer, address, 0) as server:
        yield Endpoint.of(*server.sockets[0].getsockname())


async def test_of_anybodys_server_little_is_asked() -> None:
    async with saying() as server:
        found = await hold([str(server)])
        assert (found.opened, found.alive, found.counted, found.room) == (1, 1, None, None)
        with pytest.raises(CannotRun, match="more than 64 connections are for natprobe's reflectors alone"):
            await hold([str(server)], connections=65)


async def test_what_a_server_says_of_others_is_not_enough_to_connect_to_them(reflector: Reflector) -> None:
    """A liar that calls itself a reflector does not send thousands of connections to a victim."""
    victim = Endpoint.of(fresh(1)[0], 5000)
    site = extensions.site_attribute(((Source.LISTENS, victim), (Source.LISTENS, reflector.site.listening[0])))
    many = extensions.destinations_attribute(extensions.Destinations(range(5000, 5100), 1 << 20))
    with socket.create_server(victim.sockaddr) as listening:
        listening.setblocking(False)
        async with saying(site, many) as liar:
            asked = asyncio.ensure_future(hold([str(liar)], connections=300))
            async with asyncio.timeout(5):
                greeting, _ = await asyncio.get_running_loop().sock_accept(listening)
            greeting.close()
            found = await asked
        with pytest.raises(BlockingIOError):
            listening.accept()
    # Its own ports, where nobody listens, and what the true reflector says of itself.
    assert {remote for one in found.external for remote, _ in one.towards} <= {
        liar.address,
        *reflector.site.addresses,
    }


async def test_what_is_no_destination_is_passed_over() -> None:
    site = extensions.site_attribute(())
    async with saying(site, Attribute(Extension.DESTINATIONS, bytes(8))) as server:
        found = await hold([str(server)])
        assert (found.opened, found.destinations) == (1, 1)


async def test_a_server_that_is_not_there_is_named(reflector: Reflector) -> None:
    (nowhere,) = fresh(1)
    how = f"{nowhere}:3478 did not answer over TCP (connection refused)"
    with pytest.raises(NoServerAnswered, match=re.escape(how)):
        await hold([nowhere])
    found = await hold([nowhere, name(reflector)])
    assert (found.alive, found.unanswered) == (64, (how,))


@pytest.mark.parametrize(("servers", "connections"), [([], 64), (["127.0.0.1"], 0), (["127.0.0.1:x"], 1)])
async def test_misuse_is_told(servers: list[str], connections: int) -> None:
    with pytest.raises(ValueError, match=r"no server was named|no number of connections|no port number"):
        await hold(servers, connections=connections)


# --- the command ------------------------------------------------------------------------------------------------------


async def command(*arguments: str, files: int | None = None) -> tuple[int | None, str, str]:
    limit = f"ulimit -n {files}; " if files else ""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", limit + 'exec "$@"', "sh", sys.executable, "-m", "natprobe", "reuse", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.slow
async def test_the_command_shows_it_all(reflector: Reflector) -> None:
    status, out, err = await command("-s", name(reflector), "--busiest-share", "0.1")
    assert (status, err) == (0, "")
    assert out.startswith("64 TCP connections from 127.0.0.1:")
    assert "the reflectors counted 64 at once" in out
    assert "ended    as many as were asked for (64)" in out
    assert "SO_REUSEADDR and SO_REUSEPORT on every socket" in out
    assert "645,120  where a port serves every destination anew, 10% of all" in out


@pytest.mark.slow
async def test_the_command_is_for_programs_too(reflector: Reflector) -> None:
    status, out, err = await command("-s", name(reflector), "--connections", "201", "--json")
    told = json.loads(out)
    assert (status, err) == (3, "")
    assert told["schema"] == "natprobe.reuse/1"
    assert (told["opened"], told["alive"], told["counted"], told["wanted"]) == (200, 200, 200, 201)
    assert told["capacity"] == {"pool": 64512, "busiest_share": 0.05, "exclusive": 64512, "shared": 1290240}
    assert told["outside"].startswith("no NAT")
    assert told["external"][0]["connections"] == 200


@pytest.mark.slow
async def test_the_limit_of_open_files_is_named_where_it_ends_there(reflector: Reflector) -> None:
    status, out, _ = await command("-s", name(reflector), "--connections", "200", files=100)
    assert status == 3
    assert "socket failed" in out
    assert "(EMFILE)" in out
    assert "ulimit -n raises it" in out


@pytest.mark.slow
async def test_ctrl_c_gives_all_of_them_up(reflector: Reflector) -> None:
    live = reflector._streams.destinations.live
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "natprobe", "reuse", "-s", name(reflector), "--connections", "200"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(10):
        while len(live) < 50:
            await asyncio.sleep(0.001)
        process.send_signal(signal.SIGINT)
        assert await process.communicate() == (b"", b"")
        while live:
            await asyncio.sleep(0)
    assert process.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--connections", "many"], "'many' is no number"),
        (["--connections", "inf"], "'inf' is no number"),
        (["--busiest-share", "0"], "the share of the busiest destination"),
        (["--port", "70000"], "'70000' is no port number"),
    ],
)
async def test_a_wrong_option_is_usage(arguments: list[str], said: str) -> None:
    status, out, err = await command("-s", "127.0.0.1", *arguments)
    assert (status, out) == (2, "")
    assert said in err
