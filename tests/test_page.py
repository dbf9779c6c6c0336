"""The page's session against a browser that is simulated packet by packet, behind every NAT of the lab."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from aioice import stun
from browser import LAYOUT, Visit
from hypothesis import given
from hypothesis import strategies as st

from natprobe.behaviour import Certainty, Dependence, Hairpinning, Protocol
from natprobe.inference import Profile
from natprobe.lab.details import Details
from natprobe.lab.packet import Packet
from natprobe.lab.policy import PRESETS, NatPolicy, ProtocolPolicy, expected
from natprobe.observation import Exchange, Outcome, Purpose, Volley
from natprobe.page import ice
from natprobe.page.ice import Credentials
from natprobe.page.session import MOST_PACKETS
from natprobe.reflector.layout import Layout
from natprobe.report import Report

LOST_TO_LOSS = 30
"""Visits at 20 % loss each way, of each policy."""


def profile(report: Report) -> Profile:
    assert report.ipv4
    assert report.ipv4.udp
    return report.ipv4.udp


def found(report: Report, policy: NatPolicy) -> dict[str, object]:
    """Return what the report says on what the policy says."""
    udp = profile(report)
    return {key: getattr(udp, key).value for key in expected(policy)[Protocol.UDP]}


@pytest.mark.parametrize("name", PRESETS)
def test_the_page_gives_the_policy_back(name: str) -> None:
    assert found(Visit(PRESETS[name]).run(), PRESETS[name]) == expected(PRESETS[name])[Protocol.UDP]


@pytest.mark.parametrize("name", ["none", "eim-adf", "eim-apdf", "apdm-apdf", "linux-masquerade"])
def test_two_addresses_do_as_well(name: str) -> None:
    two = Layout(LAYOUT.addresses[:2], LAYOUT.ports, LAYOUT.quiet_ports[:2])
    wanted = expected(PRESETS[name])[Protocol.UDP]
    assert found(Visit(PRESETS[name], layout=two).run(), PRESETS[name]) == wanted


def test_one_address_cannot_tell_everything_and_says_so() -> None:
    one = Layout(LAYOUT.addresses[:1], LAYOUT.ports, LAYOUT.quiet_ports[:1])
    udp = profile(Visit(PRESETS["eim-apdf"], layout=one).run())
    assert udp.reachable.value is True
    for verdict in (udp.mapping, udp.filtering, udp.unsolicited_remap):
        assert verdict
        assert not verdict.determined


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "eim-eif", "eim-adf", "eim-apdf", "adm-apdf", "apdm-eif", "linux-masquerade"])
def test_what_is_lost_is_no_class(name: str) -> None:
    wanted = expected(PRESETS[name])[Protocol.UDP]
    reports = [Visit(PRESETS[name], loss=0.2, seed=seed).run() for seed in range(LOST_TO_LOSS)]
    told = [(key, value, wanted[key]) for report in reports for key, value in found(report, PRESETS[name]).items()]
    assert [each for each in told if each[1] not in (None, each[2])] == []
    assert sum(value is not None for _, value, _ in told) >= 0.95 * len(told)


def test_a_report_of_the_page_is_read_like_any_other() -> None:
    report = Visit(PRESETS["eim-adf"]).run()
    again = Report.loads(report.dumps())
    assert again == replace(report, duration_s=again.duration_s, observations=again.observations)
    assert profile(again) == profile(report)


def test_a_hidden_address_is_said_to_be_hidden() -> None:
    report = Visit(PRESETS["linux-masquerade"]).run()
    assert report.vantage.ipv4 is None
    translated = profile(report).translated
    assert translated.value is True
    assert "does not find 198.51.100.1:" in translated.reason
    assert "of this host" in profile(report).mapping.reason


def test_without_a_nat_the_browser_knows_itself() -> None:
    report = Visit(PRESETS["none"]).run()
    assert str(report.vantage.ipv4) == "10.64.1.10"
    assert profile(report).mapping.certainty is Certainty.CONFIRMED
    assert "no NAT" in profile(report).mapping.reason


def test_a_browser_that_tells_its_address_is_believed() -> None:
    report = Visit(PRESETS["linux-masquerade"], hides=False).run()
    assert str(report.vantage.ipv4) == "10.64.1.10"
    assert profile(report).translated.reason.startswith("10.64.1.10:")


def test_blocked_udp_is_told_from_a_dead_server_by_the_page_itself() -> None:
    report = Visit(PRESETS["udp-blocked"]).run()
    reachable = profile(report).reachable
    assert (reachable.value, reachable.certainty) == (False, Certainty.LIKELY)  # it is one server
    assert "no answer to" in reachable.reason


@pytest.mark.parametrize("name", ["eim-eif", "eim-adf", "eim-apdf"])
def test_a_nat_that_turns_packets_around(name: str) -> None:
    policy = PRESETS[name]
    turning = replace(policy, udp=replace(policy.udp, details=Details(hairpinning=Hairpinning.EXTERNAL_SOURCE)))
    hairpinning = profile(Visit(turning).run()).hairpinning
    assert hairpinning
    assert (hairpinning.value, hairpinning.certainty) == (Hairpinning.EXTERNAL_SOURCE, Certainty.CONFIRMED)


def test_a_nat_that_does_not() -> None:
    hairpinning = profile(Visit(PRESETS["eim-apdf"]).run()).hairpinning
    assert hairpinning
    assert (hairpinning.value, hairpinning.certainty) == (Hairpinning.NONE, Certainty.LIKELY)


def test_where_there_is_no_nat_none_turns_anything_around() -> None:
    assert profile(Visit(PRESETS["none"]).run()).hairpinning is None


def test_where_filters_may_have_stopped_it_hairpinning_is_not_known() -> None:
    hairpinning = profile(Visit(PRESETS["apdm-apdf"]).run()).hairpinning
    assert hairpinning
    assert not hairpinning.determined


@pytest.mark.parametrize(("name", "moved"), [("linux-masquerade-accept", True), ("linux-masquerade-drop", False)])
def test_what_a_stranger_sees_is_observed_after_it_has_knocked(name: str, moved: bool) -> None:
    facts = Visit(PRESETS[name]).run().observations
    asked = [fact for fact in facts if isinstance(fact, Exchange) and fact.purpose is Purpose.REMAP]
    knocks = [fact for fact in facts if isinstance(fact, Volley) and fact.purpose is Purpose.REMAP]
    remap = profile(Visit(PRESETS[name]).run()).unsolicited_remap
    assert remap
    assert (remap.value, remap.certainty) == (moved, Certainty.CONFIRMED)
    locals_ = list(dict.fromkeys(exchange.local for exchange in asked))
    assert len(locals_) == 2
    for local in locals_:
        home, stranger, *_ = (exchange for exchange in asked if exchange.local == local)
        assert stranger.remote == knocks[0].asked[1]
        assert (home.mapped != stranger.mapped) is moved


def test_streams_are_observed_port_by_port() -> None:
    facts = Visit(PRESETS["linux-masquerade"]).run().observations
    streams = [f for f in facts if isinstance(f, Exchange) and f.protocol is Protocol.TCP and not f.instance]
    assert {(fact.remote.port, fact.outcome) for fact in streams} == {(port, Outcome.ANSWERED) for port in LAYOUT.ports}


@pytest.mark.parametrize(
    ("lifetime", "interval"), [(20.0, (10, 25)), (40.0, (25, 50)), (300.0, (50, None)), (5.0, (0, 10))]
)
def test_how_long_a_mapping_lives(lifetime: float, interval: tuple[int, int | None]) -> None:
    policy = PRESETS["eim-apdf"]
    forgetful = replace(policy, udp=replace(policy.udp, details=Details(lifetime=lifetime, lifetime_stream=120.0)))
    report = Visit(forgetful, waits=(10.0, 25.0, 50.0)).run()
    found = profile(report).lifetime
    assert found
    assert found.value
    assert found.certainty is Certainty.CONFIRMED
    alive, dead = found.value.alive_s, found.value.dead_s
    assert (round(alive), None if dead is None else round(dead)) == interval
    assert profile(Report.loads(report.dumps())).lifetime == found


def test_nobody_waits_who_did_not_ask_for_it() -> None:
    report = Visit(PRESETS["eim-apdf"]).run()
    assert profile(report).lifetime is None
    assert report.duration_s < 3


@pytest.mark.parametrize(
    ("name", "assignment"),
    [("eim-apdf", "sequential"), ("apdm-apdf", "sequential"), ("linux-masquerade", "preserving"),
     ("none", "preserving"), ("linux-fully-random", "random")],
)  # fmt: skip
def test_which_ports_are_given(name: str, assignment: str) -> None:
    found = profile(Visit(PRESETS[name]).run()).port_assignment
    assert found
    assert found.value == assignment


# --- safety -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "apdm-apdf", "linux-masquerade-accept"])
def test_what_the_reflector_sends_is_little_and_goes_to_the_browser_alone(name: str) -> None:
    visit = Visit(PRESETS[name])
    visit.run()
    assert {str(packet.destination.address) for packet in visit.to_network} <= {"198.51.100.1", "10.64.1.10"}
    assert len(visit.to_network) < 300
    assert max(len(packet.payload) for packet in visit.to_network) <= 108


def test_nobody_gets_more_than_one_packet_for_one_before_having_answered() -> None:
    """Whoever opens a visit knows its credentials, and can sign checks with a forged source."""
    visit = Visit(NatPolicy.alike(ProtocolPolicy(filtering=Dependence.ADDRESS_AND_PORT_DEPENDENT)))
    victim = LAYOUT.listening[0].with_port(9999)
    visit._inbound = lambda packet: None  # type: ignore[method-assign]  # it answers nothing
    forged: list[Packet] = []
    reach = visit._reach

    def forging(packet: Packet, stream: bool) -> None:
        if not stream:
            packet = packet.sent_from(victim)
            forged.append(packet)
        reach(packet, stream)

    visit._reach = forging  # type: ignore[method-assign]
    report = visit.run()
    assert 0 < len(visit.to_network) <= len(forged)
    assert max(len(packet.payload) for packet in visit.to_network) <= min(len(packet.payload) for packet in forged)
    assert not profile(report).filtering.determined


def offer(name: str, **changed: object) -> bytes:
    """Return a page's message that offers a peer connection."""
    own = {"name": name, "ufrag": "abcd", "password": "0123456789012345678901", "hosts": []}
    return json.dumps({"type": "offers", "offers": [own | changed]}).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        offer("filtering", ufrag="a"),
        offer("filtering", password="b"),
        offer("filtering", hosts=[["x", 1]]),
        offer("filtering", hosts=[[None, -1]]),
        offer("nobody"),
        b'{"type":"counted","name":"filtering","sent":"many"}',
        b"\xff\xfe",
    ],
)
def test_a_message_that_makes_no_sense_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 which one is nobody's business
        Visit(PRESETS["none"]).session.heard(text, 0.0)


