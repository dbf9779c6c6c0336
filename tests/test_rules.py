"""What the reflector answers, request by request; and what no request can make it do."""

from __future__ import annotations

import itertools
import re
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natprobe import extensions, stun
from natprobe.endpoint import Address, Endpoint
from natprobe.extensions import Dial, DialOutcome, DialPlan, DialResult, Extension, PlannedReply, ReplyNumber, Source
from natprobe.reflector.budget import Rates
from natprobe.reflector.layout import Layout
from natprobe.reflector.rules import (
    COOKIE_LIFE,
    MAX_ATTEMPTS,
    MAX_PATIENCE,
    MAX_SPACING,
    MAX_TAG,
    Outgoing,
    Rules,
    StreamAnswer,
)
from natprobe.stun import Attribute, Change, Class, Message, Type

NOW = 1000.5
FOUR = tuple(map(ip_address, ("198.51.100.2", "198.51.100.3", "198.51.100.4")))
SIX = tuple(map(ip_address, ("2001:db8::2", "2001:db8::3", "2001:db8::4")))
CLIENT = Endpoint.parse("203.0.113.9:40000")
CLIENT_6 = Endpoint.parse("[2001:db8:1::9]:40000")


def layout_of(addresses: tuple[Address, ...] = FOUR, ports: tuple[int, ...] = (3478, 3479)) -> Layout:
    return Layout(addresses, ports, tuple(range(50001, 50001 + len(addresses))))


def rules_of(layout: Layout | None = None, *, compat: bool = False) -> Rules:
    return Rules(layout or layout_of(), key=b"k" * 32, instance=b"instance", compat=compat)


LAYOUT = layout_of()
LOCAL = LAYOUT.listening[0]
COOKIE = extensions.cookie_attribute(rules_of().cookie(CLIENT, NOW, stream=False))
STREAM_COOKIE = extensions.cookie_attribute(rules_of().cookie(CLIENT, NOW, stream=True))
STALE = extensions.cookie_attribute(rules_of().cookie(CLIENT, NOW - COOKIE_LIFE - 1, stream=False))
ASKING = extensions.cookie_attribute()
FILLER = extensions.filler_attribute(400)
CHANGE = stun.change_attribute(Change.ADDRESS | Change.PORT)


def endpoint(text: str) -> Endpoint:
    address, _, port = text.rpartition(":")
    return Endpoint.of(address.strip("[]"), int(port))  # unlike parse, with port 0 where one is wanted


def ask(
    *attributes: Attribute, rules: Rules | None = None, source: Endpoint = CLIENT, local: Endpoint = LOCAL
) -> tuple[Outgoing, ...]:
    return (rules or rules_of()).answer(stun.request(*attributes).encode(), source, local, NOW, (57, 0xB8))


def reply(*attributes: Attribute, rules: Rules | None = None, source: Endpoint = CLIENT) -> Message:
    """The one reply to a request, sent back from where the request arrived."""
    (sent,) = ask(*attributes, rules=rules, source=source)
    assert (sent.source, sent.target, sent.delay) == (LOCAL, source, 0)
    return stun.decode(sent.data)


def refusal(message: Message) -> tuple[int, bytes | None]:
    assert message.class_ is Class.ERROR
    assert message.error is not None
    return message.error[0], message.value(Type.UNKNOWN_ATTRIBUTES)


def stream(*attributes: Attribute, rules: Rules | None = None) -> StreamAnswer:
    answer = (rules or rules_of()).answer_stream(stun.request(*attributes).encode(), CLIENT, LOCAL, NOW)
    assert answer is not None
    return answer


def stream_reply(*attributes: Attribute, rules: Rules | None = None) -> Message:
    data = stream(*attributes, rules=rules).encode()
    assert data is not None
    return stun.decode(data)


# A plain request


def test_a_padded_request_learns_all_in_order_of_worth() -> None:
    request = stun.request(FILLER)
    (sent,) = rules_of().answer(request.encode(), CLIENT, LOCAL, NOW, (57, 0xB8))
    message = stun.decode(sent.data)
    assert message.transaction_id == request.transaction_id
    assert [a.type for a in message.attributes] == [0x0020, 0x802B, 0x802C, 0xCA58, 0xCA56]
    assert (message.mapped, message.origin) == (CLIENT, LOCAL)
    assert message.other == endpoint("198.51.100.3:3479")
    assert message.value(Extension.INSTANCE) == b"instance"
    assert extensions.read_received(message.value(Extension.RECEIVED) or b"") == (57, 0xB8)


