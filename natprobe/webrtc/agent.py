"""What aiortc makes of a list of ICE servers, and of the addresses behind a name. Pure.

aiortc says none of this: it takes the first STUN and the first TURN URL that it can use, in order, and of a name with
several addresses one, or one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from natprobe.webrtc.ice_servers import IceServer, IceUrl
from natprobe.webrtc.outcome import IceServerCheck, IceServerState


def passed_over_by_aiortc(servers: Iterable[IceServer]) -> list[str | None]:
    """Return for each server why aiortc does without it, None where it would use it."""
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
    if url.secure and (not url.relay or url.transport == "dtls"):
        return f"aiortc ignores {'turns: URLs with transport=udp' if url.relay else 'stuns: URLs'}"
    if url.asked_transport and not url.text.endswith(url.asked_transport):
        return "aiortc ignores a transport in capitals"
    if url.relay and server.credential_type != "password":
        return f"aiortc ignores TURN credentials of type {server.credential_type}"
    if url.secure and url.host != url.server_name:
        return "aiortc looks for the final dot of the name in the certificate, and finds none: leave it out"
    return None


def refused_by_aiortc(url: IceUrl) -> str | None:
    """Return why aiortc raises ValueError for a whole configuration with this URL in it, or None."""
    if url.is_ipv6_literal:
        return "aiortc refuses a configuration with an IPv6 literal in it"
    if not url.relay and url.asked_transport:
        return "aiortc refuses a configuration with a STUN URL that names a transport (RFC 7064 has none)"
    scheme, _, rest = url.text.partition(":")
    if not scheme.islower() or (url.asked_transport and "?transport=" not in rest):
        return "aiortc refuses a configuration with a URL in capitals"
    return None


def taken_by_aiortc(url: IceUrl, checks: Sequence[IceServerCheck]) -> list[IceServerCheck]:
    """Return the checks of those addresses of a URL on one of which aiortc depends.

    ``checks`` are those of the URL in the system's order of its addresses (RFC 6724). aiortc asks STUN servers over
    IPv4 alone, and TURN servers over UDP at one address of the first IP version. It connects over TCP to one address
    after the other, but has no time left when one is silent. Which address of a version is the first changes from
    one lookup to the next (round robin), so all of them must do.
    """
    if not url.relay:
        return [check for check in checks if check.family == 4]
    tried = [check for check in checks if not (url.transport != "udp" and _fails_at_once(check))]
    if any(map(_is_untold, checks)):
        return list(checks)  # it asks for both IP versions at once, and waits for the one that is not told
    versions = [list(group) for _, group in groupby(tried, key=lambda check: check.family)]
    return versions[0] if versions else list(checks)


def _is_untold(check: IceServerCheck) -> bool:
    """Whether no name server has told the addresses of this IP version."""
    return check.state is IceServerState.DNS and check.family is not None


def _fails_at_once(check: IceServerCheck) -> bool:
    """Whether a TCP connection there is refused, so that aiortc goes on to the next address."""
    return check.depth is None and check.state in (IceServerState.REFUSED, IceServerState.UNREACHABLE)


def serves_aiortc(url: IceUrl, checks: Sequence[IceServerCheck]) -> bool:
    """Whether a URL works with aiortc as it is: at every address that aiortc may take."""
    taken = taken_by_aiortc(url, checks)
    return bool(taken) and all(check.serves_aiortc for check in taken)


def wrong_address(url: IceUrl, checks: Sequence[IceServerCheck]) -> str | None:
    """Return why aiortc gets nothing from a server that works at one of its addresses; None where it does not."""
    if serves_aiortc(url, checks) or not any(check.serves_aiortc for check in checks):
        return None
    dead = next((check for check in taken_by_aiortc(url, checks) if not check.serves_aiortc), None)
    if dead is None:
        return f"aiortc asks STUN servers over IPv4 alone, and {url.host} has no IPv4 address that can be asked"
    if _is_untold(dead):
        return f"aiortc waits for the IPv{dead.family} address of {url.host}, and no name server answers"
    where = dead.address.address if dead.address else f"the IPv{dead.family} one"
    return f"aiortc may take {where} of the addresses of {url.host}, and that one does not work"


def pinned(url: IceUrl, checks: Iterable[IceServerCheck]) -> str | None:
    """Return the URL with the best usable address in place of the name; None where aiortc can be given none.

    TLS needs the name, and aiortc takes no IPv6 literal.
    """
    if url.secure:
        return None
    good = [check for check in checks if check.serves_aiortc and check.address and check.family == 4]
    best = min(good, key=lambda check: check.rtt_ms or 0.0, default=None)
    return url.at(best.address.address) if best and best.address else None
