"""STUN and TURN servers checked, each as deeply as wanted, all at once; what came of each is an IceServerCheck.

For each URL and each IP version in which its host has an address there is a check of its own, over the transport that
the URL asks for. One deadline holds for each: what is not known by then is not known, and an allocation that was made
is given back within it, also where the caller cancels.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from natprobe.endpoint import Endpoint
from natprobe.errors import CannotRun, MalformedMessage
from natprobe.sockets import HostNetwork
from natprobe.stun import request
from natprobe.webrtc.agent import passed_over_by_aiortc, wrong_address
from natprobe.webrtc.approach import Approach
from natprobe.webrtc.configuration import read_ice_servers
from natprobe.webrtc.echo import echo, permit_own
from natprobe.webrtc.ice_servers import IceServer, IceUrl
from natprobe.webrtc.link import Link
from natprobe.webrtc.names import Name, Silent, why_unreachable
from natprobe.webrtc.outcome import Depth, IceServerCheck, IceServerState, Unusable
from natprobe.webrtc.turn import TurnClient, TurnRefusal, software_of, text

TIMEOUT = 3.0
_ASKING = 0.8
"""The part of the time that the questions have."""
_RELEASING = 0.1
"""The part of the time that giving an allocation back has; what is left is for the closing of sockets."""

_TIMED = re.compile(r"(\d{9,11})(?::|$)")
"""A username that ends by itself: see ``timed_credentials``."""
_T = TypeVar("_T")

_STATES = {
    401: IceServerState.UNAUTHORIZED,
    403: IceServerState.FORBIDDEN_PEER,
    438: IceServerState.STALE_NONCE,
    486: IceServerState.QUOTA,
}


async def check_ice_servers(
    servers: Any,
    *,
    depth: Depth | str = Depth.ECHO,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - no limit around the call: each check has its own and ends well
    versions: Iterable[int] = (4, 6),
    tls: ssl.SSLContext | None = None,
) -> tuple[IceServerCheck, ...]:
    """Check every URL of ``servers`` over every one of the IP versions, all at once, for at most ``timeout`` seconds.

    ``servers`` are RTCIceServer objects of aiortc's, mappings in the shape of the W3C's RTCIceServer, URLs, or a whole
    configuration: an RTCConfiguration, its mapping, what a vendor's API answers, the same as JSON text. ``tls`` says
    whom to trust in place of the system's authorities. The checks come in the order of the URLs, and for each URL in
    the order in which the system gives the addresses of its host; a version in which a host has no address, or this
    host no route, is left out if there is another.

    Raises ValueError for a malformed URL or an unknown depth, TypeError for what is no ICE server. A server that cannot
    be used is no error: it is what the checks tell.
    """
    wanted = read_ice_servers(servers)
    if tls is None and any(server.url.secure for server in wanted):
        # It reads all the authorities there are: 20 ms in which the loop would stand still.
        tls = await asyncio.to_thread(ssl.create_default_context)
    order = _Order(HostNetwork(), Depth(depth), timeout, tuple(versions), tls)
    checks = [
        _check_url(server, passed_over, order)
        for server, passed_over in zip(wanted, passed_over_by_aiortc(wanted), strict=True)
    ]
    return tuple(check for checked in await _together(checks) for check in checked)


async def _together(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in work]
    return [task.result() for task in tasks]


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be done for every server."""

    network: HostNetwork
    depth: Depth
    timeout: float
    versions: tuple[int, ...]
    tls: ssl.SSLContext | None


async def _check_url(server: IceServer, passed_over: str | None, order: _Order) -> list[IceServerCheck]:
    """Check one URL at every address of its host, in the system's order."""
    deadline = asyncio.get_running_loop().time() + order.timeout * _ASKING
    url = server.url
    if url.transport == "dtls" or server.credential_type != "password":
        what = "TURN over DTLS" if url.transport == "dtls" else f"credentials of type {server.credential_type}"
        found = [_unusable(url, None, Unusable(IceServerState.NOT_CHECKED, f"natprobe cannot check {what}"))]
    else:
        found = await _check_host(server, order, deadline)
    wrong = passed_over or wrong_address(url, found)
    return [replace(check, username=server.username, mark=server.mark, unsupported_by_aiortc=wrong) for check in found]


async def _check_host(server: IceServer, order: _Order, deadline: float) -> list[IceServerCheck]:
    """Check one URL in every IP version; each goes on by itself, whatever the name servers do with the other."""
    url, name = server.url, Name(order.network, server.url.host, order.versions)

    async def check(version: int) -> list[IceServerCheck] | Unusable:
        try:
            remotes = await name.endpoints(version, url.port, deadline)
        except Unusable as unusable:
            return unusable
        return await _together(_Check(server, order, remote, deadline).run() for remote in remotes)

    try:
        results = dict(zip(order.versions, await _together(map(check, order.versions)), strict=True))
    finally:
        name.close()
    checks = [check for found in results.values() if not isinstance(found, Unusable) for check in found]
    checks.sort(key=lambda check: name.position(check.address.address) if check.address else 0)
    failed = [(version, found) for version, found in results.items() if isinstance(found, Unusable)]
    if not checks:
        return [_unusable(url, None, why_unreachable([unusable for _, unusable in failed], url.host))]
    return checks + [_unusable(url, version, found) for version, found in failed if isinstance(found, Silent)]


