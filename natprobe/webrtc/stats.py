"""Statistics of ICE transports as the W3C shapes them (webrtc-stats), which aiortc's ``getStats`` leaves out.

https://www.w3.org/TR/webrtc-stats/: RTCIceCandidateStats, RTCIceCandidatePairStats, RTCTransportStats. What the agent
does not count (bytes, round trips) is left out and not made zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from natprobe.webrtc.ice import Candidate, CandidatePair, IceTransport

Statistics = dict[str, dict[str, Any]]
"""By its id, each entry: what a browser's ``RTCStatsReport`` is."""


def statistics(transports: Iterable[IceTransport], timestamp: float) -> Statistics:
    """Return the statistics of transports at ``timestamp``, in milliseconds since 1970, as JSON values."""
    entries = [entry for transport in transports for entry in _transport(transport)]
    return {entry["id"]: _present(entry | {"timestamp": timestamp}) for entry in entries}


def _transport(transport: IceTransport) -> list[dict[str, Any]]:
    local, remote = _numbered(transport, "local"), _numbered(transport, "remote")
    pairs = {pair: f"{transport.id}-pair-{number}" for number, pair in enumerate(transport.pairs)}
    return [
        {
            "id": transport.id,
            "type": "transport",
            "iceRole": "controlling" if transport.controlling else "controlled",
            "iceState": str(transport.state),
            "iceLocalUsernameFragment": transport.username,
            "selectedCandidatePairId": pairs.get(transport.selected) if transport.selected else None,
        },
        *(_candidate(transport, "local-candidate", id_, candidate) for candidate, id_ in local.items()),
        *(_candidate(transport, "remote-candidate", id_, candidate) for candidate, id_ in remote.items()),
        *(_pair(transport, id_, pair, local[pair.local], remote[pair.remote]) for pair, id_ in pairs.items()),
    ]


def _numbered(transport: IceTransport, side: str) -> dict[Candidate, str]:
    """Give an id to every candidate of a side, also to those that only a pair still knows."""
    known = [*getattr(transport, side), *(getattr(pair, side) for pair in transport.pairs)]
    return {candidate: f"{transport.id}-{side}-{number}" for number, candidate in enumerate(dict.fromkeys(known))}


def _candidate(transport: IceTransport, kind: str, id_: str, candidate: Candidate) -> dict[str, Any]:
    return {
        "id": id_,
        "type": kind,
        "transportId": transport.id,
        "candidateType": str(candidate.type),
        "address": candidate.address,
        "port": candidate.port,
        "protocol": candidate.protocol,
        "priority": candidate.priority,
        "foundation": candidate.foundation,
        "relatedAddress": candidate.related_address,
        "relatedPort": candidate.related_port,
        "relayProtocol": candidate.relay_protocol,
        "url": candidate.url,
        "tcpType": candidate.tcp_type,
    }


def _pair(transport: IceTransport, id_: str, pair: CandidatePair, local: str, remote: str) -> dict[str, Any]:
    return {
        "id": id_,
        "type": "candidate-pair",
        "transportId": transport.id,
        "localCandidateId": local,
        "remoteCandidateId": remote,
        "state": str(pair.state),
        "nominated": pair.nominated,
        "priority": pair.priority,
    }


def _present(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value is not None}
