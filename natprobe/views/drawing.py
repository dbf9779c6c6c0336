"""The report's UDP tests as a drawing: this host, what stands before it, who sees what and who comes in.

Pure: the lines and where they lie. Markup is the template's, colours are the style sheet's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from natprobe.behaviour import Dependence, Protocol
from natprobe.endpoint import Endpoint
from natprobe.inference import Profile
from natprobe.observation import Exchange, Purpose, Volley
from natprobe.report import Report

_ROW = 26
_TITLE = 34
_TOP = 8


class Fate(StrEnum):
    """What became of the packets of a line."""

    OUT = "out"
    IN = "in"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Line:
    """Packets between this host and ``remote``; ``label`` is what the remote saw."""

    y: int
    fate: Fate
    remote: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Title:
    """The words above some lines."""

    y: int
    text: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """The whole of it: ``barrier`` is what stands between, ``told`` the same in a sentence for who cannot see it."""

    height: int
    barrier: str
    parts: tuple[Title | Line, ...]
    told: str


def drawing(report: Report, version: int, profile: Profile) -> Drawing | None:
    """Return the drawing of a UDP profile; None where there is nothing to draw."""
    lines = [*_sides("Out: the port that each sees", _outbound(report, version))]
    lines += _sides("In: who gets through", _inbound(report, version, profile))
    if not lines:
        return None
    parts, y = [], _TOP
    for line in lines:
        y += _TITLE if isinstance(line, str) else _ROW
        parts.append(Title(y - 12, line) if isinstance(line, str) else Line(y - 13, *line))
    return Drawing(y + _TOP, _barrier(profile), tuple(parts), _told(parts))


_Row = tuple[Fate, str, str]


def _sides(title: str, rows: Iterable[_Row]) -> Iterator[str | _Row]:
    found = list(rows)
    if found:
        yield title
        yield from found


def _outbound(report: Report, version: int) -> Iterator[_Row]:
    """Yield, for each endpoint that mapping was asked at, what it saw last."""
    asked = (fact for fact in report.observations if isinstance(fact, Exchange) and fact.remote.version == version)
    seen: dict[Endpoint, Endpoint | None] = {}
    for fact in asked:
        if fact.purpose is Purpose.MAPPING and fact.protocol is Protocol.UDP:
            seen[fact.remote] = fact.mapped or seen.get(fact.remote)
    for remote, mapped in seen.items():
        yield Fate.OUT if mapped else Fate.UNKNOWN, str(remote), str(mapped.port) if mapped else "?"


def _inbound(report: Report, version: int, profile: Profile) -> Iterator[_Row]:
    """Yield, for each sender of the volleys, whether it came in; the control first."""
    volleys = [
        fact
        for fact in report.observations
        if isinstance(fact, Volley) and fact.purpose is Purpose.FILTERING and fact.remote.version == version
    ]
    silent = Fate.STOPPED if profile.filtering.determined else Fate.UNKNOWN
    for sender in dict.fromkeys(sender for volley in volleys for sender in volley.asked):
        yield Fate.IN if any(volley.heard(sender) for volley in volleys) else silent, str(sender), ""


def _barrier(profile: Profile) -> str:
    if profile.translated.value:
        return "NAT"
    if profile.translated.value is None:
        return "NAT?"
    return "nothing" if profile.filtering.value is Dependence.ENDPOINT_INDEPENDENT else "firewall"


_SAID = {
    Fate.OUT: "sees port {}",
    Fate.IN: "comes in",
    Fate.STOPPED: "is stopped",
    Fate.UNKNOWN: "is not known",
}


def _told(parts: Iterable[Title | Line]) -> str:
    lines = (part for part in parts if isinstance(part, Line))
    return "; ".join(f"{line.remote} {_SAID[line.fate].format(line.label)}" for line in lines) + "."
