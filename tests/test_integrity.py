"""MESSAGE-INTEGRITY against the RFCs' own bytes and against aioice, in both directions."""

from __future__ import annotations

import contextlib
import os

import aioice.stun
import aioice.turn
import pytest
from hypothesis import given
from hypothesis import strategies as st

from natprobe.errors import MalformedMessage
from natprobe.integrity import long_term_key, signed, verified
from natprobe.stun import Attribute, Class, Message, Type, decode

# RFC 5769 §2.4: a request with long-term authentication. The username is マトリックス, the password TheMatrIX.
LONG_TERM = bytes.fromhex("""
    00 01 00 60 21 12 a4 42 78 ad 34 33 c6 ad 72 c0 29 da 41 2e
    00 06 00 12 e3 83 9e e3 83 88 e3 83 aa e3 83 83 e3 82 af e3 82 b9 00 00
    00 15 00 1c 66 2f 2f 34 39 39 6b 39 35 34 64 36 4f 4c 33 34 6f 4c 39 46 53 54 76 79 36 34 73 41
    00 14 00 0b 65 78 61 6d 70 6c 65 2e 6f 72 67 00
    00 08 00 14 f6 70 24 65 6d d6 4a 3e 02 b8 e0 71 2e 85 c9 a2 8c a8 96 66""")
KEY = long_term_key("マトリックス", b"example.org", "TheMatrIX")

# Types that both codecs carry as plain bytes or text.
usernames = st.text(st.characters(min_codepoint=33, max_codepoint=0x3000), min_size=1, max_size=30)
nonces = st.binary(min_size=1, max_size=60)
keys = st.binary(min_size=16, max_size=16)


def test_the_rfcs_own_message_is_verified() -> None:
    message = verified(LONG_TERM, KEY)
    assert message is not None
    assert message.value(Type.REALM) == b"example.org"


def test_the_rfcs_own_message_is_signed_as_there() -> None:
    unsigned = decode(LONG_TERM)
    attributes = tuple(a for a in unsigned.attributes if a.type != Type.MESSAGE_INTEGRITY)
    assert signed(Message(Class.REQUEST, unsigned.transaction_id, attributes), KEY) == LONG_TERM


@pytest.mark.parametrize("place", range(len(LONG_TERM)))
def test_no_bit_may_change(place: int) -> None:
    changed = bytearray(LONG_TERM)
    changed[place] ^= 1
    with contextlib.suppress(MalformedMessage):
        assert verified(bytes(changed), KEY) is None


def test_another_key_is_another_signature() -> None:
    assert verified(LONG_TERM, long_term_key("マトリックス", b"example.org", "TheMatrix")) is None


def test_what_is_not_signed_is_not_verified() -> None:
    assert verified(Message(Class.SUCCESS, bytes(12)).encode(), KEY) is None


def test_what_follows_the_signature_does_not_count() -> None:
    late = Attribute(Type.SOFTWARE, b"added on the way")
    whole = decode(LONG_TERM)
    data = Message(whole.class_, whole.transaction_id, (*whole.attributes, late)).encode()
    message = verified(data, KEY)
    assert message is not None
    assert message.value(Type.SOFTWARE) is None


def test_a_fingerprint_may_follow_the_signature() -> None:
    whole = decode(LONG_TERM)
    assert verified(whole.encode(fingerprint=True), KEY) is not None


@given(usernames, nonces, keys)
def test_aioice_verifies_what_natprobe_signs(username: str, nonce: bytes, key: bytes) -> None:
    attributes = (Attribute(Type.USERNAME, username.encode()), Attribute(Type.NONCE, nonce))
    theirs = aioice.stun.parse_message(signed(Message(Class.REQUEST, os.urandom(12), attributes, 3), key))
    assert theirs.check_message_integrity(key)
    assert not theirs.check_message_integrity(key[::-1] + b"x")


@given(usernames, nonces, keys)
def test_natprobe_verifies_what_aioice_signs(username: str, nonce: bytes, key: bytes) -> None:
    theirs = aioice.stun.Message(aioice.stun.Method.ALLOCATE, aioice.stun.Class.REQUEST)
    theirs.attributes |= {"USERNAME": username, "NONCE": nonce}
    theirs.add_message_integrity(key)
    ours = verified(bytes(theirs), key)
    assert ours is not None
    assert (ours.value(Type.USERNAME), ours.value(Type.NONCE)) == (username.encode(), nonce)
    assert verified(bytes(theirs), key[::-1] + b"x") is None


@given(usernames, usernames, usernames)
def test_keys_are_those_of_aioice(username: str, realm: str, password: str) -> None:
    assert long_term_key(username, realm.encode(), password) == aioice.turn.make_integrity_key(
        username, realm, password
    )
