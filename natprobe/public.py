"""Public STUN servers, for a run that names none. Compiled on 22 November 2026; no test ever contacts one of them.

Few, of different operators and countries, so that one that has gone or lies does not decide. The first four stand in
all three lists of pradt2/always-online-stun (UDP, TCP, RFC 5780); what Cloudflare's and Google's serve is widely known.
None was asked to make this list: whether a server does what is noted here shows in its answers, and a note only decides
whether it is asked at all. A reflector of one's own can test more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

VARIABLE = "NATPROBE_SERVERS"
"""Servers separated by commas or spaces, in place of these."""


class PublicServer(NamedTuple):
    """A server of somebody else's: which protocols it serves, and whether it answers from elsewhere (RFC 5780)."""

    host: str
    port: int
    udp: bool = True
    tcp: bool = True
    rfc5780: bool = True


SERVERS = (
    PublicServer("stun.nextcloud.com", 443),
    PublicServer("stun.voipgate.com", 3478),
    PublicServer("stun.sonetel.com", 3478),
    PublicServer("stun.hot-chilli.net", 3478),
    PublicServer("stun.cloudflare.com", 3478, rfc5780=False),
    PublicServer("stun.l.google.com", 19302, tcp=False, rfc5780=False),
)


def default_servers(protocols: Iterable[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the servers to ask where none is named: those of ``NATPROBE_SERVERS``, else those for ``protocols``.

    Raises ValueError where the variable is set but names none.
    """
    named = environment.get(VARIABLE)
    if named is None:
        wanted = tuple(protocols)
        return [f"{s.host}:{s.port}" for s in SERVERS if all(getattr(s, protocol) for protocol in wanted)]
    servers = named.replace(",", " ").split()
    if not servers:
        raise ValueError(f"{VARIABLE} is set but names no server")
    return servers
