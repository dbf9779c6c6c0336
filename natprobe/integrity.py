"""MESSAGE-INTEGRITY with long-term credentials (RFC 8489 §9.2, §14.5): STUN messages signed, and signatures checked.

HMAC-SHA1 only: a server that offers SHA-256 too must take a client that says nothing of it (RFC 8489 §9.2.4).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import replace

from natprobe.stun import HEADER_SIZE, Attribute, Message, Type, decode

_VALUE_SIZE = 20
_SIZE = 4 + _VALUE_SIZE


def long_term_key(username: str, realm: bytes, password: str) -> bytes:
    """Return the key of a user's messages in a realm (RFC 8489 §9.2.2), without the preparation of RFC 8265.

    The realm is taken as the server has sent it.
    """
    return hashlib.md5(b":".join((username.encode(), realm, password.encode())), usedforsecurity=False).digest()


def signed(message: Message, key: bytes) -> bytes:
    """Return the bytes of a message with MESSAGE-INTEGRITY as its last attribute."""
    blank = Attribute(Type.MESSAGE_INTEGRITY, bytes(_VALUE_SIZE))
    # The length in the header counts the attribute, the digest does not cover it (RFC 8489 §14.5).
    covered = replace(message, attributes=(*message.attributes, blank)).encode()[:-_SIZE]
    return covered + struct.pack("!HH", Type.MESSAGE_INTEGRITY, _VALUE_SIZE) + _digest(covered, key)


def verified(data: bytes, key: bytes) -> Message | None:
    """Return the message in ``data`` as far as its signature covers it; None without a right one.

    Raises MalformedMessage where ``data`` is no STUN message.
    """
    message = decode(data)
    offset = HEADER_SIZE
    for number, attribute in enumerate(message.attributes):
        if attribute.type == Type.MESSAGE_INTEGRITY:
            length = struct.pack("!H", offset + _SIZE - HEADER_SIZE)
            right = _digest(data[:2] + length + data[4:offset], key)
            # What follows can have been added by anybody (RFC 8489 §14.5).
            covered = replace(message, attributes=message.attributes[:number])
            return covered if hmac.compare_digest(attribute.value, right) else None
        offset += 4 + len(attribute.value) + -len(attribute.value) % 4
    return None


def _digest(covered: bytes, key: bytes) -> bytes:
    return hmac.digest(key, covered, "sha1")
