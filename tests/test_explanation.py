"""The decision table: what is known of a transport, the reports and the checks in; the cause, and its words, out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from nat_reports import home, office

from natprobe.behaviour import Certainty
from natprobe.webrtc.explanation import explain_transports
from natprobe.webrtc.findings import Cause, Explanation
from natprobe.webrtc.ice import Candidate, CandidatePair, CandidateType, IceTransport, PairState, TransportState
from natprobe.webrtc.knowledge import Knowledge
from natprobe.webrtc.outcome import IceServerCheck, IceServerState

STUN, TURN = "stun:198.51.100.10:3478", "turn:198.51.100.11:3500?transport=udp"


def candidate(kind: str, address: str, port: int = 40000) -> Candidate:
    return Candidate(CandidateType(kind), address, port, "udp", 1, kind)


HOST = candidate("host", "10.64.1.10")
SEEN = candidate("srflx", "198.51.100.1")
RELAYED = candidate("relay", "198.51.100.11", 50000)
PEER_HOST = candidate("host", "10.64.2.10")
PEER_SEEN = candidate("srflx", "198.51.100.2")
PEER_MET = candidate("prflx", "198.51.100.2", 40001)
PEER_RELAYED = candidate("relay", "198.51.100.11", 50001)


def pair(
    local: Candidate, remote: Candidate, state: PairState = PairState.FAILED, nominated: bool = False
) -> CandidatePair:
    return CandidatePair(local, remote, state, nominated, 1)


def transport(
    state: TransportState = TransportState.FAILED,
    local: Sequence[Candidate] = (HOST, SEEN),
    remote: Sequence[Candidate] = (PEER_HOST, PEER_SEEN),
    **fields: Any,
) -> IceTransport:
    """Return a transport with all its pairs failed, unless told otherwise."""
    sources = [candidate for candidate in local if candidate.type is not CandidateType.SERVER_REFLEXIVE]
    known: dict[str, Any] = {
        "id": "ice-0",
        "controlling": True,
        "gathered": True,
        "username": "abcd",
        "stun": STUN,
        "turn": None,
        "end_of_candidates": True,
        "pairs": tuple(pair(one, other) for one in sources for other in remote),
        "selected": None,
    }
    return IceTransport(state=state, local=tuple(local), remote=tuple(remote), **known | fields)


def connected(chosen: CandidatePair, *others: CandidatePair, **fields: Any) -> IceTransport:
    nominated = replace(chosen, state=PairState.SUCCEEDED, nominated=True)
    known: dict[str, Any] = {"local": (HOST, SEEN, RELAYED), "pairs": (*others, nominated), "selected": nominated}
    return transport(TransportState.COMPLETED, **known | fields)


def explain(known: IceTransport, **knowledge: Any) -> Explanation:
    return explain_transports([known], Knowledge(**knowledge))


def only(explanation: Explanation) -> str:
    """Return the reason of the only finding."""
    (finding,) = explanation.findings
    return finding.reason


# --- connected --------------------------------------------------------------------------------------------------------


def test_a_direct_connection_is_told_as_such() -> None:
    explanation = explain(connected(pair(HOST, PEER_SEEN)))
    assert explanation.causes == (Cause.DIRECT,)
    assert "host 10.64.1.10:40000 → srflx 198.51.100.2:40000" in str(explanation)


def test_a_relay_beside_a_direct_pair_that_answered_was_not_needed() -> None:
    known = connected(pair(RELAYED, PEER_SEEN), pair(HOST, PEER_SEEN, PairState.SUCCEEDED))
    (finding,) = explain(known).findings
    assert (finding.cause, finding.certainty) == (Cause.RELAYED_THOUGH_DIRECT, Certainty.CONFIRMED)
    assert finding.advice


def test_a_relay_where_the_nats_let_both_through_was_not_needed() -> None:
    known = connected(pair(RELAYED, PEER_SEEN), pair(HOST, PEER_SEEN, PairState.IN_PROGRESS))
    assert explain(known).cause is Cause.RELAYED
    assert explain(known, mine=home("eim-eif"), theirs=office("eim-apdf")).cause is Cause.RELAYED_THOUGH_DIRECT
    needed = explain(known, mine=home("apdm-apdf"), theirs=office("apdm-apdf"))
    assert needed.cause is Cause.RELAYED
    assert "a port that A cannot know" in only(needed)


def test_a_relay_that_was_asked_for_is_no_surprise() -> None:
    known = connected(pair(RELAYED, PEER_SEEN), relay_only=True)
    assert "told to use relays only" in only(explain(known, mine=home("eim-eif"), theirs=office("eim-eif")))


def test_lost_consent_and_closing_differ() -> None:
    open_ = connected(pair(HOST, PEER_SEEN))
    closed = replace(open_, state=TransportState.CLOSED)
    assert explain(closed).causes == (Cause.CLOSED,)
    lost = explain(replace(closed, consent_lost=True))
    assert lost.causes == (Cause.CONSENT_LOST,)
    assert "RFC 7675" in only(lost)


def test_closed_before_it_was_connected_only_what_the_reports_say_is_left() -> None:
    closed = transport(TransportState.CLOSED, local=(HOST,))  # aioice forgets what a server told it
    assert explain(closed).causes == (Cause.CLOSED,)
    assert explain(closed, mine=home("apdm-apdf"), theirs=office("eim-apdf")).causes == (Cause.CLOSED, Cause.NAT_PAIR)
    assert explain(transport(TransportState.CLOSED, local=(), pairs=())).causes == (Cause.CLOSED,)


# --- signalling -------------------------------------------------------------------------------------------------------


def test_nothing_yet() -> None:
    assert explain_transports([], Knowledge()).causes == (Cause.NOT_STARTED,)
    new = transport(TransportState.NEW, local=(), remote=(), gathered=False, end_of_candidates=False)
    assert "not gathered" in only(explain(new))
    gathered = transport(TransportState.NEW, remote=(), end_of_candidates=False)
    assert "the peer's description is not here" in only(explain(gathered))


def test_no_candidates_of_the_peer() -> None:
    assert explain(transport(remote=())).causes == (Cause.NO_REMOTE_CANDIDATE,)
    waiting = transport(TransportState.CHECKING, remote=(), end_of_candidates=False)
    assert explain(waiting).causes == (Cause.NO_REMOTE_CANDIDATE, Cause.NO_END_OF_CANDIDATES)


def test_names_that_stand_for_nothing() -> None:
    explanation = explain(transport(remote=(), unresolved=("af7c.local",)))
    assert explanation.causes == (Cause.MDNS_UNRESOLVED,)
    assert "af7c.local" in only(explanation)


def test_ip_versions_that_do_not_meet() -> None:
    known = transport(remote=(candidate("host", "2001:db8::1"),), pairs=())
    assert "this side has IPv4 candidates, the peer IPv6" in only(explain(known))


def test_no_end_of_candidates_never_ends() -> None:
    known = transport(TransportState.CHECKING, end_of_candidates=False)
    explanation = explain(known, mine=home("apdm-apdf"), theirs=office("apdm-apdf"))
    assert explanation.causes == (Cause.NAT_PAIR, Cause.NO_END_OF_CANDIDATES)


def test_while_it_is_checking_the_reports_tell_already_what_will_come() -> None:
    known = transport(TransportState.CHECKING, pairs=(pair(HOST, PEER_SEEN, PairState.IN_PROGRESS),))
    assert explain(known).causes == (Cause.CHECKING,)
    assert "0 of 1 pairs" in only(explain(known))
    explanation = explain(known, mine=home("apdm-apdf"), theirs=office("apdm-apdf"))
    assert explanation.causes == (Cause.NAT_PAIR, Cause.CHECKING)


def test_no_address_to_send_from() -> None:
    assert explain(transport(local=(), stun=None)).cause is Cause.NO_LOCAL_CANDIDATE
    relays_only = explain(transport(local=(), turn=TURN, relay_only=True))
    assert relays_only.causes == (Cause.NO_LOCAL_CANDIDATE, Cause.TURN_FAILED)


# --- servers ----------------------------------------------------------------------------------------------------------


def check(url: str, state: IceServerState, reason: str | None) -> IceServerCheck:
    return IceServerCheck(url, "udp", 4, state, reason)


def test_a_turn_server_without_a_relayed_address_is_named_with_its_reason() -> None:
    known = transport(turn=TURN)
    silent, nat = explain(known).findings
    assert (silent.cause, nat.cause) == (Cause.TURN_FAILED, Cause.NAT_PAIR)
    assert "check_ice_servers" in silent.advice
    usable = explain(known, servers=(check(TURN, IceServerState.OK, None),)).findings[0]
    assert "usable when it was checked" in usable.advice
    watched = explain(replace(known, failures=((TURN, "401 Unauthorized"),)))
    assert watched.findings[0].reason.endswith("401 Unauthorized")
    # The same server, spelt in another way.
    checks = (
        check(STUN, IceServerState.OK, None),
        check("turn:198.51.100.11:3500", IceServerState.QUOTA, "486 Allocation Quota Reached"),
    )
    assert explain(known, servers=checks).findings[0].reason.endswith("486 Allocation Quota Reached")


def test_a_relay_that_relays_nothing() -> None:
    known = transport(local=(HOST, SEEN, RELAYED), turn=TURN)
    silent = explain(known, mine=home("apdm-apdf"), theirs=office("apdm-apdf"))
    assert silent.causes == (Cause.RELAY_SILENT, Cause.NAT_PAIR)
    denied = (check(TURN, IceServerState.FORBIDDEN_PEER, "403 Forbidden IP"),)
    assert "403 Forbidden IP" in explain(known, servers=denied).findings[0].reason
    peers = explain(transport(remote=(PEER_HOST, PEER_SEEN, PEER_RELAYED)))
    assert "the peer's TURN server" in peers.findings[0].reason


def test_blocked_udp_is_told_from_a_stun_server_that_is_down() -> None:
    known = transport(local=(HOST,))
    either = explain(known).findings[0]
    assert (either.cause, either.certainty) == (Cause.UDP_BLOCKED, Certainty.LIKELY)
    blocked = explain(known, mine=home("udp-blocked"), theirs=office("eim-eif"))
    assert blocked.causes == (Cause.UDP_BLOCKED,)
    assert "while TCP reaches the same server" in only(blocked)
    down = explain(known, mine=home("eim-apdf"), theirs=office("eim-apdf"))
    assert down.cause is Cause.STUN_FAILED
    assert "though UDP gets out" in down.findings[0].reason
    unknown = explain(replace(known, failures=((STUN, "not asked: its name was not resolved"),)))
    assert (unknown.cause, unknown.findings[0].certainty) == (Cause.STUN_FAILED, Certainty.CONFIRMED)


def test_a_relay_over_udp_shows_that_udp_is_not_blocked() -> None:
    assert explain(transport(local=(HOST, RELAYED), turn=TURN)).cause is Cause.STUN_FAILED


def test_a_peer_that_is_blocked_is_not_the_relays_fault() -> None:
    known = transport(local=(HOST, SEEN, RELAYED), turn=TURN)
    explanation = explain(known, mine=home("eim-apdf"), theirs=office("udp-blocked"))
    assert explanation.causes == (Cause.UDP_BLOCKED,)
    assert only(explanation).startswith("the peer's network")


# --- NATs -------------------------------------------------------------------------------------------------------------

NAT_KINDS = ("eim-eif", "eim-adf", "eim-apdf", "adm-adf", "apdm-adf", "apdm-apdf", "udp-blocked", "firewall", "none")


@pytest.mark.parametrize("mine", NAT_KINDS)
@pytest.mark.parametrize("theirs", NAT_KINDS)
def test_with_both_reports_the_cause_is_never_unknown(mine: str, theirs: str) -> None:
    explanation = explain(transport(), mine=home(mine), theirs=office(theirs))
    assert Cause.UNDETERMINED not in explanation.causes
    assert all(finding.certainty is not Certainty.NOT_DETERMINED for finding in explanation.findings)


@pytest.mark.parametrize(
    ("mine", "theirs"), [("apdm-apdf", "eim-apdf"), ("eim-apdf", "apdm-apdf"), ("adm-adf", "apdm-apdf")]
)
def test_nats_that_do_not_fit_are_the_reason(mine: str, theirs: str) -> None:
    explanation = explain(transport(), mine=home(mine), theirs=office(theirs))
    assert explanation.causes == (Cause.NAT_PAIR,)
    assert "cannot know" in only(explanation)


def test_nats_that_fit_are_not_the_reason() -> None:
    explanation = explain(transport(), mine=home("eim-eif"), theirs=office("eim-eif"))
    assert explanation.causes == (Cause.PEER_SILENT,)


def test_what_a_prediction_could_not_exclude_is_the_likely_reason() -> None:
    """Whether a stranger's packet moves a port was not tested, and after a failure that is what is left."""
    mine, theirs = home("linux-masquerade-accept"), office("linux-masquerade")
    (finding,) = explain(transport(), mine=mine, theirs=theirs).findings
    assert (finding.cause, finding.certainty) == (Cause.TIMING, Certainty.LIKELY)
    assert "to another port" in finding.reason


