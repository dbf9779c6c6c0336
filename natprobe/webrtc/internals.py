"""All that reaches into the private parts of aioice and aiortc: what neither of them tells an application.

Tried with aioice 0.10 to 0.13 and aiortc 1.9 to 1.16, to which the package is bound; where a part has gone,
`tests/test_internals.py` fails. The rest of natprobe sees `ice.IceTransport` values, and the steps that `listen` tells.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any

import aioice.stun
import aioice.turn
from aioice import Connection, TransportPolicy
from aioice.ice import CONSENT_FAILURES, StunProtocol, candidate_pair_priority

from natprobe.webrtc.ice import Candidate, CandidatePair, CandidateType, IceTransport, PairState, TransportState
from natprobe.webrtc.ice_servers import mark_of
from natprobe.webrtc.servers_used import origin, relay_protocol, stun_url, turn_url
from natprobe.webrtc.steps import Listener, Step, why

_STATES = {
    "FROZEN": PairState.FROZEN,
    "WAITING": PairState.WAITING,
    "IN_PROGRESS": PairState.IN_PROGRESS,
    "SUCCEEDED": PairState.SUCCEEDED,
    "FAILED": PairState.FAILED,
}
_SDP_CANDIDATE = re.compile(r"^a=candidate:\S+ \d+ \S+ \d+ (\S+\.local) (\d+) typ ", re.MULTILINE)


def connections(subject: object) -> list[Connection]:
    """Return the ICE connections of an aiortc ``RTCPeerConnection``, or the aioice ``Connection`` itself.

    A peer connection has none before it is given a track or a data channel, and one when bundled (RFC 9143). Raises
    TypeError for anything else.
    """
    if isinstance(subject, Connection):
        return [subject]
    if not hasattr(subject, "getTransceivers"):
        kind = type(subject).__name__
        raise TypeError(f"ICE is found in an aiortc RTCPeerConnection or an aioice Connection, not in {kind}")
    users = [transceiver.receiver for transceiver in subject.getTransceivers()]
    if sctp := getattr(subject, "sctp", None):
        users.append(sctp)
    transports = (user.transport.transport for user in users if user.transport)
    return list(dict.fromkeys(transport._connection for transport in transports))


def transports(subject: object) -> tuple[IceTransport, ...]:
    """Return what each ICE connection of ``subject`` knows at this moment. Raises TypeError as `connections` does."""
    description = getattr(getattr(subject, "remoteDescription", None), "sdp", "")
    return tuple(_transport(connection, description) for connection in connections(subject))


def _transport(connection: Connection, description: str) -> IceTransport:
    pairs = {id(pair): _pair(connection, pair) for pair in connection._check_list}
    remote = tuple(_candidate(candidate) for candidate in connection._remote_candidates)
    ports = {candidate.port for candidate in remote}
    record = _record(connection)
    return IceTransport(
        id=transport_id(connection),
        controlling=connection.ice_controlling,
        state=_state(connection),
        gathered=connection._local_candidates_end,
        username=connection.local_username,
        stun=stun_url(connection),
        turn=turn_url(connection),
        local=_local(connection, pairs),
        remote=remote,
        # aioice 0.12 and later goes on resolving names after the end.
        end_of_candidates=connection._remote_candidates_end
        and not getattr(connection, "_remote_candidates_resolving", 0),
        pairs=tuple(pairs.values()),
        selected=_selected(connection, pairs),
        failures=tuple(record.failures.items()) if record else (),
        unresolved=tuple(name for name, port in _SDP_CANDIDATE.findall(description) if int(port) not in ports),
        relay_only=connection._transport_policy is TransportPolicy.RELAY,
        consent_lost=_has_lost_consent(connection),
        consent_misses=_misses(connection, record),
        unanswered_s=time.monotonic() - record.answered if record and record.answered else None,
        relay_lost=record.relay_lost if record else None,
        turn_mark=mark_of(connection.turn_username, connection.turn_password) if connection.turn_server else None,
    )


def _misses(connection: Connection, record: _Record | None) -> int:
    """Return how many consent checks in a row were not answered; aioice counts in a local variable of its own."""
    if record and record.listeners:
        return record.misses
    task = connection._query_consent_task
    frame = getattr(task.get_coro(), "cr_frame", None) if task and not task.done() else None
    return int(frame.f_locals.get("failures", 0)) if frame else 0


def _state(connection: Connection) -> TransportState:
    if _is_closing(connection):
        return TransportState.CLOSED
    if connection._nominated and len(connection._nominated) == len(connection._components):
        return TransportState.COMPLETED
    # Without a pair `connect` fails, but leaves the list undone.
    if connection._check_list_done or (_is_connecting(connection) and _can_have_no_pair(connection)):
        return TransportState.FAILED
    return TransportState.CHECKING if _is_connecting(connection) else TransportState.NEW


def _is_connecting(connection: Connection) -> bool:
    return bool(connection._early_checks_done)


def _can_have_no_pair(connection: Connection) -> bool:
    return not connection._check_list and connection._remote_candidates_end


def _is_closing(connection: Connection) -> bool:
    """Whether it is closed, or about to be: with a dead TURN server that takes a minute, in which `_closed` is unset.

    aioice before 0.12 does not note the beginning, but forgets the nominated pairs early.
    """
    if connection._closed or not hasattr(connection, "_closing"):
        return connection._closed or (_was_connected(connection) and not connection._nominated)
    return bool(connection._closing)


def _was_connected(connection: Connection) -> bool:
    nominated = any(pair.nominated for pair in connection._check_list)
    return nominated and connection._check_list_done and connection._check_list_state.empty()


def _has_lost_consent(connection: Connection) -> bool:
    """`query_consent` forgets its own task before it closes; `close` called by others leaves it where it is."""
    return _is_closing(connection) and _was_connected(connection) and connection._query_consent_task is None


def _local(connection: Connection, pairs: dict[int, CandidatePair]) -> tuple[Candidate, ...]:
    """Return the local candidates, of a connection that has closed those that its pairs still know."""
    own = [_candidate(candidate, connection) for candidate in connection._local_candidates]
    return tuple(dict.fromkeys([*own, *(pair.local for pair in pairs.values())]))


def _selected(connection: Connection, pairs: dict[int, CandidatePair]) -> CandidatePair | None:
    nominated = connection._nominated
    if nominated:
        chosen = nominated[min(nominated)]
        return pairs.get(id(chosen)) or _pair(connection, chosen)
    return next((pair for pair in pairs.values() if pair.nominated), None) if _is_closing(connection) else None


def _pair(connection: Connection, pair: Any) -> CandidatePair:
    return CandidatePair(
        local=_candidate(pair.local_candidate, connection),
        remote=_candidate(pair.remote_candidate),
        state=_STATES[pair.state.name],
        nominated=pair.nominated,
        priority=candidate_pair_priority(pair.local_candidate, pair.remote_candidate, connection.ice_controlling),
    )


def _candidate(candidate: Any, owner: Connection | None = None) -> Candidate:
    """Return a candidate of aioice; ``owner`` is the connection that gathered it, of a remote one None."""
    kind = CandidateType(candidate.type)
    return Candidate(
        type=kind,
        address=candidate.host,
        port=candidate.port,
        protocol=candidate.transport.lower(),
        priority=candidate.priority,
        foundation=candidate.foundation,
        related_address=candidate.related_address,
        related_port=candidate.related_port,
        relay_protocol=relay_protocol(owner) if owner and kind is CandidateType.RELAY else None,
        url=origin(kind, owner) if owner else None,
        tcp_type=candidate.tcptype,
    )


def transport_id(connection: Connection) -> str:
    """Return the name under which a connection appears in statistics and events."""
    return f"ice-{connection._id}"


# --- steps, as they happen --------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Record:
    """Who listens to a connection, and what is kept of it when nobody does any more."""

    listeners: list[Listener] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    checked: bool = False
    misses: int = 0
    """Consent checks in a row that were not answered."""
    answered: float | None = None
    """When a check was last answered, on the monotonic clock."""
    relay_lost: str | None = None
    """What the system said of the way to the TURN server since then: an ICMP error, an end of the connection."""


def _record(connection: Connection) -> _Record | None:
    """Return the record of a connection, which goes where the connection goes."""
    return vars(connection).get(_RECORD)


def _kept(connection: Connection) -> _Record:
    """Return the record of a connection that was listened to."""
    record: _Record = vars(connection)[_RECORD]
    return record


_RECORD = "_natprobe"
_gathering: ContextVar[Connection | None] = ContextVar("natprobe gathering", default=None)
"""For whom the running task gathers: TURN allocations of aioice do not know their connection."""


def listen(connection: Connection, listener: Listener) -> None:
    """Have ``listener`` told of each step of a connection from now on, until `unlisten`."""
    _tap_transactions()
    record: _Record = vars(connection).setdefault(_RECORD, _Record())
    if not record.listeners:
        for name, wrap in _WRAPPERS.items():
            setattr(connection, name, wrap(connection, getattr(connection, name)))
    record.listeners.append(listener)


def unlisten(connection: Connection, listener: Listener) -> None:
    """Undo `listen`; the connection is then as aioice made it."""
    record = _kept(connection)
    record.listeners.remove(listener)
    if not record.listeners:
        for name in _WRAPPERS:
            delattr(connection, name)


def _tell(connection: Connection, step: Step, subject: str = "", detail: str = "") -> None:
    for listener in [*_kept(connection).listeners]:
        listener(connection, step, subject, detail)


def _gather(connection: Connection, gather: Callable[[], Any]) -> Callable[[], Any]:
    @wraps(gather)
    async def gather_and_tell() -> None:
        if connection._local_candidates_start:
            await gather()  # has been called before
            return
        _tell(connection, Step.GATHERING)
        token = _gathering.set(connection)
        try:
            await gather()
        finally:
            _gathering.reset(token)
        # What was still asked when aioice gave up is told when its task is cancelled: in the next turn of the loop.
        await asyncio.sleep(0)
        _note_unasked(connection)
        _tell(connection, Step.GATHERED, detail=f"{len(connection._local_candidates)} candidates")

    return gather_and_tell


def _note_unasked(connection: Connection) -> None:
    """A STUN server that was not even asked has a name that stands for nothing, or there was no IPv4 to ask from."""
    url = stun_url(connection)
    kinds = {candidate.type for candidate in connection._local_candidates}
    record = _kept(connection)
    if (
        url
        and "srflx" not in kinds
        and url not in record.failures
        and connection._transport_policy is TransportPolicy.ALL
    ):
        record.failures[url] = "not asked: its name was not resolved to an IPv4 address, or this host has none"
        _tell(connection, Step.SERVER_FAILED, url, record.failures[url])


def _connect(connection: Connection, connect: Callable[[], Any]) -> Callable[[], Any]:
    @wraps(connect)
    async def connect_and_tell() -> None:
        try:
            await connect()
        except ConnectionError as failure:
            _tell(connection, Step.FAILED, detail=str(failure))
            raise
        pair = _selected(connection, {})
        _tell(connection, Step.CONNECTED, str(pair or ""))

    return connect_and_tell


def _check_complete(connection: Connection, complete: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(complete)
    def complete_and_tell(pair: Any) -> None:
        before = connection._nominated.get(pair.component)
        complete(pair)
        if before is not pair is connection._nominated.get(pair.component):
            _tell(connection, Step.NOMINATED, str(_pair(connection, pair)))

    return complete_and_tell


def _close(connection: Connection, close: Callable[[], Any]) -> Callable[[], Any]:
    @wraps(close)
    async def close_and_tell() -> None:
        was_open = not _is_closing(connection)
        is_lost = was_open and _was_connected(connection) and connection._query_consent_task is None
        if is_lost:  # to be told at once: with a dead TURN server the closing takes a minute
            suspicion = _suspicion(connection).removeprefix("; ")
            _tell(connection, Step.CONSENT_LOST, str(_selected(connection, {}) or ""), suspicion)
        await close()
        if was_open and not is_lost:
            _tell(connection, Step.CLOSED)

    return close_and_tell


_WRAPPERS: dict[str, Callable[[Connection, Callable[..., Any]], Callable[..., Any]]] = {
    "gather_candidates": _gather,
    "connect": _connect,
    "check_complete": _check_complete,
    "close": _close,
}
"""What is put in the place of a connection's own methods, which aioice too looks up on the connection itself."""


