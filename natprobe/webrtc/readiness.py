"""What is known before a call: servers, NAT, and what follows from both. Pure, but for the JSON that carries it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from natprobe.behaviour import Certainty, Dependence, Verdict, not_determined
from natprobe.inference import Profile
from natprobe.observation import to_json
from natprobe.report import Report
from natprobe.webrtc.ice_servers import IceUrl
from natprobe.webrtc.outcome import IceServerCheck

SCHEMA = "natprobe.preflight/1"


class Readiness(StrEnum):
    """What calls from here may expect."""

    READY = "ready"
    """They connect: a relay works, or anybody's packets get in."""
    LIMITED = "limited"
    """They connect with some peers only: no relay works, and it hangs on the peer's NAT."""
    BLOCKED = "blocked"
    """They do not connect: UDP does not get out, and no relay works."""


class Agent(StrEnum):
    """Who will use a configuration; it decides which of its servers count."""

    AIORTC = "aiortc"
    """Uses the first STUN and the first TURN URL alone, and of a name one address."""
    BROWSER = "browser"
    """Uses all of them."""


@dataclass(frozen=True, slots=True)
class ServerChecked:
    """A server's URL was checked, in each IP version it has; ``at`` is seconds since the start."""

    at: float
    checks: tuple[IceServerCheck, ...]


@dataclass(frozen=True, slots=True)
class NatTested:
    """Something was found out about the NAT, in a phrase."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class NatClassified:
    """The NAT report is there."""

    at: float
    report: Report


@dataclass(frozen=True, slots=True)
class Preflight:
    """What one pre-call check found.

    ``missing`` says of each URL, and of ``nat``, that is not determined, why not. ``nat`` is None exactly if it is in
    there.
    """

    version: str
    started: datetime
    duration_s: float
    budget_s: float
    servers: tuple[IceServerCheck, ...]
    nat: Report | None
    missing: tuple[tuple[str, str], ...]
    verdict: Verdict[Readiness]
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON values, the NAT's report among them (``natprobe.report/1``)."""
        return {
            "schema": SCHEMA,
            "version": self.version,
            "started": self.started.isoformat(),
            "duration_s": round(self.duration_s, 3),
            "budget_s": self.budget_s,
            "verdict": to_json(self.verdict),
            "advice": list(self.advice),
            "servers": [check.to_json() for check in self.servers],
            "nat": self.nat.to_json() if self.nat else None,
            "missing": dict(self.missing),
        }

    def dumps(self) -> str:
        """Return this as one JSON document."""
        return json.dumps(self.to_json(), indent=2)


@dataclass(frozen=True, slots=True)
class Finished:
    """The check is over: everything is known that will be."""

    at: float
    result: Preflight


Event = ServerChecked | NatTested | NatClassified | Finished


@dataclass(frozen=True, slots=True)
class Known:
    """What a verdict rests on: checks, the NAT, what is not determined and why, who will use the servers.

    ``relay_to_choose`` is the TURN URL that `choose_ice_servers` puts first.
    """

    servers: Sequence[IceServerCheck]
    nat: Report | None
    missing: Mapping[str, str] = field(default_factory=dict)
    agent: Agent = Agent.AIORTC
    relay_to_choose: str | None = None

    @property
    def relays(self) -> list[IceServerCheck]:
        """The relays that work."""
        return [check for check in self.servers if check.usable and _relays(check.url)]

    @property
    def used_relays(self) -> list[IceServerCheck]:
        """The relays that work and that the agent uses."""
        return [check for check in self.relays if self.agent is Agent.BROWSER or not check.unsupported_by_aiortc]

    @property
    def better_relay(self) -> str | None:
        """The relay that works, and that the agent would use if it were given the list of `choose_ice_servers`."""
        return self.relay_to_choose if not self.used_relays else None