def _unusable(url: IceUrl, version: int | None, unusable: Unusable) -> IceServerCheck:
    return IceServerCheck(url.text, url.transport, version, unusable.state, unusable.reason)


class _Check:
    """One check under way: what has been learnt."""

    def __init__(self, server: IceServer, order: _Order, remote: Endpoint, deadline: float) -> None:
        self._server = server
        self._url = server.url
        self._order = order
        self._network = order.network
        self._remote = remote
        self._deadline = deadline
        self._approach = Approach(order.network, server.url, remote, order.tls)
        self._link: Link | None = None
        self._reached: Depth | None = None
        self._found: dict[str, Any] = {}

    async def run(self) -> IceServerCheck:
        """Check, within the deadline and a little, and tell what came of it."""
        state, reason = IceServerState.OK, None
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._ask()
        except TimeoutError:
            unusable = (self._link or self._approach).silence
            state, reason = unusable.state, unusable.reason
        except Unusable as unusable:
            state, reason = unusable.state, unusable.reason
        except TurnRefusal as refused:
            state, reason = self._refused(refused)
            self._found["code"] = refused.code
        except MalformedMessage as wrong:
            state, reason = IceServerState.ERROR, wrong.reason
        except (CannotRun, OSError) as here:
            state, reason = IceServerState.UNREACHABLE, str(here)
        return IceServerCheck(
            *(self._url.text, self._url.transport, self._remote.version, state, reason),
            address=self._remote,
            depth=self._reached,
            rtt_ms=_ms(self._link.rtt) if self._link else None,
            not_after=self._approach.not_after,
            **self._found,
        )

    async def _ask(self) -> None:
        self._link = link = await self._approach.open()
        try:
            if self._url.relay and self._order.depth is not Depth.BIND:
                await self._relay(link)
            else:
                await self._bind(link)
        finally:
            await link.close()

    async def _bind(self, link: Link) -> None:
        reply = await link.ask(request())
        self._found["software"] = software_of(reply)
        if reply.error:
            code, phrase = reply.error
            self._found["code"] = code
            raise Unusable(_STATES.get(code, IceServerState.ERROR), f"{code} {phrase}".strip())
        if reply.mapped is None:
            raise Unusable(IceServerState.ERROR, "it answered without saying what it saw")
        self._found["mapped"] = reply.mapped
        self._reached = Depth.BIND

    async def _relay(self, link: Link) -> None:
        turn = TurnClient(link, self._server.username, self._server.credential)
        try:
            await self._use(link, turn)
        finally:
            self._found |= {"realm": text(turn.realm), "software": turn.software}
            await self._release(turn)

    async def _use(self, link: Link, turn: TurnClient) -> None:
        began = self._network.now()
        allocation = await turn.allocate()
        self._found |= {
            "allocate_ms": _ms(self._network.now() - began),
            "relayed": allocation.relayed,
            "mapped": allocation.mapped,
            "lifetime": allocation.lifetime,
        }
        self._reached = Depth.ALLOCATE
        if self._order.depth is Depth.ALLOCATE:
            return
        await permit_own(turn, allocation)
        self._reached = Depth.PERMISSION
        if self._order.depth is Depth.PERMISSION:
            return
        await echo(self._network, link, turn, allocation)
        self._reached = Depth.ECHO

    async def _release(self, turn: TurnClient) -> None:
        """Give the allocation back: before the deadline, or in a short time where that is over or all is cancelled."""
        task = asyncio.current_task()
        limit = self._order.timeout * _RELEASING
        if task and not task.cancelling():
            limit = max(limit, self._deadline - self._network.now())
        release = asyncio.ensure_future(turn.release())
        try:
            await asyncio.wait([release], timeout=limit)
        finally:
            release.cancel()
            await asyncio.gather(release, return_exceptions=True)

    def _refused(self, refused: TurnRefusal) -> tuple[IceServerState, str]:
        state = _STATES.get(refused.code, IceServerState.ERROR)
        if state is IceServerState.FORBIDDEN_PEER and self._reached is not Depth.ALLOCATE:
            state = IceServerState.ERROR  # it refuses this client, not a peer
        return state, f"{refused}{self._hint(state)}"

    def _hint(self, state: IceServerState) -> str:
        if state is IceServerState.FORBIDDEN_PEER:
            return ": the server relays neither to itself nor to this host"
        if state is not IceServerState.UNAUTHORIZED:
            return ""
        if self._server.username is None or self._server.credential is None:
            return ": a username and a credential are wanted, and none are given"
        expiry = _TIMED.match(self._server.username)
        if expiry and int(expiry[1]) < time.time():
            until = datetime.fromtimestamp(int(expiry[1]), UTC)
            return f": these credentials were valid until {until:%Y-%m-%d %H:%M} UTC"
        return ": wrong username or credential"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
