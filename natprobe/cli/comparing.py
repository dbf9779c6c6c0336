"""What a lab's policy makes and what a report found, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from natprobe.errors import LabUnavailable
from natprobe.lab.backend import Lab
from natprobe.lab.policy import NatPolicy, differences, expected
from natprobe.lab.topology import Role
from natprobe.views.wording import value_in_words

_PATIENCE = 60.0


Words = Mapping[str, str]
"""The verdicts on a protocol in words, by the report's keys."""


@dataclass(frozen=True, slots=True)
class Run:
    """A classification in the lab: how long it took; what the policy makes and what was found, by protocol."""

    seconds: float
    expected: Mapping[str, Words]
    found: Mapping[str, Words]
    wrong: tuple[str, ...]
    """A line for each verdict that is not as expected, with its reason."""

    @property
    def right(self) -> bool:
        return not self.wrong


def classify_behind(lab: Lab, policy: NatPolicy, node: str = "home-1", options: Sequence[str] = ()) -> Run:
    """Give a node's gateway a policy, run ``natprobe classify`` on the node, and compare.

    Raises LabUnavailable where natprobe itself fails there, with what it said.
    """
    lab.apply(gateway_of(lab, node), policy)
    server = str(lab.topology.reflector_addresses[0])
    begun = time.monotonic()
    done = lab.run(node, ["natprobe", "classify", "-4", "-s", server, "--json", *options], timeout=_PATIENCE)
    seconds = time.monotonic() - begun
    if not done.stdout:
        raise LabUnavailable(f"natprobe on {node} ended with status {done.returncode}: {done.stderr.strip()}")
    return compare(policy, json.loads(done.stdout), seconds)


def gateway_of(lab: Lab, node: str) -> str:
    """Return the gateway that a policy is for where it is looked at from ``node``: its own, or home."""
    client = lab.topology.nodes[node].role is Role.CLIENT
    return lab.topology.gateway_of(node if client else "home-1").name


def compare(policy: NatPolicy, report: Mapping[str, Any], seconds: float) -> Run:
    """Hold a report's JSON against what ``policy`` makes; verdicts that a policy does not determine are left out."""
    made, family = in_words(policy), report["ipv4"] or {}
    found = {protocol: _found(family.get(protocol) or {}, made[protocol]) for protocol in made}
    return Run(seconds, made, found, tuple(differences(policy, report)))


def in_words(policy: NatPolicy) -> dict[str, Words]:
    """Return the verdicts that a report on ``policy`` must give, by protocol."""
    made = expected(policy)
    return {p: {key: value_in_words(value) for key, value in verdicts.items()} for p, verdicts in made.items()}


def _found(profile: Mapping[str, Any], keys: Iterable[str]) -> Words:
    return {key: value_in_words(profile[key]["value"]) if key in profile else "not tested" for key in keys}