@pytest.mark.parametrize(
    ("room", "types"),
    [
        (12, [0x0020]),
        (24, [0x0020, 0x802B]),
        (36, [0x0020, 0x802B, 0x802C]),
        (44, [0x0020, 0x802B, 0x802C, 0xCA56]),
        (48, [0x0020, 0x802B, 0x802C, 0xCA58]),
        (56, [0x0020, 0x802B, 0x802C, 0xCA58, 0xCA56]),
    ],
)
def test_what_does_not_fit_is_left_out(room: int, types: list[int]) -> None:
    assert [a.type for a in reply(extensions.filler_attribute(room - 4)).attributes] == types


@pytest.mark.parametrize("room", [0, 4, 8])
def test_silence_where_not_even_the_mapped_address_fits(room: int) -> None:
    filler = (extensions.filler_attribute(room - 4),) if room else ()
    assert ask(*filler) == ()


def test_ipv6_works_alike() -> None:
    layout = layout_of(SIX)
    rules, local = rules_of(layout), layout.listening[3]
    (sent,) = rules.answer(stun.request(ASKING, FILLER).encode(), CLIENT_6, local, NOW)
    message = stun.decode(sent.data)
    assert (message.mapped, message.origin) == (CLIENT_6, local)
    assert message.other == endpoint("[2001:db8::2]:3478")
    assert extensions.read_site(message.value(Extension.SITE) or b"") == layout.site(local)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n" + bytes(100),
        Message(Class.INDICATION, bytes(12), (FILLER,)).encode(),
        Message(Class.SUCCESS, bytes(12), (FILLER,)).encode(),
        Message(Class.ERROR, bytes(12), (FILLER,)).encode(),
        Message(Class.REQUEST, bytes(12), (FILLER,), method=3).encode(),
        Message(Class.REQUEST, bytes(16), (FILLER,)).encode(),
        stun.request(FILLER).encode() + b"\0\0\0\0",
    ],
)
def test_all_but_binding_requests_meet_silence(data: bytes) -> None:
    assert rules_of().answer(data, CLIENT, LOCAL, NOW) == ()
    assert rules_of().answer_stream(data, CLIENT, LOCAL, NOW) is None


@pytest.mark.parametrize("value", [b"odd", b"\0\0\0\0\x77\0\0\0"])
def test_an_extension_of_no_meaning_meets_silence(value: bytes) -> None:
    assert ask(COOKIE, Attribute(Extension.REPLY_FROM, value), FILLER) == ()
    request = stun.request(STREAM_COOKIE, Attribute(Extension.CONNECT_BACK, value), FILLER).encode()
    assert rules_of().answer_stream(request, CLIENT, LOCAL, NOW) is None


@pytest.mark.parametrize(
    "source",
    ["203.0.113.9:0", "0.0.0.0:1", "0.1.2.3:1", "224.0.0.1:1", "255.255.255.255:1", "127.0.0.1:1", "[2001:db8::1]:1"],
)
def test_nothing_is_sent_to_what_is_no_host(source: str) -> None:
    assert ask(FILLER, source=endpoint(source)) == ()


@pytest.mark.parametrize("source", ["[::]:1", "[ff02::1]:1", "[::1]:1", "192.0.2.1:1"])
def test_nothing_is_sent_to_what_is_no_ipv6_host(source: str) -> None:
    layout = layout_of(SIX)
    assert ask(FILLER, rules=rules_of(layout), source=endpoint(source), local=layout.listening[0]) == ()


def test_loopback_is_answered_from_loopback() -> None:
    layout = layout_of((ip_address("127.0.0.2"),))
    assert ask(FILLER, rules=rules_of(layout), source=endpoint("127.0.0.1:5"), local=layout.listening[0])


def test_padding_is_returned_up_to_the_requests_length() -> None:
    request = stun.request(Attribute(Type.PADDING, bytes(1400)))
    (sent,) = rules_of().answer(request.encode(), CLIENT, LOCAL, NOW)
    assert len(sent.data) == len(request.encode())
    assert stun.decode(sent.data).attributes[-1].type == Type.PADDING


@pytest.mark.parametrize("type_", [Type.RESPONSE_ADDRESS, Type.USERNAME, Type.MESSAGE_INTEGRITY, 0x7FFF])
def test_a_required_attribute_that_is_not_known_is_named(type_: int) -> None:
    message = reply(Attribute(type_, bytes(4)), FILLER)
    assert refusal(message) == (420, type_.to_bytes(2, "big"))
    assert message.other is None


def test_a_refusal_that_does_not_fit_is_silence() -> None:
    assert ask(Attribute(0x7FFF, b"")) == ()
    assert refusal(reply(Attribute(0x7FFF, bytes(12)))) == (420, b"\x7f\xff")


