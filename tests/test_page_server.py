"""The page's server on sockets of loopback: what it serves, whom it turns away, and that it leaves nothing open."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aioice import stun

from natprobe.errors import AddressBusy
from natprobe.page import server, session
from natprobe.page.server import ICE_PORTS, Page
from natprobe.reflector.budget import Rate

ADDRESSES = ["127.41.0.10", "127.41.0.11", "127.41.0.12"]
UFRAG, PASSWORD = "abcd", "p" * 22


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Page, aiohttp.ClientSession]]:
    async with Page(ADDRESSES, 0) as page, aiohttp.ClientSession() as client:
        yield page, client


def visiting(page: Page, client: aiohttp.ClientSession, origin: str | None = None) -> Any:
    return client.ws_connect(page.url + "visit", headers={"Origin": origin or page.url.rstrip("/")})


async def test_what_is_served_needs_nobody_else() -> None:
    async with serving() as (page, client):
        for name, kind in (("", "text/html"), ("natprobe.js", "text/javascript"), ("natprobe.css", "text/css")):
            async with client.get(page.url + name) as answer:
                assert (answer.status, answer.content_type) == (200, kind)
                text = await answer.text()
                assert not re.search(r"//[a-z0-9-]+\.[a-z]", text)
                policy = answer.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'")
                assert "unsafe" not in policy
        async with client.get(page.url + "secrets") as answer:
            assert answer.status == 404


async def test_the_page_of_another_site_is_turned_away() -> None:
    async with serving() as (page, client):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await visiting(page, client, "http://elsewhere.example")
        assert refused.value.status == 403


async def test_many_visits_from_one_network_are_asked_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RATE", Rate(0.001, 2.0))
    async with serving() as (page, client):
        told = []
        for _ in range(3):
            async with visiting(page, client) as visit:
                told.append(await visit.receive_json())
        assert ["open" in message for message in told] == [True, True, False]
        assert "Try again in a minute" in told[-1]["refused"]


async def test_a_page_that_talks_nonsense_is_hung_up_on() -> None:
    async with serving() as (page, client), visiting(page, client) as visit:
        assert "open" in await visit.receive_json()
        await visit.send_str("nonsense")
        assert (await visit.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_a_page_without_peer_connections_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LONGEST", 0.1)
    async with serving() as (page, client), visiting(page, client) as visit:
        assert "open" in await visit.receive_json()
        assert "no peer connections" in (await visit.receive_json())["refused"]


async def offered(visit: aiohttp.ClientWebSocketResponse) -> dict[str, str]:
    """Offer all peer connections that the page is asked for, and return the credentials to test filtering with."""
    own = {"ufrag": UFRAG, "password": PASSWORD, "hosts": []}
    names = (await visit.receive_json())["open"]
    await visit.send_json({"type": "offers", "offers": [own | {"name": name} for name in names]})
    while "answer" not in (message := await visit.receive_json()):
        assert "progress" in message
    return dict(message)


def check(theirs: dict[str, str], password: str | None = None) -> bytes:
    names = {"USERNAME": f"{theirs['ufrag']}:{UFRAG}", "PRIORITY": 1, "ICE-CONTROLLING": 1}
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes=names)
    message.add_message_integrity((password or theirs["password"]).encode())
    return bytes(message)


async def test_a_check_is_met_with_one_check_and_a_forged_one_with_none() -> None:
    async with serving() as (page, client), visiting(page, client) as visit:
        theirs = await offered(visit)
        contacted = (ADDRESSES[0], ICE_PORTS[0])
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as browser:
            browser.setblocking(False)
            browser.bind((ADDRESSES[0], 0))
            for junk in (b"", b"junk", check(theirs, "q" * 22), stun_error(), bytes(1400), check(theirs)):
                await loop.sock_sendto(browser, junk, contacted)
            data, source = await loop.sock_recvfrom(browser, 1500)
            assert source == contacted
            answer = stun.parse_message(data)
            assert answer.message_class == stun.Class.REQUEST
            assert answer.attributes["USERNAME"] == f"{UFRAG}:{theirs['ufrag']}"
            assert answer.check_message_integrity(PASSWORD.encode())
            # All was drained in the order in which it came: had the forged one been met too, it would be here by now.
            await loop.sock_sendto(browser, check(theirs), contacted)
            await loop.sock_recvfrom(browser, 1500)
            with pytest.raises(BlockingIOError):
                browser.recv(1500)


def stun_error() -> bytes:
    return bytes(stun.Message(stun.Method.BINDING, stun.Class.ERROR, attributes={"ERROR-CODE": (400, "no")}))


async def test_a_stream_that_sends_nothing_of_a_visit_is_closed() -> None:
    async with serving():
        for junk in (struct.pack("!H", 0), struct.pack("!H", 0xFFFF), struct.pack("!H", 4) + b"junk"):
            reader, writer = await asyncio.open_connection(ADDRESSES[0], ICE_PORTS[1])
            writer.write(junk)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()


async def test_streams_end_with_the_server() -> None:
    async with serving():
        reader, writer = await asyncio.open_connection(ADDRESSES[0], ICE_PORTS[0])
        writer.write(b"\0")
    async with asyncio.timeout(2.0):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_ipv6_is_served_as_well() -> None:
    async with Page(["::1"], 0) as page, aiohttp.ClientSession() as client:
        assert page.url.startswith("http://[::1]:")
        async with client.get(page.url) as answer:
            assert answer.status == 200
        async with visiting(page, client) as visit:
            theirs = await offered(visit)
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as browser:
                browser.setblocking(False)
                browser.bind(("::1", 0))
                await asyncio.get_running_loop().sock_sendto(browser, check(theirs), ("::1", ICE_PORTS[0]))
                data = await asyncio.get_running_loop().sock_recv(browser, 1500)
            assert stun.parse_message(data).check_message_integrity(PASSWORD.encode())


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server((ADDRESSES[0], 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressBusy, match=f"{ADDRESSES[0]}:{port}"):
            async with Page(ADDRESSES, port):
                pass
    async with Page(ADDRESSES, port):  # all that had been bound was given back
        pass
