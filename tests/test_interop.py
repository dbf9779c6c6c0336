"""Clients that others wrote, against our reflector: answered as each of them expects.

All on loopback, where there is no NAT; so each client must find an open path, and says so in its own words.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import aioice.ice
import aioice.stun
import pytest

from natprobe.endpoint import Endpoint
from natprobe.reflector import Reflector

pytestmark = pytest.mark.interop

# Addresses of this process alone, apart from those of test_reflector.py.
_fresh = (f"127.{192 + (os.getpid() >> 8) % 63}.{os.getpid() & 0xFF}.{number}" for number in itertools.count(1))


@pytest.fixture
async def reflector() -> AsyncIterator[Reflector]:
    async with Reflector(itertools.islice(_fresh, 2), compat=True) as started:
        yield started


@pytest.fixture
def server(reflector: Reflector) -> str:
    return str(reflector.site.addresses[0])


def unavailable(what: str) -> None:
    """Skip a test for want of a tool, or fail where a lab without it was forbidden."""
    reason = f"{what} is not installed"
    if os.environ.get("NATPROBE_LAB_COMPULSORY") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


async def run(*command: str) -> str:
    """Return all that a program prints. Fails the test where it ends badly or never."""
    program = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(30):
            said, _ = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert program.returncode == 0, said
    return said.decode()


async def tool(name: str, *arguments: str) -> str:
    if shutil.which(name) is None:
        unavailable(f"{name} (coturn)")
    return await run(name, *arguments)


async def pystun3(server: str, source: str) -> tuple[str, str]:
    """The type that pystun3 finds and the address it learns. It blocks, so it runs elsewhere."""
    if importlib.util.find_spec("stun") is None:
        unavailable("pystun3")
    script = f"import stun; print(*stun.get_ip_info({source!r}, 0, {server!r}), sep='|')"
    kind, address, _ = (await run(sys.executable, "-c", script)).split("|")
    return kind, address


# coturn's


@pytest.mark.parametrize("padding", [(), ("-P",)])
async def test_natdiscovery_finds_mapping_and_filtering_endpoint_independent(
    server: str, padding: tuple[str, ...]
) -> None:
    said = await tool("turnutils_natdiscovery", "-m", "-f", *padding, server)
    assert "NAT with Endpoint Independent Mapping!" in said
    assert "NAT with Endpoint Independent Filtering!" in said
    assert f"Response origin: : {server}:3478" in said


async def test_natdiscovery_meets_itself_by_its_mapped_address(server: str) -> None:
    assert "successful hairpinning" in await tool("turnutils_natdiscovery", "-H", server)


@pytest.mark.slow
async def test_natdiscovery_has_a_reply_sent_to_another_port(server: str) -> None:
    # Its lifetime test: a request from a second socket, with RESPONSE-PORT for the first one, a second later.
    said = await tool("turnutils_natdiscovery", "-t", "-T", "1", server)
    assert said.count(f"Response origin: : {server}:3478") >= 2


@pytest.mark.parametrize("forced", [(), ("-f",)])
async def test_stunclient_goes_through_all_its_three_requests(
    reflector: Reflector, server: str, forced: tuple[str, ...]
) -> None:
    said = await tool("turnutils_stunclient", *forced, server)
    assert said.count("RFC 5780 response") == 3
    assert f"Other addr: : {reflector.site.listening[3]}" in said
    assert said.count("UDP reflexive addr: 127.0.0.1:") == 3


# pystun3, which speaks RFC 3489


async def test_pystun3_finds_the_open_internet(server: str) -> None:
    assert await pystun3(server, "127.0.0.1") == ("Open Internet", "127.0.0.1")


async def test_pystun3_takes_an_unknown_source_for_an_open_nat(server: str) -> None:
    # Bound to no address it sees the external one differ from its own, and its Test II comes back: in its words this.
    assert await pystun3(server, "0.0.0.0") == ("Full Cone", "127.0.0.1")


# aioice, and so aiortc


@dataclass
class Receiver:
    """What aioice's protocol hands over all that is no reply to it."""

    def data_received(self, data: bytes, component: int) -> None:
        raise AssertionError(f"no STUN reply to aioice: {data.hex()}")

    def request_received(self, message: aioice.stun.Message, addr: tuple[str, int], protocol: object) -> None:
        raise AssertionError(f"a request: {message}")

    def protocol_lost(self, protocol: object) -> None:
        pass


@pytest.fixture
async def protocol() -> AsyncIterator[aioice.ice.StunProtocol]:
    _, created = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: aioice.ice.StunProtocol(cast(aioice.Connection, Receiver())), local_addr=("127.0.0.1", 0)
    )
    host, port = created.transport.get_extra_info("sockname")
    created.local_candidate = aioice.Candidate("1", 1, "udp", 1, host, port, "host")
    yield created
    await created.close()


async def test_aioice_gathers_a_server_reflexive_candidate(server: str, protocol: aioice.ice.StunProtocol) -> None:
    candidate, _ = await aioice.ice.server_reflexive_candidate(protocol, (server, 3478))
    assert (candidate.type, candidate.host) == ("srflx", "127.0.0.1")
    assert candidate.port == protocol.transport.get_extra_info("sockname")[1]


async def test_aioice_reads_every_address_that_it_knows(
    reflector: Reflector, protocol: aioice.ice.StunProtocol
) -> None:
    request = aioice.stun.Message(aioice.stun.Method.BINDING, aioice.stun.Class.REQUEST)
    request.attributes["CHANGE-REQUEST"] = 6
    request.add_fingerprint()
    reply, source = await protocol.request(request, reflector.site.listening[0].sockaddr)
    moved = reflector.site.listening[3]
    assert Endpoint.of(*source) == moved
    assert reply.attributes["RESPONSE-ORIGIN"] == moved.sockaddr
    assert reply.attributes["OTHER-ADDRESS"] == moved.sockaddr


async def test_aioice_is_told_of_what_is_not_understood(server: str, protocol: aioice.ice.StunProtocol) -> None:
    request = aioice.stun.Message(aioice.stun.Method.BINDING, aioice.stun.Class.REQUEST)
    request.attributes["PRIORITY"] = 1
    with pytest.raises(aioice.stun.TransactionFailed, match="420"):
        await protocol.request(request, (server, 3478))
