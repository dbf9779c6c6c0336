"""What is wrong with a server's certificate, and until when it is valid. Pure.

The ssl module reads certificates that it has found valid, and nothing out of the others. The end of the validity stands
at a fixed place of every X.509 certificate (RFC 5280 §4.1), so a few lines find it.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

from natprobe.errors import MalformedMessage

_SEQUENCE, _VERSION = 0x30, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18

# X509_V_ERR_..., openssl/x509_vfy.h
_NOT_YET, _EXPIRED = 9, 10
_SELF_SIGNED = 18
_UNTRUSTED = {2, 19, 20, 21}
_OTHER_NAME = {62, 64}


def not_after(der: bytes) -> datetime | None:
    """Return until when a certificate is valid; None where its bytes are no certificate."""
    try:
        certificate = _only(der)
        fields = _elements(_only(certificate))
        first, _ = next(fields)
        # version (there or not), serialNumber, signature, issuer, validity
        _, validity = next(islice(fields, 3 if first == _VERSION else 2, None))
        return _time(*list(_elements(validity))[1])
    except (MalformedMessage, StopIteration, IndexError, ValueError):
        return None


def words(failure: ssl.SSLError, until: datetime | None, host: str) -> str:
    """Return why TLS with ``host`` failed, whose certificate is valid ``until`` then, in a line."""
    if not isinstance(failure, ssl.SSLCertVerificationError):
        reason = (failure.reason or str(failure)).replace("_", " ").lower()
        return f"what listens there does not speak TLS as it should ({reason})"
    return _certificate_words(failure, host) + _validity(failure.verify_code, until)


def _certificate_words(failure: ssl.SSLCertVerificationError, host: str) -> str:
    code = failure.verify_code
    if code == _EXPIRED:
        return "the certificate has expired"
    if code == _NOT_YET:
        return "the certificate is not valid yet"
    if code == _SELF_SIGNED:
        return "the certificate is self-signed"
    if code in _UNTRUSTED:
        return "the certificate is signed by nobody who is trusted here, or a certificate between is missing"
    if code in _OTHER_NAME:
        return f"the certificate is not for {host}"
    return f"the certificate is not valid: {failure.verify_message}"


def _validity(code: int, until: datetime | None) -> str:
    if until is None:
        return ""
    return f", on {until:%Y-%m-%d %H:%M} UTC" if code == _EXPIRED else f" (valid until {until:%Y-%m-%d})"


def _only(der: bytes) -> bytes:
    """Return the content of the SEQUENCE that ``der`` begins with."""
    tag, content = next(_elements(der))
    if tag != _SEQUENCE:
        raise MalformedMessage(0, "no SEQUENCE")
    return content


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element in a row (X.690 §8.1)."""
    offset = 0
    while offset < len(der):
        tag, length = der[offset], der[offset + 1]
        offset += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[offset : offset + size], "big")
            offset += size
        if offset + length > len(der):
            raise MalformedMessage(offset, "an element is cut short")
        yield tag, der[offset : offset + length]
        offset += length


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _UTC_TIME:  # RFC 5280 §4.1.2.5.1: years from 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise MalformedMessage(0, "no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