@cache
def _tap_transactions() -> None:
    """Have STUN transactions and TURN allocations told. Done once; where nobody listens they are as they were."""
    request, allocate = StunProtocol.request, aioice.turn.create_turn_endpoint

    @wraps(request)
    async def request_and_tell(protocol: Any, message: Any, remote: Any, **options: Any) -> Any:
        connection: Connection = protocol.receiver
        if not _is_heard(connection):
            return await request(protocol, message, remote, **options)
        if options.get("integrity_key") is None:
            if _gathering.get() is not connection:
                return await request(protocol, message, remote, **options)
            return await _ask(connection, stun_url(connection), request(protocol, message, remote, **options))
        return await _check(connection, options, request(protocol, message, remote, **options))

    @wraps(allocate)
    async def allocate_and_tell(*arguments: Any, **options: Any) -> Any:
        connection = _gathering.get()
        asking = allocate(*arguments, **options)
        if connection is None or not _is_heard(connection):
            return await asking
        return await _ask(connection, turn_url(connection), asking)

    setattr(StunProtocol, "request", request_and_tell)  # noqa: B010 a type checker rightly forbids the plain way
    setattr(aioice.turn, "create_turn_endpoint", allocate_and_tell)  # noqa: B010
    _tap_turn_clients()


def _tap_turn_clients() -> None:
    """Have noted what the system says of the way to a TURN server, which aioice does not heed."""
    refused, ended = aioice.turn.TurnClientUdpProtocol.error_received, aioice.turn.TurnClientMixin.connection_lost

    @wraps(refused)
    def refused_and_noted(protocol: Any, failure: Exception) -> None:
        _note_lost_relay(protocol, f"{why(failure, 0)} (ICMP)")
        refused(protocol, failure)

    @wraps(ended)
    def ended_and_noted(protocol: Any, failure: Exception | None) -> None:
        is_udp = isinstance(protocol, aioice.turn.TurnClientUdpProtocol)
        given_up = "the allocation was not refreshed" if is_udp else "the connection to it has ended"
        _note_lost_relay(protocol, why(failure, 0) if failure else given_up)
        ended(protocol, failure)

    setattr(aioice.turn.TurnClientUdpProtocol, "error_received", refused_and_noted)  # noqa: B010
    setattr(aioice.turn.TurnClientMixin, "connection_lost", ended_and_noted)  # noqa: B010