def test_an_offer_is_made_once() -> None:
    session = Visit(PRESETS["none"]).session
    session.heard(offer("mapping"), 0.0)
    with pytest.raises(ValueError, match="once"):
        session.heard(offer("mapping"), 0.0)


def test_a_page_that_falls_silent_is_given_up() -> None:
    session = Visit(PRESETS["none"]).session
    session.tick(session.due)
    assert session.done
    assert not session.begun


# --- the wire ---------------------------------------------------------------------------------------------------------


def test_a_check_is_verified_by_the_receivers_password_alone() -> None:
    one, other = Credentials.fresh(), Credentials.fresh()
    packet = ice.read(ice.check(b"0" * 12, one, other))
    assert packet
    assert packet.username == f"{other.ufrag}:{one.ufrag}"
    assert packet.verified(other.password)
    assert not packet.verified(one.password)


def test_an_answer_says_from_where_the_check_came() -> None:
    packet = ice.read(ice.answer(b"0" * 12, LAYOUT.listening[0], "p" * 22))
    assert packet
    assert packet.username == ""
    assert packet.verified("p" * 22)


@pytest.mark.parametrize("missing", ["USERNAME", "PRIORITY", "ICE-CONTROLLING", "MESSAGE-INTEGRITY", "FINGERPRINT"])
def test_a_check_has_all_that_it_must_have(missing: str) -> None:
    names = {"USERNAME": "aaaa:bbbb", "PRIORITY": 1, "ICE-CONTROLLING": 1}
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes=names)
    message.add_message_integrity(b"a" * 22)
    assert ice.read(bytes(message))
    del message.attributes[missing]
    if missing != "FINGERPRINT":
        message.add_fingerprint()
    assert ice.read(bytes(message)) is None