# The cookie


@pytest.mark.parametrize("shown", [ASKING, STALE, extensions.cookie_attribute(b"0123456789abcdef")])
def test_who_asks_for_a_cookie_gets_one_and_the_site(shown: Attribute) -> None:
    message = reply(shown, FILLER)
    assert message.value(Extension.COOKIE) == COOKIE.value
    site = extensions.read_site(message.value(Extension.SITE) or b"")
    assert dict(site[:5]) == {
        Source.SAME_ADDRESS: endpoint("198.51.100.2:50001"),
        Source.ALTERNATE_SAME_PORT: endpoint("198.51.100.3:3478"),
        Source.ALTERNATE: endpoint("198.51.100.3:50002"),
        Source.QUIET_SAME_PORT: endpoint("198.51.100.4:3478"),
        Source.QUIET: endpoint("198.51.100.4:50003"),
    }
    assert site[5:] == tuple((Source.LISTENS, listening) for listening in LAYOUT.listening)


def test_who_has_a_cookie_gets_no_other() -> None:
    assert reply(COOKIE, FILLER).value(Extension.COOKIE) is None


def test_a_cookie_costs_no_more_room_than_there_is() -> None:
    message = reply(ASKING, extensions.filler_attribute(60))
    assert message.value(Extension.COOKIE) == COOKIE.value
    assert message.value(Extension.SITE) is None


@pytest.mark.parametrize("age", [0, COOKIE_LIFE])
def test_a_cookie_is_good_for_its_life(age: int) -> None:
    request = stun.request(COOKIE, CHANGE, FILLER).encode()
    (sent,) = rules_of().answer(request, CLIENT, LOCAL, NOW + age)
    assert stun.decode(sent.data).class_ is Class.SUCCESS


@pytest.mark.parametrize("later", [-1, COOKIE_LIFE + 1])
def test_a_cookie_is_good_for_no_other_time(later: int) -> None:
    request = stun.request(COOKIE, CHANGE, FILLER).encode()
    (sent,) = rules_of().answer(request, CLIENT, LOCAL, NOW + later)
    assert refusal(stun.decode(sent.data))[0] == 420


@pytest.mark.parametrize("source", ["203.0.113.9:40001", "203.0.113.8:40000"])
def test_a_cookie_is_good_for_no_other_endpoint(source: str) -> None:
    assert refusal(reply(COOKIE, CHANGE, FILLER, source=endpoint(source)))[0] == 420


def test_a_cookie_is_good_for_no_other_protocol_and_no_other_reflector() -> None:
    assert refusal(reply(STREAM_COOKIE, CHANGE, FILLER))[0] == 420
    assert stream(COOKIE, extensions.connect_back_attribute(PLAN), FILLER).plan is None
    other = Rules(LAYOUT, key=b"o" * 32, instance=b"instance")
    assert refusal(reply(COOKIE, CHANGE, FILLER, rules=other))[0] == 420


def test_any_changed_bit_spoils_a_cookie() -> None:
    for position, bit in itertools.product(range(len(COOKIE.value)), range(8)):
        spoilt = bytearray(COOKIE.value)
        spoilt[position] ^= 1 << bit
        assert refusal(reply(extensions.cookie_attribute(bytes(spoilt)), CHANGE, FILLER))[0] == 420


def test_one_cookie_is_good_at_all_endpoints() -> None:
    for local in LAYOUT.listening:
        (sent,) = ask(COOKIE, CHANGE, FILLER, local=local)
        assert stun.decode(sent.data).class_ is Class.SUCCESS


# CHANGE-REQUEST and RESPONSE-PORT


@pytest.mark.parametrize(
    ("local", "change", "origin"),
    [
        ("198.51.100.2:3478", Change.PORT, "198.51.100.2:3479"),
        ("198.51.100.2:3478", Change.ADDRESS, "198.51.100.3:3478"),
        ("198.51.100.2:3478", Change.ADDRESS | Change.PORT, "198.51.100.3:3479"),
        ("198.51.100.3:3479", Change.PORT, "198.51.100.3:3478"),
        ("198.51.100.3:3479", Change.ADDRESS, "198.51.100.2:3479"),
        ("198.51.100.3:3479", Change.ADDRESS | Change.PORT, "198.51.100.2:3478"),
        ("198.51.100.3:3479", Change.NONE, "198.51.100.3:3479"),
    ],
)
def test_a_changed_reply_leaves_from_where_it_says(local: str, change: Change, origin: str) -> None:
    (sent,) = ask(COOKIE, stun.change_attribute(change), FILLER, local=endpoint(local))
    message = stun.decode(sent.data)
    assert (sent.source, sent.target) == (endpoint(origin), CLIENT)
    assert (message.origin, message.mapped) == (endpoint(origin), CLIENT)


