"""The servers that an aioice connection uses, one of each kind, as URLs, from its public attributes. Pure."""

from __future__ import annotations

from aioice import Connection

from natprobe.webrtc.ice import CandidateType


def stun_url(connection: Connection) -> str | None:
    """Return the URL (RFC 7064) of the STUN server; None if there is none."""
    return f"stun:{_place(*connection.stun_server)}" if connection.stun_server else None


def turn_url(connection: Connection) -> str | None:
    """Return the URL (RFC 7065) of the TURN server; None if there is none."""
    if not connection.turn_server:
        return None
    scheme = "turns" if connection.turn_ssl else "turn"
    return f"{scheme}:{_place(*connection.turn_server)}?transport={connection.turn_transport}"


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def relay_protocol(connection: Connection) -> str:
    """Return how the TURN server is reached: ``udp``, ``tcp`` or ``tls``."""
    return "tls" if connection.turn_ssl else connection.turn_transport


def origin(kind: CandidateType, connection: Connection) -> str | None:
    """Return the URL of the server that a local candidate of this kind comes from."""
    match kind:
        case CandidateType.SERVER_REFLEXIVE:
            return stun_url(connection)
        case CandidateType.RELAY:
            return turn_url(connection)
    return None
