"""What is read out of aioice and aiortc, against the real ones: whatever part of theirs goes, a test here fails."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import weakref

import aioice
import aioice.ice
import aioice.stun
import aioice.turn
import pytest
from aioice import Candidate, Connection
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection
from ice_peers import connect, introduce, lose_consent, negotiate, silent_port

from natprobe.webrtc import ice_stats
from natprobe.webrtc.ice import CandidateType, IceTransport, PairState, TransportState
from natprobe.webrtc.internals import connections, fast_failure, listen, transports, unlisten
from natprobe.webrtc.steps import Step, why

pytestmark = pytest.mark.usefixtures("on_loopback")

STUN, TURN = RTCIceServer("stun:127.0.0.1:9"), RTCIceServer("turns:127.0.0.1:9?transport=tcp", "user", "secret")


def transport(subject: object) -> IceTransport:
    (found,) = transports(subject)
    return found


async def test_a_connection_from_its_making_to_its_end() -> None:
    a, b = Connection(True), Connection(False)
    assert transport(a).state is TransportState.NEW
    assert not transport(a).gathered
    await introduce(a, b)
    gathered = transport(a)
    assert gathered.state is TransportState.NEW
    assert gathered.gathered
    assert gathered.end_of_candidates
    assert [(c.type, c.address, c.url) for c in gathered.local] == [(CandidateType.HOST, "127.0.0.1", None)]
    assert [pair.state for pair in gathered.pairs] == [PairState.FROZEN]
    await asyncio.gather(a.connect(), b.connect())
    connected = transport(a)
    assert connected.state is TransportState.COMPLETED
    assert connected.controlling
    assert connected.selected
    assert connected.selected in connected.pairs
    assert connected.selected.nominated
    assert connected.selected.remote == connected.remote[0]
    assert connected.selected.remote.port == transport(b).local[0].port
    await asyncio.gather(a.close(), b.close())
    closed = transport(a)
    assert closed.state is TransportState.CLOSED
    assert closed.selected == connected.selected
    assert not closed.consent_lost


async def test_a_pair_that_fails() -> None:
    a = Connection(True)
    await a.gather_candidates()
    a.remote_username, a.remote_password = "abcd", "a" * 22
    with silent_port() as port, fast_failure():
        aioice.stun.RETRY_RTO /= 10
        await a.add_remote_candidate(Candidate("1", 1, "udp", 1, "127.0.0.1", port, "host"))
        await a.add_remote_candidate(None)
        connecting = asyncio.create_task(a.connect())
        await asyncio.sleep(0)
        assert transport(a).state is TransportState.CHECKING
        with pytest.raises(ConnectionError):
            await connecting
    failed = transport(a)
    assert failed.state is TransportState.FAILED
    assert [pair.state for pair in failed.pairs] == [PairState.FAILED]
    assert failed.selected is None
    await a.close()


async def test_without_any_candidate_of_the_peer_it_has_failed_too() -> None:
    a = Connection(True)
    await a.gather_candidates()
    a.remote_username, a.remote_password = "abcd", "a" * 22
    await a.add_remote_candidate(None)
    with pytest.raises(ConnectionError):
        await a.connect()
    assert transport(a).state is TransportState.FAILED
    await a.close()


async def test_consent_lost_is_told_from_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = Connection(True), Connection(False)
    await lose_consent(a, b, monkeypatch)
    lost = transport(a)
    assert (lost.state, lost.consent_lost) == (TransportState.CLOSED, True)
    assert lost.selected
    assert not transport(b).consent_lost


async def test_closed_while_connecting_is_no_consent_lost() -> None:
    a, b = Connection(True), Connection(False)
    await introduce(a, b)
    connecting = asyncio.gather(a.connect(), b.connect(), return_exceptions=True)
    while not transport(a).selected:
        await asyncio.sleep(0.001)
    await a.close()
    assert not transport(a).consent_lost
    await b.close()
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)


# --- aiortc -----------------------------------------------------------------------------------------------------------


async def test_a_peer_connection_with_data_and_media_has_one_bundled_transport() -> None:
    a, b = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    assert connections(a) == []
    a.createDataChannel("chat")
    a.addTransceiver("audio")
    opened = asyncio.Event()
    b.on("datachannel", lambda _: opened.set())
    await negotiate(a, b)
    await opened.wait()
    assert transport(a).state is transport(b).state is TransportState.COMPLETED
    statistics = ice_stats(a)
    assert {entry["type"] for entry in statistics.values()} == {
        *("transport", "local-candidate", "remote-candidate", "candidate-pair")
    }
    await asyncio.gather(a.close(), b.close())
    assert transport(a).state is TransportState.CLOSED


async def test_the_servers_of_a_peer_connection_are_told_by_their_urls() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[STUN, TURN]))
    pc.createDataChannel("chat")
    assert (transport(pc).stun, transport(pc).turn) == (STUN.urls, TURN.urls)
    await pc.close()


class DeafResolver:
    """What multicast DNS comes to where nobody answers; no test sends to the neighbours."""

    async def resolve(self, name: str) -> None: ...

    async def close(self) -> None: ...


async def test_names_that_were_not_resolved_are_found_in_the_description(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolver(subscriber: object) -> DeafResolver:
        return DeafResolver()

    monkeypatch.setattr(aioice.ice, "get_or_create_mdns_protocol", resolver)
    a, b = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    a.createDataChannel("chat")
    await a.setLocalDescription(await a.createOffer())
    offer = a.localDescription
    offer.sdp = re.sub(r"(a=candidate.*) 127.0.0.1 ", r"\1 af7c9a1e-0000-4000-8000-000000000000.local ", offer.sdp)
    await b.setRemoteDescription(offer)
    assert transport(b).unresolved == ("af7c9a1e-0000-4000-8000-000000000000.local",)
    assert transport(b).remote == ()
    await asyncio.gather(a.close(), b.close())


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="not in str"):
        transports("a peer connection")


# --- statistics -------------------------------------------------------------------------------------------------------


async def test_statistics_are_shaped_as_the_w3c_has_them() -> None:
    a, b = Connection(True), Connection(False)
    await connect(a, b)
    statistics = json.loads(json.dumps(ice_stats(a)))
    assert all(statistics[id_]["id"] == id_ for id_ in statistics)
    kinds = {entry["type"]: entry for entry in statistics.values()}
    assert len(kinds) == len(statistics) == 4
    own, pair = kinds["transport"], kinds["candidate-pair"]
    assert own["selectedCandidatePairId"] == pair["id"]
    assert (own["iceRole"], own["iceState"]) == ("controlling", "completed")
    assert (pair["state"], pair["nominated"], pair["transportId"]) == ("succeeded", True, own["id"])
    for side in ("local", "remote"):
        candidate = statistics[pair[f"{side}CandidateId"]]
        assert candidate["type"] == f"{side}-candidate"
        assert (candidate["candidateType"], candidate["address"], candidate["protocol"]) == ("host", "127.0.0.1", "udp")
        assert "url" not in candidate
    assert pair["priority"] > 2**32
    await asyncio.gather(a.close(), b.close())


# --- listening --------------------------------------------------------------------------------------------------------


async def test_what_was_wrapped_is_as_before() -> None:
    connection = Connection(True)

    def own() -> dict[str, object]:
        return {name: value for name, value in vars(connection).items() if name != "_natprobe"}

    before = own()

    def listener(*step: object) -> None: ...

    listen(connection, listener)
    listen(connection, listener)
    unlisten(connection, listener)
    assert own() != before
    unlisten(connection, listener)
    assert own() == before


async def test_who_does_not_listen_is_not_told_of_others() -> None:
    a, b = Connection(True), Connection(False)
    heard: list[Connection] = []
    listen(a, lambda connection, *_: heard.append(connection))
    await connect(a, b)
    assert set(heard) == {a}
    await asyncio.gather(a.close(), b.close())


async def test_a_connection_that_was_listened_to_can_be_forgotten() -> None:
    connection = Connection(True)
    listen(connection, lambda *_, itself=connection: None)
    gone = weakref.ref(connection)
    del connection
    gc.collect()
    assert gone() is None


async def test_steps_are_told_in_their_order() -> None:
    a, b = Connection(True), Connection(False)
    steps: list[Step] = []
    listen(a, lambda _, step, *__: steps.append(step))
    await connect(a, b)
    await asyncio.gather(a.close(), b.close())
    assert steps == [
        *(Step.GATHERING, Step.GATHERED, Step.FIRST_CHECK, Step.NOMINATED, Step.CONNECTED, Step.CLOSED),
    ]


def fail_impatiently() -> None:
    with fast_failure():
        # When all requests have gone out and the last one's time is over (RFC 8489 §6.2.1).
        assert aioice.stun.RETRY_RTO * (2 ** (aioice.stun.RETRY_MAX + 1) - 1) < 2
        raise ZeroDivisionError


def test_impatience_ends_with_its_block() -> None:
    patient = (aioice.stun.RETRY_MAX, aioice.stun.RETRY_RTO)
    with pytest.raises(ZeroDivisionError):
        fail_impatiently()
    assert patient == (aioice.stun.RETRY_MAX, aioice.stun.RETRY_RTO)


def test_a_servers_words_are_made_fit_for_a_terminal() -> None:
    response = aioice.stun.Message(aioice.stun.Method.ALLOCATE, aioice.stun.Class.ERROR)
    response.attributes["ERROR-CODE"] = (437, "Mismatched\x1b[2J allocation\0\n")
    assert why(aioice.stun.TransactionFailed(response), 0) == "437 Mismatched[2J allocation"
    del response.attributes["ERROR-CODE"]
    assert why(aioice.stun.TransactionFailed(response), 0) == "an error without a code"
