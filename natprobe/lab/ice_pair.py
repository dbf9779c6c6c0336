"""Two real ICE peers behind two NATs of the lab: do they connect, how fast, over what, and if not, why not."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from natprobe.lab.backend import Lab
from natprobe.lab.ice_peer import Role
from natprobe.lab.policy import NatPolicy, parse_policy
from natprobe.report import Report

NODES = ("home-1", "office-1")
GATEWAYS = ("home", "office")
_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Side:
    """What one peer saw. ``local`` and ``remote`` are candidate types as the peer itself knows them.

    ``explanation``, ``stats`` and ``events`` are the JSON of `natprobe.webrtc.explain`, `ice_stats` and `watch`.
    """

    connected: bool
    heard: bool
    ms: float
    local: str | None
    remote: str | None
    explanation: dict[str, Any]
    stats: dict[str, dict[str, Any]]
    events: list[dict[str, Any]]

    @property
    def cause(self) -> str:
        return str(self.explanation["cause"])

    @property
    def causes(self) -> list[str]:
        return [finding["cause"] for finding in self.explanation["findings"]]


@dataclass(frozen=True, slots=True)
class IcePair:
    """What came of a pair: ``home`` is the controlling peer (it offers), ``office`` the controlled one."""

    home: Side
    office: Side

    @property
    def connected(self) -> bool:
        """Whether both are connected and data went both ways."""
        return all(side.connected and side.heard for side in (self.home, self.office))

    @property
    def ms(self) -> float:
        """Milliseconds until the slower one was connected, or gave up."""
        return max(self.home.ms, self.office.ms)

    @property
    def candidates(self) -> tuple[str | None, str | None]:
        """By which kind of candidate each takes part: what the other one knows it by, or the relay it uses."""
        return (_kind(self.home, self.office), _kind(self.office, self.home))


def _kind(side: Side, other: Side) -> str | None:
    return side.local if side.local == "relay" else other.remote


def connect_pair(
    lab: Lab,
    home: NatPolicy | str,
    office: NatPolicy | str,
    *,
    skew: float = 0.0,
    turn: Mapping[str, Any] | None = None,
    stun: bool = True,
    impatient: bool = True,
    reports: tuple[Report, Report] | None = None,
) -> IcePair:
    """Put a NAT before each of two hosts and have aioice connect them: home-1 offers, office-1 answers.

    A policy is one or its name. office-1 begins ``skew`` seconds after home-1 (before it, where negative). ``turn`` is
    an ICE server (``urls``, ``username``, ``credential``) for both, ``stun`` whether they use the lab's STUN server.
    ``impatient`` peers give up after 2 s and not after 64. With ``reports`` (of `classify_pair`) their explanations
    name the NATs. Needs a lab whose nodes share a file system: namespaces. Raises RuntimeError if a peer itself fails.
    """
    _apply(lab, home, office)
    own = {"urls": f"stun:{lab.topology.reflector_addresses[0]}:3478"}
    servers = tuple(dict(server) for server in ([own] if stun else []) + ([turn] if turn else []))
    with tempfile.TemporaryDirectory(prefix="natprobe-") as directory:
        files = _save(reports, directory)
        roles = [
            Role(f"{directory}/socket", controlling, servers, max(0.0, wait), impatient, (named[0], named[1]))
            for controlling, wait, named in ((True, -skew, files), (False, skew, files[::-1]))
        ]
        return IcePair(*_run(lab, roles))


def classify_pair(lab: Lab, home: NatPolicy | str, office: NatPolicy | str) -> tuple[Report, Report]:
    """Put a NAT before each of two hosts and return what natprobe finds from home-1 and from office-1."""
    _apply(lab, home, office)
    command = ["natprobe", "classify", "-s", str(lab.topology.reflector_addresses[0]), "--json"]
    programs = [lab.start(node, command) for node in NODES]
    home_json, office_json = (program.communicate(timeout=_TIMEOUT)[0] for program in programs)
    return Report.loads(home_json), Report.loads(office_json)


def _apply(lab: Lab, *policies: NatPolicy | str) -> None:
    for gateway, policy in zip(GATEWAYS, policies, strict=True):
        lab.apply(gateway, parse_policy(policy) if isinstance(policy, str) else policy)


def _save(reports: tuple[Report, Report] | None, directory: str) -> Sequence[str | None]:
    """Write the reports where both peers can read them, and return where: home's, office's."""
    if not reports:
        return (None, None)
    files = [Path(directory, node) for node in NODES]
    for file, report in zip(files, reports, strict=True):
        file.write_text(report.dumps())
    return [str(file) for file in files]


def _run(lab: Lab, roles: Sequence[Role]) -> list[Side]:
    """Run the peers at once and return what each saw; none outlives this."""
    programs = [
        lab.start(node, ["python", "-m", "natprobe.lab.ice_peer", json.dumps(asdict(role))])
        for node, role in zip(NODES, roles, strict=True)
    ]
    try:
        said = [program.communicate(timeout=_TIMEOUT) for program in programs]
    finally:
        for program in programs:
            program.terminate()
            program.communicate()
    if any(program.returncode for program in programs):
        failed = (f"{node}: {errors.strip()}" for node, (_, errors) in zip(NODES, said, strict=True) if errors)
        raise RuntimeError(f"an ICE peer failed: {'; '.join(failed)}")
    return [Side(**json.loads(result)) for result, _ in said]
