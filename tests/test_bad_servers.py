"""Against servers that are broken, misconfigured or hostile: real sockets on loopback, no NAT and no filter.

So the truth is known: every mapping and every filter is endpoint-independent. A verdict is right, or it is not
determined and names the culprit; each test says what a tool that trusts its servers would have printed.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest
from bad_servers import BadServer, Fault

from natprobe import Certainty, Dependence, Profile, Protocol, Tier, classify
from natprobe.errors import NoServerAnswered
from natprobe.observation import Exchange, Outcome, Purpose, Volley
from natprobe.report import Report

ADDRESSES = ("127.0.0.2", "127.0.0.3")
GOOD_ADDRESSES = ("127.0.0.4", "127.0.0.5")
PORTS = (34780, 34781)
CONTACT, SAME_ADDRESS, SAME_PORT, BOTH = (f"{address}:{port}" for address in ADDRESSES for port in PORTS)

EI = Dependence.ENDPOINT_INDEPENDENT


async def report_on(*servers: str, tier: Tier = Tier.QUICK) -> Report:
    """Classify UDP through these servers."""
    report = await classify(servers, versions=[4], protocols=[Protocol.UDP], tier=tier)
    assert Report.loads(report.dumps()).to_json() == report.to_json()
    return report


async def profile_of(fault: Fault) -> Profile:
    """Classify UDP through one server with this fault, and make sure that nothing untrue is told."""
    async with BadServer(fault, ADDRESSES, PORTS) as server:
        report = await report_on(str(server.contact), tier=Tier.DEFAULT)
    profile = udp(report)
    assert profile.unsolicited_remap
    assert profile.unsolicited_remap.value in (False, None)
    return profile


def udp(report: Report) -> Profile:
    assert report.ipv4
    assert report.ipv4.udp
    profile = report.ipv4.udp
    assert profile.reachable.value is True
    assert profile.mapping.value in (EI, None)
    assert profile.filtering.value in (EI, None)
    return profile


async def failure_of(fault: Fault) -> str:
    """Return the line with which a run ends that one server with this fault leaves without any answer."""
    async with BadServer(fault, ADDRESSES, PORTS) as server:
        with pytest.raises(NoServerAnswered) as stopped:
            await report_on(str(server.contact))
    return str(stopped.value)


# --- nothing wrong, or nothing that matters ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Fault.NONE, Fault.DELAYS_CHANGE, Fault.DUPLICATES, Fault.ECHOES_LATE],
)
async def test_what_a_client_must_bear(fault: Fault) -> None:
    profile = await profile_of(fault)
    assert (profile.translated.value, profile.mapping.value, profile.filtering.value) == (False, EI, EI)
    assert profile.mapping.certainty is profile.filtering.certainty is Certainty.CONFIRMED


async def test_endless_duplicates_are_recorded_once() -> None:
    async with BadServer(Fault.DUPLICATES, ADDRESSES, PORTS) as server:
        report = await report_on(str(server.contact))
    for volley in (fact for fact in report.observations if isinstance(fact, Volley)):
        assert len(volley.arrivals) == len(set(volley.arrivals)) <= len(volley.asked)


@pytest.mark.slow
async def test_a_rate_limit_treats_control_and_tests_alike() -> None:
    """Were the control always the first of its burst, it would be all that is answered: a filter, "confirmed"."""
    profile = await profile_of(Fault.HEAD_OF_BURST)
    assert profile.mapping.value is EI
    assert profile.filtering.value is EI


# --- change requests: the three classic traps and their kin -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "culprit"),
    [
        # Six of eight tools take any answer for one from elsewhere: "endpoint-independent filtering" behind any NAT.
        (Fault.IGNORES_CHANGE, f"the server answered from {CONTACT} in place of it"),
        # As above, or an endless loop.
        (Fault.REFUSES_CHANGE, "the server refuses to change its source (error 420)"),
        # "Port restricted", for silence is silence.
        (Fault.DROPS_CHANGE, "the server has not shown that it can send from there"),
    ],
)
async def test_a_server_that_cannot_change_its_source_tests_no_filter(fault: Fault, culprit: str) -> None:
    profile = await profile_of(fault)
    assert profile.mapping.value is EI
    assert profile.filtering.value is None
    for sender in (SAME_ADDRESS, SAME_PORT, BOTH):
        assert sender in profile.filtering.reason
    assert culprit in profile.filtering.reason


@pytest.mark.slow
async def test_a_server_that_changes_its_port_alone_tells_half() -> None:
    profile = await profile_of(Fault.CHANGES_PORT_ONLY)
    assert profile.filtering.value is None
    assert "cannot tell endpoint-independent and address-dependent apart" in profile.filtering.reason
    assert f"{SAME_ADDRESS} came in" in profile.filtering.reason
    assert f"the server answered from {SAME_ADDRESS} in place of it" in profile.filtering.reason


@pytest.mark.slow
async def test_a_server_that_was_found_out_is_not_asked_for_a_proof() -> None:
    async with BadServer(Fault.IGNORES_CHANGE, ADDRESSES, PORTS) as server:
        report = await report_on(str(server.contact))
    assert not [fact for fact in report.observations if isinstance(fact, Exchange) and fact.purpose is Purpose.PROOF]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.IGNORES_CHANGE, Fault.REFUSES_CHANGE])
async def test_where_one_server_refuses_the_next_one_tests_the_filter(fault: Fault) -> None:
    async with (
        BadServer(fault, ADDRESSES, PORTS) as bad,
        BadServer(Fault.NONE, GOOD_ADDRESSES, PORTS) as good,
    ):
        profile = udp(await report_on(str(bad.contact), str(good.contact)))
    assert profile.filtering.value is EI
    assert f"after sending to {good.contact} alone" in profile.filtering.reason


# --- the other address ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "culprit"),
    [
        (Fault.PLAIN, "it names no other address: it does not support RFC 5780"),
        # natdiscovery prints nothing at all; others wait for an answer from 0.0.0.0.
        (Fault.OTHER_UNSPECIFIED, "its OTHER-ADDRESS cannot be reached from here"),
    ],
)
async def test_a_server_without_an_alternate_is_named(fault: Fault, culprit: str) -> None:
    profile = await profile_of(fault)
    assert profile.filtering.value is None
    assert profile.filtering.reason == f"{CONTACT} cannot test it: {culprit}"
    assert (profile.mapping.value, profile.mapping.certainty) == (EI, Certainty.LIKELY)
    assert f"no NAT: {CONTACT} sees" in profile.mapping.reason


async def test_an_alternate_on_the_same_address_tests_half() -> None:
    """coturn on its second address. Others conclude "address-dependent" or better from it, unqualified."""
    profile = await profile_of(Fault.OTHER_SAME_ADDRESS)
    assert profile.filtering.value is None
    assert "cannot tell endpoint-independent and address-dependent apart" in profile.filtering.reason
    assert f"{CONTACT}: its OTHER-ADDRESS repeats its own address" in profile.filtering.reason


async def test_an_alternate_on_the_same_port_tests_the_other_half() -> None:
    profile = await profile_of(Fault.OTHER_SAME_PORT)
    assert profile.filtering.value is None
    assert "cannot tell endpoint-independent and port-dependent apart" in profile.filtering.reason
    assert f"{CONTACT}: its OTHER-ADDRESS has its own port" in profile.filtering.reason


@pytest.mark.slow
async def test_a_dead_alternate_is_no_mapping_and_no_filter() -> None:
    """natdiscovery compares with what it heard before: "endpoint-independent mapping" on any NAT."""
    profile = await profile_of(Fault.OTHER_DEAD)
    assert profile.filtering.value is None
    assert "on 1 address" in profile.mapping.reason


@pytest.mark.slow
async def test_an_alternate_that_no_route_leads_to_stops_nothing() -> None:
    profile = await profile_of(Fault.OTHER_ELSEWHERE)
    assert (profile.mapping.value, profile.mapping.certainty) == (EI, Certainty.LIKELY)
    assert profile.filtering.value is None


# --- answers that are none --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "culprit"),
    [
        (Fault.WRONG_SOURCE, f"answered from {SAME_ADDRESS}"),
        (Fault.WRONG_TRANSACTION, "wrong transaction ID"),
        (Fault.GARBAGE, "what came back is no STUN"),
    ],
)
async def test_what_answers_no_question_is_no_answer(fault: Fault, culprit: str) -> None:
    told = await failure_of(fault)
    assert f"{CONTACT} over UDP: " in told
    assert culprit in told


@pytest.mark.parametrize(
    ("fault", "culprit"),
    [
        (Fault.ERROR, "error 500"),
        (Fault.MAPPED_IPV6, "answered that it saw [2001:db8::7]:7"),  # "translated", by everyone who prints it
        (Fault.MAPPED_NOTHING, "answered that it saw 0.0.0.0:0"),
        (Fault.MAPPED_MISSING, "answered without saying what it saw"),
    ],
)
async def test_an_answer_that_says_nothing_ends_the_question_at_once(fault: Fault, culprit: str) -> None:
    assert f"{CONTACT} over UDP: {culprit}" in await failure_of(fault)


@pytest.mark.slow
async def test_transactions_that_are_mixed_up_prove_nothing() -> None:
    profile = await profile_of(Fault.REPLAYED_TRANSACTION)
    assert profile.filtering.value is None


async def test_a_mapping_that_changes_from_request_to_request_is_none() -> None:
    """A server behind a proxy of its own. Others call it symmetric."""
    profile = await profile_of(Fault.MAPPED_AT_RANDOM)
    assert profile.mapping.value is None
    assert f"the mapping towards {CONTACT} moved" in profile.mapping.reason


@pytest.mark.slow
async def test_a_server_that_dies_after_its_greeting_tells_nothing_and_is_named() -> None:
    profile = await profile_of(Fault.DIES)
    assert (profile.mapping.value, profile.filtering.value) == (None, None)
    for verdict in (profile.mapping, profile.filtering):
        assert CONTACT in verdict.reason or SAME_ADDRESS in verdict.reason


# --- several servers --------------------------------------------------------------------------------------------------


SILENT_OR_WORSE = [Fault.WRONG_SOURCE, Fault.WRONG_TRANSACTION, Fault.GARBAGE, Fault.ERROR, Fault.MAPPED_IPV6]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["bad first", "bad last"])
@pytest.mark.parametrize("fault", SILENT_OR_WORSE)
async def test_a_useless_server_in_a_list_harms_nobody(fault: Fault, order: Sequence[int]) -> None:
    async with (
        BadServer(fault, ADDRESSES, PORTS) as bad,
        BadServer(Fault.NONE, GOOD_ADDRESSES, PORTS) as good,
    ):
        servers = str(bad.contact), str(good.contact)
        report = await report_on(*(servers[index] for index in order))
    profile = udp(report)
    assert (profile.mapping.value, profile.filtering.value) == (EI, EI)
    assert report.duration_s < 1


async def test_a_dead_server_in_a_list_costs_little() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind((ADDRESSES[0], PORTS[0]))
        async with BadServer(Fault.NONE, GOOD_ADDRESSES, PORTS) as good:
            report = await report_on(CONTACT, str(good.contact))
    profile = udp(report)
    assert (profile.mapping.value, profile.filtering.value) == (EI, EI)
    assert report.duration_s < 1


@pytest.mark.slow
async def test_a_port_where_nobody_listens_is_told_by_icmp() -> None:
    async with BadServer(Fault.NONE, GOOD_ADDRESSES, PORTS) as good:
        report = await report_on(CONTACT, str(good.contact))
    hellos = {str(e.remote): e for e in report.observations if isinstance(e, Exchange) and e.purpose is Purpose.HELLO}
    assert hellos[CONTACT].outcome is Outcome.REJECTED
    assert hellos[CONTACT].detail == "port unreachable"


@pytest.mark.parametrize("answers", [True, False], ids=["which answers", "which is silent"])
async def test_who_was_greeted_is_no_stranger_to_a_filter(answers: bool) -> None:
    """Another server on the alternate address has been sent to, and that alone opens a filter that is kept by address.

    Who goes by the answers alone counts a silent one as never contacted, and reads any filter as
    endpoint-independent.
    """
    async with BadServer(Fault.NONE, ADDRESSES, PORTS) as server:
        greeted = BOTH if answers else f"{ADDRESSES[1]}:34799"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind((ADDRESSES[1], 34799))
            report = await report_on(str(server.contact), greeted)
    volleys = [fact for fact in report.observations if isinstance(fact, Volley) and fact.purpose is Purpose.FILTERING]
    assert {str(sender) for volley in volleys for sender in volley.asked} == {CONTACT, SAME_ADDRESS}
    filtering = udp(report).filtering
    assert filtering.value is None
    assert f"{SAME_PORT} and {BOTH} could not be used: a server was greeted there" in filtering.reason


async def test_two_plain_servers_tell_what_they_can() -> None:
    async with (
        BadServer(Fault.PLAIN, ADDRESSES, PORTS) as one,
        BadServer(Fault.PLAIN, GOOD_ADDRESSES, PORTS) as two,
    ):
        profile = udp(await report_on(str(one.contact), str(two.contact)))
    assert (profile.mapping.value, profile.mapping.certainty) == (EI, Certainty.CONFIRMED)
    assert "no NAT" in profile.mapping.reason
    for server in (one, two):
        assert f"{server.contact} cannot test it" in profile.filtering.reason


@pytest.mark.parametrize("fault", Fault)
async def test_beside_a_good_server_a_bad_one_makes_no_difference_to_filtering(fault: Fault) -> None:
    async with (
        BadServer(Fault.NONE, GOOD_ADDRESSES, PORTS) as good,
        BadServer(fault, ADDRESSES, PORTS) as bad,
    ):
        profile = udp(await report_on(str(good.contact), str(bad.contact)))
    assert profile.filtering.value is EI
