"""What an ICE agent (RFC 8445) knows about one transport: candidates, pairs, and how far it has come. Facts only.

aioice keeps all this to itself; `internals` reads it there. The words are those of RFC 8445 and of the W3C's WebRTC
API, so that `stats` only has to arrange them and `explanation` can be read beside the RFCs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address


class CandidateType(StrEnum):
    """How a candidate was learned (RFC 8445 §4)."""

    HOST = "host"
    SERVER_REFLEXIVE = "srflx"
    PEER_REFLEXIVE = "prflx"
    RELAY = "relay"


class PairState(StrEnum):
    """How far the check of a pair has come (RFC 8445 §6.1.2.6)."""

    FROZEN = "frozen"
    WAITING = "waiting"
    IN_PROGRESS = "in-progress"
    FAILED = "failed"
    SUCCEEDED = "succeeded"


class TransportState(StrEnum):
    """How far the transport has come (W3C WebRTC, RTCIceTransportState)."""

    NEW = "new"
    CHECKING = "checking"
    COMPLETED = "completed"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A transport address that a peer may be reached at (RFC 8445 §5.1).

    ``address`` is a name where mDNS hides the address. ``url`` is the server that a candidate of our own came from.
    """

    type: CandidateType
    address: str
    port: int
    protocol: str
    priority: int
    foundation: str
    related_address: str | None = None
    related_port: int | None = None
    relay_protocol: str | None = None
    url: str | None = None
    tcp_type: str | None = None

    @property
    def version(self) -> int | None:
        """The IP version; None for a name."""
        try:
            return ip_address(self.address).version
        except ValueError:
            return None

    def __str__(self) -> str:
        where = f"[{self.address}]" if self.version == 6 else self.address
        return f"{self.type} {where}:{self.port}"


@dataclass(frozen=True, slots=True)
class CandidatePair:
    """A local and a remote candidate that were, or shall be, checked together (RFC 8445 §6.1.2)."""

    local: Candidate
    remote: Candidate
    state: PairState
    nominated: bool
    priority: int

    @property
    def relayed(self) -> bool:
        return CandidateType.RELAY in (self.local.type, self.remote.type)

    def __str__(self) -> str:
        return f"{self.local} → {self.remote}"


@dataclass(frozen=True, slots=True)
class IceTransport:
    """One component of a connection at one moment. ``stun`` and ``turn`` are the URLs of the servers that are used.

    ``failures`` are (URL, why) of servers that gave no candidate, known where gathering was watched.
    ``unresolved`` are names (mDNS, ``.local``) that the peer gave and that stand for no known address. A ``selected``
    pair stays after the transport has closed. ``consent_lost``: it closed because the peer no longer answered
    (RFC 7675 §5.1), and not because the application closed it. ``consent_misses`` are the consent checks in a row that
    were not answered, ``unanswered_s`` the seconds since one was. ``relay_lost`` is what the system says of the way to
    the TURN server in use. ``turn_mark`` tells the credentials used there from others (``ice_servers.mark_of``).
    """

    id: str
    controlling: bool
    state: TransportState
    gathered: bool
    username: str
    stun: str | None
    turn: str | None
    local: tuple[Candidate, ...]
    remote: tuple[Candidate, ...]
    end_of_candidates: bool
    pairs: tuple[CandidatePair, ...]
    selected: CandidatePair | None
    failures: tuple[tuple[str, str], ...] = ()
    unresolved: tuple[str, ...] = ()
    relay_only: bool = False
    consent_lost: bool = False
    consent_misses: int = 0
    unanswered_s: float | None = None
    relay_lost: str | None = None
    turn_mark: str | None = None

    def has_local(self, kind: CandidateType) -> bool:
        return any(candidate.type is kind for candidate in self.local)

    def has_remote(self, kind: CandidateType) -> bool:
        return any(candidate.type is kind for candidate in self.remote)
