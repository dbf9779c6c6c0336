"""Which ICE servers to give to aiortc, and in which order. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from natprobe.webrtc.agent import passed_over_by_aiortc, pinned, serves_aiortc
from natprobe.webrtc.configuration import Given, split_ice_servers
from natprobe.webrtc.ice_servers import IceServer
from natprobe.webrtc.outcome import IceServerCheck

_TRANSPORTS = ("udp", "tcp", "tls", "dtls")


def choose_ice_servers(servers: Any, checks: Iterable[IceServerCheck]) -> list[Any]:
    """Return the servers to give to aiortc: the best STUN and the best TURN server first, then the rest of the usable.

    aiortc uses the first URL of each kind alone, and waits 5 s for one that is dead. So what was found unusable is left
    out, and so is what aiortc cannot use or would refuse. Better is UDP before TCP before TLS, then the nearer.
    ``servers`` and ``checks`` are what `check_ice_servers` was given and what it returned, in its order. Each server
    comes back in the form in which it was given (RTCIceServer, mapping, text), with one URL. Where aiortc may take a
    dead address of a name, the URL comes back with a good address in place of the name, or not at all over TLS.
    """
    chosen = choose(list(split_ice_servers(servers)), list(checks))
    return [_with_url(choice.entry, choice.server, choice.url) for choice in chosen]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A server to give to aiortc, how good it is, and the URL to give, which may have an address in place of a name."""

    rank: tuple[bool, int, float]
    url: str
    server: IceServer
    entry: Any


def choose(given: Sequence[Given], checks: Sequence[IceServerCheck]) -> list[Choice]:
    """Return the usable servers as `choose_ice_servers` orders them."""
    found = [choice for one in given if (choice := _choice(one, _checks_of(one.server, given, checks)))]
    found.sort(key=lambda choice: choice.rank)
    kinds = [[choice for choice in found if choice.server.url.relay is relay] for relay in (False, True)]
    first = [choice for kind in kinds for choice in kind[:1]]
    return first + [choice for choice in found if choice not in first]


def _checks_of(server: IceServer, given: Sequence[Given], checks: Sequence[IceServerCheck]) -> list[IceServerCheck]:
    """Return the checks of a server: those made with its URL and with its very credentials.

    What does not say with which (a check read from elsewhere) is told by the URL and the username alone.
    """
    marks = {server.mark for server, _ in given}
    own = [check for check in checks if check.url == server.url.text]
    return [c for c in own if (c.mark == server.mark if c.mark in marks else c.username == server.username)]


def _choice(given: Given, checks: Sequence[IceServerCheck]) -> Choice | None:
    server = given.server
    if passed_over_by_aiortc([server]) != [None]:
        return None
    url = server.url.text if serves_aiortc(server.url, checks) else pinned(server.url, checks)
    return Choice(min(_rank(check) for check in checks if check.serves_aiortc), url, *given) if url else None


def _rank(check: IceServerCheck) -> tuple[bool, int, float]:
    """Return how good a server is, the less the better; one that was tested to the end comes first."""
    return not check.confirmed, _TRANSPORTS.index(check.transport), check.rtt_ms or 0.0


def _with_url(entry: Any, server: IceServer, url: str) -> Any:
    """Return the entry with one URL, under the names that agents of today know."""
    if isinstance(entry, (str, bytes)):
        return url
    if isinstance(entry, Mapping):
        kept = {name: value for name, value in entry.items() if name not in ("url", "password")}
        return kept | {"urls": url} | ({"credential": server.credential} if server.credential is not None else {})
    chosen = copy.copy(entry)
    try:
        chosen.urls = url
    except AttributeError:  # as in LiveKit's protocol buffers, where a list cannot be set
        return {"urls": url, "username": server.username, "credential": server.credential}
    return chosen
