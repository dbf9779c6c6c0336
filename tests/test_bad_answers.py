"""Against servers whose answers are none, or say nothing: real sockets on loopback, no NAT and no filter."""

from __future__ import annotations

import pytest
from bad_reports import PORTS, failure_of, profile_of
from bad_servers import Fault

ADDRESSES = ("127.0.0.6", "127.0.0.7")
CONTACT, SAME_ADDRESS = (f"{ADDRESSES[0]}:{port}" for port in PORTS)


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
    told = await failure_of(fault, ADDRESSES)
    assert f"{CONTACT} over UDP: " in told
    assert culprit in told


@pytest.mark.parametrize(
    ("fault", "culprit"),
    [
        (Fault.ERROR, "error 500"),
        (
            Fault.MAPPED_IPV6,
            "reported the mapped address [2001:db8::7]:7, which no packet from here can have",
        ),  # "translated", by everyone who prints it
        (Fault.MAPPED_NOTHING, "reported the mapped address 0.0.0.0:0, which no packet from here can have"),
        (Fault.MAPPED_MISSING, "answered without a mapped address"),
    ],
)
async def test_an_answer_that_says_nothing_ends_the_question_at_once(fault: Fault, culprit: str) -> None:
    assert f"{CONTACT} over UDP: {culprit}" in await failure_of(fault, ADDRESSES)


@pytest.mark.slow
async def test_transactions_that_are_mixed_up_prove_nothing() -> None:
    profile = await profile_of(Fault.REPLAYED_TRANSACTION, ADDRESSES)
    assert profile.filtering.value is None


async def test_a_mapping_that_changes_from_request_to_request_is_none() -> None:
    """A server behind a proxy of its own. Others call it symmetric."""
    profile = await profile_of(Fault.MAPPED_AT_RANDOM, ADDRESSES)
    assert profile.mapping.value is None
    assert f"the mapping towards {CONTACT} moved" in profile.mapping.reason


@pytest.mark.slow
async def test_a_server_that_dies_after_its_greeting_tells_nothing_and_is_named() -> None:
    profile = await profile_of(Fault.DIES, ADDRESSES)
    assert (profile.mapping.value, profile.filtering.value) == (None, None)
    for verdict in (profile.mapping, profile.filtering):
        assert CONTACT in verdict.reason or SAME_ADDRESS in verdict.reason
