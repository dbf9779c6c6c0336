"""What two NATs make of each other: against tables that others worked out, and three-valued to the end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pairs import remaps

import natprobe
from natprobe.behaviour import Certainty, Dependence, Protocol, Treatment, Verdict, not_determined
from natprobe.endpoint import Endpoint
from natprobe.inference import Profile
from natprobe.inference.candidates import TOLD_APART
from natprobe.lab.policy import PRESETS, expected
from natprobe.report import Family, Report, Vantage
from natprobe.traversal import Order, PathPrediction, Traversal, predict
from natprobe.traversal.model import Behaviour, Refusal, meet, outcome_of

PAGE = Path(__file__).parents[1] / "docs" / "traversal.md"

EI, AD, PD, APD = TOLD_APART
NINE = [Behaviour(mapping, filtering) for mapping in (EI, AD, APD) for filtering in (EI, AD, APD)]
EVERY = [
    Behaviour(mapping, filtering, translated, refusal, returns)
    for mapping, filtering, translated, refusal, returns in product(
        TOLD_APART, TOLD_APART, (True, False), Refusal, (True, False)
    )
    if translated or mapping is EI
]


def sure(value: object) -> Verdict[Any]:
    return Verdict(value, Certainty.CONFIRMED, "seen")


def profile(mapping: Any = EI, filtering: Any = APD, address: str = "198.51.100.1", **more: Any) -> Profile:
    """Return a profile; a value of None stands for what is not determined."""
    told = {"reachable": True, "translated": True, "mapping": mapping, "filtering": filtering} | more
    external = (Endpoint(ip_address(address), 40000),) if told["reachable"] else None
    verdicts: dict[str, Any] = {
        key: value if isinstance(value, Verdict) else not_determined("no answer") if value is None else sure(value)
        for key, value in (told | {"external": external}).items()
    }
    return Profile(**verdicts)


def report(udp: Profile | None = None, tcp: Profile | None = None, ipv6: Profile | None = None) -> Report:
    """Return the report of a host at 10.64.1.10."""
    host = Vantage("Linux", IPv4Address("10.64.1.10"), IPv6Address("2001:db8::10") if ipv6 else None)
    families = Family(udp, tcp) if udp or tcp else None, Family(ipv6, None) if ipv6 else None
    return Report("0.1.0", datetime(2026, 11, 22, tzinfo=UTC), 1.0, host, (), *families, ())


def over_udp(a: Profile, b: Profile) -> PathPrediction:
    path = predict(report(a), report(replace(b, external=elsewhere(b)))).udp
    assert path
    return path


def over_tcp(a: Profile, b: Profile) -> PathPrediction:
    path = predict(report(tcp=a), report(tcp=replace(b, external=elsewhere(b)))).tcp
    assert path
    return path


def elsewhere(b: Profile) -> Verdict[tuple[Endpoint, ...]]:
    """B stands behind an address of its own."""
    return sure((Endpoint(IPv4Address("203.0.113.1"), 40000),)) if b.external.determined else b.external


# --- tables that others worked out ------------------------------------------------------------------------------------

# A down, B across, both in the order of NINE. Y: they connect; y: if the answer to a packet leaves by the way that
# came; n: they do not. Found by brute force over symmetric ICE with server-reflexive candidates, one server, a filter
# for each mapping.
MATRIX = """
    YYY YYY YYY
    YYY YYY YYY
    YYY ynn ynn
    YYy YYy YYy
    YYn Ynn Ynn
    YYn ynn ynn
    YYy YYy yyy
    YYn Ynn ynn
    YYn ynn ynn
"""


@pytest.mark.parametrize(("returns", "connect"), [(False, "Y"), (True, "Yy")])
def test_all_pairs_of_the_nine_nats_are_as_brute_force_has_it(returns: bool, connect: str) -> None:
    pairs = product(NINE, NINE)
    for letter, (a, b) in zip("".join(MATRIX.split()), pairs, strict=True):
        met = meet(replace(a, returns=returns), replace(b, returns=returns))
        assert (met is not None) == (letter in connect), (a, b)


# Measured with real aioice, 36 pairs of NATs (three runs each). D: they connect, -: they do not, ?: sometimes.
MEASURED = {
    "full-cone": profile(EI, EI, unsolicited_remap=False),
    "restricted": profile(EI, AD, unsolicited_remap=False),
    "masquerade, drop": profile(EI, APD, unsolicited_remap=False),
    "masquerade, accept": profile(EI, APD, unsolicited_remap=True),
    "random": profile(APD, APD, unsolicited_remap=False),
    "fully-random, drop": profile(APD, APD, unsolicited_remap=False),
    "fully-random, accept": profile(APD, APD, unsolicited_remap=True),
    "blocked": profile(None, None, reachable=False, translated=None),
}
FOUND = """
    DDDDDDD-
    DDDDDDD-
    DDD?----
    DD??----
    DD------
    DD------
    DD------
    --------
