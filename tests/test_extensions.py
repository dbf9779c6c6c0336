"""The extension attributes: bytes as docs/protocol.md tells them, and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natprobe import extensions
from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.extensions import (
    Dial,
    DialOutcome,
    DialPlan,
    DialResult,
    Extension,
    PlannedReply,
    ReplyNumber,
    Source,
)
from natprobe.stun import Attribute

bytes_ = st.integers(0, 255)
sources = st.sampled_from(Source)
hundredths = st.integers(0, 0xFFFF).map(lambda steps: steps * 0.01)
milliseconds = st.integers(0, 0xFFFF).map(lambda steps: steps / 1000)
endpoints = st.builds(Endpoint, st.ip_addresses(), st.integers(0, 0xFFFF))
sites = st.lists(st.tuples(sources, endpoints), max_size=6).map(tuple)
plans = st.builds(
    DialPlan, st.lists(st.builds(Dial, sources, bytes_), max_size=6).map(tuple), milliseconds, milliseconds
)


@pytest.mark.parametrize("type_", Extension)
def test_every_type_is_comprehension_optional_and_ours(type_: Extension) -> None:
    assert 0xCA50 <= type_ <= 0xCA5F


@given(st.lists(st.builds(PlannedReply, sources, hundredths), max_size=20).map(tuple))
def test_planned_replies_are_read_as_written(replies: tuple[PlannedReply, ...]) -> None:
    assert extensions.read_reply_from(extensions.reply_from_attribute(replies).value) == replies


@given(st.builds(ReplyNumber, sources, bytes_, bytes_))
def test_a_reply_number_is_read_as_written(number: ReplyNumber) -> None:
    assert extensions.read_reply_number(extensions.reply_number_attribute(number).value) == number


@given(st.integers(1, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF))
def test_destinations_are_read_as_written(first: int, more: int, most: int) -> None:
    destinations = extensions.Destinations(range(first, min(first + more, 0xFFFF) + 1), most)
    assert extensions.read_destinations(extensions.destinations_attribute(destinations).value) == destinations


@pytest.mark.parametrize("value", ["", "0000000100000001", "0002000100000001", "000100020000"])
def test_what_is_no_range_of_destinations_is_malformed(value: str) -> None:
    with pytest.raises(MalformedMessage):
        extensions.read_destinations(bytes.fromhex(value))


@settings(max_examples=40)
@given(sites)
def test_a_site_is_read_as_written(site: extensions.Site) -> None:
    assert extensions.read_site(extensions.site_attribute(site).value) == site


@given(plans)
def test_a_dial_plan_is_read_as_written(plan: DialPlan) -> None:
    assert extensions.read_connect_back(extensions.connect_back_attribute(plan).value) == plan


@given(st.lists(st.builds(DialResult, sources, st.sampled_from(DialOutcome), bytes_), max_size=6).map(tuple))
def test_dial_results_are_read_as_written(results: tuple[DialResult, ...]) -> None:
    assert extensions.read_connect_back_result(extensions.connect_back_result_attribute(results).value) == results


@given(bytes_, bytes_)
def test_what_was_received_is_read_as_written(ttl: int, tos: int) -> None:
    assert extensions.read_received(extensions.received_attribute(ttl, tos).value) == (ttl, tos)


@given(st.integers(0, 0xFFFFFFFF))
def test_a_group_size_is_read_as_written(size: int) -> None:
    assert extensions.read_group_size(extensions.group_size_attribute(size).value) == size


WIRE = [
    (extensions.cookie_attribute(), 0xCA50, ""),
    (extensions.cookie_attribute(b"\1\2"), 0xCA50, "0102"),
    (extensions.reply_from_attribute([PlannedReply(Source.QUIET, 0.05)]), 0xCA51, "05 00 0005"),
    (extensions.reply_number_attribute(ReplyNumber(Source.QUIET, 1, 4)), 0xCA52, "05 01 04 00"),
    (
        extensions.site_attribute(((Source.LISTENS, Endpoint.parse("198.51.100.2:3478")),)),
        0xCA53,
        "80 01 0d96 c6336402",
    ),
    (
        extensions.site_attribute(((Source.QUIET, Endpoint.parse("[2001:db8::3]:3478")),)),
        0xCA53,
        "05 02 0d96 20010db8000000000000000000000003",
    ),
    (
        extensions.connect_back_attribute(DialPlan((Dial(Source.ALTERNATE, 4),), 0.1, 1.2)),
        0xCA54,
        "0064 04b0 03 04 0000",
    ),
    (
        extensions.connect_back_result_attribute([DialResult(Source.ALTERNATE, DialOutcome.SILENT, 4)]),
        0xCA55,
        "03 04 04 00",
    ),
    (extensions.received_attribute(57, 0xB8), 0xCA56, "39 b8 0000"),
    (extensions.group_attribute(b"abcd"), 0xCA57, "61626364"),
    (extensions.group_size_attribute(3), 0xCA57, "00000003"),
    (extensions.filler_attribute(4), 0xCA5F, "00000000"),
    (extensions.filler_attribute(-4), 0xCA5F, ""),
]


@pytest.mark.parametrize(("attribute", "type_", "value"), WIRE)
def test_the_bytes_are_those_of_the_protocol_page(attribute: Attribute, type_: int, value: str) -> None:
    assert attribute == Attribute(type_, bytes.fromhex(value))


READERS = [
    extensions.read_reply_from,
    extensions.read_reply_number,
    extensions.read_site,
    extensions.read_connect_back,
    extensions.read_connect_back_result,
    extensions.read_received,
    extensions.read_group_size,
]


@pytest.mark.parametrize("read", READERS)
@given(value=st.binary(max_size=48))
def test_any_bytes_are_a_value_or_malformed(read: Callable[[bytes], object], value: bytes) -> None:
    try:
        read(value)
    except MalformedMessage:
        assert len(value) != 0 or read not in (extensions.read_reply_from, extensions.read_site)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (extensions.read_reply_from, "07 00 0000"),
        (extensions.read_reply_from, "00 00 00"),
        (extensions.read_reply_number, "00 00"),
        (extensions.read_site, "00"),
        (extensions.read_site, "00 03 0000 00000000"),
        (extensions.read_site, "00 02 0000 00000000"),
        (extensions.read_connect_back, "0000"),
        (extensions.read_connect_back_result, "00 06 00 00"),
        (extensions.read_received, "00 00 00 00 00"),
        (extensions.read_group_size, "00"),
    ],
)
def test_a_value_of_no_meaning_is_malformed(read: Callable[[bytes], object], value: str) -> None:
    with pytest.raises(MalformedMessage):
        read(bytes.fromhex(value))


@pytest.mark.parametrize(
    "write",
    [
        lambda: extensions.reply_from_attribute([PlannedReply(Source.SELF, 656.0)]),
        lambda: extensions.reply_from_attribute([PlannedReply(Source.SELF, -1.0)]),
        lambda: extensions.connect_back_attribute(DialPlan((), 66.0, 1.0)),
        lambda: extensions.connect_back_attribute(DialPlan((Dial(Source.SELF, 256),), 1.0, 1.0)),
    ],
)
def test_what_the_bytes_cannot_hold_is_misuse(write: Callable[[], Attribute]) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        write()