def judge(known: Known) -> Verdict[Readiness]:
    """Return what calls from here may expect, by the relays that work for the agent and by what the NAT lets in."""
    if known.used_relays:
        best = min(known.used_relays, key=lambda check: (not check.confirmed, check.rtt_ms or 0.0))
        if not best.confirmed:
            return Verdict(Readiness.READY, Certainty.LIKELY, f"a relay may work: {best.url} ({best.reason})")
        return Verdict(Readiness.READY, Certainty.CONFIRMED, f"a relay works: {best.url}")
    missing = known.missing
    if open_relays := [url for url in missing if url != "nat" and _relays(url)]:
        return not_determined(f"{open_relays[0]}: {missing[open_relays[0]]}")
    without = _without(known)
    profiles = _udp(known.nat)
    if not profiles:
        return not_determined(f"{without}, and of the NAT is not known: {missing.get('nat', 'UDP was not tested')}")
    # Of two IP versions the better one counts: a peer that has both is reached over it.
    verdicts = [_without_relay(profile, without) for profile in profiles]
    ranks = [Readiness.READY, Readiness.LIMITED, None, Readiness.BLOCKED]
    return min(verdicts, key=lambda verdict: ranks.index(verdict.value))


def _without(known: Known) -> str:
    """Say that the agent has no relay."""
    if known.better_relay:
        return (
            f"aiortc uses no relay that works; ready with choose_ice_servers' list ({known.better_relay}), "
            "not with this one"
        )
    return "aiortc can use none of the relays that work" if known.relays else "no relay works"


def _relays(url: str) -> bool:
    return IceUrl.parse(url).relay


def _udp(nat: Report | None) -> list[Profile]:
    return [family.udp for _, family in nat.families if family.udp] if nat else []


def _without_relay(profile: Profile, without: str) -> Verdict[Readiness]:
    reachable, mapping, filtering = profile.reachable, profile.mapping, profile.filtering
    if reachable.value is False:
        return Verdict(Readiness.BLOCKED, reachable.certainty, f"{without}, and {reachable.reason}")
    if filtering.value is Dependence.ENDPOINT_INDEPENDENT and mapping.value is Dependence.ENDPOINT_INDEPENDENT:
        return Verdict(Readiness.READY, Certainty.LIKELY, f"{without}, but anybody's packets get in here")
    if mapping.value is Dependence.ENDPOINT_INDEPENDENT:
        whom = "peers whose NAT uses one port for all of them, or lets anybody in"
    elif mapping.determined:
        whom = "peers whose NAT does not look at the port that packets come from"
    else:
        return not_determined(f"{without}, and the mapping is not known: {mapping.reason or reachable.reason}")
    return Verdict(Readiness.LIMITED, mapping.certainty, f"{without}: direct connections only, with {whom}")


def advise(known: Known, verdict: Verdict[Readiness]) -> Iterator[str]:
    """Yield what to do, a line each: about the list, each server, the router."""
    if known.better_relay:
        yield f"Give aiortc what choose_ice_servers returns for this list: it begins with {known.better_relay}."
    yield from _about_servers(known)
    blocked = any(profile.reachable.value is False for profile in _udp(known.nat))
    working = {check.transport for check in known.relays}
    if blocked and not working & {"tcp", "tls"}:
        yield "UDP does not get out: add a TURN server over TLS on port 443 (turns:HOST:443?transport=tcp)."
    elif verdict.value is not Readiness.READY and not any(_relays(check.url) for check in known.servers):
        yield "Add a TURN server: without a relay some peers cannot be reached."
    if any(profile.unsolicited_remap and profile.unsolicited_remap.value for profile in _udp(known.nat)):
        yield "Have the router drop what comes in uninvited to its own outside address: it moves the ports of calls."


def _about_servers(known: Known) -> Iterator[str]:
    """Yield what is wrong with each server; what aiortc does with lists is said once."""
    said: set[str] = set()
    for check in known.servers:
        note = check.unsupported_by_aiortc if known.agent is Agent.AIORTC else None
        if not check.usable:
            yield f"{check.url}: {check.reason}"
        elif note and note not in said:
            said.add(note)
            yield f"{check.url}: {note}"
