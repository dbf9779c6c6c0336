"""What a connection does while it is made and used, and in what words its failures are told."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from enum import StrEnum

from aioice import Connection
from aioice.stun import TransactionFailed, TransactionTimeout

from natprobe.webrtc.phrases import error_words


class Step(StrEnum):
    """What happened to a connection."""

    GATHERING = "gathering"
    SERVER_ANSWERED = "server-answered"
    SERVER_FAILED = "server-failed"
    GATHERED = "gathered"
    FIRST_CHECK = "first-check"
    NOMINATED = "nominated"
    CONNECTED = "connected"
    RELAYED_THOUGH_DIRECT = "relayed-though-direct"
    FAILED = "failed"
    CONSENT_MISSED = "consent-missed"
    CONSENT_LOST = "consent-lost"
    CLOSED = "closed"


Listener = Callable[[Connection, Step, str, str], None]
"""Is called with the connection, the step, its subject (a URL, a pair) and a detail in words; it must not raise."""


def why(failure: BaseException, waited: float) -> str:
    """Return why a question to a server came to nothing after ``waited`` seconds."""
    match failure:
        case TransactionFailed():
            code, reason = failure.response.attributes.get("ERROR-CODE", (0, ""))
            return error_words(code, reason) if code else "an error without a code"
        case TransactionTimeout():
            return "no answer"
        case asyncio.CancelledError():
            return f"no answer within {waited:.1f} s"
        case ssl.SSLCertVerificationError():
            return f"its certificate was refused: {failure.verify_message}"
        case OSError(errno=int(number)) if number > 0 and not isinstance(failure, ssl.SSLError):
            return os.strerror(number)  # asyncio puts its own words in place of the system's
    return str(failure) or type(failure).__name__