def test_a_peer_that_knows_no_address_of_its_own_cannot_be_reached() -> None:
    known = transport(remote=(PEER_HOST,))
    with_reports = explain(known, mine=home("eim-eif"), theirs=office("eim-eif"))
    assert "gave no address that can be reached from outside" in only(with_reports)
    assert explain(known).causes == (Cause.PEER_SILENT,)


def test_without_any_server_nobody_is_reached_through_a_nat() -> None:
    known = transport(local=(HOST,), stun=None)
    assert explain(known).causes == (Cause.NO_SERVER,)
    assert explain(known, mine=home("eim-eif"), theirs=office("eim-eif")).causes == (Cause.NO_SERVER,)
    # A host without a NAT needs none.
    assert explain(known, mine=home("none"), theirs=office("eim-eif")).causes == (Cause.PEER_SILENT,)


def test_one_report_alone_tells_what_its_nat_does() -> None:
    (finding,) = explain(transport(), mine=home("apdm-apdf")).findings
    assert (finding.cause, finding.certainty) == (Cause.NAT_PAIR, Certainty.LIKELY)
    assert finding.reason.startswith("this side's NAT uses a port")
    assert only(explain(transport(), theirs=office("eim-apdf"))).startswith("the peer's NAT lets in only whom")


def test_the_peers_port_that_moved_is_seen_without_any_report() -> None:
    explanation = explain(transport(remote=(PEER_SEEN, PEER_MET)))
    assert explanation.causes == (Cause.NAT_PAIR,)
    assert "198.51.100.2:40001" in only(explanation)


