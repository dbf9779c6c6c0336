"""Policies are read, refused, composed and held against reports."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natprobe.behaviour import Dependence, PortAssignment, PortReuse, Protocol, Treatment
from natprobe.lab.details import Details, Refresh
from natprobe.lab.policy import (
    PRESETS,
    NatPolicy,
    ProtocolPolicy,
    compose,
    differences,
    expected,
    expected_further,
    join,
    parse_policy,
)

EI, AD, PD, APD, CD = Dependence


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name: str) -> None:
    assert parse_policy(json.dumps(PRESETS[name].to_json())) == PRESETS[name]
    assert parse_policy(name) is PRESETS[name]


def test_a_flat_object_means_both_protocols() -> None:
    policy = parse_policy('{"mapping": "address-dependent", "translated": false}')
    assert policy == NatPolicy.alike(ProtocolPolicy(mapping=AD), translated=False)


def test_each_protocol_may_have_its_own_and_what_is_left_out_is_the_default() -> None:
    policy = parse_policy('{"udp": {"unsolicited": "icmp"}}')
    assert policy == NatPolicy(ProtocolPolicy(unsolicited=Treatment.ICMP), ProtocolPolicy())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("full-cone", "no policy is called 'full-cone': .*eim-eif"),
        ("{", "the policy is no JSON"),
        ('{"maping": "address-dependent"}', "has no 'maping': it has mapping, filtering"),
        ('{"udp": {}, "sctp": {}}', "has no 'sctp': it has udp, tcp, translated"),
        ('{"udp": {}, "mapping": "address-dependent"}', "has no 'mapping'"),
        ('{"udp": {"mapping": "symmetric"}}', "mapping is one of endpoint-independent, .* not 'symmetric'"),
        ('{"udp": 4}', "is an object with .* not 4"),
        ('{"translated": "no"}', "translated is true or false, not 'no'"),
        ('{"unsolicited": ["dropped"]}', "unsolicited is one of"),
    ],
)
def test_what_is_no_policy_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_policy(text)


def test_anything_but_an_object_is_no_policy() -> None:
    with pytest.raises(ValueError, match="not \\[\\]"):
        NatPolicy.from_json([])


def test_the_nine_pairs_are_what_their_names_say() -> None:
    names = {EI: "ei", AD: "ad", APD: "apd"}
    for mapping, m in names.items():
        for filtering, f in names.items():
            policy = PRESETS[f"{m}m-{f}f"].udp
            assert (policy.mapping, policy.filtering) == (mapping, filtering)
            assert (policy.port_assignment, policy.port_reuse) == (PortAssignment.SEQUENTIAL, PortReuse.EXCLUSIVE)


def test_a_report_is_expected_in_the_reports_own_words() -> None:
    assert expected(PRESETS["adm-eif"])["tcp"] == {
        "reachable": True,
        "translated": True,
        "mapping": "address-dependent",
        "filtering": "endpoint-independent",
    }
    assert expected(PRESETS["udp-rejected"])["udp"] == {"reachable": False}
    assert expected(PRESETS["none"])["udp"]["mapping"] == "endpoint-independent"
    assert expected(PRESETS["firewall"])["udp"] == {
        "reachable": True,
        "translated": False,
        "mapping": "endpoint-independent",
        "filtering": "address-and-port-dependent",
    }


@pytest.mark.parametrize(
    ("policy", "moves"),
    [
        (PRESETS["linux-masquerade-accept"], True),
        (PRESETS["linux-masquerade-drop"], False),
        (PRESETS["linux-masquerade-reject"], False),
        (PRESETS["none"], False),
        (NatPolicy(ProtocolPolicy(filtering=AD, unsolicited=Treatment.ACCEPTED)), False),
        (NatPolicy(ProtocolPolicy(port_reuse=PortReuse.PER_DESTINATION_ADDRESS, unsolicited=Treatment.ACCEPTED)), True),
        (NatPolicy(ProtocolPolicy(filtering=PD)), None),
        (PRESETS["linux-fully-random"], None),
        (PRESETS["udp-blocked"], None),
    ],
)
def test_what_a_gateway_takes_for_itself_moves_a_mapping_where_ports_are_shared(
    policy: NatPolicy, moves: bool | None
) -> None:
    assert expected_further(policy) == {"udp": {} if moves is None else {"unsolicited_remap": moves}, "tcp": {}}


# --- reports ----------------------------------------------------------------------------------------------------------


def report_on(policy: NatPolicy) -> dict[str, Any]:
    """Return the JSON of a report that says just what is expected."""
    profiles = {
        protocol: {key: {"value": value, "reason": "as seen"} for key, value in verdicts.items()}
        for protocol, verdicts in expected(policy).items()
    }
    return {"ipv4": profiles, "ipv6": None}


@pytest.mark.parametrize("name", PRESETS)
def test_a_right_report_has_no_differences(name: str) -> None:
    assert differences(PRESETS[name], report_on(PRESETS[name])) == []


def test_each_wrong_verdict_is_told_with_its_reason() -> None:
    report = report_on(PRESETS["eim-eif"])
    report["ipv4"]["udp"]["mapping"] |= {"value": "address-dependent", "reason": "two ports"}
    report["ipv4"]["tcp"]["filtering"] |= {"value": None, "reason": "too much loss"}
    report["ipv4"]["tcp"]["translated"]["value"] = False
    del report["ipv4"]["tcp"]["mapping"]
    assert differences(PRESETS["eim-eif"], report) == [
        "udp mapping: expected endpoint-independent, but the report says address-dependent: two ports",
        "tcp translated: expected true, but the report says false: as seen",
        "tcp mapping: expected endpoint-independent, but the report has no such verdict",
        "tcp filtering: expected endpoint-independent, but not determined: too much loss",
    ]


def test_a_protocol_that_was_not_probed_is_not_compared() -> None:
    report = report_on(PRESETS["eim-eif"])
    report["ipv4"]["tcp"] = None
    assert differences(PRESETS["eim-eif"], report) == []
    assert differences(PRESETS["eim-eif"], {"ipv4": None}) == ["the report has no ipv4 profile"]


def test_a_verdict_of_the_default_tier_is_compared_where_it_is_there() -> None:
    policy = PRESETS["linux-masquerade-accept"]
    report = report_on(policy)
    assert differences(policy, report) == []
    report["ipv4"]["udp"]["unsolicited_remap"] = {"value": False, "reason": "it stayed"}
    assert differences(policy, report) == [
        "udp unsolicited_remap: expected true, but the report says false: it stayed",
    ]


# --- two in series ----------------------------------------------------------------------------------------------------


def test_the_join_looks_at_all_that_either_looks_at() -> None:
    assert join(EI, AD) is AD
    assert join(AD, PD) is APD
    assert join(PD, APD) is APD
    assert join(CD, EI) is CD
    assert join() is EI


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize(
    ("inner", "outer", "mapping", "filtering"),
    [
        ("eim-eif", "apdm-apdf", APD, APD),
        ("apdm-adf", "eim-eif", APD, AD),
        ("eim-adf", "adm-eif", AD, AD),
        ("linux-masquerade", "linux-masquerade", EI, APD),
    ],
)
def test_the_weaker_of_two_gateways_wins_each_axis(
    inner: str, outer: str, mapping: Dependence, filtering: Dependence, protocol: Protocol
) -> None:
    both = compose(PRESETS[inner], PRESETS[outer]).of(protocol)
    assert (both.mapping, both.filtering) == (mapping, filtering)


@pytest.mark.parametrize("name", PRESETS)
def test_a_plain_router_before_or_behind_changes_nothing_that_is_seen(name: str) -> None:
    for both in (compose(PRESETS["none"], PRESETS[name]), compose(PRESETS[name], PRESETS["none"])):
        assert expected(both) == expected(PRESETS[name])
        assert both.udp.unsolicited is PRESETS[name].udp.unsolicited


def test_ports_are_chosen_by_the_last_translator_that_does_not_keep_them() -> None:
    chosen = {
        ("eim-eif", "linux-masquerade"): PortAssignment.SEQUENTIAL,
        ("linux-masquerade", "eim-eif"): PortAssignment.SEQUENTIAL,
        ("linux-masquerade", "linux-masquerade"): PortAssignment.PRESERVING,
        ("none", "linux-masquerade"): PortAssignment.PRESERVING,
        ("eim-eif", "linux-fully-random"): PortAssignment.RANDOM,
    }
    for (inner, outer), assignment in chosen.items():
        assert compose(PRESETS[inner], PRESETS[outer]).udp.port_assignment is assignment


def detailed(**details: Any) -> NatPolicy:
    return NatPolicy.alike(ProtocolPolicy(filtering=AD, details=Details(**details)))


def test_of_two_nats_the_flow_lives_as_long_as_both_remember_it() -> None:
    both = compose(detailed(lifetime=30, quota=500), detailed(lifetime_stream=60, quota=100)).udp.details
    assert both.lifetimes(Protocol.UDP) == (30, 60, 300)
    assert both.quota == 100
    assert compose(detailed(quota=5), detailed()).udp.details.quota == 5


@pytest.mark.parametrize(("inner", "outer"), [(Refresh.BOTH, Refresh.OUTBOUND), (Refresh.OUTBOUND, Refresh.BOTH)])
def test_of_two_nats_the_one_that_is_refreshed_less_decides(inner: Refresh, outer: Refresh) -> None:
    assert compose(detailed(refresh=inner), detailed(refresh=outer)).udp.details.refresh is Refresh.OUTBOUND


def test_a_host_is_let_in_as_a_whole_where_all_that_filter_do_so() -> None:
    per_host, open_ = detailed(filter_per_host=True), PRESETS["eim-eif"]
    assert compose(per_host, open_).udp.details.filter_per_host
    assert compose(per_host, per_host).udp.details.filter_per_host
    assert not compose(per_host, detailed()).udp.details.filter_per_host
    assert not compose(open_, open_).udp.details.filter_per_host


def test_the_details_of_ports_are_those_of_whoever_chooses_them() -> None:
    steps = detailed(port_step=4, parity=True)
    assert compose(steps, PRESETS["linux-masquerade"]).udp.details.port_step == 4
    assert compose(steps, PRESETS["eim-eif"]).udp.details.port_step == 1
    assert compose(PRESETS["eim-eif"], steps).udp.details.parity


@pytest.mark.parametrize("name", ["linux-masquerade", "firewall"])
def test_a_plain_router_adds_no_details(name: str) -> None:
    for both in (compose(PRESETS["none"], PRESETS[name]), compose(PRESETS[name], PRESETS["none"])):
        assert both.udp.details == PRESETS[name].udp.details


def test_what_blocks_first_is_what_answers() -> None:
    assert compose(PRESETS["udp-rejected"], PRESETS["udp-blocked"]).udp.outbound is Treatment.ICMP
    assert compose(PRESETS["none"], PRESETS["udp-blocked"]).udp.outbound is Treatment.DROPPED
