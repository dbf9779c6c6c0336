"""Names with several addresses, as a resolver may tell them: what is checked, and what aiortc is then given.

The resolver is the system's in all but its answers, which stand in a table; natprobe and aiortc ask it alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection
from certificates import make
from test_checking import HOST, granting, serving

from natprobe.lab.clock import run
from natprobe.lab.internet import Internet
from natprobe.sockets import HostNetwork
from natprobe.stun import HEADER_SIZE, decode, message_length
from natprobe.webrtc import Depth, IceServerCheck, IceServerState, check_ice_servers, choose_ice_servers
from natprobe.webrtc.names import Name
from natprobe.webrtc.outcome import Unusable

DEAD = f"127.{os.getpid() >> 8 & 0x7F | 0x80}.{os.getpid() & 0xFF}.77"
NAME = "turn.example"
CREDENTIALS = {"username": "user", "credential": "right"}

Table = dict[socket.AddressFamily, list[str] | None]
"""The addresses of NAME of each family; None: no name server ever answers."""


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set what the system's resolver says of NAME."""
    real, table, end = socket.getaddrinfo, Table(), threading.Event()

    def getaddrinfo(host: Any, port: Any, family: int = 0, *args: Any, **options: Any) -> Any:
        if str(host).removesuffix(".") != NAME:
            return real(host, port, family, *args, **options)
        families = [one for one in table if family in (0, one)]
        if any(table[one] is None for one in families):
            end.wait(30)
        addresses = [address for one in families for address in table[one] or []]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found for address in addresses for found in real(address, port, 0, *args, **options)]

    def gethostbyname(host: str) -> str:
        return str(getaddrinfo(host, None, socket.AF_INET)[0][4][0])

    def says(v4: list[str] | None, v6: list[str] | None, *, v6_first: bool = True) -> None:
        families = [(socket.AF_INET6, v6), (socket.AF_INET, v4)]
        table.update(families if v6_first else reversed(families))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "gethostbyname", gethostbyname)
    yield says
    end.set()


async def check(url: str, **how: Any) -> tuple[IceServerCheck, ...]:
    return await check_ice_servers([{"urls": url, **CREDENTIALS}], depth=Depth.ALLOCATE, **how)


def states(checks: tuple[IceServerCheck, ...]) -> list[tuple[int | None, str]]:
    return [(check.family, str(check.state)) for check in checks]


async def relayed_by_aiortc(servers: list[Any]) -> bool:
    """Return whether an aiortc with these servers gets a relayed candidate."""
    pc = RTCPeerConnection(RTCConfiguration([RTCIceServer(**server) for server in servers]))
    pc.createDataChannel("chat")
    await pc.setLocalDescription(await pc.createOffer())
    has_relay = " typ relay " in pc.localDescription.sdp
    await pc.close()
    return has_relay


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.mark.parametrize(
    ("v4", "v6", "found"),
    [
        ([HOST], ["::1"], [(6, "refused"), (4, "ok")]),
        ([HOST, DEAD], [], [(4, "ok"), (4, "refused")]),
        ([DEAD, HOST], [], [(4, "refused"), (4, "ok")]),
    ],
    ids=["dead AAAA", "dead second A", "dead first A"],
)
async def test_every_address_is_checked_and_aiortc_is_given_one_that_works(
    resolver: Callable[..., None], v4: list[str], v6: list[str], found: list[tuple[int, str]]
) -> None:
    resolver(v4, v6)
    async with serving(granting) as server:
        url = f"turn:{NAME}:{port_of(server.url)}"
        checks = await check(url)
        assert states(checks) == found
        chosen = choose_ice_servers([{"urls": url, **CREDENTIALS}], checks)
        assert [one["urls"] for one in chosen] == [server.url]
        assert await relayed_by_aiortc(chosen)
    told = {check.unsupported_by_aiortc for check in checks}
    dead = "::1" if v6 else DEAD
    assert told == {f"aiortc may take {dead} of the addresses of {NAME}, and that one does not work"}


async def test_a_name_all_of_whose_addresses_work_stays_a_name(resolver: Callable[..., None]) -> None:
    async with serving(granting) as server:
        resolver([HOST, HOST], [])
        url = f"turn:{NAME}:{port_of(server.url)}"
        checks = await check(url)
        assert states(checks) == [(4, "ok")]
        chosen = choose_ice_servers([{"urls": url, **CREDENTIALS}], checks)
        assert [one["urls"] for one in chosen] == [url]
        assert await relayed_by_aiortc(chosen)


async def test_a_dead_a_behind_a_good_aaaa_is_never_taken(resolver: Callable[..., None]) -> None:
    """What counts is the version that comes first: aiortc takes no other over UDP."""
    checks = [
        IceServerCheck(f"turn:{NAME}", "udp", 6, IceServerState.OK, username="user"),
        IceServerCheck(f"turn:{NAME}", "udp", 4, IceServerState.TIMEOUT, username="user"),
    ]
    assert choose_ice_servers([{"urls": f"turn:{NAME}", **CREDENTIALS}], checks) == [
        {"urls": f"turn:{NAME}", **CREDENTIALS}
    ]
    assert choose_ice_servers([{"urls": f"turn:{NAME}", **CREDENTIALS}], checks[::-1]) == []


