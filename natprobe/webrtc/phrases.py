"""The words of a STUN or TURN error: the server's own, or the RFC's where the server sends none. Pure."""

from __future__ import annotations

_STANDARD = {
    300: "Try Alternate",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    420: "Unknown Attribute",
    437: "Allocation Mismatch",
    438: "Stale Nonce",
    440: "Address Family not Supported",
    441: "Wrong Credentials",
    442: "Unsupported Transport Protocol",
    443: "Peer Address Family Mismatch",
    446: "Connection Already Exists",
    447: "Connection Timeout or Failure",
    486: "Allocation Quota Reached",
    487: "Role Conflict",
    500: "Server Error",
    508: "Insufficient Capacity",
}
"""RFC 8489 §14.8, RFC 8656 §19, RFC 6062 §6.3, RFC 8445 §7.1.3.4; 401 as servers and people write it (RFC 5389)."""


def error_words(code: int, phrase: str) -> str:
    """Return code and phrase in one line, without the blanks and NULs that some servers pad the phrase with."""
    said = "".join(filter(str.isprintable, phrase)).strip()
    return f"{code} {said or _STANDARD.get(code, '')}".strip()
