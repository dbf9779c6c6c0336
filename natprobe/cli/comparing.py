"""What a lab's policy makes and what a report found, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from natprobe.cli.labs import Classifier
from natprobe.lab.policy import NatPolicy, differences, expected
from natprobe.run import Tier
from natprobe.views.wording import value_in_words

Words = Mapping[str, str]
"""The verdicts on a protocol in words, by the report's keys."""


@dataclass(frozen=True, slots=True)
class Run:
    """A classification in the lab: how long it took; what the policy makes and what was found, by protocol."""

    report: str
    """Its report, as JSON."""
    seconds: float
    expected: Mapping[str, Words]
    found: Mapping[str, Words]
    wrong: tuple[str, ...]
    """A line for each verdict that is not as expected, with its reason."""

    @property
    def right(self) -> bool:
        return not self.wrong


def classify_behind(classifier: Classifier, policy: NatPolicy, tier: Tier, node: str = "home-1") -> Run:
    """Classify behind a policy, and compare. Raises LabUnavailable."""
    begun = time.monotonic()
    report = classifier.classify(policy, tier, node)
    return compare(policy, report, time.monotonic() - begun)


def compare(policy: NatPolicy, text: str, seconds: float) -> Run:
    """Hold a report's JSON against what ``policy`` makes; verdicts that a policy does not determine are left out."""
    report = json.loads(text)
    made, family = in_words(policy), report["ipv4"] or {}
    found = {protocol: _found(family.get(protocol) or {}, made[protocol]) for protocol in made}
    return Run(text, seconds, made, found, tuple(differences(policy, report)))


def in_words(policy: NatPolicy) -> dict[str, Words]:
    """Return the verdicts that a report on ``policy`` must give, by protocol."""
    made = expected(policy)
    return {p: {key: value_in_words(value) for key, value in verdicts.items()} for p, verdicts in made.items()}


def _found(profile: Mapping[str, Any], keys: Iterable[str]) -> Words:
    return {key: value_in_words(profile[key]["value"]) if key in profile else "not tested" for key in keys}
