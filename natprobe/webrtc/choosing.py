"""Which ICE servers to give to aiortc, and in which order. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from natprobe.webrtc.ice_servers import IceUrl, passed_over_by_aiortc, split_ice_servers
from natprobe.webrtc.outcome import IceServerCheck

_TRANSPORTS = ("udp", "tcp", "tls", "dtls")


def choose_ice_servers(servers: Iterable[Any], checks: Iterable[IceServerCheck]) -> list[Any]:
    """Return the servers to give to aiortc: the best STUN and the best TURN server first, then the rest of the usable.

    aiortc uses the first URL of each kind alone, and waits 5 s for one that is dead. So what was found unusable is left
    out, and so is what aiortc cannot use or would refuse. Better is UDP before TCP before TLS, then the nearer.
    Each comes back in the form in which it was given (RTCIceServer, mapping, text), with one URL.
    """
    best = _best(checks)
    found = []
    for server, entry in split_ice_servers(servers):
        check = best.get((server.url.text, server.username))
        if check and passed_over_by_aiortc([server]) == [None]:
            found.append((_rank(check), server.url, entry))
    found.sort(key=lambda one: one[0])
    kinds = [[one for one in found if one[1].relay is relay] for relay in (False, True)]
    first = [one for kind in kinds for one in kind[:1]]
    rest = [one for one in found if one not in first]
    return [_with_url(entry, url) for _, url, entry in first + rest]


def _best(checks: Iterable[IceServerCheck]) -> Mapping[tuple[str, str | None], IceServerCheck]:
    """Return for each URL and user the best of the checks that found it usable.

    aiortc asks STUN servers over IPv4 alone, and goes to no alternate server.
    """
    usable = (c for c in checks if c.usable and not c.alternate and (c.family == 4 or IceUrl.parse(c.url).relay))
    return {(check.url, check.username): check for check in sorted(usable, key=_rank, reverse=True)}


def _rank(check: IceServerCheck) -> tuple[int, float]:
    return _TRANSPORTS.index(check.transport), check.rtt_ms or 0.0


def _with_url(entry: Any, url: IceUrl) -> Any:
    if isinstance(entry, str):
        return url.text
    if isinstance(entry, Mapping):
        return {**entry, "urls": url.text}
    chosen = copy.copy(entry)
    chosen.urls = url.text
    return chosen