@pytest.mark.parametrize("shown", [(), (ASKING,), (STALE,)])
@pytest.mark.parametrize("change", [Change.PORT, Change.ADDRESS, Change.ADDRESS | Change.PORT])
def test_a_change_without_a_cookie_is_refused_by_name(shown: tuple[Attribute, ...], change: Change) -> None:
    message = reply(*shown, stun.change_attribute(change), FILLER)
    assert refusal(message) == (420, b"\0\3")
    assert message.other is None
    assert message.value(Extension.COOKIE) == (COOKIE.value if shown else None)  # so that the next one will do


@pytest.mark.parametrize(
    ("layout", "change"),
    [
        (layout_of(FOUR[:1]), Change.ADDRESS),
        (layout_of(FOUR[:1]), Change.ADDRESS | Change.PORT),
        (layout_of(FOUR, (3478,)), Change.PORT),
        (layout_of(FOUR, (3478,)), Change.ADDRESS | Change.PORT),
    ],
)
@pytest.mark.parametrize("compat", [False, True])
def test_a_change_that_the_site_cannot_make_is_refused(layout: Layout, change: Change, compat: bool) -> None:
    for shown in (COOKIE, FILLER):
        message = reply(shown, stun.change_attribute(change), FILLER, rules=rules_of(layout, compat=compat))
        assert refusal(message) == (420, b"\0\3")


@pytest.mark.parametrize("layout", [layout_of(FOUR[:1]), layout_of(FOUR, (3478,))])
def test_no_other_address_is_told_where_there_is_none(layout: Layout) -> None:
    assert reply(FILLER, rules=rules_of(layout)).other is None


def test_one_address_with_two_ports_can_change_its_port() -> None:
    (sent,) = ask(COOKIE, stun.change_attribute(Change.PORT), FILLER, rules=rules_of(layout_of(FOUR[:1])))
    assert sent.source == endpoint("198.51.100.2:3479")


def test_response_port_goes_to_the_senders_own_address() -> None:
    (sent,) = ask(COOKIE, stun.response_port_attribute(7), FILLER)
    assert (sent.source, sent.target) == (LOCAL, CLIENT.with_port(7))
    assert stun.decode(sent.data).mapped == CLIENT


def test_response_port_and_change_go_together() -> None:
    (sent,) = ask(COOKIE, stun.response_port_attribute(7), CHANGE, FILLER)
    assert (sent.source, sent.target) == (endpoint("198.51.100.3:3479"), CLIENT.with_port(7))


def test_response_port_without_a_cookie_is_refused_by_name() -> None:
    assert refusal(reply(stun.response_port_attribute(7), FILLER)) == (420, b"\0\x27")
    assert refusal(reply(CHANGE, stun.response_port_attribute(7), FILLER)) == (420, b"\0\3\0\x27")


@pytest.mark.parametrize(
    "attributes",
    [
        (stun.response_port_attribute(7), Attribute(Type.PADDING, bytes(100))),
        (stun.response_port_attribute(0),),
        (CHANGE, extensions.reply_from_attribute([PlannedReply(Source.QUIET)])),
    ],
)
def test_a_contradiction_is_a_bad_request(attributes: tuple[Attribute, ...]) -> None:
    assert refusal(reply(COOKIE, *attributes, FILLER)) == (400, None)


# Planned replies


def planned(*replies: tuple[Source, float]) -> Attribute:
    return extensions.reply_from_attribute(itertools.starmap(PlannedReply, replies))


def test_each_planned_reply_leaves_from_its_source_at_its_time() -> None:
    plan = tuple((source, 0.02 * number) for number, source in enumerate(list(Source)[:6]))
    sent = ask(COOKIE, planned(*plan), FILLER)
    assert [(out.source, round(out.delay, 2)) for out in sent] == [
        (LAYOUT.sources(LOCAL)[source], round(delay, 2)) for source, delay in plan
    ]
    for index, out in enumerate(sent):
        message = stun.decode(out.data)
        assert out.target == CLIENT
        assert (message.mapped, message.origin, len(out.data)) == (CLIENT, out.source, 52)
        number = extensions.read_reply_number(message.value(Extension.REPLY_NUMBER) or b"")
        assert number == ReplyNumber(plan[index][0], index, 6)