def test_without_reports_the_nats_are_likely() -> None:
    (finding,) = explain(transport()).findings
    assert (finding.cause, finding.certainty) == (Cause.NAT_PAIR, Certainty.LIKELY)
    assert "natprobe.classify" in finding.advice


# --- all together -----------------------------------------------------------------------------------------------------


def test_what_two_transports_have_in_common_is_said_once() -> None:
    both = [transport(), transport(id="ice-1")]
    assert len(explain_transports(both, Knowledge()).findings) == 1


def test_an_explanation_is_json() -> None:
    told = json.loads(json.dumps(explain(transport(turn=TURN)).to_json()))
    assert told["cause"] == "turn-failed"
    assert [set(finding) for finding in told["findings"]] == [{"cause", "certainty", "reason", "advice"}] * 2


# --- what was checked -------------------------------------------------------------------------------------------------

GOOD_TURN = "turn:198.51.100.12:3478?transport=udp"


def checked(url: str, state: IceServerState = IceServerState.OK, **fields: Any) -> IceServerCheck:
    answered = state not in (IceServerState.TIMEOUT, IceServerState.DNS)
    return IceServerCheck(url, "udp", 4, state, **{"rtt_ms": 5.0 if answered else None, **fields})


@pytest.mark.parametrize("state", [IceServerState.OK, IceServerState.UNAUTHORIZED, IceServerState.QUOTA])
def test_udp_gets_out_where_a_server_that_was_checked_has_answered(state: IceServerState) -> None:
    dead = checked(
        STUN, IceServerState.TIMEOUT, reason="no answer: the packets are lost on the way, or nobody is there"
    )
    found = explain(transport(local=(HOST,)), servers=(dead, checked(GOOD_TURN, state)))
    assert found.cause is Cause.STUN_FAILED
    assert "no other server was reached" not in str(found)
    assert f"UDP gets out ({GOOD_TURN} answered): the server is down" in found.findings[0].reason


