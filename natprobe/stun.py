"""STUN messages to bytes and back (RFC 8489 §5, §14; RFC 5780 §7; the RFC 3489 forms), and nothing else.

A probe must see what really arrived, so a decoded message keeps every attribute, known or not, in its order; what is
not a well-formed message is refused with the offset and the reason. No I/O, no clock, no randomness but for the
transaction ID of a new request.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address

from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage

MAGIC_COOKIE = 0x2112A442
HEADER_SIZE = 20
MAX_SIZE = 2048
"""Longest message that is decoded, in bytes. Nothing in natprobe needs a longer one; hostile senders do."""
MAX_ATTRIBUTES = 64
_FINGERPRINT_XOR = 0x5354554E  # RFC 8489 §14.7
_FINGERPRINT_SIZE = 8

BINDING = 0x001


class Class(IntEnum):
    """The class of a message (RFC 8489 §5)."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Type(IntEnum):
    """Attribute types. From 0x8000 on they are comprehension-optional: who does not know them ignores them."""

    MAPPED_ADDRESS = 0x0001
    RESPONSE_ADDRESS = 0x0002  # RFC 3489 §11.2.2, never honoured
    CHANGE_REQUEST = 0x0003  # RFC 5780 §7.2
    SOURCE_ADDRESS = 0x0004  # RFC 3489 §11.2.5
    CHANGED_ADDRESS = 0x0005  # RFC 3489 §11.2.3
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    REALM = 0x0014
    NONCE = 0x0015
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    XOR_MAPPED_ADDRESS = 0x0020
    PADDING = 0x0026  # RFC 5780 §7.6
    RESPONSE_PORT = 0x0027  # RFC 5780 §7.5
    SOFTWARE = 0x8022
    FINGERPRINT = 0x8028
    RESPONSE_ORIGIN = 0x802B  # RFC 5780 §7.3
    OTHER_ADDRESS = 0x802C  # RFC 5780 §7.4


class Change(IntFlag):
    """The flags of CHANGE-REQUEST (RFC 5780 §7.2): answer from the other port, the other address, or both."""

    NONE = 0
    PORT = 0x2
    ADDRESS = 0x4


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute as it stands on the wire, without its padding."""

    type: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A STUN message. ``transaction_id`` has 12 bytes, or 16 in the RFC 3489 form that has no magic cookie."""

    class_: Class
    transaction_id: bytes
    attributes: tuple[Attribute, ...] = ()
    method: int = BINDING

    @property
    def legacy(self) -> bool:
        """Whether this is the RFC 3489 form, in which the magic cookie is part of the transaction ID."""
        return len(self.transaction_id) == 16

    def value(self, type_: int) -> bytes | None:
        """Return the value of the first attribute of a type; later ones are ignored (RFC 8489 §14)."""
        return next((a.value for a in self.attributes if a.type == type_), None)

    def unknown(self, known: Iterable[int]) -> tuple[int, ...]:
        """Return the comprehension-required types here that are not among ``known`` (RFC 8489 §6.3.1)."""
        understood = frozenset(known)
        return tuple(dict.fromkeys(a.type for a in self.attributes if a.type < 0x8000 and a.type not in understood))

    @property
    def mapped(self) -> Endpoint | None:
        """The reflexive transport address: XOR-MAPPED-ADDRESS, else MAPPED-ADDRESS, else None."""
        xored = self.value(Type.XOR_MAPPED_ADDRESS)
        return self._address(Type.MAPPED_ADDRESS) if xored is None else xor_address(xored, self.transaction_id)

    @property
    def origin(self) -> Endpoint | None:
        """Where the server says it answers from (RFC 5780 §7.3; RFC 3489 SOURCE-ADDRESS)."""
        return self._address(Type.RESPONSE_ORIGIN) or self._address(Type.SOURCE_ADDRESS)

    @property
    def other(self) -> Endpoint | None:
        """The server's other address and port (RFC 5780 §7.4; RFC 3489 CHANGED-ADDRESS), unverified."""
        return self._address(Type.OTHER_ADDRESS) or self._address(Type.CHANGED_ADDRESS)

    @property
    def change(self) -> Change:
        """What CHANGE-REQUEST asks for; NONE where it is absent."""
        value = self.value(Type.CHANGE_REQUEST)
        return Change.NONE if value is None else _change(value)

    @property
    def response_port(self) -> int | None:
        """The port of RESPONSE-PORT (erratum 2844: the value is 4 bytes, the port comes first)."""
        value = self.value(Type.RESPONSE_PORT)
        return None if value is None else _response_port(value)

    @property
    def error(self) -> tuple[int, str] | None:
        """The code and the phrase of ERROR-CODE (RFC 8489 §14.8)."""
        value = self.value(Type.ERROR_CODE)
        return None if value is None else _error(value)

    def _address(self, type_: int) -> Endpoint | None:
        value = self.value(type_)
        return None if value is None else address(value)

    def encode(self, *, fingerprint: bool = False) -> bytes:
        """Return the bytes of this message, with FINGERPRINT appended where asked for (RFC 8489 §14.7).

        Raises ValueError for a transaction ID of a length that neither form has.
        """
        if len(self.transaction_id) not in (12, 16):
            raise ValueError(f"a transaction ID has 12 bytes (or 16 in RFC 3489), not {len(self.transaction_id)}")
        body = b"".join(map(_encode_attribute, self.attributes))
        cookie = b"" if self.legacy else MAGIC_COOKIE.to_bytes(4, "big")
        length = len(body) + (_FINGERPRINT_SIZE if fingerprint else 0)
        data = struct.pack("!HH", _pack_type(self.method, self.class_), length) + cookie + self.transaction_id + body
        if fingerprint:
            data += struct.pack("!HHI", Type.FINGERPRINT, 4, zlib.crc32(data) ^ _FINGERPRINT_XOR)
        return data


