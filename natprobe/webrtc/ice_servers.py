"""ICE servers as natprobe has them: URLs (RFC 7064, RFC 7065) and credentials. Pure."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from natprobe.endpoint import Address, split_host_port

_URL = re.compile(r"(stuns?|turns?):([^?]*)(?:\?transport=(.*))?", re.IGNORECASE)
_HOST = re.compile(r"[\w.-]+")
_SECRET = re.compile(r"(?<=:)[^?]*@|(?<=\?)(?!transport=\w*$).*", re.IGNORECASE | re.DOTALL)
"""What people put into a URL that may be secret: a user and a password before the host, a query."""
_PROCESS_KEY = secrets.token_bytes(16)


@dataclass(frozen=True, slots=True)
class IceUrl:
    """A STUN or TURN URL, read."""

    text: str
    """As it was written."""
    relay: bool
    """Whether it names a TURN server."""
    secure: bool
    host: str
    port: int
    asked_transport: str | None
    """``udp`` or ``tcp``, where the URL says so."""

    @classmethod
    def parse(cls, text: str) -> IceUrl:
        """Read a URL. Raises ValueError, with the URL and what is wrong with it."""
        found = _URL.fullmatch(text)
        shown = _shown(text)
        if text != text.strip():
            raise ValueError(f"{shown} has blanks around it: take them away")
        if not found:
            raise ValueError(f"{shown} is no STUN or TURN URL: stun:, stuns:, turn: or turns:, then the host")
        scheme, place, transport = found[1].lower(), found[2], found[3]
        if transport is not None and transport.lower() not in ("udp", "tcp"):
            hint = "; TLS is asked for by turns:, without it" if transport.lower() == "tls" else ""
            raise ValueError(f"{shown}: transport is udp or tcp{hint}")
        try:
            host, port = _host_and_port(scheme, place)
        except ValueError as wrong:
            raise ValueError(f"{shown}: {wrong}") from None
        secure = scheme.endswith("s")
        default_port = 5349 if secure else 3478
        return cls(text, scheme.startswith("turn"), secure, host, port or default_port, transport and transport.lower())

    def at(self, address: Address) -> str:
        """Return the URL of the same server at one of its addresses."""
        scheme, _, rest = self.text.partition(":")
        _, query, parameters = rest.partition("?")
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"{scheme}:{host}:{self.port}{query}{parameters}"

    @property
    def transport(self) -> str:
        """How the server is reached: ``udp``, ``tcp``, ``tls`` or ``dtls`` (RFC 7065 §3.1)."""
        if self.secure:
            return "dtls" if self.asked_transport == "udp" else "tls"
        return self.asked_transport or "udp"

    @property
    def server_name(self) -> str:
        """The name that the server's certificate must have: without a final dot (RFC 6066 §3)."""
        return self.host.removesuffix(".")

    @property
    def is_ipv6_literal(self) -> bool:
        return _is_ipv6(self.host)


def _host_and_port(scheme: str, place: str) -> tuple[str, int | None]:
    """Return the host and the port of a URL's middle part. Raises ValueError with what is wrong with it."""
    if place.startswith("//"):
        raise ValueError(f"a host follows {scheme}: at once, without //")
    if "@" in place:
        raise ValueError("a username does not stand in the URL, but beside it")
    if "," in place:
        raise ValueError("a URL names one host; several URLs are a list, each a text of its own")
    if place.startswith("{"):
        raise ValueError("braces are no part of a host: leave them out")
    if place.count(":") > 1 and not place.startswith("["):
        raise ValueError(_brackets_wanted(scheme, place))
    host, port = split_host_port(place)
    if place.startswith("["):
        if not _is_ipv6(host) or "%" in host:
            raise ValueError(f"[{host}] is no IPv6 address; in brackets stands one, without a zone (%...)")
    elif not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is no host name")
    return host, port


def _brackets_wanted(scheme: str, place: str) -> str:
    """Return how to write what may be an IPv6 address without brackets, with a port at its end or not."""
    head, _, last = place.rpartition(":")
    readings = [f"{scheme}:[{place}]"] if _is_ipv6(place) else []
    if last.isdigit() and _is_ipv6(head):
        readings.append(f"{scheme}:[{head}]:{last}")
    if not readings:
        return f"{place!r} is no host name"
    return f"an IPv6 address stands in brackets (RFC 3986 §3.2.2): {' or '.join(readings)}"


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


def _shown(text: str) -> str:
    """Return a URL for an error's text, without what may be secret in it."""
    return repr(_SECRET.sub(lambda found: "..." + "@" * found[0].endswith("@"), text))


@dataclass(frozen=True, slots=True)
class IceServer:
    """One URL with its credentials."""

    url: IceUrl
    username: str | None = None
    credential: str | None = None
    credential_type: str = "password"

    @property
    def mark(self) -> str:
        """By which these credentials are told from others: see ``mark_of``."""
        return mark_of(self.username, self.credential, self.credential_type)


def mark_of(username: str | None, credential: str | None, credential_type: str = "password") -> str:
    """Return a text by which this process, and no other, tells these credentials from others. It betrays nothing."""
    parts = repr((username, credential, credential_type))
    return hmac.digest(_PROCESS_KEY, parts.encode("utf-8", "surrogatepass"), "sha256").hex()[:16]


def timed_credentials(secret: str, expires: int, user: str = "") -> tuple[str, str]:
    """Return the username and credential that hold until ``expires`` (Unix time), for a server with a shared secret.

    coturn calls this ``use-auth-secret``; draft-uberti-behave-turn-rest describes it. Raises ValueError for a secret or
    a user that is not UTF-8.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in secret + user):
        raise ValueError("the secret and the user are not UTF-8")
    username = f"{expires}:{user}" if user else str(expires)
    return username, base64.b64encode(hmac.digest(secret.encode(), username.encode(), "sha1")).decode()
