"""Against servers that are broken, misconfigured or hostile: real sockets on loopback, no NAT and no filter.

So the truth is known: every mapping and every filter is endpoint-independent. A verdict is right, or it is not
determined and names the culprit; each test says what a tool that trusts its servers would have printed.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest
from bad_reports import EI, PORTS, profile_of, report_on, udp
from bad_servers import BadServer, Fault

from natprobe import Certainty
from natprobe.observation import Exchange, Outcome, Purpose, Volley

ADDRESSES = ("127.0.0.2", "127.0.0.3")
GOOD_ADDRESSES = ("127.0.0.4", "127.0.0.5")
CONTACT, SAME_ADDRESS, SAME_PORT, BOTH = (f"{address}:{port}" for address in ADDRESSES for port in PORTS)


# --- nothing wrong, or nothing that matters ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Fault.NONE, Fault.DELAYS_CHANGE, Fault.DUPLICATES, Fault.ECHOES_LATE],
)
async def test_what_a_client_must_bear(fault: Fault) -> None:
    profile = await profile_of(fault, ADDRESSES)
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
    profile = await profile_of(Fault.HEAD_OF_BURST, ADDRESSES)
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
    profile = await profile_of(fault, ADDRESSES)
    assert profile.mapping.value is EI
    assert profile.filtering.value is None
    for sender in (SAME_ADDRESS, SAME_PORT, BOTH):
        assert sender in profile.filtering.reason
    assert culprit in profile.filtering.reason


@pytest.mark.slow
async def test_a_server_that_changes_its_port_alone_tells_half() -> None:
    profile = await profile_of(Fault.CHANGES_PORT_ONLY, ADDRESSES)
    assert profile.filtering.value is None
    assert "cannot tell endpoint-independent and address-dependent apart" in profile.filtering.reason
    assert f"{SAME_ADDRESS} came in" in profile.filtering.reason
    assert f"the server answered from {SAME_ADDRESS} in place of it" in profile.filtering.reason


@pytest.mark.slow
async def test_a_server_that_ceases_to_change_its_source_is_no_filter() -> None:
    """It was heard by the first port; that a second one hears nothing is the server's doing until it proves itself."""
    profile = await profile_of(Fault.CHANGES_FOR_ONE, ADDRESSES)
    assert profile.filtering.value is EI


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
    profile = await profile_of(fault, ADDRESSES)
    assert profile.filtering.value is None
    assert profile.filtering.reason == f"{CONTACT} cannot test it: {culprit}"
    assert (profile.mapping.value, profile.mapping.certainty) == (EI, Certainty.LIKELY)
    assert f"no NAT: {CONTACT} sees" in profile.mapping.reason


async def test_an_alternate_on_the_same_address_tests_half() -> None:
    """coturn on its second address. Others conclude "address-dependent" or better from it, unqualified."""
    profile = await profile_of(Fault.OTHER_SAME_ADDRESS, ADDRESSES)
    assert profile.filtering.value is None
    assert "cannot tell endpoint-independent and address-dependent apart" in profile.filtering.reason
    assert f"{CONTACT}: its OTHER-ADDRESS repeats its own address" in profile.filtering.reason


async def test_an_alternate_on_the_same_port_tests_the_other_half() -> None:
    profile = await profile_of(Fault.OTHER_SAME_PORT, ADDRESSES)
    assert profile.filtering.value is None
    assert "cannot tell endpoint-independent and port-dependent apart" in profile.filtering.reason
    assert f"{CONTACT}: its OTHER-ADDRESS has its own port" in profile.filtering.reason


@pytest.mark.slow
async def test_a_dead_alternate_is_no_mapping_and_no_filter() -> None:
    """natdiscovery compares with what it heard before: "endpoint-independent mapping" on any NAT."""
    profile = await profile_of(Fault.OTHER_DEAD, ADDRESSES)
    assert profile.filtering.value is None
    assert "on 1 address" in profile.mapping.reason


@pytest.mark.slow
async def test_an_alternate_that_no_route_leads_to_stops_nothing() -> None:
    profile = await profile_of(Fault.OTHER_ELSEWHERE, ADDRESSES)
    assert (profile.mapping.value, profile.mapping.certainty) == (EI, Certainty.LIKELY)
    assert profile.filtering.value is None


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