@pytest.mark.parametrize("silent", [4, 6])
async def test_a_version_that_nobody_tells_does_not_keep_the_other_back(
    resolver: Callable[..., None], silent: int
) -> None:
    resolver(None if silent == 4 else [HOST], None if silent == 6 else ["::1"])
    async with serving(granting) as server:
        began = time.monotonic()
        checks = await check(f"turn:{NAME}:{port_of(server.url)}")
        took = time.monotonic() - began
    other = 6 if silent == 4 else 4
    assert states(checks) == [(other, "refused" if other == 6 else "ok"), (silent, "dns")]
    assert checks[1].reason == f"no name server has answered for the IPv{silent} address of {NAME}"
    assert took < 3
    chosen = choose_ice_servers([{"urls": checks[0].url, **CREDENTIALS}], checks)
    assert [one["urls"] for one in chosen] == ([server.url] if other == 4 else [])


@pytest.mark.slow
async def test_that_no_name_server_answers_is_said_where_it_is_true(resolver: Callable[..., None]) -> None:
    resolver(None, None)
    (alone,) = await check(f"turn:{NAME}", timeout=0.5)
    assert (alone.state, alone.reason) == ("dns", f"no name server has answered for {NAME}")


async def test_a_version_in_which_a_name_has_no_address_is_left_out(resolver: Callable[..., None]) -> None:
    resolver([DEAD], [])
    assert states(await check(f"turn:{NAME}:9")) == [(4, "refused")]
    resolver([], [])
    (alone,) = await check(f"turn:{NAME}:9")
    assert (alone.state, alone.family) == ("dns", None)
    assert "Name or service not known" in (alone.reason or "")


async def test_checks_of_one_version_ask_for_that_one_alone(resolver: Callable[..., None]) -> None:
    resolver([DEAD], None)
    assert states(await check(f"turn:{NAME}:9", versions=(4,))) == [(4, "refused")]


async def test_a_stun_server_is_asked_by_aiortc_over_ipv4_alone(resolver: Callable[..., None]) -> None:
    url = f"stun:{NAME}"
    good, dead = (
        IceServerCheck(url, "udp", family, state)
        for family, state in ((4, IceServerState.OK), (6, IceServerState.TIMEOUT))
    )
    assert choose_ice_servers([url], [dead, good]) == [url]


async def test_what_is_under_way_ends_with_the_check(resolver: Callable[..., None]) -> None:
    resolver(None, None)
    checking = asyncio.create_task(check(f"turn:{NAME}"))
    for _ in range(20):
        await asyncio.sleep(0)
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- a final dot ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def over_tls(tmp_path: Path) -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """A TURN server over TLS whose certificate is for NAME: its port, and whom to trust."""
    pair = make(NAME)
    certificate, key = pair.write(tmp_path, "server")
    serving_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving_context.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readexactly(HEADER_SIZE)
                data = head + await reader.readexactly(message_length(head) - HEADER_SIZE)
                writer.write(granting(decode(data), data) or b"")
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0, ssl=serving_context)
    try:
        yield server.sockets[0].getsockname()[1], ssl.create_default_context(cafile=str(certificate))
    finally:
        server.close()


async def test_a_final_dot_is_no_part_of_the_name_in_a_certificate(
    resolver: Callable[..., None], over_tls: tuple[int, ssl.SSLContext]
) -> None:
    port, trusting = over_tls
    resolver([HOST], [])
    for name, why in ((NAME, None), (f"{NAME}.", "aiortc looks for the final dot of the name in the certificate")):
        (found,) = await check(f"turns:{name}:{port}", tls=trusting)
        assert (found.state, found.reason) == ("ok", None)
        assert (found.unsupported_by_aiortc or "").startswith(why or "")
        assert choose_ice_servers([{"urls": found.url, **CREDENTIALS}], [found]) == (
            [] if why else [{"urls": found.url, **CREDENTIALS}]
        )
    with pytest.raises(ssl.SSLCertVerificationError):  # as aiortc connects
        await asyncio.open_connection(f"{NAME}.", port, ssl=trusting)


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1"])
def test_a_name_that_stands_for_no_host_is_not_followed(address: str) -> None:
    async def scene() -> None:
        network = Internet(names={NAME: [address]}).host("198.51.100.9")
        name = Name(cast(HostNetwork, network), NAME, [4])
        await name.endpoints(4, 3478, asyncio.get_running_loop().time() + 1)

    with pytest.raises(Unusable) as stopped:
        run(scene())
    assert stopped.value.state is IceServerState.DNS
    assert stopped.value.reason == f"{NAME} stands for {address}, which is no address of a host"