def request(*attributes: Attribute) -> Message:
    """Return a Binding request with a transaction ID that nobody off the path can guess (RFC 8489 §5)."""
    return Message(Class.REQUEST, os.urandom(12), attributes)


def decode(data: bytes, *, legacy: bool = False) -> Message:
    """Return the message that ``data`` holds, whole: nothing may follow it.

    Raises MalformedMessage, and nothing else, for every other input: wrong lengths, a wrong magic cookie (unless
    ``legacy`` admits the RFC 3489 form), a truncated attribute, an address of an unknown family, a FINGERPRINT that is
    wrong or not last, anything longer than MAX_SIZE.
    """
    if len(data) < HEADER_SIZE:
        raise MalformedMessage(len(data), "the header is cut short")
    if len(data) > MAX_SIZE:
        raise MalformedMessage(MAX_SIZE, f"longer than {MAX_SIZE} bytes")
    type_, length, cookie = struct.unpack_from("!HHI", data)
    if type_ & 0xC000:
        raise MalformedMessage(0, "the first two bits are not zero")
    if length % 4:
        raise MalformedMessage(2, f"the length {length} is no multiple of 4")
    if length != len(data) - HEADER_SIZE:
        raise MalformedMessage(2, f"the length {length} is not that of the {len(data) - HEADER_SIZE} bytes that follow")
    if cookie != MAGIC_COOKIE and not legacy:
        raise MalformedMessage(4, "no magic cookie")
    transaction_id = bytes(data[8:20] if cookie == MAGIC_COOKIE else data[4:20])
    method, class_ = _unpack_type(type_)
    return Message(class_, transaction_id, _decode_attributes(data), method)


def message_length(header: bytes) -> int:
    """Return how long, in bytes, the message is that begins with these 4 bytes: how messages part on a TCP stream.

    Raises MalformedMessage where no STUN message begins like this.
    """
    type_, length = struct.unpack_from("!HH", header)
    if type_ & 0xC000 or length % 4 or length > MAX_SIZE - HEADER_SIZE:
        raise MalformedMessage(0, "no STUN message begins")
    return HEADER_SIZE + int(length)


def address(value: bytes) -> Endpoint:
    """Return the endpoint of a MAPPED-ADDRESS-like value (RFC 8489 §14.1). Raises MalformedMessage."""
    if len(value) not in (8, 20) or value[1] != {8: 1, 20: 2}[len(value)]:
        raise MalformedMessage(0, "no address of a known family")
    (port,) = struct.unpack_from("!H", value, 2)
    return Endpoint(IPv4Address(value[4:]) if len(value) == 8 else IPv6Address(value[4:]), port)


def xor_address(value: bytes, transaction_id: bytes) -> Endpoint:
    """Return the endpoint of an XOR-MAPPED-ADDRESS value (RFC 8489 §14.2). Raises MalformedMessage."""
    return address(_xor(value, transaction_id))


def address_attribute(type_: int, endpoint: Endpoint) -> Attribute:
    """Return an attribute of the MAPPED-ADDRESS form."""
    family = 1 if endpoint.version == 4 else 2
    return Attribute(type_, struct.pack("!xBH", family, endpoint.port) + endpoint.address.packed)


def xor_mapped_attribute(endpoint: Endpoint, transaction_id: bytes) -> Attribute:
    """Return XOR-MAPPED-ADDRESS (RFC 8489 §14.2) for a message with this transaction ID."""
    plain = address_attribute(Type.XOR_MAPPED_ADDRESS, endpoint).value
    return Attribute(Type.XOR_MAPPED_ADDRESS, _xor(plain, transaction_id))


def change_attribute(change: Change) -> Attribute:
    """Return CHANGE-REQUEST (RFC 5780 §7.2)."""
    return Attribute(Type.CHANGE_REQUEST, struct.pack("!I", change))