"""
LETTERS = {"D": Traversal.DIRECT, "-": Traversal.RELAY, "?": Traversal.TIMING}


def test_pairs_are_predicted_as_they_were_measured() -> None:
    pairs = product(MEASURED, MEASURED)
    for letter, (a, b) in zip("".join(FOUND.split()), pairs, strict=True):
        path = over_udp(MEASURED[a], MEASURED[b])
        assert path.outcome is LETTERS[letter], (a, b)
        assert path.certainty is Certainty.CONFIRMED, path.reason


@pytest.mark.parametrize(
    ("a", "b", "first"),
    [
        ("masquerade, accept", "masquerade, drop", Order.A),
        ("masquerade, drop", "masquerade, accept", Order.B),
        ("masquerade, accept", "masquerade, accept", Order.TOGETHER),
    ],
)
def test_the_side_whose_nat_moves_its_mapping_has_to_send_first(a: str, b: str, first: Order) -> None:
    path = over_udp(MEASURED[a], MEASURED[b])
    assert path.first is first
    assert path.pair == "srflx-srflx"
    assert "uninvited" in path.reason
    assert "drop" in path.advice


def test_before_a_moving_nat_anybody_may_send_first_where_the_other_lets_every_port_in() -> None:
    assert over_udp(MEASURED["masquerade, accept"], MEASURED["restricted"]).outcome is Traversal.DIRECT


# --- what holds for all -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_who_is_a_does_not_matter() -> None:
    swapped = {Order.A: Order.B, Order.B: Order.A, Order.TOGETHER: Order.TOGETHER, None: None}
    keeping = [behaviour for behaviour in EVERY if behaviour.returns]
    for a, b in product(keeping, keeping):
        outcome, first = outcome_of(a, b)
        other, otherwise = outcome_of(b, a)
        assert other is outcome
        assert otherwise is swapped[first]


@pytest.mark.slow
def test_order_matters_only_where_a_refused_packet_does_something() -> None:
    harmless = [behaviour for behaviour in EVERY if behaviour.refusal is Refusal.NOTHING]
    assert not [pair for pair in product(harmless, harmless) if outcome_of(*pair)[0] is Traversal.TIMING]


def test_an_open_host_is_reached_by_everybody_that_gets_out() -> None:
    public = Behaviour(EI, EI, translated=False)
    assert {outcome_of(public, behaviour)[0] for behaviour in EVERY if behaviour.returns} == {Traversal.DIRECT}


@pytest.mark.parametrize(
    ("a", "b", "pair"),
    [
        (profile(), profile(), "srflx-srflx"),
        (profile(translated=False), profile(), "host-srflx"),
        (profile(translated=False), profile(translated=False), "host-host"),
        (profile(APD, APD), profile(EI, AD), "prflx-srflx"),
        (profile(APD, APD), profile(EI, APD), "relay"),
    ],
)
def test_the_pair_of_candidates_is_told(a: Profile, b: Profile, pair: str) -> None:
    assert over_udp(a, b).pair == pair


# --- what is not known ------------------------------------------------------------------------------------------------


def test_a_missing_verdict_is_no_class_where_it_decides() -> None:
    path = over_udp(profile(mapping=None), profile())
    assert (path.outcome, path.certainty, path.pair) == (Traversal.UNKNOWN, Certainty.NOT_DETERMINED, None)
    assert "A's mapping" in path.reason
    assert "no answer" in path.reason


def test_a_missing_verdict_is_of_no_account_where_all_lead_to_one_outcome() -> None:
    path = over_udp(profile(EI, EI, translated=False), profile(None, None))
    assert (path.outcome, path.certainty) == (Traversal.DIRECT, Certainty.LIKELY)
    assert "whatever B's mapping and B's filtering" in path.reason


def test_where_there_is_no_nat_its_mapping_is_no_question() -> None:
    path = over_udp(profile(mapping=None, translated=False), profile(EI, AD, unsolicited_remap=False))
    assert (path.outcome, path.certainty) == (Traversal.DIRECT, Certainty.CONFIRMED)
    assert "whatever" not in path.reason


def test_both_unknown_is_unknown() -> None:
    assert over_udp(profile(None, None), profile(None, None)).outcome is Traversal.UNKNOWN


def test_a_property_that_was_not_tested_is_named_where_it_matters() -> None:
    path = over_udp(profile(), profile(unsolicited_remap=False))
    assert (path.outcome, path.certainty) == (Traversal.DIRECT, Certainty.LIKELY)
    assert "not tested, and it would matter: whether A's NAT moves" in path.reason
    assert "B's NAT moves" not in path.reason


def test_a_property_that_was_tested_in_vain_counts_as_not_tested() -> None:
    assert over_udp(profile(unsolicited_remap=None), profile()).certainty is Certainty.LIKELY


def test_a_property_that_would_not_matter_is_not_named() -> None:
    path = over_udp(profile(EI, AD), profile(EI, AD))
    assert path.certainty is Certainty.CONFIRMED
    assert "not tested" not in path.reason


def test_a_firewall_moves_no_mapping_and_needs_no_test_of_it() -> None:
    path = over_udp(profile(translated=False), profile(translated=False))
    assert path.certainty is Certainty.CONFIRMED, path.reason


def test_a_prediction_is_no_surer_than_what_it_rests_on() -> None:
    likely = Verdict(EI, Certainty.LIKELY, "port-preserving")
    assert over_udp(profile(likely, AD), profile(EI, AD)).certainty is Certainty.LIKELY
    conflicting = Verdict(EI, Certainty.CONFLICTING, "not every local port is treated alike")
    path = over_udp(profile(conflicting, AD), profile(likely, AD))
    assert path.certainty is Certainty.CONFLICTING
    assert "not every local port is treated alike" in path.reason


# --- blocked, or not known to be --------------------------------------------------------------------------------------


def test_what_is_blocked_on_one_side_needs_a_relay_whatever_the_other_is() -> None:
    for other in (profile(EI, EI), profile(None, None), profile(reachable=None)):
        path = over_udp(other, profile(reachable=False))
        assert (path.outcome, path.pair) == (Traversal.RELAY, "relay")
        assert path.reason == "B: seen"
        assert "TLS" in path.advice


def test_what_may_be_blocked_is_not_known() -> None:
    path = over_udp(profile(), profile(reachable=None))
    assert path.outcome is Traversal.UNKNOWN
    assert "at B (B: no answer)" in path.reason


# --- TCP --------------------------------------------------------------------------------------------------------------


def test_simultaneous_open_depends_on_what_early_syns_get() -> None:
    silent, loud = profile(unsolicited_syn=Treatment.DROPPED), profile(unsolicited_syn=Treatment.RESET)
    assert over_tcp(silent, silent).outcome is Traversal.DIRECT
    assert over_tcp(loud, silent).first is Order.A
    assert over_tcp(silent, loud).first is Order.B
    assert over_tcp(loud, loud).first is Order.TOGETHER
    assert "reset" in over_tcp(loud, silent).reason


def test_what_early_syns_get_is_named_where_it_was_not_tested() -> None:
    path = over_tcp(profile(), profile())
    assert (path.outcome, path.certainty) == (Traversal.DIRECT, Certainty.LIKELY)
    assert "whether A's NAT or B's NAT answers a SYN that comes too early" in path.reason
    assert "A's NAT and B's NAT each refuses a SYN" in path.reason
    assert path.reason.count("whether") == 2  # and no more than that


def test_a_mapping_for_each_connection_is_no_known_port() -> None:
    each = profile(Dependence.CONNECTION_DEPENDENT)
    assert over_tcp(each, profile()).outcome is Traversal.RELAY
    assert over_tcp(each, profile(EI, EI)).outcome is Traversal.DIRECT


# --- one address ------------------------------------------------------------------------------------------------------


def test_behind_one_address_the_nat_decides() -> None:
    path = predict(report(profile()), report(profile(APD, APD))).udp
    assert path
    assert (path.outcome, path.certainty, path.pair) == (Traversal.SAME_NAT, Certainty.LIKELY, "host-host")
    assert "hairpinning" in path.reason


def test_a_firewall_alone_is_no_shared_address() -> None:
    alone = report(profile(translated=False))
    path = predict(alone, alone).udp
    assert path
    assert path.outcome is Traversal.DIRECT


# --- IP versions and protocols ----------------------------------------------------------------------------------------


def six(filtering: Dependence = APD, address: str = "2001:db8::1", **more: Any) -> Profile:
    return profile(EI, filtering, address, translated=False, **more)


def far(filtering: Dependence = APD) -> Profile:
    return profile(APD, filtering, "203.0.113.1")


def test_the_better_ip_version_counts_and_both_are_told() -> None:
    prediction = predict(report(profile(), ipv6=six()), report(far(), ipv6=six(address="2001:db8::2")))
    assert [(path.version, path.outcome) for path in prediction.paths] == [
        (4, Traversal.RELAY),
        (6, Traversal.DIRECT),
    ]
    assert prediction.udp is prediction.paths[1]
    assert prediction.determined


@pytest.mark.parametrize("other", [None, six(reachable=None), six(reachable=False)])
def test_an_ip_version_that_one_side_has_not_got_says_nothing(other: Profile | None) -> None:
    prediction = predict(report(profile(), ipv6=six()), report(far(), ipv6=other))
    assert [(path.version, path.outcome) for path in prediction.paths] == [(4, Traversal.RELAY)]


def test_reports_that_have_nothing_in_common_tell_nothing() -> None:
    prediction = predict(report(profile()), report(tcp=profile()))
    assert [(path.protocol, path.version) for path in prediction.paths] == [(p, None) for p in Protocol]
    assert not prediction.determined
    assert prediction.udp
    assert prediction.udp.reason == "A's report tells of UDP over IPv4, B's report tells of UDP over nothing"


def test_what_neither_was_asked_about_is_left_out() -> None:
    prediction = predict(report(profile()), report(far()))
    assert prediction.tcp is None
    assert prediction.determined
    assert not predict(report(), report()).determined


# --- out --------------------------------------------------------------------------------------------------------------


def test_the_json_is_the_best_of_each_protocol_and_all_paths() -> None:
    value = json.loads(natprobe.predict(report(profile()), report(far())).dumps())
    assert value["schema"] == "natprobe.prediction/1"
    assert value["tcp"] is None
    assert value["paths"] == [value["udp"]]
    assert value["udp"]["outcome"] == "relay"
    assert {"protocol", "version", "certainty", "reason", "advice", "pair"} <= value["udp"].keys()
    told = json.loads(predict(report(profile(unsolicited_remap=True)), report(six_like(far()))).dumps())
    assert told["udp"]["first"] == "a"


def six_like(b: Profile) -> Profile:
    return replace(b, mapping=sure(EI), unsolicited_remap=sure(False))


@pytest.mark.slow
def test_every_reason_is_one_sentence_that_names_a_side() -> None:
    for a, b in product(sides(), sides()):
        for path in (over_udp(a, b), over_tcp(a, b)):
            assert any(name in path.reason for name in ("A's", "B's", "A:", "B:", "either"))
            assert not path.reason.endswith(".")
            assert path.advice.endswith(".")


def sides() -> Iterable[Profile]:
    for mapping, filtering in product((EI, APD, None), TOLD_APART):
        yield profile(mapping, filtering)
        yield profile(mapping, filtering, unsolicited_remap=True, unsolicited_syn=Treatment.RESET)
    yield profile(translated=False)
    yield profile(reachable=False)


# --- the page that shows what came of it ------------------------------------------------------------------------------


def of_policy(name: str, protocol: Protocol) -> Profile:
    """Return the profile that a report on a policy of the lab must have."""
    policy = PRESETS[name]
    told = expected(policy)[protocol]
    if not told["reachable"]:
        return profile(reachable=False)
    mapping, filtering = Dependence(str(told["mapping"])), Dependence(str(told["filtering"]))
    more: dict[str, Any] = {"unsolicited_remap": remaps(policy), "unsolicited_syn": policy.tcp.unsolicited}
    return profile(mapping, filtering, translated=told["translated"], **more)


@pytest.mark.parametrize(("heading", "predicted"), [("### UDP", over_udp), ("### TCP", over_tcp)])
def test_the_page_shows_what_is_predicted_now_and_that_it_is_what_was_found(heading: str, predicted: Any) -> None:
    """A cell is the prediction's letter and the three attempts: both at once, A first, B first."""
    shown = {Traversal.DIRECT: {"D +++"}, Traversal.RELAY: {"R −−−"}}
    timing = {Order.A: {"A ++−"}, Order.B: {"B +−+"}, Order.TOGETHER: {"T +−−"}}
    protocol = Protocol(heading[-3:].lower())
    section = PAGE.read_text().partition(heading)[2].partition("###")[0]
    lines = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line]
    (_, *names), _, *rows = lines
    assert len(names) ** 2 >= 64
    for a, *cells in rows:
        for b, cell in zip(names, cells, strict=True):
            path = predicted(of_policy(a, protocol), of_policy(b, protocol))
            assert cell in (shown.get(path.outcome) or timing[path.first]), (a, b)
