"""ICE connectivity checks and their answers as bytes (RFC 8445 §7, RFC 8489 §9.1), made and read with aioice's codec.

Pure. What is not a check or an answer to one reads as None; who sent it is only known once ``verified``.
"""

from __future__ import annotations

import re
import secrets
import struct
from dataclasses import dataclass
from typing import Any, Self

from aioice import stun

from natprobe.endpoint import Endpoint

_PRIORITY = 110 << 24 | 65535 << 8 | 255  # peer reflexive, component 1 (RFC 8445 §5.1.2.1)
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")

_SIGNED = {"MESSAGE-INTEGRITY", "FINGERPRINT"}
_CHECK = _SIGNED | {"USERNAME", "PRIORITY"}
_ROLES = {"ICE-CONTROLLING", "ICE-CONTROLLED"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an agent is known by and signs with. Raises ValueError for what RFC 8839 §5.4 does not allow."""

    ufrag: str
    password: str

    def __post_init__(self) -> None:
        if not (_UFRAG.fullmatch(self.ufrag) and _PASSWORD.fullmatch(self.password)):
            raise ValueError("no ICE credentials (RFC 8839 §5.4)")

    @classmethod
    def fresh(cls) -> Self:
        return cls(secrets.token_hex(4), secrets.token_hex(12))


@dataclass(frozen=True, slots=True)
class Packet:
    """A check, or the answer to one. ``username`` is the check's (``"receiver:sender"``) and empty for an answer."""

    transaction_id: bytes
    username: str
    _message: Any

    def verified(self, password: str) -> bool:
        """Return whether who knows ``password`` has made it: the receiver's for a check and for its answer alike."""
        return bool(self._message.check_message_integrity(password.encode()))


def read(data: bytes) -> Packet | None:
    """Return the check or successful answer in a datagram; None for anything else, whatever it may be.

    A check has all that RFC 8445 §7.1 wants, so that it is not shorter than one of ours.
    """
    try:
        message = stun.parse_message(data)
    except (ValueError, struct.error):
        return None
    given = message.attributes.keys()
    match message.message_method, message.message_class:
        case stun.Method.BINDING, stun.Class.REQUEST if given >= _CHECK and given & _ROLES:
            return Packet(message.transaction_id, str(message.attributes["USERNAME"]), message)
        case stun.Method.BINDING, stun.Class.RESPONSE if given >= _SIGNED:
            return Packet(message.transaction_id, "", message)
        case _:
            return None


def check(transaction_id: bytes, sender: Credentials, receiver: Credentials) -> bytes:
    """Return a check of the controlled agent ``sender``; it nominates nothing."""
    attributes = {
        "USERNAME": f"{receiver.ufrag}:{sender.ufrag}",
        "PRIORITY": _PRIORITY,
        "ICE-CONTROLLED": int.from_bytes(transaction_id[-8:], "big"),
    }
    return _signed(stun.Class.REQUEST, transaction_id, attributes, receiver.password)


def answer(transaction_id: bytes, source: Endpoint, password: str) -> bytes:
    """Return the answer to a check that came from ``source`` and was signed with ``password``."""
    return _signed(stun.Class.RESPONSE, transaction_id, {"XOR-MAPPED-ADDRESS": source.sockaddr}, password)


def _signed(kind: stun.Class, transaction_id: bytes, attributes: dict[str, Any], password: str) -> bytes:
    message = stun.Message(stun.Method.BINDING, kind, transaction_id, attributes)
    message.add_message_integrity(password.encode())
    return bytes(message)


def candidate(endpoint: Endpoint, number: int, *, tcp: bool = False) -> str:
    """Return a candidate for the page to try (RFC 8839 §5.1, RFC 6544 §4.5): sent checks are looked at, not paths."""
    transport, kind = ("tcp", " tcptype passive") if tcp else ("udp", "")
    priority = 126 << 24 | (65535 - number) << 8 | 255
    return f"candidate:{number} 1 {transport} {priority} {endpoint.address} {endpoint.port} typ host{kind}"