def test_a_report_that_says_blocked_is_older_than_an_answer() -> None:
    found = explain(transport(local=(HOST,)), servers=(checked(GOOD_TURN),), mine=home("udp-blocked"))
    assert Cause.UDP_BLOCKED not in found.causes


def test_what_did_not_answer_over_udp_shows_nothing() -> None:
    silent = checked(GOOD_TURN, IceServerState.TIMEOUT, reason="no answer")
    tcp = replace(checked(GOOD_TURN.replace("udp", "tcp")), transport="tcp")
    assert explain(transport(local=(HOST,)), servers=(silent, tcp)).cause is Cause.UDP_BLOCKED


@pytest.mark.parametrize("why", [IceServerState.UNAUTHORIZED, IceServerState.TIMEOUT])
def test_a_relay_that_aiortc_passes_over_is_advised(why: IceServerState) -> None:
    checks = (checked(TURN, why, reason="it is dead"), checked(GOOD_TURN))
    found = explain(transport(turn=TURN), servers=checks, mine=home("apdm-apdf"), theirs=office("apdm-apdf"))
    assert Cause.TURN_FAILED in found.causes
    assert Cause.NAT_PAIR in found.causes
    for finding in found.findings:
        if finding.cause in (Cause.TURN_FAILED, Cause.NAT_PAIR):
            assert finding.advice.startswith(f"{GOOD_TURN} works;")
            assert "choose_ice_servers" in finding.advice