def test_more_replies_than_the_request_pays_for_are_not_sent() -> None:
    plan = planned(*[(Source.SELF, 0.0)] * 9)
    room = 3 * 52 + 51 - (stun.HEADER_SIZE + 20 + 4 + 9 * 4) - 4
    sent = ask(COOKIE, plan, extensions.filler_attribute(room - room % 4))
    totals = [extensions.read_reply_number(stun.decode(out.data).value(Extension.REPLY_NUMBER) or b"") for out in sent]
    assert [(number.index, number.total) for number in totals] == [(0, 3), (1, 3), (2, 3)]


def test_a_source_that_the_site_lacks_is_left_out_and_the_index_still_tells_which_one() -> None:
    sent = ask(
        COOKIE,
        planned((Source.QUIET, 0), (Source.LISTENS, 0), (Source.SELF, 0)),
        FILLER,
        rules=rules_of(layout_of(FOUR[:2])),
    )
    numbers = [extensions.read_reply_number(stun.decode(out.data).value(Extension.REPLY_NUMBER) or b"") for out in sent]
    assert numbers == [ReplyNumber(Source.SELF, 2, 1)]


@pytest.mark.parametrize(
    "attributes",
    [
        (planned((Source.QUIET, 0)), FILLER),
        (STALE, planned((Source.QUIET, 0)), FILLER),
    ],
)
def test_a_plan_without_a_cookie_gets_a_plain_reply_with_one(attributes: tuple[Attribute, ...]) -> None:
    message = reply(*attributes)
    assert message.value(Extension.COOKIE) == COOKIE.value
    assert message.value(Extension.REPLY_NUMBER) is None


@pytest.mark.parametrize("plan", [planned(), planned((Source.LISTENS, 0))])
def test_a_plan_of_which_nothing_can_be_done_gets_a_plain_reply(plan: Attribute) -> None:
    assert reply(COOKIE, plan, FILLER).value(Extension.REPLY_NUMBER) is None


def test_planned_replies_can_go_to_another_port_of_the_sender() -> None:
    (sent,) = ask(COOKIE, planned((Source.QUIET, 0)), stun.response_port_attribute(7), FILLER)
    assert (sent.source, sent.target) == (endpoint("198.51.100.4:50003"), CLIENT.with_port(7))


def test_an_unknown_required_attribute_outweighs_a_plan() -> None:
    assert refusal(reply(COOKIE, planned((Source.QUIET, 0)), Attribute(0x7FFF, b""), FILLER))[0] == 420


# Compat


def test_a_bare_request_is_served_with_compat_only() -> None:
    message = reply(rules=rules_of(compat=True))
    assert [a.type for a in message.attributes] == [0x0020, 0x802B, 0x802C]
    assert ask() == ()


def test_compat_changes_ports_for_clients_that_know_no_cookie() -> None:
    (sent,) = ask(CHANGE, rules=rules_of(compat=True))
    assert (sent.source, stun.decode(sent.data).origin) == (endpoint("198.51.100.3:3479"),) * 2
    (sent,) = ask(stun.response_port_attribute(7), rules=rules_of(compat=True))
    assert sent.target == CLIENT.with_port(7)


@pytest.mark.parametrize("shown", [ASKING, STALE])
def test_compat_grants_no_change_to_who_knows_cookies(shown: Attribute) -> None:
    assert refusal(reply(shown, CHANGE, FILLER, rules=rules_of(compat=True))) == (420, b"\0\3")


def test_compat_refuses_at_any_length() -> None:
    assert refusal(reply(Attribute(0x7FFF, b""), rules=rules_of(compat=True))) == (420, b"\x7f\xff")


def test_compat_bounds_what_is_longer_than_its_request() -> None:
    assert all(len(out.data) == 56 for out in ask(rules=rules_of(compat=True)))
    rules = rules_of(layout_of(SIX), compat=True)
    (sent,) = ask(rules=rules, source=CLIENT_6, local=rules.layout.listening[0])
    assert len(sent.data) == 92


def test_compat_keeps_to_the_rule_for_who_sends_an_extension() -> None:
    assert ask(extensions.filler_attribute(0), rules=rules_of(compat=True)) == ()


def legacy(*attributes: Attribute) -> bytes:
    return Message(Class.REQUEST, bytes(range(16)), attributes).encode()


def test_rfc3489_is_answered_in_its_own_words_with_compat() -> None:
    (sent,) = rules_of(compat=True).answer(legacy(), CLIENT, LOCAL, NOW, (57, 0))
    message = stun.decode(sent.data, legacy=True)
    assert message.transaction_id == bytes(range(16))
    assert [a.type for a in message.attributes] == [0x0001, 0x0004, 0x0005]
    assert (message.mapped, message.origin, message.other) == (CLIENT, LOCAL, endpoint("198.51.100.3:3479"))
    (sent,) = rules_of(compat=True).answer(legacy(CHANGE), CLIENT, LOCAL, NOW)
    assert sent.source == endpoint("198.51.100.3:3479")