def _is_heard(connection: Connection) -> bool:
    record = _record(connection)
    return bool(record and record.listeners)


async def _ask(connection: Connection, url: str | None, asking: Any) -> Any:
    """Await what a server is asked, and tell how long it took or why it gave nothing."""
    assert url  # nobody is asked who was not configured
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        answer = await asking
    except BaseException as failure:
        reason = _kept(connection).failures[url] = why(failure, loop.time() - began)
        _tell(connection, Step.SERVER_FAILED, url, reason)
        raise
    _kept(connection).failures.pop(url, None)
    _tell(connection, Step.SERVER_ANSWERED, url, f"after {(loop.time() - began) * 1000:.0f} ms")
    return answer


async def _check(connection: Connection, options: dict[str, Any], checking: Any) -> Any:
    """Await a connectivity check, or a consent check, which alone is never repeated (RFC 7675 §5.1)."""
    record = _kept(connection)
    is_consent = options.get("retransmissions") == 0
    if not is_consent and not record.checked:
        record.checked = True
        _tell(connection, Step.FIRST_CHECK)
    try:
        answer = await checking
    except aioice.stun.TransactionError:
        if is_consent:
            record.misses += 1
            detail = f"{record.misses} in a row; {CONSENT_FAILURES} end it{_suspicion(connection)}"
            _tell(connection, Step.CONSENT_MISSED, str(_selected(connection, {}) or ""), detail)
        raise
    record.misses, record.answered = 0, time.monotonic()
    if is_consent:
        record.relay_lost = None
    return answer