def test_the_check_with_the_credentials_in_use_counts() -> None:
    old = checked(TURN, IceServerState.UNAUTHORIZED, reason="401 Unauthorized", mark="old")
    new = checked(TURN, mark="new")
    told = {mark: str(explain(transport(turn=TURN, turn_mark=mark), servers=(old, new))) for mark in ("old", "new")}
    assert "401" in told["old"]
    assert "401" not in told["new"]


def test_a_relay_that_relayed_when_it_was_checked_is_not_blamed_for_its_ports() -> None:
    silent = transport(local=(HOST, RELAYED), turn=TURN)
    found = explain(silent, servers=(checked(TURN),))
    (finding,) = [finding for finding in found.findings if finding.cause is Cause.RELAY_SILENT]
    assert "It relayed when it was checked" in finding.advice


# --- consent ----------------------------------------------------------------------------------------------------------


def test_the_peers_relay_is_suspected_too() -> None:
    lost = connected(pair(HOST, PEER_RELAYED), consent_misses=2, unanswered_s=11.0)
    found = explain(lost)
    assert found.causes == (Cause.CONSENT_MISSED, Cause.RELAYED)
    assert "2 in a row, for 11 s" in found.findings[0].reason
    assert "the peer's TURN server (198.51.100.11)" in found.findings[0].reason


def test_of_a_direct_pair_the_peer_is_suspected() -> None:
    found = explain(connected(pair(HOST, PEER_SEEN), consent_misses=1))
    assert found.causes == (Cause.CONSENT_MISSED, Cause.DIRECT)
    assert "the peer or the path to it is gone" in found.findings[0].reason
    assert "relay" not in found.findings[0].reason
