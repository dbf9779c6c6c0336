"""Two reports in, a prediction out: will these two connect directly, over what, and who should send first?

    prediction = natprobe.predict(mine, theirs)
    prediction.udp.outcome         # Traversal.DIRECT

Pure, and with no list of special cases: two NATs in symbols are tried (``model``) with every behaviour that the
reports leave room for (``judging``), and what came of it is put in words (``reasons``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from natprobe.behaviour import Certainty, Protocol
from natprobe.inference.facts import listing
from natprobe.observation import to_json
from natprobe.report import Report
from natprobe.traversal.judging import PathPrediction, Side, judge
from natprobe.traversal.model import Order, Traversal

__all__ = ["Order", "PathPrediction", "Prediction", "Traversal", "predict"]

SCHEMA = "natprobe.prediction/1"
_RANKS = list(Traversal)


@dataclass(frozen=True, slots=True)
class Prediction:
    """All paths between A and B, by protocol and IP version."""

    paths: tuple[PathPrediction, ...]

    @property
    def udp(self) -> PathPrediction | None:
        """The best path over UDP; None if neither report asked about it."""
        return self._best(Protocol.UDP)

    @property
    def tcp(self) -> PathPrediction | None:
        """The best path over TCP; None if neither report asked about it."""
        return self._best(Protocol.TCP)

    @property
    def determined(self) -> bool:
        """Whether the best path of each protocol that was asked about is known."""
        best = [path for path in (self.udp, self.tcp) if path]
        return bool(best) and all(path.outcome is not Traversal.UNKNOWN for path in best)

    def _best(self, protocol: Protocol) -> PathPrediction | None:
        paths = [path for path in self.paths if path.protocol is protocol]
        return min(paths, key=lambda path: _RANKS.index(path.outcome), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as JSON values: the best path of each protocol, and all of them."""
        best = {"udp": self.udp, "tcp": self.tcp}
        return {
            "schema": SCHEMA,
            **{name: to_json(path) if path else None for name, path in best.items()},
            "paths": [to_json(path) for path in self.paths],
        }

    def dumps(self) -> str:
        """Return the prediction as one JSON document."""
        return json.dumps(self.to_json(), indent=2)


def predict(a: Report, b: Report) -> Prediction:
    """Return whether and how the hosts of two reports will connect, as the reports have it.

    Who is A and who is B matters to the words alone: an outcome is the same both ways.
    """
    return Prediction(tuple(path for protocol in Protocol for path in _paths(a, b, protocol)))


def _paths(a: Report, b: Report, protocol: Protocol) -> Iterator[PathPrediction]:
    ours, theirs = _sides("A", a, protocol), _sides("B", b, protocol)
    common = [version for version in ours if version in theirs]
    # An IP version that a host has not got says nothing about one that it has.
    usable = [version for version in common if ours[version].reachable and theirs[version].reachable]
    for version in usable or common:
        yield judge(ours[version], theirs[version])
    if (ours or theirs) and not common:
        yield _incomparable(protocol, ours, theirs)


def _sides(name: str, report: Report, protocol: Protocol) -> dict[int, Side]:
    hosts = {4: report.vantage.ipv4, 6: report.vantage.ipv6}
    return {
        version: Side(name, protocol, version, profile, hosts[version])
        for version, family in report.families
        for asked, profile in family.profiles
        if asked is protocol
    }


def _incomparable(protocol: Protocol, ours: dict[int, Side], theirs: dict[int, Side]) -> PathPrediction:
    told = [
        f"{name}'s report tells of {protocol.upper()} over {listing(f'IPv{version}' for version in sides) or 'nothing'}"
        for name, sides in (("A", ours), ("B", theirs))
    ]
    advice = "Classify again on both sides, over the same protocols and IP versions."
    return PathPrediction(protocol, None, Traversal.UNKNOWN, Certainty.NOT_DETERMINED, ", ".join(told), advice)
