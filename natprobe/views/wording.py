"""What a report says, in words: names, values, who measured what. Every view takes its words from here.

Pure, and without a library: how the words look is each view's own business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

from natprobe.behaviour import Certainty, Dependence, Protocol, Verdict
from natprobe.endpoint import Address, Endpoint
from natprobe.inference import Profile
from natprobe.inference.concurrency import Concurrent
from natprobe.inference.facts import listing
from natprobe.report import Report


@dataclass(frozen=True, slots=True)
class Row:
    """A verdict in words, and the indexes of its evidence."""

    name: str
    value: str
    certainty: Certainty
    reason: str
    evidence: tuple[int, ...]

    @property
    def determined(self) -> bool:
        return self.certainty is not Certainty.NOT_DETERMINED


@dataclass(frozen=True, slots=True)
class Block:
    """The verdicts on one protocol of one IP version; ``old_name`` is what RFC 3489 would have called it."""

    title: str
    old_name: str | None
    rows: tuple[Row, ...]


def heading(report: Report) -> str:
    """Return when and from where was measured, and against which servers."""
    sources = listing(filter(None, (report.vantage.ipv4, report.vantage.ipv6))) or "an unknown address"
    servers = listing(_servers(report)) or "no server"
    return f"{report.started:%Y-%m-%d %H:%M} {report.started.tzname()}, from {sources} to {servers}"


_NAMED = 4
"""Servers that are named one by one; the others are counted."""


def _servers(report: Report) -> list[str]:
    """Return the servers in words: each once, whatever its names and addresses, and those that answered first."""
    names: dict[str, str | None] = {}
    known: dict[Endpoint, str] = {}
    for server in report.servers:
        name = known.setdefault(server.endpoint, server.name)
        names[name] = names.get(name) or server.kind
    told = [f"{name} ({names[name] or 'no answer'})" for name in sorted(names, key=lambda name: names[name] is None)]
    more = len(told) - _NAMED
    return told if more <= 1 else [*told[:_NAMED], f"{more} more"]


def blocks(report: Report) -> list[Block]:
    """Return the verdicts, block by block, in the order in which they are shown."""
    return [
        Block(f"IPv{version} {protocol.upper()}", _old_name(protocol, profile), tuple(_rows(profile)))
        for version, family in report.families
        for protocol, profile in family.profiles
    ]


def _rows(profile: Profile) -> Iterator[Row]:
    for field in fields(profile):
        verdict: Verdict[Any] | None = getattr(profile, field.name)
        if verdict is not None:
            value = value_in_words(verdict.value)
            yield Row(field.name.replace("_", " "), value, verdict.certainty, verdict.reason, verdict.evidence)


_CONES = {
    Dependence.ENDPOINT_INDEPENDENT: "full cone",
    Dependence.ADDRESS_DEPENDENT: "restricted cone",
    Dependence.ADDRESS_AND_PORT_DEPENDENT: "port-restricted cone",
}


def _old_name(protocol: Protocol, profile: Profile) -> str | None:
    """Return the name that RFC 3489 §5 and §10.1 have for it; it has them for UDP only, and not for everything."""
    mapping, filtering, translated = profile.mapping.value, profile.filtering.value, profile.translated.value
    if protocol is not Protocol.UDP or None in (mapping, filtering, translated):
        return None
    if not translated:
        return "open internet" if filtering is Dependence.ENDPOINT_INDEPENDENT else "symmetric UDP firewall"
    if mapping is not Dependence.ENDPOINT_INDEPENDENT:
        return "symmetric"
    return _CONES.get(filtering) if filtering else None


# --- values -----------------------------------------------------------------------------------------------------------


def value_in_words(value: object) -> str:
    """Return the value of any verdict in words."""
    match value:
        case None:
            return "not determined"
        case bool():
            return "yes" if value else "no"
        case tuple() if all(isinstance(item, Endpoint) for item in value):
            return _endpoints(value)
        case tuple() if all(isinstance(item, int) for item in value):
            return ranges(value)
        case Concurrent(held=held, destinations=destinations):
            return f"{held} to {destinations} {'destination' if destinations == 1 else 'destinations'}"
        case _:
            return str(value)


def _endpoints(endpoints: Iterable[Endpoint]) -> str:
    """Return each address with all its ports: "198.51.100.1:40000–40002"."""
    grouped = groupby(sorted(endpoints), lambda endpoint: endpoint.address)
    return "; ".join(_with_ports(address, (endpoint.port for endpoint in found)) for address, found in grouped)


def _with_ports(address: Address, ports: Iterable[int]) -> str:
    host = str(Endpoint(address, 0)).removesuffix(":0")
    return f"{host}:{ranges(ports)}"


def ranges(numbers: Iterable[int]) -> str:
    """Return whole numbers in order, with runs of them joined: "3, 5–8"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