def _suspicion(connection: Connection) -> str:
    """Say whom to suspect beside the peer where the pair in use goes through a relay."""
    pair = _selected(connection, {})
    if pair is None or not pair.relayed:
        return ""
    ours = pair.local.type is CandidateType.RELAY
    return f"; the relay is suspected first: {turn_url(connection) if ours else pair.remote}"


def _note_lost_relay(protocol: Any, reason: str) -> None:
    """Note, and tell once, that the way to the TURN server is gone in the middle of a connection."""
    connection = getattr(protocol.receiver, "receiver", None)
    if connection is None or not _is_heard(connection) or _is_closing(connection):
        return
    record = _kept(connection)
    if record.relay_lost is None:
        record.relay_lost = reason
        _tell(connection, Step.SERVER_FAILED, turn_url(connection) or "", reason)


# --- the patience of aioice -------------------------------------------------------------------------------------------

IMPATIENT = (2, 0.25)
"""Two retransmissions, the first after a quarter of a second: silence is one after 1.75 s (RFC 8489 §6.2.1)."""


@contextmanager
def fast_failure() -> Iterator[None]:
    """Have a pair that cannot connect fail within 2 s and not after 64, for the length of a block.

    For tests: three requests instead of seven go out for everything that aioice asks in this process.
    """
    patient = aioice.stun.RETRY_MAX, aioice.stun.RETRY_RTO
    aioice.stun.RETRY_MAX, aioice.stun.RETRY_RTO = IMPATIENT
    try:
        yield
    finally:
        aioice.stun.RETRY_MAX, aioice.stun.RETRY_RTO = patient
