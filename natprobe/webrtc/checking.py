"""STUN and TURN servers checked, each as deeply as wanted, all at once; what came of each is an IceServerCheck.

For each URL and each IP version in which its host has an address there is a check of its own, over the transport that
the URL asks for. A deadline holds for each, which a server that answers slowly moves: what is not known by then is not
known, and an allocation that was made is given back within it, also where the caller cancels.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from natprobe.endpoint import Endpoint, Scope, is_narrower
from natprobe.errors import CannotRun, MalformedMessage
from natprobe.sockets import HostNetwork
from natprobe.stun import request
from natprobe.webrtc.agent import passed_over_by_aiortc, wrong_address
from natprobe.webrtc.approach import Approach
from natprobe.webrtc.configuration import read_ice_servers
from natprobe.webrtc.control import Control
from natprobe.webrtc.echo import echo, permit_own, refuse_unreachable
from natprobe.webrtc.ice_servers import IceServer, IceUrl
from natprobe.webrtc.link import Link
from natprobe.webrtc.names import Name, Silent, why_unreachable
from natprobe.webrtc.outcome import Depth, IceServerCheck, IceServerState, Unusable
from natprobe.webrtc.phrases import error_words
from natprobe.webrtc.quota import Quota
from natprobe.webrtc.refusals import STATES, judge_refusal
from natprobe.webrtc.tls import tls_context
from natprobe.webrtc.turn import Method, TurnClient, TurnRefusal, refuse_unknown, software_of, text

TIMEOUT = 3.0
_ASKING = 0.8
"""The part of the time that the questions have."""
_RELEASING = 0.1
"""The part of the time that giving an allocation back has; what is left is for the closing of sockets."""

_ROUND_TRIPS = 12
"""Round trips that a check may take, where they are more than the time that it was given: slow is not dead."""
_AT_MOST = 4
"""By how much a slow server may stretch that time."""
_SILENT_AFTER = 1.0
"""Seconds after which a server is silent and a control is asked; less where the questions have little time."""
_EXHAUSTED = (486, 508)
"""Errors that the other checks of this run may be the cause of: they hold allocations at the same server."""
_AGAIN = 0.25
"""Seconds between two tries to get what another check has given back: coturn takes up to a second for it."""
_TRIES = 5

_T = TypeVar("_T")


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
    host no route, is left out if there is another. A server whose answers take long gets twelve round trips,
    but at most four times ``timeout``.

    Raises ValueError for a malformed URL or an unknown depth, TypeError for what is no ICE server. A server that cannot
    be used is no error: it is what the checks tell.
    """
    wanted = read_ice_servers(servers)
    no_tls = ""
    if tls is None and any(server.url.secure for server in wanted):
        try:
            # It reads all the authorities there are: 20 ms in which the loop would stand still.
            tls = await asyncio.to_thread(tls_context)
        except CannotRun as wrong:
            no_tls = str(wrong)
    order = _Order(HostNetwork(), Depth(depth), timeout, tuple(versions), tls, no_tls, Quota())
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
    no_tls: str
    """Why there is no TLS, where the environment is in its way."""
    quota: Quota


async def _check_url(server: IceServer, passed_over: str | None, order: _Order) -> list[IceServerCheck]:
    """Check one URL at every address of its host, in the system's order."""
    deadline = asyncio.get_running_loop().time() + order.timeout * _ASKING
    url = server.url
    if why := _why_not_checked(server, order):
        found = [_unusable(url, None, Unusable(IceServerState.NOT_CHECKED, why))]
    else:
        found = await _check_host(server, order, deadline)
    wrong = passed_over or wrong_address(url, found)
    return [
        replace(
            check,
            username=server.username,
            mark=server.mark,
            unsupported_by_aiortc=check.unsupported_by_aiortc or wrong,
        )
        for check in found
    ]


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


def _why_not_checked(server: IceServer, order: _Order) -> str | None:
    """Return why natprobe, or this environment, cannot check a server; None where it can."""
    if server.url.transport == "dtls":
        return "natprobe cannot check TURN over DTLS"
    if server.credential_type != "password":
        return f"natprobe cannot check credentials of type {server.credential_type}"
    if server.url.secure and order.no_tls:
        return order.no_tls
    if server.url.relay and (name := _not_utf8(server)):
        return f"the {name} is not UTF-8, which TURN wants (RFC 8489 §14.3)"
    return None


