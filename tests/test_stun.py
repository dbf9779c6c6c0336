"""The codec against the RFCs' own bytes, against aioice, and against what has broken other parsers."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import struct
import zlib
from dataclasses import dataclass

import aioice.stun
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natprobe import stun
from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.stun import Attribute, Change, Class, Message, Type

TRANSACTION_ID = bytes.fromhex("b7e7a701bc34d686fa87dfae")
PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"

# RFC 5769 §2.1 to §2.3: a request, and responses over IPv4 and IPv6. Their padding is spaces, which no reader may mind.
REQUEST = bytes.fromhex("""
    00 01 00 58 21 12 a4 42 b7 e7 a7 01 bc 34 d6 86 fa 87 df ae
    80 22 00 10 53 54 55 4e 20 74 65 73 74 20 63 6c 69 65 6e 74
    00 24 00 04 6e 00 01 ff
    80 29 00 08 93 2f f9 b1 51 26 3b 36
    00 06 00 09 65 76 74 6a 3a 68 36 76 59 20 20 20
    00 08 00 14 9a ea a7 0c bf d8 cb 56 78 1e f2 b5 b2 d3 f2 49 c1 b5 71 a2
    80 28 00 04 e5 7a 3b cf""")
RESPONSE_4 = bytes.fromhex("""
    01 01 00 3c 21 12 a4 42 b7 e7 a7 01 bc 34 d6 86 fa 87 df ae
    80 22 00 0b 74 65 73 74 20 76 65 63 74 6f 72 20
    00 20 00 08 00 01 a1 47 e1 12 a6 43
    00 08 00 14 2b 91 f5 99 fd 9e 90 c3 8c 74 89 f9 2a f9 ba 53 f0 6b e7 d7
    80 28 00 04 c0 7d 4c 96""")
RESPONSE_6 = bytes.fromhex("""
    01 01 00 48 21 12 a4 42 b7 e7 a7 01 bc 34 d6 86 fa 87 df ae
    80 22 00 0b 74 65 73 74 20 76 65 63 74 6f 72 20
    00 20 00 14 00 02 a1 47 01 13 a9 fa a5 d3 f1 79 bc 25 f4 b5 be d2 b9 d9
    00 08 00 14 a3 82 95 4e 4b e6 7b f1 17 84 c9 7c 82 92 c2 75 bf e3 ed 41
    80 28 00 04 c8 fb 0b 4c""")
VECTORS = [REQUEST, RESPONSE_4, RESPONSE_6]

types = st.integers(0, 0xFFFF).filter(lambda type_: type_ not in {*stun._READERS, Type.FINGERPRINT})
attributes = st.lists(st.builds(Attribute, types, st.binary(max_size=40)), max_size=12).map(tuple)
messages = st.builds(
    Message, st.sampled_from(Class), st.binary(min_size=12, max_size=12), attributes, st.integers(0, 0xFFF)
)
endpoints = st.builds(Endpoint, st.ip_addresses(), st.integers(0, 0xFFFF))


def raw(*body: bytes, type_: int = 1, cookie: int = stun.MAGIC_COOKIE) -> bytes:
    """A message made by hand, so that it may be wrong."""
    joined = b"".join(body)
    return struct.pack("!HHI", type_, len(joined), cookie) + TRANSACTION_ID + joined


def tlv(type_: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("!HH", type_, len(value) if length is None else length) + value


# The RFCs' own bytes


def test_rfc5769_request_is_read_whole() -> None:
    message = stun.decode(REQUEST)
    assert (message.class_, message.method, message.transaction_id) == (Class.REQUEST, stun.BINDING, TRANSACTION_ID)
    assert message.value(Type.SOFTWARE) == b"STUN test client"
    assert message.value(Type.USERNAME) == b"evtj:h6vY"
    assert [a.type for a in message.attributes] == [0x8022, 0x0024, 0x8029, 0x0006, 0x0008, 0x8028]
    assert message.unknown({Type.USERNAME, Type.MESSAGE_INTEGRITY}) == (0x0024,)


@pytest.mark.parametrize(
    ("data", "mapped"),
    [(RESPONSE_4, "192.0.2.1:32853"), (RESPONSE_6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")],
)
def test_rfc5769_response_gives_the_mapped_address(data: bytes, mapped: str) -> None:
    message = stun.decode(data)
    assert message.class_ is Class.SUCCESS
    assert str(message.mapped) == mapped
    assert message.value(Type.SOFTWARE) == b"test vector"


@pytest.mark.parametrize("data", VECTORS)
def test_rfc5769_integrity_covers_what_was_decoded(data: bytes) -> None:
    # Not checked by the codec; this proves that the bytes above are those of the RFC.
    covered = data[:-32]
    covered = covered[:2] + struct.pack("!H", len(data) - 8 - stun.HEADER_SIZE) + covered[4:]
    expected = hmac.new(PASSWORD, covered, hashlib.sha1).digest()
    assert stun.decode(data).value(Type.MESSAGE_INTEGRITY) == expected


@pytest.mark.parametrize("data", VECTORS)
def test_any_changed_bit_breaks_the_fingerprint(data: bytes) -> None:
    for position in range(stun.HEADER_SIZE - 12, len(data) - 8):
        broken = bytearray(data)
        broken[position] ^= 1
        with pytest.raises(MalformedMessage):
            stun.decode(bytes(broken))


def test_a_fingerprint_that_we_add_is_accepted_by_us_and_by_aioice() -> None:
    data = Message(Class.REQUEST, TRANSACTION_ID, (Attribute(Type.SOFTWARE, b"natprobe"),)).encode(fingerprint=True)
    assert stun.decode(data).value(Type.FINGERPRINT) == data[-4:]
    assert aioice.stun.parse_message(data).attributes["FINGERPRINT"] == int.from_bytes(data[-4:], "big")


def test_rfc3489_form_keeps_its_sixteen_byte_transaction_id() -> None:
    transaction_id = bytes(range(16))
    mapped, other = Endpoint.parse("203.0.113.7:4242"), Endpoint.parse("198.51.100.2:3479")
    reply = Message(
        Class.SUCCESS,
        transaction_id,
        (
            stun.address_attribute(Type.MAPPED_ADDRESS, mapped),
            stun.address_attribute(Type.SOURCE_ADDRESS, other),
            stun.address_attribute(Type.CHANGED_ADDRESS, other),
        ),
    )
    assert reply.legacy
    assert reply.encode()[4:20] == transaction_id
    read = stun.decode(reply.encode(), legacy=True)
    assert read == reply
    assert (read.mapped, read.origin, read.other) == (mapped, other, other)
    with pytest.raises(MalformedMessage, match="no magic cookie at byte 4"):
        stun.decode(reply.encode())


def test_reading_legacy_leaves_todays_form_alone() -> None:
    assert stun.decode(RESPONSE_4, legacy=True) == stun.decode(RESPONSE_4)


# What a message says


def test_the_first_of_two_attributes_counts() -> None:
    first, second = Endpoint.parse("192.0.2.1:1"), Endpoint.parse("192.0.2.2:2")
    attributes = [stun.address_attribute(Type.OTHER_ADDRESS, endpoint) for endpoint in (first, second)]
    assert stun.decode(raw(*(tlv(a.type, a.value) for a in attributes))).other == first


def test_what_is_absent_is_none() -> None:
    message = stun.request()
    assert (message.mapped, message.origin, message.other) == (None, None, None)
    assert (message.error, message.response_port) == (None, None)
    assert message.change is Change.NONE


def test_unknown_required_attributes_are_named_once_and_in_order() -> None:
    message = stun.request(*(Attribute(type_, b"") for type_ in (0x7FFF, 0x8000, 0x0002, 0x7FFF, 0x0026)))
    assert message.unknown({Type.PADDING}) == (0x7FFF, 0x0002)


@pytest.mark.parametrize("change", [Change.NONE, Change.PORT, Change.ADDRESS, Change.PORT | Change.ADDRESS])
def test_change_request_says_what_it_was_told(change: Change) -> None:
    assert stun.decode(stun.request(stun.change_attribute(change)).encode()).change == change


def test_change_request_ignores_bits_that_mean_nothing() -> None:
    assert stun.decode(raw(tlv(Type.CHANGE_REQUEST, b"\xff\xff\xff\xff"))).change == Change.PORT | Change.ADDRESS


def test_response_port_stands_before_its_padding() -> None:
    data = stun.request(stun.response_port_attribute(0x1234)).encode()
    assert data[20:] == bytes.fromhex("0027 0004 1234 0000")
    assert stun.decode(data).response_port == 0x1234


def test_error_code_is_class_and_number() -> None:
    data = Message(Class.ERROR, TRANSACTION_ID, (stun.error_attribute(420, "Unknown Attribute"),)).encode()
    assert stun.decode(data).error == (420, "Unknown Attribute")


def test_a_phrase_that_is_no_utf8_is_still_read() -> None:
    assert stun.decode(raw(tlv(Type.ERROR_CODE, b"\0\0\4\0\xff\xfe\xfd\xfc"))).error == (400, "\ufffd" * 4)


def test_requests_never_share_a_transaction_id() -> None:
    assert len({stun.request().transaction_id for _ in range(1000)}) == 1000


def test_a_transaction_id_of_no_form_is_misuse() -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        Message(Class.REQUEST, b"short").encode()


# Every error, with its place

MALFORMED = [
    pytest.param(b"", 0, "cut short", id="nothing"),
    pytest.param(raw()[:19], 19, "cut short", id="19 bytes (pjsip #5044)"),
    pytest.param(raw(bytes(stun.MAX_SIZE)), stun.MAX_SIZE, "longer than", id="too long"),
    pytest.param(raw(type_=0x4001), 0, "first two bits", id="channel data"),
    pytest.param(raw(type_=0x8001), 0, "first two bits", id="RTP"),
    pytest.param(raw() + b"\0\0\0\0", 2, "length", id="something follows"),
    pytest.param(raw(bytes(8))[:-4], 2, "length", id="length past the end (str0m #709)"),
    pytest.param(raw(bytes(6)), 2, "length", id="length not a multiple of 4"),
    pytest.param(raw(cookie=0x2112A443), 4, "magic cookie", id="cookie"),
    pytest.param(raw(tlv(0x8022, bytes(4), 5)), 22, "cut short", id="attribute past the end (pion #278)"),
    pytest.param(raw(tlv(0x8022, b"", 0xFFFF)), 22, "cut short", id="length underflow"),
    pytest.param(raw(tlv(0x8022, b"")) + b"", None, "", id="zero-length attribute is fine"),
    pytest.param(raw(tlv(0x8030, b"") * 65), 20 + 64 * 4, "more than 64", id="too many attributes"),
    pytest.param(raw(tlv(Type.MAPPED_ADDRESS, bytes(8))), 24, "0x0001: no address", id="family 0"),
    pytest.param(raw(tlv(Type.XOR_MAPPED_ADDRESS, b"\0\2" + bytes(6))), 24, "0x0020", id="IPv6 in 8 bytes"),
    pytest.param(raw(tlv(Type.OTHER_ADDRESS, b"\0\1" + bytes(18))), 24, "0x802c", id="IPv4 in 20 bytes"),
    pytest.param(raw(tlv(Type.RESPONSE_ORIGIN, b"")), 24, "0x802b", id="empty address (sofia-sip #180)"),
    pytest.param(raw(tlv(0x8022, b""), tlv(Type.CHANGE_REQUEST, b"")), 28, "0x0003", id="empty CHANGE-REQUEST"),
    pytest.param(raw(tlv(Type.RESPONSE_PORT, b"\0\1\0\0\0\0\0\0")), 24, "0x0027", id="long RESPONSE-PORT"),
    pytest.param(raw(tlv(Type.ERROR_CODE, b"\0\0\4") + b"\0"), 24, "0x0009", id="3-byte ERROR-CODE"),
    pytest.param(raw(tlv(Type.FINGERPRINT, bytes(4))), 20, "wrong FINGERPRINT", id="fingerprint"),
    pytest.param(raw(tlv(Type.FINGERPRINT, b"")), 20, "not the last", id="empty fingerprint"),
    pytest.param(raw(tlv(Type.FINGERPRINT, bytes(4)), tlv(0x8022, b"")), 20, "not the last", id="fingerprint first"),
]


@pytest.mark.parametrize(("data", "offset", "reason"), MALFORMED)
def test_each_malformation_is_named_with_its_place(data: bytes, offset: int | None, reason: str) -> None:
    if offset is None:
        assert stun.decode(data).attributes == (Attribute(0x8022, b""),)
        return
    with pytest.raises(MalformedMessage, match=reason) as caught:
        stun.decode(data)
    assert caught.value.offset == offset


@pytest.mark.parametrize("position", range(0, 68, 4))
def test_a_message_cut_anywhere_is_refused(position: int) -> None:
    with pytest.raises(MalformedMessage):
        stun.decode(RESPONSE_4[:position])


@pytest.mark.parametrize("value", [b"", bytes(7), bytes(9), b"\0\1" + bytes(22), b"\0\2" + bytes(22)])
def test_an_address_of_a_wrong_length_is_refused(value: bytes) -> None:
    with pytest.raises(MalformedMessage):
        stun.address(value)
    with pytest.raises(MalformedMessage):
        stun.xor_address(value, TRANSACTION_ID)


@pytest.mark.parametrize("header", [b"\x40\x01\0\0", b"\x80\0\0\0", b"\0\1\0\2", b"\0\1\x08\0", b"GET "])
def test_no_message_begins_with_something_else(header: bytes) -> None:
    with pytest.raises(MalformedMessage):
        stun.message_length(header)


def test_a_stream_is_parted_by_its_first_four_bytes() -> None:
    assert [stun.message_length(data[:4]) for data in VECTORS] == [len(data) for data in VECTORS]


def test_hostile_chains_cost_no_more_than_their_length() -> None:
    # Each FINGERPRINT of this chain is right for what stands before it: 63 ms in aioice, for it sums each prefix anew.
    chain = raw()
    while len(chain) + 8 <= stun.MAX_SIZE:
        length = len(chain) + 8 - stun.HEADER_SIZE
        chain = chain[:2] + struct.pack("!H", length) + chain[4:]
        chain += tlv(Type.FINGERPRINT, struct.pack("!I", zlib.crc32(chain) ^ 0x5354554E))
    with pytest.raises(MalformedMessage, match="not the last") as caught:
        stun.decode(chain)
    assert caught.value.offset == stun.HEADER_SIZE  # the first of them: no other one was summed


# Properties


@settings(max_examples=50)
@given(messages)
def test_what_is_written_is_read_again_in_its_order(message: Message) -> None:
    assert stun.decode(message.encode()) == message


@settings(max_examples=50)
@given(messages)
def test_a_fingerprint_is_one_attribute_more(message: Message) -> None:
    read = stun.decode(message.encode(fingerprint=True))
    assert read.attributes[:-1] == message.attributes
    assert read.attributes[-1].type == Type.FINGERPRINT


@given(endpoints, st.binary(min_size=12, max_size=12))
def test_addresses_survive_both_forms(endpoint: Endpoint, transaction_id: bytes) -> None:
    plain = stun.address_attribute(Type.MAPPED_ADDRESS, endpoint)
    xored = stun.xor_mapped_attribute(endpoint, transaction_id)
    assert stun.address(plain.value) == endpoint
    assert stun.xor_address(xored.value, transaction_id) == endpoint
    assert plain.value[4:] != xored.value[4:]


def read_everything(data: bytes, *, legacy: bool) -> None:
    try:
        message = stun.decode(data, legacy=legacy)
    except MalformedMessage:
        return
    assert len(message.encode()) == len(data)
    _ = (message.mapped, message.origin, message.other, message.change, message.response_port, message.error)
    _ = (message.unknown(()), message.legacy)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_message_or_malformed(data: bytes, legacy: bool) -> None:
    read_everything(data, legacy=legacy)


@given(
    st.integers(0, 0xFFFF),
    st.lists(
        st.tuples(st.sampled_from([*Type, 0x7000, 0xCA50]), st.binary(max_size=24), st.none() | st.integers(0, 0xFFFF)),
        max_size=6,
    ),
    st.booleans(),
)
def test_any_attributes_are_a_message_or_malformed(
    type_: int, body: list[tuple[int, bytes, int | None]], legacy: bool
) -> None:
    parts = (tlv(kind, value + bytes(-len(value) % 4), length) for kind, value, length in body)
    read_everything(raw(*parts, type_=type_), legacy=legacy)


@given(st.sampled_from(VECTORS), st.integers(0, 107), st.integers(1, 255))
def test_a_vector_with_a_changed_byte_is_a_message_or_malformed(data: bytes, position: int, change: int) -> None:
    broken = bytearray(data)
    broken[position % len(data)] ^= change
    read_everything(bytes(broken), legacy=True)


@given(st.binary(min_size=4, max_size=4))
def test_any_four_bytes_begin_a_message_or_none(header: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        assert stun.HEADER_SIZE <= stun.message_length(header) <= stun.MAX_SIZE


# Against aioice, where it is right

ADDRESSES = {
    "MAPPED-ADDRESS": Type.MAPPED_ADDRESS,
    "SOURCE-ADDRESS": Type.SOURCE_ADDRESS,
    "CHANGED-ADDRESS": Type.CHANGED_ADDRESS,
    "RESPONSE-ORIGIN": Type.RESPONSE_ORIGIN,
    "OTHER-ADDRESS": Type.OTHER_ADDRESS,
}
texts = st.text("aé字 ", max_size=12)  # one to three bytes a character, so every padding


@dataclass(frozen=True)
class Told:
    """What one message says, to be written by both."""

    method: aioice.stun.Method
    class_: Class
    transaction_id: bytes
    addresses: dict[str, Endpoint]
    mapped: Endpoint
    change: Change
    error: tuple[int, str]
    software: str

    def theirs(self) -> aioice.stun.Message:
        class_ = aioice.stun.Class["RESPONSE" if self.class_ is Class.SUCCESS else self.class_.name]
        message = aioice.stun.Message(self.method, class_, self.transaction_id)
        message.attributes |= {name: endpoint.sockaddr for name, endpoint in self.addresses.items()}
        message.attributes |= {"XOR-MAPPED-ADDRESS": self.mapped.sockaddr, "CHANGE-REQUEST": int(self.change)}
        message.attributes |= {"ERROR-CODE": self.error, "SOFTWARE": self.software}
        message.add_fingerprint()
        return message

    def ours(self) -> Message:
        attributes = (
            *(stun.address_attribute(ADDRESSES[name], endpoint) for name, endpoint in self.addresses.items()),
            stun.xor_mapped_attribute(self.mapped, self.transaction_id),
            stun.change_attribute(self.change),
            stun.error_attribute(*self.error),
            Attribute(Type.SOFTWARE, self.software.encode()),
        )
        return Message(self.class_, self.transaction_id, attributes, self.method)


told = st.builds(
    Told,
    st.sampled_from(list(aioice.stun.Method)),
    st.sampled_from(Class),
    st.binary(min_size=12, max_size=12),
    st.dictionaries(st.sampled_from(list(ADDRESSES)), endpoints, max_size=5),
    endpoints,
    st.sampled_from([Change.PORT, Change.ADDRESS, Change.PORT | Change.ADDRESS]),
    st.tuples(st.integers(300, 699), texts),
    texts,
)


@settings(max_examples=30)
@given(told)
def test_aioice_and_we_write_the_same_bytes_and_read_the_same_from_them(told: Told) -> None:
    theirs, ours = told.theirs(), told.ours()
    assert ours.encode(fingerprint=True) == bytes(theirs)
    read = stun.decode(bytes(theirs))
    assert (read.mapped, read.change, read.error) == (told.mapped, told.change, told.error)
    assert aioice.stun.parse_message(ours.encode(fingerprint=True)).attributes == theirs.attributes


@settings(max_examples=50)
@given(messages)
def test_aioice_reads_what_we_write(message: Message) -> None:
    try:
        aioice.stun.Method(message.method)
    except ValueError:  # a method that it does not know is no message to it
        return
    try:
        read = aioice.stun.parse_message(message.encode())
    except (ValueError, struct.error):  # an attribute of a type that it looks into and we do not
        return
    assert read.transaction_id == message.transaction_id


# A message that aioice takes and we refuse, and why it matters.
DIFFERENCES = [
    pytest.param(raw(cookie=0), id="wrong cookie: an RFC 3489 reply read as XORed"),
    pytest.param(raw(type_=0x8001), id="first two bits: another protocol on the port"),
    pytest.param(raw(tlv(0x8022, b"abc", 9)), id="attribute past the end: a cut message read as whole"),
    pytest.param(raw(tlv(0x8022, b"ab")), id="length not a multiple of 4"),
]


@pytest.mark.parametrize("data", DIFFERENCES)
def test_we_refuse_what_aioice_lets_pass(data: bytes) -> None:
    assert aioice.stun.parse_message(data)
    with pytest.raises(MalformedMessage):
        stun.decode(data)


def test_aioice_takes_the_last_duplicate_and_drops_what_it_does_not_know() -> None:
    first, second = Endpoint.parse("192.0.2.1:1"), Endpoint.parse("192.0.2.2:2")
    data = Message(
        Class.SUCCESS,
        TRANSACTION_ID,
        (
            stun.xor_mapped_attribute(first, TRANSACTION_ID),
            stun.xor_mapped_attribute(second, TRANSACTION_ID),
            Attribute(0x7FFF, b""),
        ),
    ).encode()
    theirs, ours = aioice.stun.parse_message(data), stun.decode(data)
    assert theirs.attributes == {"XOR-MAPPED-ADDRESS": second.sockaddr}
    assert ours.mapped == first
    assert ours.unknown(()) == (Type.XOR_MAPPED_ADDRESS, 0x7FFF)


def test_a_wrong_length_is_our_one_error_and_another_one_of_aioice() -> None:
    data = raw(tlv(Type.CHANGE_REQUEST, bytes(8)))
    with pytest.raises(struct.error):
        aioice.stun.parse_message(data)
    with pytest.raises(MalformedMessage):
        stun.decode(data)
