"""What an explanation consists of: causes, each with its certainty, its reason and an advice; and their JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from natprobe.behaviour import Certainty


class Cause(StrEnum):
    """What an explanation comes down to."""

    DIRECT = "direct"
    RELAYED = "relayed"
    RELAYED_THOUGH_DIRECT = "relayed-though-direct"
    CONSENT_MISSED = "consent-missed"
    CONSENT_LOST = "consent-lost"
    CLOSED = "closed"
    NOT_STARTED = "not-started"
    NO_LOCAL_CANDIDATE = "no-local-candidate"
    NO_REMOTE_CANDIDATE = "no-remote-candidate"
    MDNS_UNRESOLVED = "mdns-unresolved"
    NO_COMMON_VERSION = "no-common-ip-version"
    UDP_BLOCKED = "udp-blocked"
    TURN_FAILED = "turn-failed"
    STUN_FAILED = "stun-failed"
    NO_SERVER = "no-server"
    RELAY_SILENT = "relay-silent"
    NAT_PAIR = "nat-pair"
    TIMING = "timing"
    SAME_NAT = "same-nat"
    PEER_SILENT = "peer-silent"
    NO_END_OF_CANDIDATES = "no-end-of-candidates"
    CHECKING = "checking"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause: how sure it is, the reason in a sentence, and what to do about it (empty: nothing)."""

    cause: Cause
    certainty: Certainty
    reason: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.certainty}). {self.advice}".rstrip()


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is to be said about a connection; one finding at least, the weightiest first."""

    findings: tuple[Finding, ...]

    @property
    def cause(self) -> Cause:
        return self.findings[0].cause

    @property
    def causes(self) -> tuple[Cause, ...]:
        return tuple(finding.cause for finding in self.findings)

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))

    def to_json(self) -> dict[str, Any]:
        """Return the explanation as JSON values."""
        return {
            "cause": str(self.cause),
            "findings": [
                {"cause": str(f.cause), "certainty": str(f.certainty), "reason": f.reason, "advice": f.advice}
                for f in self.findings
            ],
        }
