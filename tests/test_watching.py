"""A watch over real connections on loopback: what took how long, and what went wrong."""

from __future__ import annotations

import asyncio
import json
import socket

import aioice.stun
import pytest
from aioice import Connection
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection
from ice_peers import connect, introduce, lose_consent, negotiate, silent_port
from nat_reports import home, office

from natprobe.report import Report
from natprobe.webrtc import Cause, explain, watch
from natprobe.webrtc.internals import fast_failure
from natprobe.webrtc.steps import Step
from natprobe.webrtc.watching import Watch

pytestmark = pytest.mark.usefixtures("on_loopback")


def steps(watched: Watch) -> list[Step]:
    return [event.step for event in watched.events]


async def test_a_connection_is_told_step_by_step() -> None:
    a, b = Connection(True), Connection(False)
    async with watch(a) as watched:
        await connect(a, b)
        await asyncio.gather(a.close(), b.close())
    assert steps(watched) == [
        *(Step.GATHERING, Step.GATHERED, Step.FIRST_CHECK, Step.NOMINATED, Step.CONNECTED, Step.CLOSED)
    ]
    times = [event.at for event in watched.events]
    assert times == sorted(times)
    assert "host 127.0.0.1" in str(watched.first(Step.NOMINATED))
    assert [event["step"] for event in json.loads(json.dumps(watched.to_json()))] == steps(watched)


async def test_what_was_not_reached_is_named_and_explained_afterwards() -> None:
    with silent_port() as port, fast_failure():
        aioice.stun.RETRY_RTO /= 10
        url = f"stun:127.0.0.1:{port}"
        connection = Connection(True, stun_server=("127.0.0.1", port))
        async with watch(connection) as watched:
            await connection.gather_candidates()
        await connection.gather_candidates()
    failed = watched.first(Step.SERVER_FAILED)
    assert failed
    assert (failed.subject, failed.detail) == (url, "no answer")
    assert steps(watched) == [Step.GATHERING, Step.SERVER_FAILED, Step.GATHERED]
    await connection.close()


async def test_a_name_that_is_none_is_not_even_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    connection = Connection(True, stun_server=("nobody.invalid.", 3478))
    async with watch(connection) as watched:
        await connection.gather_candidates()
    failed = watched.first(Step.SERVER_FAILED)
    assert failed
    assert "name was not resolved" in failed.detail
    assert explain(connection).causes[-1] is Cause.STUN_FAILED
    await connection.close()


async def test_a_turn_server_that_refuses_is_quoted() -> None:
    with silent_port() as port:  # over UDP somebody is there, over TCP nobody
        connection = Connection(
            True, turn_server=("127.0.0.1", port), turn_username="u", turn_password="p", turn_transport="tcp"
        )
        async with watch(connection):
            await connection.gather_candidates()
    assert "gave no relayed address: Connection refused" in str(explain(connection))
    await connection.close()


async def test_misses_are_counted_until_consent_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = Connection(True), Connection(False)
    async with watch(a) as watched:
        await lose_consent(a, b, monkeypatch)
    misses = [event.detail for event in watched.events if event.step is Step.CONSENT_MISSED]
    assert misses == [f"{number} in a row; 6 end it" for number in range(1, 7)]
    assert steps(watched)[-1] is Step.CONSENT_LOST
    assert explain(a).causes == (Cause.CONSENT_LOST,)


@pytest.fixture
def reports() -> tuple[Report, Report]:
    """Of two NATs that let each other's packets in."""
    return home("eim-eif"), office("eim-apdf")


async def test_a_relay_that_was_not_needed_is_told_when_it_is_taken(reports: tuple[Report, Report]) -> None:
    a, b = Connection(True), Connection(False)
    async with watch(a, mine=reports[0], theirs=reports[1]) as watched:
        await introduce(a, b)
        a._protocols[0].local_candidate.type = "relay"  # which it is not, but nothing here asks its server
        await asyncio.gather(a.connect(), b.connect())
    told = watched.first(Step.RELAYED_THOUGH_DIRECT)
    assert told
    assert "relay 127.0.0.1" in told.subject
    assert "get in" in told.detail
    await asyncio.gather(a.close(), b.close())


async def test_a_peer_connection_is_watched_from_before_it_has_any_transport() -> None:
    a, b = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    async with watch(a) as offering, watch(b) as answering:
        a.createDataChannel("chat")
        opened = asyncio.Event()
        b.on("datachannel", lambda _: opened.set())
        await negotiate(a, b)
        await opened.wait()
        await asyncio.gather(a.close(), b.close())
    for watched in (offering, answering):
        assert {*steps(watched)} >= {
            *(Step.GATHERING, Step.GATHERED, Step.FIRST_CHECK, Step.NOMINATED, Step.CONNECTED, Step.CLOSED)
        }
    assert not a.listeners("icegatheringstatechange")


async def test_a_watch_that_ends_before_the_connection_leaves_nothing_behind() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[RTCIceServer("stun:127.0.0.1:9")]))
    async with watch(pc) as watched:
        pc.createDataChannel("chat")
    assert not pc.listeners("signalingstatechange")
    assert watched.events == []
    await pc.close()


async def test_a_watch_may_last_as_long_as_a_call_does() -> None:
    a, b = Connection(True), Connection(False)
    watched = watch(a).start()
    await connect(a, b)
    watched.stop()
    await asyncio.gather(a.close(), b.close())
    watched.stop()
    assert steps(watched)[-1] is Step.CONNECTED
    assert "close" not in vars(a)


def test_other_objects_are_refused_at_once() -> None:
    with pytest.raises(TypeError):
        watch("a peer connection")