def test_rfc3489_needs_a_second_address_and_never_redirects() -> None:
    assert rules_of(layout_of(FOUR[:1]), compat=True).answer(legacy(), CLIENT, LOCAL, NOW) == ()
    redirected = legacy(stun.address_attribute(Type.RESPONSE_ADDRESS, endpoint("192.0.2.66:53")))
    (sent,) = rules_of(compat=True).answer(redirected, CLIENT, LOCAL, NOW)
    assert sent.target == CLIENT
    assert refusal(stun.decode(sent.data, legacy=True)) == (420, b"\0\2")


# TCP

PLAN = DialPlan((Dial(Source.ALTERNATE, 4), Dial(Source.QUIET, 99), Dial(Source.ALTERNATE, 1)), 9.0, 9.0)
CONNECT_BACK = extensions.connect_back_attribute(PLAN)


def test_a_tcp_request_is_answered_alike_without_a_ttl() -> None:
    message = stream_reply(ASKING, FILLER)
    assert [a.type for a in message.attributes] == [0x0020, 0x802B, 0x802C, 0xCA50, 0xCA53, 0xCA58]
    assert (message.mapped, message.value(Extension.COOKIE)) == (CLIENT, STREAM_COOKIE.value)
    site = dict(extensions.read_site(message.value(Extension.SITE) or b""))
    assert site[Source.QUIET] == endpoint("198.51.100.4:0")  # a fresh port for each dial
    assert site[Source.QUIET_SAME_PORT] == endpoint("198.51.100.4:3478")


@pytest.mark.parametrize("attribute", [CHANGE, stun.response_port_attribute(7), Attribute(0x7FFF, b"")])
def test_what_tcp_cannot_do_is_refused(attribute: Attribute) -> None:
    for compat in (False, True):
        message = stream_reply(STREAM_COOKIE, attribute, FILLER, rules=rules_of(compat=compat))
        assert refusal(message) == (420, attribute.type.to_bytes(2, "big"))


def test_a_change_request_that_asks_for_no_change_is_answered_over_tcp_as_over_udp() -> None:
    """stuntman's ``stunclient --protocol tcp`` sends it in every request."""
    nothing = stun.change_attribute(Change.NONE)
    assert stream_reply(nothing, FILLER).mapped == CLIENT
    assert reply(nothing, FILLER).mapped == CLIENT


def test_a_group_is_counted_in_the_reply() -> None:
    answer = stream(extensions.group_attribute(b"tag"), FILLER)
    assert answer.group == b"tag"
    message = stun.decode(answer.encode(members=7) or b"")
    assert extensions.read_group_size(message.value(Extension.GROUP) or b"") == 7


@pytest.mark.parametrize("tag", [b"", bytes(33)])
def test_a_tag_that_is_none_is_ignored(tag: bytes) -> None:
    assert stream(extensions.group_attribute(tag), FILLER).group is None


@pytest.mark.parametrize("memo", [b"", b"12345", bytes(400)])
def test_a_memo_is_passed_on_in_less_than_it_came_in(memo: bytes) -> None:
    request = stun.request(extensions.group_attribute(b"tag"), extensions.memo_attribute(memo))
    answer = rules_of().answer_stream(request.encode(), CLIENT, LOCAL, NOW)
    assert answer is not None
    assert answer.memo is not None
    assert len(answer.memo) < len(request.encode())
    assert stun.decode(answer.memo).value(Extension.MEMO) == memo


def test_a_memo_without_a_group_is_for_nobody() -> None:
    assert stream(extensions.memo_attribute(b"?"), FILLER).memo is None


def test_a_dial_plan_is_kept_within_its_caps() -> None:
    plan = stream(STREAM_COOKIE, CONNECT_BACK).plan
    assert plan == DialPlan((Dial(Source.ALTERNATE, 4), Dial(Source.QUIET, MAX_ATTEMPTS)), 0.2, 3.0)