def test_a_page_that_floods_is_not_listened_to_for_ever() -> None:
    visit = Visit(PRESETS["none"])
    for name in visit.session.outbox.messages[0]["open"]:
        visit.session.heard(offer(name), 0.0)
    answer = next(told for told in visit.session.outbox.messages if "answer" in told)
    theirs = Credentials(answer["ufrag"], answer["password"])
    packet = ice.read(ice.check(b"0" * 12, Credentials("abcd", "0123456789012345678901"), theirs))
    assert packet
    taken = [
        visit.session.arrived(packet, LAYOUT.listening[0], LAYOUT.listening[1], 0.1) for _ in range(MOST_PACKETS + 9)
    ]
    assert taken.count(True) == MOST_PACKETS


@given(st.binary(max_size=200))
def test_whatever_arrives_is_read_or_not(data: bytes) -> None:
    assert ice.read(data) is None


@given(st.integers(0, 200), st.binary(min_size=1, max_size=12))
def test_a_check_that_was_tampered_with_is_none(place: int, junk: bytes) -> None:
    data = ice.check(b"0" * 12, Credentials("aaaa", "a" * 22), Credentials("bbbb", "b" * 22))
    place %= len(data) - 8  # the FINGERPRINT at the end is not signed
    changed = data[:place] + junk + data[place + len(junk) :]
    packet = ice.read(changed)
    assert changed[:-8] == data[:-8] or packet is None or not packet.verified("b" * 22)


@pytest.mark.parametrize(("ufrag", "password"), [("abc", "0" * 22), ("abcd", "0" * 21), ("ab:d", "0" * 22), ("", "")])
def test_credentials_are_what_the_rfc_allows(ufrag: str, password: str) -> None:
    with pytest.raises(ValueError, match="credentials"):
        Credentials(ufrag, password)