def _not_utf8(server: IceServer) -> str | None:
    """Return which of the credentials cannot be sent: Python holds bytes of the environment as lone surrogates."""
    for name, value in (("username", server.username), ("credential", server.credential)):
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            return name
    return None


class _Check:
    """One check under way: what has been learnt."""

    def __init__(self, server: IceServer, order: _Order, remote: Endpoint, deadline: float) -> None:
        self._server = server
        self._url = server.url
        self._order = order
        self._network = order.network
        self._remote = remote
        self._began = deadline - order.timeout * _ASKING
        self._limit = asyncio.timeout_at(deadline)
        self._approach = Approach(order.network, server.url, remote, order.tls)
        self._control = Control(order.network, server.url, remote, order.tls)
        self._link: Link | None = None
        self._refused: TurnRefusal | None = None
        """The refusal that may be due to the other checks of this run."""
        self._reached: Depth | None = None
        self._done = False
        self._notes: list[str] = []
        self._found: dict[str, Any] = {"address": remote}

    async def run(self) -> IceServerCheck:
        """Check, within the deadline and a little, and tell what came of it."""
        state, reason = IceServerState.OK, None
        try:
            async with self._limit:
                await self._ask()
        except TimeoutError:
            state, reason = self._out_of_time()
        except Unusable as unusable:
            state, reason = self._silence() if unusable.state is IceServerState.TIMEOUT else unusable.outcome
        except TurnRefusal as refused:
            state, reason = self._judged(refused)
        except MalformedMessage as wrong:
            state, reason = IceServerState.ERROR, wrong.reason
        except (CannotRun, OSError) as here:
            state, reason = IceServerState.UNREACHABLE, str(here)
        return IceServerCheck(
            *(self._url.text, self._url.transport, self._remote.version, state),
            "; ".join(filter(None, [reason, *self._notes])) or None,
            depth=self._reached,
            rtt_ms=_ms(self._link.rtt) if self._link else None,
            not_after=self._approach.not_after,
            **self._found,
        )

    def _out_of_time(self) -> tuple[IceServerState, str | None]:
        """Return what it means that the time is over, where it is not only that giving back has taken long."""
        if self._done:
            return IceServerState.OK, None
        if self._refused:
            return self._judged(self._refused)
        return self._silence()

    def _judged(self, refused: TurnRefusal) -> tuple[IceServerState, str]:
        """Return what a refusal means, and keep its code."""
        self._found["code"] = refused.code
        return judge_refusal(refused, self._server, self._remote)

    def _silence(self) -> tuple[IceServerState, str | None]:
        """Return what it means that no answer came, or not the last one."""
        link = self._link
        if link is None:
            return self._approach.silence.outcome
        if link.unsigned and link.unsigned.error:
            refused = TurnRefusal(Method(link.unsigned.method), link.unsigned, signed=False)
            return self._judged(refused)
        if link.slow and link.rtt:
            took = f"not finished within {self._order.timeout:g} s: an answer takes {link.rtt:.1f} s; "
            return IceServerState.TIMEOUT, took + "ask again with a longer time (--timeout)"
        state, reason = link.silence.outcome
        if state is IceServerState.TIMEOUT and link.rtt is None and self._control.said:
            return state, self._control.said
        return state, reason

    async def _ask(self) -> None:
        """Ask, and once more where the refusal says that another try may succeed."""
        try:
            await self._ask_once()
        except TurnRefusal as refused:
            if refused.method != Method.ALLOCATE:
                raise
            if refused.code in _EXHAUSTED and self._order.quota.shared(self._holder):
                self._refused = refused
                await self._ask_after_the_others()
                return
            if refused.code == 300:
                refused.not_followed = self._follow(refused)
            if refused.code not in (300, 437) or refused.not_followed:
                raise
            await self._ask_once()  # from another port (RFC 8656 §7.4), or the other server

    @property
    def _holder(self) -> tuple[str, str | None]:
        return self._url.host, self._server.username

    async def _ask_after_the_others(self) -> None:
        """Ask when the other checks have given their allocations back: they may have been all that the user has."""
        async with self._order.quota.alone(self._holder):
            for last in (*[False] * _TRIES, True):
                await asyncio.sleep(_AGAIN)
                try:
                    await self._ask_once()
                except TurnRefusal as refused:
                    if refused.code not in _EXHAUSTED or last:
                        raise
                else:
                    return

    def _follow(self, refused: TurnRefusal) -> str | None:
        """Turn to the alternate server (RFC 8489 §10); return why not, where a client must not."""
        other = refused.alternate
        if other is None:
            return "which is no address"
        if other == self._remote:
            return "which is itself"
        if other.port == 0 or other.version != self._remote.version or is_narrower(other.scope, self._remote.scope):
            return "where clients do not follow"
        url = replace(self._url, host=refused.domain) if refused.domain else self._url
        self._approach = Approach(self._network, url, other, self._order.tls)
        self._found |= {"alternate": other, "unsupported_by_aiortc": "aiortc does not follow 300 Try Alternate"}
        self._notes.append(f"300 Try Alternate: checked is {other}, which browsers follow to, and aiortc does not")
        return None

    async def _ask_once(self) -> None:
        async with self._opened() as link:
            if self._url.relay and self._order.depth is not Depth.BIND:
                await self._relay(link)
            else:
                await self._bind(link)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Link]:
        """Open the way to the server; while it is silent, ask what else answers there."""
        self._link = link = await self._approach.open()
        link.on_answer = self._give_time
        control = asyncio.ensure_future(self._ask_control(link))
        try:
            yield link
        finally:
            control.cancel()
            await link.close()
            await asyncio.gather(control, return_exceptions=True)

    async def _ask_control(self, link: Link) -> None:
        await asyncio.sleep(min(_SILENT_AFTER, self._order.timeout * _ASKING * 0.4))
        if link.rtt is None:
            await self._control.ask()

    def _give_time(self) -> None:
        """Move the deadline away where the server's answers take long."""
        if self._link and self._link.rtt and not self._limit.expired():
            time = min(_ROUND_TRIPS * self._link.rtt, _AT_MOST * self._order.timeout * _ASKING)
            self._limit.reschedule(max(self._limit.when() or 0.0, self._began + time))

    async def _bind(self, link: Link) -> None:
        reply = await link.ask(request())
        self._found["software"] = software_of(reply)
        if reply.error:
            code, phrase = reply.error
            self._found["code"] = code
            hint = ": it answers a Binding request only with credentials (coturn: secure-stun)" if code == 401 else ""
            raise Unusable(STATES.get(code, IceServerState.ERROR), error_words(code, phrase) + hint)
        refuse_unknown(reply)
        if reply.mapped is None:
            raise Unusable(IceServerState.ERROR, "it answered without saying what it saw")
        await self._refuse_nonsense(reply.mapped)
        self._found["mapped"] = reply.mapped
        self._reached = Depth.BIND
        self._done = True

    async def _refuse_nonsense(self, mapped: Endpoint) -> None:
        """Raise Unusable where the address that a server saw cannot be this host's, from where the server is."""
        own = await self._network.source_for(self._remote)
        foreign = mapped.scope is not Scope.SHARED and is_narrower(mapped.scope, self._remote.scope)
        if mapped.version != self._remote.version or mapped.port == 0 or (foreign and mapped.address != own):
            raise Unusable(
                IceServerState.ERROR,
                f"it says that it sees {mapped}, which cannot be: a proxy or a NAT on the server's side hides clients",
            )

    async def _relay(self, link: Link) -> None:
        turn = TurnClient(link, self._server.username, self._server.credential)
        with self._order.quota.holding(self._holder):
            try:
                await self._use(link, turn)
                self._done = True
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
        refuse_unreachable(allocation.relayed, link.remote)
        self._reached = Depth.ALLOCATE
        if self._order.depth is Depth.ALLOCATE:
            return
        permitted = await permit_own(turn, allocation)
        self._reached = Depth.PERMISSION
        if self._order.depth is Depth.PERMISSION:
            return
        self._reached, untested = await echo(self._network, link, turn, allocation, permitted)
        if untested:
            self._notes.append(untested)

    async def _release(self, turn: TurnClient) -> None:
        """Give the allocation back: before the deadline, or in a short time where that is over or all is cancelled."""
        task = asyncio.current_task()
        limit = self._order.timeout * _RELEASING
        if task and not task.cancelling():
            limit = max(limit, (self._limit.when() or 0.0) - self._network.now())
        release = asyncio.ensure_future(turn.release())
        try:
            await asyncio.wait([release], timeout=limit)
        finally:
            release.cancel()
            await asyncio.gather(release, return_exceptions=True)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
