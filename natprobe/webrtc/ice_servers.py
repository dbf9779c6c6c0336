"""ICE servers as applications name them: URLs (RFC 7064, RFC 7065) and credentials. Pure.

An application hands over what it would give to an RTCPeerConnection: RTCIceServer objects of aiortc's, objects in the
shape of the W3C's RTCIceServer, or plain URLs.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Any

from natprobe.endpoint import split_host_port

_URL = re.compile(r"(stuns?|turns?):([^?]*)(?:\?transport=(.*))?", re.IGNORECASE)
_HOST = re.compile(r"[^\s/@#%\\]+")


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
        if not found:
            raise ValueError(f"{text!r} is no STUN or TURN URL: stun:, stuns:, turn: or turns:, then the host")
        scheme, place, transport = found[1].lower(), found[2], found[3]
        if transport is not None and transport.lower() not in ("udp", "tcp"):
            raise ValueError(f"{text!r}: transport is udp or tcp, not {transport!r}")
        if place.startswith("//"):
            raise ValueError(f"{text!r}: a host follows {scheme}: at once, without //")
        if "@" in place:
            raise ValueError(f"{text!r}: a username does not stand in the URL, but beside it")
        host, port = split_host_port(place)
        if not _HOST.fullmatch(host):
            raise ValueError(f"{text!r}: {host!r} is no host name")
        secure = scheme.endswith("s")
        default_port = 5349 if secure else 3478
        return cls(text, scheme.startswith("turn"), secure, host, port or default_port, transport and transport.lower())

    @property
    def transport(self) -> str:
        """How the server is reached: ``udp``, ``tcp``, ``tls`` or ``dtls`` (RFC 7065 §3.1)."""
        if self.secure:
            return "dtls" if self.asked_transport == "udp" else "tls"
        return self.asked_transport or "udp"

    @property
    def is_ipv6_literal(self) -> bool:
        try:
            IPv6Address(self.host)
        except AddressValueError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class IceServer:
    """One URL with its credentials."""

    url: IceUrl
    username: str | None = None
    credential: str | None = None
    credential_type: str = "password"


def read_ice_servers(given: Iterable[Any]) -> list[IceServer]:
    """Return a server for each URL of what an application has, in its order.

    Raises ValueError for a URL that is none, TypeError for what is no ICE server at all.
    """
    return [server for server, _ in split_ice_servers(given)]


def split_ice_servers(given: Iterable[Any]) -> Iterator[tuple[IceServer, Any]]:
    """Yield each URL's server beside what it was given in."""
    for entry in [given] if isinstance(given, (str, Mapping)) else given:
        urls = _member(entry, "urls")
        for url in [urls] if isinstance(urls, str) else urls:
            credentials = (_text(entry, "username"), _text(entry, "credential"))
            yield IceServer(IceUrl.parse(url), *credentials, _text(entry, "credentialType") or "password"), entry


def _member(entry: Any, name: str) -> Any:
    if isinstance(entry, str):
        return entry if name == "urls" else None
    value = entry.get(name) if isinstance(entry, Mapping) else getattr(entry, name, None)
    if name == "urls" and not (isinstance(value, str) or (value and all(isinstance(url, str) for url in value))):
        raise TypeError(f"an ICE server has urls, a text or a list of texts, and {entry!r:.40} has not")
    return value


def _text(entry: Any, name: str) -> str | None:
    value = _member(entry, name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"the {name} of an ICE server is a text, not {type(value).__name__}")
    return value


def timed_credentials(secret: str, expires: int, user: str = "") -> tuple[str, str]:
    """Return the username and credential that hold until ``expires`` (Unix time), for a server with a shared secret.

    coturn calls this ``use-auth-secret``; draft-uberti-behave-turn-rest describes it. Raises ValueError for a secret or
    a user that is not UTF-8.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in secret + user):
        raise ValueError("the secret and the user are not UTF-8")
    username = f"{expires}:{user}" if user else str(expires)
    return username, base64.b64encode(hmac.digest(secret.encode(), username.encode(), "sha1")).decode()


def passed_over_by_aiortc(servers: Iterable[IceServer]) -> list[str | None]:
    """Return for each server why aiortc does without it, None where it would use it.

    aiortc says none of this: it takes the first STUN and the first TURN URL that it can use, in order.
    """
    taken: set[bool] = set()
    reasons = []
    for server in servers:
        reason = _no_use_to_aiortc(server)
        if reason is None and server.url.relay in taken:
            kind = "TURN" if server.url.relay else "STUN"
            reason = f"aiortc uses the first {kind} URL alone"
        elif reason is None:
            taken.add(server.url.relay)
        reasons.append(reason)
    return reasons


def _no_use_to_aiortc(server: IceServer) -> str | None:
    url = server.url
    if refused_by_aiortc(url):
        return refused_by_aiortc(url)
    if not url.relay and url.secure:
        return "aiortc ignores stuns: URLs"
    if url.transport == "dtls":
        return "aiortc ignores turns: URLs with transport=udp"
    if url.asked_transport and not url.text.endswith(url.asked_transport):
        return "aiortc ignores a transport in capitals"
    if url.relay and server.credential_type != "password":
        return f"aiortc ignores TURN credentials of type {server.credential_type}"
    return None


def refused_by_aiortc(url: IceUrl) -> str | None:
    """Return why aiortc raises ValueError for a whole configuration with this URL in it, or None."""
    if url.is_ipv6_literal:
        return "aiortc refuses a configuration with an IPv6 literal in it"
    if not url.relay and url.asked_transport:
        return "aiortc refuses a configuration with a STUN URL that names a transport (RFC 7064 has none)"
    if not url.text.partition(":")[0].islower():
        return "aiortc refuses a configuration with a URL in capitals"
    return None
