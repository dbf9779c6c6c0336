"""A report: verdicts, the facts they rest on, and the JSON that carries both (``natprobe.report/1``)."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from natprobe.behaviour import Protocol, Verdict
from natprobe.endpoint import Address, Endpoint
from natprobe.errors import MalformedReport
from natprobe.inference import Profile, conclude
from natprobe.observation import Exchange, Observation, Purpose, Resolution, from_json, read, to_json
from natprobe.server import Kind, describe

SCHEMA = "natprobe.report/1"


@dataclass(frozen=True, slots=True)
class Vantage:
    """From where was measured: the source address of each IP version, and the system."""

    platform: str
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None

    @classmethod
    def here(cls, sources: Iterable[Address]) -> Vantage:
        ipv4 = next((address for address in sources if isinstance(address, IPv4Address)), None)
        ipv6 = next((address for address in sources if isinstance(address, IPv6Address)), None)
        return cls(f"{platform.system()} {platform.release()}", ipv4, ipv6)


@dataclass(frozen=True, slots=True)
class ServerReport:
    """A server as it was named, where it was contacted, and what it turned out to be (None: it did not answer)."""

    name: str
    endpoint: Endpoint
    kind: Kind | None
    fault: str | None


@dataclass(frozen=True, slots=True)
class Family:
    """The profiles of one IP version; None for a protocol that was not asked about."""

    udp: Profile | None
    tcp: Profile | None

    @property
    def profiles(self) -> tuple[tuple[Protocol, Profile], ...]:
        return tuple((protocol, p) for protocol, p in ((Protocol.UDP, self.udp), (Protocol.TCP, self.tcp)) if p)


@dataclass(frozen=True, slots=True)
class Report:
    """What one run found. ``ipv4`` and ``ipv6`` are None where nothing was asked over them."""

    version: str
    started: datetime
    duration_s: float
    vantage: Vantage
    servers: tuple[ServerReport, ...]
    ipv4: Family | None
    ipv6: Family | None
    observations: tuple[Observation, ...]

    @classmethod
    def of(
        cls, version: str, started: datetime, duration_s: float, vantage: Vantage, observations: Sequence[Observation]
    ) -> Report:
        """Draw the conclusions of ``observations`` and bind both into a report."""
        facts = tuple(observations)
        servers = _servers(facts)
        return cls(version, started, duration_s, vantage, servers, _family(facts, 4), _family(facts, 6), facts)

    @property
    def families(self) -> tuple[tuple[int, Family], ...]:
        return tuple((version, family) for version, family in ((4, self.ipv4), (6, self.ipv6)) if family)

    @property
    def reached(self) -> bool:
        """Whether any server answered over anything."""
        return any(isinstance(fact, Exchange) and fact.answered for fact in self.observations)

    @property
    def settled(self) -> bool:
        """Whether every core verdict (reachable, mapping, filtering) is determined."""
        return all(profile.settled for _, family in self.families for _, profile in family.profiles)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values, to be read by ``from_json`` and by others for years."""
        return {
            "schema": SCHEMA,
            "version": self.version,
            "started": self.started.isoformat(),
            "duration_s": round(self.duration_s, 3),
            "vantage": to_json(self.vantage),
            "servers": [to_json(server) for server in self.servers],
            "ipv4": _family_json(self.ipv4),
            "ipv6": _family_json(self.ipv6),
            "observations": [to_json(fact) for fact in self.observations],
        }

    def dumps(self) -> str:
        """Return the report as one JSON document."""
        return json.dumps(self.to_json(), indent=2)

    @classmethod
    def from_json(cls, value: object) -> Report:
        """Return the report of a JSON value, its verdicts drawn anew from its observations. Raises MalformedReport."""
        if not isinstance(value, Mapping) or value.get("schema") != SCHEMA:
            raise MalformedReport(f"not a report of schema {SCHEMA}")
        observations = read(value.get("observations"), list[dict[str, Any]])
        return cls.of(
            read(value.get("version"), str),
            read(value.get("started"), datetime),
            read(value.get("duration_s"), float),
            read(value.get("vantage"), Vantage),
            [from_json(fact) for fact in observations],
        )

    @classmethod
    def loads(cls, text: str) -> Report:
        """Return the report of a JSON document. Raises MalformedReport."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as wrong:
            raise MalformedReport(f"not JSON: {wrong}") from None
        return cls.from_json(value)


def _family(facts: tuple[Observation, ...], version: int) -> Family | None:
    udp, tcp = (conclude(facts, protocol, version) for protocol in Protocol)
    return Family(udp, tcp) if udp or tcp else None


def _servers(facts: tuple[Observation, ...]) -> tuple[ServerReport, ...]:
    hellos = [fact for fact in facts if isinstance(fact, Exchange) and fact.purpose is Purpose.HELLO]
    found = []
    for name, endpoint in ((r.name, e) for r in facts if isinstance(r, Resolution) for e in r.endpoints):
        server = next((describe(hello) for hello in hellos if hello.answered and hello.remote == endpoint), None)
        found.append(ServerReport(name, endpoint, server.kind if server else None, server.fault if server else None))
    return tuple(found)


def _family_json(family: Family | None) -> dict[str, Any] | None:
    if family is None:
        return None
    return {"udp": _profile_json(family.udp), "tcp": _profile_json(family.tcp)}


def _profile_json(profile: Profile | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    verdicts = {field.name: getattr(profile, field.name) for field in fields(profile)}
    return {name: _verdict_json(verdict) for name, verdict in verdicts.items() if verdict is not None}


def _verdict_json(verdict: Verdict[Any]) -> dict[str, Any]:
    told: dict[str, Any] = to_json(verdict)
    return told | {"evidence": list(verdict.evidence)}