def response_port_attribute(port: int) -> Attribute:
    """Return RESPONSE-PORT (RFC 5780 §7.5)."""
    return Attribute(Type.RESPONSE_PORT, struct.pack("!Hxx", port))


def error_attribute(code: int, phrase: str) -> Attribute:
    """Return ERROR-CODE (RFC 8489 §14.8)."""
    return Attribute(Type.ERROR_CODE, struct.pack("!HBB", 0, code // 100, code % 100) + phrase.encode())


def unknown_attribute(types: Iterable[int]) -> Attribute:
    """Return UNKNOWN-ATTRIBUTES (RFC 8489 §14.9)."""
    return Attribute(Type.UNKNOWN_ATTRIBUTES, b"".join(struct.pack("!H", t) for t in types))


def _xor(value: bytes, transaction_id: bytes) -> bytes:
    cookie = MAGIC_COOKIE.to_bytes(4, "big")
    mask = b"\0\0" + cookie[:2] + (cookie + transaction_id)[:16]
    return bytes(a ^ b for a, b in zip(value, mask.ljust(len(value), b"\0"), strict=False))


def _pack_type(method: int, class_: Class) -> int:
    # The two class bits stand between the method's: M11..M7 C1 M6..M4 C0 M3..M0 (RFC 8489 §5, figure 3).
    return (method & 0xF80) << 2 | (class_ & 2) << 7 | (method & 0x70) << 1 | (class_ & 1) << 4 | method & 0xF


def _unpack_type(type_: int) -> tuple[int, Class]:
    method = (type_ & 0x3E00) >> 2 | (type_ & 0xE0) >> 1 | type_ & 0xF
    return method, Class((type_ & 0x100) >> 7 | (type_ & 0x10) >> 4)


def _encode_attribute(attribute: Attribute) -> bytes:
    padding = -len(attribute.value) % 4
    return struct.pack("!HH", attribute.type, len(attribute.value)) + attribute.value + b"\0" * padding


def _decode_attributes(data: bytes) -> tuple[Attribute, ...]:
    attributes: list[Attribute] = []
    offset = HEADER_SIZE
    while offset < len(data):
        type_, length = struct.unpack_from("!HH", data, offset)  # lengths are multiples of 4: a whole header is left
        end = offset + 4 + length
        if end > len(data):
            raise MalformedMessage(offset + 2, "an attribute is cut short")
        if len(attributes) == MAX_ATTRIBUTES:
            raise MalformedMessage(offset, f"more than {MAX_ATTRIBUTES} attributes")
        attribute = Attribute(type_, bytes(data[offset + 4 : end]))
        _check_value(attribute, offset + 4)
        attributes.append(attribute)
        if type_ == Type.FINGERPRINT:
            _check_fingerprint(data, offset)
        offset = end + -length % 4
    return tuple(attributes)


def _check_fingerprint(data: bytes, offset: int) -> None:
    if len(data) - offset != _FINGERPRINT_SIZE or data[offset + 2 : offset + 4] != b"\0\4":
        raise MalformedMessage(offset, "FINGERPRINT is not the last attribute")
    if struct.unpack_from("!I", data, offset + 4)[0] != zlib.crc32(data[:offset]) ^ _FINGERPRINT_XOR:
        raise MalformedMessage(offset, "wrong FINGERPRINT")


def _change(value: bytes) -> Change:
    (flags,) = _unpack("!I", value)
    return Change(flags) & (Change.PORT | Change.ADDRESS)


def _response_port(value: bytes) -> int:
    port, _ = _unpack("!HH", value)
    return port


def _error(value: bytes) -> tuple[int, str]:
    _, class_, number = _unpack("!HBB", value[:4])
    return (class_ & 7) * 100 + number, value[4:].decode("utf-8", "replace")


def _unpack(form: str, value: bytes) -> tuple[int, ...]:
    if len(value) != struct.calcsize(form):
        raise MalformedMessage(0, "the value has a wrong length")
    return struct.unpack(form, value)


# A decoded message has passed every reader that a property uses, so that no property of it can raise.
_READERS: dict[int, Callable[[bytes], object]] = {
    Type.MAPPED_ADDRESS: address,
    Type.XOR_MAPPED_ADDRESS: address,  # the family and the length are not XORed
    Type.SOURCE_ADDRESS: address,
    Type.CHANGED_ADDRESS: address,
    Type.RESPONSE_ORIGIN: address,
    Type.OTHER_ADDRESS: address,
    Type.CHANGE_REQUEST: _change,
    Type.RESPONSE_PORT: _response_port,
    Type.ERROR_CODE: _error,
}


def _check_value(attribute: Attribute, offset: int) -> None:
    reader = _READERS.get(attribute.type)
    if reader is None:
        return
    try:
        reader(attribute.value)
    except MalformedMessage as wrong:
        raise MalformedMessage(offset, f"attribute 0x{attribute.type:04x}: {wrong.reason}") from None
