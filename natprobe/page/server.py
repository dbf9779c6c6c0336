"""The page's server: HTTP for the page and its WebSocket, sockets for ICE over UDP and over TCP.

Nothing is kept: a visit lives as long as its WebSocket, a minute at most, or four with the lifetimes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from types import TracebackType
from typing import Any, Self, cast

from aiohttp import WSMsgType, web

from natprobe.endpoint import Address, Endpoint, parse_address
from natprobe.errors import AddressBusy
from natprobe.page import ice
from natprobe.page.lifetime import WAITS
from natprobe.page.result import message
from natprobe.page.session import MOST_PACKETS, Session, Visitor
from natprobe.reflector.budget import Buckets, Rate, prefix_of
from natprobe.reflector.layout import Layout
from natprobe.reflector.rules import Outgoing
from natprobe.system_errors import cannot_bind

PORT = 8080
ICE_PORTS = (3480, 3481)
"""UDP and TCP: the two above the reflector's own."""
MOST_VISITS = 64
"""At once."""
RATE = Rate(1.0, 30.0)
"""Visits from one network (/24, /56)."""
_LONGEST = 60.0
_MOST_STREAMS = 256
_FRAME = struct.Struct("!H")  # RFC 4571 §2
_LARGEST_FRAME = 1500
_TYPES = {"index.html": "text/html", "natprobe.js": "text/javascript", "natprobe.css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Page:
    """The page and what answers it, on the addresses of a reflector: ``async with Page(...)``.

    The first address serves HTTP on ``port``. Of addresses of both families those of the first one's are used. Entering
    binds everything or raises AddressBusy; leaving, or being cancelled, closes everything. Raises ValueError for
    addresses that make no reflector.
    """

    def __init__(self, addresses: Iterable[str | Address], port: int = PORT) -> None:
        parsed = [parse_address(address) if isinstance(address, str) else address for address in addresses]
        own = tuple(address for address in parsed if address.version == parsed[0].version)
        self._layout = Layout(own, ICE_PORTS, (0,) * len(own))  # ValueError, if there are none
        self._http = Endpoint(own[0], port)
        self._visits: set[_Visit] = set()
        self._frequency = Buckets(RATE, secrets.token_bytes(32))
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self._http}/"

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._sockets: dict[Endpoint, asyncio.DatagramTransport] = {}
            stack.callback(self._close_streams)
            await self._bind(stack)
            self._streams = [Endpoint(self._http.address, port) for port in ICE_PORTS]
            for local in self._streams:
                server = await _opened(local, asyncio.start_server(self._serve_stream, *local.sockaddr))
                stack.callback(server.close)
            await self._serve_http(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _bind(self, stack: contextlib.AsyncExitStack) -> None:
        addresses, ports = self._layout.addresses, self._layout.ports
        for address, port in itertools.product(addresses, ports):
            await self._open(Endpoint(address, port), stack)
        quiet = [(await self._open(Endpoint(address, 0), stack)).port for address in addresses]
        self._layout = Layout(addresses, ports, tuple(quiet))

    async def _open(self, wanted: Endpoint, stack: contextlib.AsyncExitStack) -> Endpoint:
        loop = asyncio.get_running_loop()
        opening = loop.create_datagram_endpoint(lambda: _Socket(self._arrived), local_addr=wanted.sockaddr)
        transport, protocol = await _opened(wanted, opening)
        stack.push_async_callback(protocol.closed.wait)
        stack.callback(transport.close)
        bound = wanted.with_port(transport.get_extra_info("sockname")[1])
        self._sockets[bound] = transport
        return bound

    async def _serve_http(self, stack: contextlib.AsyncExitStack) -> None:
        app = web.Application()
        for name, kind in _TYPES.items():
            app.router.add_get(f"/{name}".removesuffix("index.html"), _file(name, kind))
        app.router.add_get("/visit", self._visit)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await _opened(self._http, web.TCPSite(runner, *self._http.sockaddr).start())
        self._http = self._http.with_port(runner.addresses[0][1])

    # --- packets ------------------------------------------------------------------------------------------------------

    def _arrived(self, data: bytes, socket: Endpoint, source: Endpoint, *, stream: bool = False) -> bool:
        """Give a packet to the visit that it is of; return whether it is of any."""
        packet = ice.read(data)
        return packet is not None and any(
            visit.arrived(packet, socket, source, stream=stream) for visit in self._visits
        )

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the first check on a connection; whoever sends none, or too slowly, is not waited for."""
        self._writers.add(writer)
        if len(self._writers) <= _MOST_STREAMS:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(5.0):
                    await self._take_check(reader, writer)
        self._writers.discard(writer)
        writer.close()

    async def _take_check(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        socket, source = (Endpoint.of(*writer.get_extra_info(name)[:2]) for name in ("sockname", "peername"))
        (size,) = _FRAME.unpack(await reader.readexactly(_FRAME.size))
        if size <= _LARGEST_FRAME and self._arrived(await reader.readexactly(size), socket, source, stream=True):
            while await reader.read(_LARGEST_FRAME):
                pass  # the same again, until the page ends it

    def _close_streams(self) -> None:
        for writer in self._writers:
            writer.close()

    def _send(self, outgoing: Outgoing) -> None:
        self._sockets[outgoing.source].sendto(outgoing.data, outgoing.target.sockaddr)

    # --- visits -------------------------------------------------------------------------------------------------------

    async def _visit(self, request: web.Request) -> web.WebSocketResponse:
        if request.headers.get("Origin", "").partition("://")[2] != request.host:
            raise web.HTTPForbidden(text="only for the page of this very server\n")
        socket = web.WebSocketResponse(max_msg_size=8192, timeout=_LONGEST)
        await socket.prepare(request)
        source, served_by = (Endpoint.of(*_transport(request, name)[:2]) for name in ("peername", "sockname"))
        refusal = self._refusal(source)
        if refusal:
            await socket.send_json({"refused": refusal})
            return socket
        visitor = Visitor(request.headers.get("User-Agent", "a browser")[:200], source, served_by, datetime.now(UTC))
        waits = WAITS if "lifetime" in request.query else ()
        visit = _Visit(Session(self._layout, self._streams, visitor, waits), socket, self._send)
        self._visits.add(visit)
        try:
            async with asyncio.timeout(_LONGEST + sum(waits)):
                await visit.run()
        except (TimeoutError, ConnectionError):
            pass  # the page is slow, or gone
        finally:
            self._visits.discard(visit)
        return socket

    def _refusal(self, source: Endpoint) -> str | None:
        if len(self._visits) >= MOST_VISITS:
            return "This reflector has its hands full. Try again in a minute."
        if not self._frequency.take(prefix_of(source.address), 1, asyncio.get_running_loop().time()):
            return "There were many tests from your network just now. Try again in a minute."
        return None


class _Visit:
    """A session joined to its WebSocket and to the clock."""

    def __init__(self, session: Session, socket: web.WebSocketResponse, send: Callable[[Outgoing], None]) -> None:
        self._session = session
        self._socket = socket
        self._send = send
        self._sent = 0
        self._stirred = asyncio.Event()
        self._time = asyncio.get_running_loop().time
        self._began = self._time()

    def _now(self) -> float:
        return self._time() - self._began

    def arrived(self, packet: ice.Packet, socket: Endpoint, source: Endpoint, *, stream: bool) -> bool:
        if not self._session.arrived(packet, socket, source, self._now(), stream=stream):
            return False
        self._send_datagrams()
        self._stirred.set()
        return True

    def _send_datagrams(self) -> None:
        datagrams, self._session.outbox.datagrams = self._session.outbox.datagrams, []
        for outgoing in datagrams:
            if self._sent < MOST_PACKETS:
                self._sent += 1
                self._send(outgoing)

    async def run(self) -> None:
        """Test to the end, and send the report; end early where the page does, or makes no sense."""
        reading = asyncio.ensure_future(self._read())
        try:
            while not (self._session.done or reading.done()):
                await self._flush()
                self._stirred.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stirred.wait(), max(0.0, self._session.due - self._now()))
                self._session.tick(self._now())
            await self._flush()
            if self._session.done:
                await self._socket.send_json(self._result())
        finally:
            reading.cancel()

    def _result(self) -> dict[str, Any]:
        if not self._session.begun:
            return {"refused": "This browser opened no peer connections, or too slowly."}
        return message(self._session.report(self._now()))

    async def _flush(self) -> None:
        self._send_datagrams()
        messages, self._session.outbox.messages = self._session.outbox.messages, []
        for text in messages:
            await self._socket.send_json(text)

    async def _read(self) -> None:
        """Take the page's messages until it ends, or makes no sense."""
        with contextlib.suppress(ValueError):
            async for received in self._socket:
                if received.type is not WSMsgType.TEXT:
                    break
                self._session.heard(received.data, self._now())
                self._stirred.set()
        self._stirred.set()


class _Socket(asyncio.DatagramProtocol):
    """A UDP socket of ours."""

    def __init__(self, arrived: Callable[[bytes, Endpoint, Endpoint], object]) -> None:
        self._arrived = arrived
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.local = Endpoint.of(*transport.get_extra_info("sockname")[:2])

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._arrived(data, self.local, Endpoint.of(*addr[:2]))


async def _opened(local: Endpoint, opening: Any) -> Any:
    """Await what binds ``local``. Raises AddressBusy."""
    try:
        return await opening
    except OSError as error:
        raise AddressBusy(f"{local} cannot be bound: {cannot_bind(error, local)}") from error


def _transport(request: web.Request, name: str) -> Sequence[Any]:
    assert request.transport
    return cast(Sequence[Any], request.transport.get_extra_info(name))


def _file(name: str, kind: str) -> Callable[[web.Request], Any]:
    body = (files("natprobe.page") / "static" / name).read_bytes()

    async def get(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)

    return get