@pytest.mark.parametrize("layout", [layout_of(), layout_of(SIX)])
def test_the_result_of_any_plan_fits_its_request(layout: Layout) -> None:
    rules, source = rules_of(layout), CLIENT if layout.addresses is FOUR else CLIENT_6
    cookie = extensions.cookie_attribute(rules.cookie(source, NOW, stream=True))
    for count in range(7):
        plan = DialPlan(tuple(Dial(kind, 1) for kind in list(Source)[:count]), 0.1, 1.0)
        request = stun.request(cookie, extensions.group_attribute(b"g"), extensions.connect_back_attribute(plan))
        answer = rules.answer_stream(request.encode(), source, layout.listening[0], NOW)
        assert answer is not None
        results = answer.undialled()
        data = answer.encode(1, results)
        assert data is not None
        assert len(data) <= len(request.encode())
        read = extensions.read_connect_back_result(stun.decode(data).value(Extension.CONNECT_BACK_RESULT) or b"")
        assert read == results == tuple(DialResult(d.source, DialOutcome.NOT_DIALLED, 0) for d in plan.dials)


@pytest.mark.parametrize("shown", [(), (ASKING,), (COOKIE,)])
def test_no_dial_without_a_cookie(shown: tuple[Attribute, ...]) -> None:
    answer = stream(*shown, CONNECT_BACK, FILLER)
    message = stun.decode(answer.encode() or b"")
    assert answer.plan is None
    assert message.value(Extension.CONNECT_BACK_RESULT) is None
    assert message.value(Extension.COOKIE) == STREAM_COOKIE.value


# The layout


@pytest.mark.parametrize(
    ("addresses", "ports", "quiet"),
    [
        ((), (1,), ()),
        ((*FOUR, ip_address("192.0.2.1")), (1,), (1, 2, 3, 4)),
        ((FOUR[0], FOUR[0]), (1,), (1, 2)),
        ((FOUR[0], SIX[0]), (1,), (1, 2)),
        (FOUR, (), (1, 2, 3)),
        (FOUR, (1, 1), (1, 2, 3)),
        (FOUR, (1, 2, 3), (1, 2, 3)),
        (FOUR, (1, 2), (1, 2)),
    ],
)
def test_a_set_that_is_no_layout_is_misuse(
    addresses: tuple[Address, ...], ports: tuple[int, ...], quiet: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="a reflector"):
        Layout(addresses, ports, quiet)


def test_the_quiet_address_only_sends() -> None:
    assert all(listening.address != FOUR[2] for listening in LAYOUT.listening)
    assert set(LAYOUT.sending) == {
        endpoint("198.51.100.2:50001"),
        endpoint("198.51.100.3:50002"),
        endpoint("198.51.100.4:50003"),
        endpoint("198.51.100.4:3478"),
        endpoint("198.51.100.4:3479"),
    }


def test_every_source_is_bound() -> None:
    for local in LAYOUT.listening:
        assert set(LAYOUT.sources(local).values()) <= {*LAYOUT.listening, *LAYOUT.sending}


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (LAYOUT, []),
        (layout_of(FOUR[:2]), ["No quiet address"]),
        (layout_of(FOUR[:1]), ["One address only"]),
        (layout_of(FOUR[:1], (3478,)), ["One address only", "One port only"]),
    ],
)
def test_what_cannot_be_tested_is_said(layout: Layout, said: list[str]) -> None:
    assert [limit.partition(":")[0] for limit in layout.limits()] == said


# The protocol page

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()


def test_the_protocol_page_names_everything() -> None:
    for member in (*Extension, *Source, *DialOutcome):
        assert member.name.replace("_", "-") in PAGE
    for member in Extension:
        assert f"0x{member:04X}" in PAGE
    for limit in (COOKIE_LIFE, MAX_ATTEMPTS, MAX_TAG, round(MAX_SPACING * 1000), round(MAX_PATIENCE * 1000)):
        assert re.search(rf"\b{limit}\b", PAGE)
    for rate in (Rates().plain, Rates().several, Rates().oversize, Rates().output):
        assert f"| {rate.per_second:,} | {rate.burst:,} |" in PAGE


def packet(block: str) -> bytes:
    """The bytes of an example: hex up to the remark that three spaces part from it; ``00*9`` is nine zero bytes."""
    told = (re.split(r"(?<=\S)   ", line)[0] for line in block.splitlines())
    zeros = re.sub(r"00\*(\d+)", lambda count: "00" * int(count[1]), " ".join(told))
    return bytes.fromhex(zeros)


def test_the_worked_example_is_what_really_happens() -> None:
    blocks = map(packet, re.findall(r"```stun \w+\n(.*?)```", PAGE, re.DOTALL))
    asking, told, planning, quiet = blocks
    (first,) = rules_of().answer(asking, CLIENT, LOCAL, 1000.0, (57, 0))
    assert first.data == told
    replies = rules_of().answer(planning, CLIENT, LOCAL, 1001.0)
    assert [reply.delay for reply in replies] == [0.0, 0.0, 0.05, 0.05]
    assert replies[1].source == endpoint("198.51.100.4:50003")
    assert replies[1].data == quiet


# What no request can do

addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6) | st.sampled_from([CLIENT.address, CLIENT_6.address])
clients = st.builds(Endpoint, addresses, st.integers(0, 0xFFFF))
layouts = st.builds(
    lambda all_, count, ports: layout_of(all_[:count], ports[:]),
    st.sampled_from([FOUR, SIX]),
    st.integers(1, 3),
    st.sampled_from([(3478,), (3478, 3479)]),
)
reflectors = st.builds(lambda layout, compat: (rules_of(layout, compat=compat), compat), layouts, st.booleans())
plans = st.lists(st.builds(PlannedReply, st.sampled_from(Source), st.sampled_from([0, 0.05, 600])), max_size=50)
wanted = st.one_of(
    st.integers(0, 400).map(extensions.filler_attribute),
    st.sampled_from(Change).map(stun.change_attribute),
    st.integers(0, 0xFFFF).map(stun.response_port_attribute),
    st.integers(0, 1500).map(lambda size: Attribute(Type.PADDING, bytes(size))),
    plans.map(extensions.reply_from_attribute),
    st.just(CONNECT_BACK),
    st.binary(max_size=40).map(extensions.group_attribute),
    st.binary(max_size=400).map(extensions.memo_attribute),
    st.just(extensions.overlap_attribute()),
    st.builds(Attribute, st.sampled_from([*Type, *Extension, 0x7FFF, 0xC000]), st.binary(max_size=24)),
)
cookies = st.sampled_from(["none", "asking", "stale", "good"])
requests = st.builds(
    Message,
    st.sampled_from([Class.REQUEST] * 9 + list(Class)),
    st.binary(min_size=12, max_size=12),
    st.lists(wanted, max_size=5).map(tuple),
)


def shown(rules: Rules, kind: str, source: Endpoint, *, stream: bool = False) -> tuple[Attribute, ...]:
    match kind:
        case "none":
            return ()
        case "asking":
            return (ASKING,)
        case "stale":
            return (extensions.cookie_attribute(rules.cookie(source, NOW - 61, stream=stream)),)
        case _:
            return (extensions.cookie_attribute(rules.cookie(source, NOW, stream=stream)),)


@settings(max_examples=60)
@given(reflectors, clients, cookies, requests, st.integers(0, 3))
def test_no_request_makes_the_reflector_a_weapon(
    reflector: tuple[Rules, bool], source: Endpoint, kind: str, request: Message, at: int
) -> None:
    (rules, compat), layout = reflector, reflector[0].layout
    local = layout.listening[at % len(layout.listening)]
    message = Message(request.class_, request.transaction_id, shown(rules, kind, source) + request.attributes)
    data = message.encode()
    sent = rules.answer(data, source, local, NOW, (64, 0))
    total = sum(len(out.data) for out in sent)
    own = [a.type for a in message.attributes if a.type in set(Extension)]
    if compat and not own:
        assert total <= max(len(data), 92)
    else:
        assert total <= len(data)
    for out in sent:
        assert out.target.address == source.address
        assert out.source in {*layout.listening, *layout.sending}
        assert stun.decode(out.data).class_ in (Class.SUCCESS, Class.ERROR)
    if kind != "good" and not compat:
        assert [(out.source, out.target, out.delay) for out in sent] == [(local, source, 0)] * len(sent)
        assert len(sent) <= 1
    if message.class_ is not Class.REQUEST or source.port == 0:
        assert sent == ()


@settings(max_examples=60)
@given(layouts, clients, cookies, requests, st.integers(0, 0xFFFFFFFF))
def test_no_tcp_reply_is_longer_than_its_request(
    layout: Layout, source: Endpoint, kind: str, request: Message, members: int
) -> None:
    rules = rules_of(layout)
    attributes = shown(rules, kind, source, stream=True) + request.attributes
    data = Message(request.class_, request.transaction_id, attributes).encode()
    answer = rules.answer_stream(data, source, layout.listening[0], NOW)
    if answer is None:
        return
    encoded = answer.encode(members, answer.undialled())
    assert encoded is None or len(encoded) <= len(data)
    assert answer.plan is None or kind == "good"


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_answered_or_ignored(data: bytes, compat: bool) -> None:
    rules = rules_of(compat=compat)
    sent = rules.answer(data, CLIENT, LOCAL, NOW, (64, 0))
    assert compat or sum(len(out.data) for out in sent) <= len(data)
    rules.answer_stream(data, CLIENT, LOCAL, NOW)
