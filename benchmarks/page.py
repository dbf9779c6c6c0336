"""Is the page right, and how soon? A real Chromium behind the lab's NATs, visit after visit.

    python benchmarks/page.py [--rounds N] [--loss P]... [--markdown FILE]

Each visit is a context of its own, and the NAT forgets everything before it. It counts as right if every core verdict
on UDP (reachable, translated, mapping, filtering) is the policy's, as wrong if any has another value. Seconds run from
the click to the answer on the page. Loss is independent, per packet and in each direction, and hits the page's TCP too.
At the end of each series `natprobe classify` runs behind the same NAT, and its verdicts are compared. Nothing leaves
the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, Error, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from lab.chromium import chromium, serving_page, visit

from natprobe.behaviour import Protocol
from natprobe.errors import LabUnavailable
from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS, expected
from natprobe.lab.session import open_lab

POLICIES = (
    *("none", "firewall", "eim-eif", "eim-adf", "eim-apdf", "adm-apdf", "apdm-eif", "apdm-apdf"),
    *("linux-masquerade-drop", "linux-masquerade-accept", "linux-fully-random"),
)
LOSSES = (0.0, 0.2)


@dataclass(slots=True)
class Score:
    """What came of the visits behind one NAT."""

    policy: str
    loss: float
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """What the page said where it gave no answer: all its verdicts count as not determined."""
    verdicts: int = 0
    unknown: int = 0
    seconds: list[float] = field(default_factory=list)
    agrees: bool = True

    def add(self, udp: dict[str, Any]) -> None:
        """Count the verdicts of a visit."""
        wanted = expected(PRESETS[self.policy])[Protocol.UDP]
        told = {key: udp[key]["value"] for key in wanted}
        self.verdicts += len(told)
        self.unknown += sum(value is None for value in told.values())
        self.wrong += [f"{key} {value}" for key, value in told.items() if value not in (None, wanted[key])]
        self.right += told == wanted

    def fail(self, why: str) -> None:
        """Count a visit without an answer."""
        unknown = len(expected(PRESETS[self.policy])[Protocol.UDP])
        self.failed.append(why)
        self.verdicts += unknown
        self.unknown += unknown


def measure(lab: Lab, browser: Browser, policy: str, loss: float, rounds: int) -> Score:
    """Visit the page so many times behind a NAT, and ask the command line once."""
    score = Score(policy, loss)
    last: dict[str, Any] = {}
    for _ in range(rounds):
        lab.apply("home", PRESETS[policy])
        try:
            seen = visit(browser)
        except (Error, LabUnavailable) as late:
            score.fail(str(late).splitlines()[0])
            continue
        last = seen.report["ipv4"]["udp"]
        score.add(last)
        score.seconds.append(seen.seconds)
    by_command = json.loads(lab.run("home-1", ["natprobe", "classify", "--json", "-s", "198.51.100.10"]).stdout)
    other = by_command["ipv4"]["udp"]
    both = [key for key, verdict in last.items() if None not in (verdict["value"], other.get(key, {}).get("value"))]
    score.agrees = all(last[key]["value"] == other[key]["value"] for key in both if key != "external")
    return score


def measure_all(losses: Sequence[float], rounds: int) -> Iterator[Score]:
    """Yield the score of each NAT at each loss."""
    with sync_playwright() as playwright:
        for loss in losses:
            with open_lab("namespaces", loss=loss) as lab, serving_page(lab), chromium(playwright, lab) as browser:
                for policy in POLICIES:
                    score = measure(lab, browser, policy, loss, rounds)
                    print(
                        f"{policy} at {loss:.0%}: {score.right} of {rounds} right {score.wrong or score.failed}",
                        file=sys.stderr,
                    )
                    yield score


def table(scores: Sequence[Score], rounds: int) -> Iterator[str]:
    """Yield the result as lines of Markdown."""
    headings = ("loss each way", "NAT", "right", "wrong", "no answer", "not determined", "median s", "max s")
    yield f"| {' | '.join(headings)} | `classify` agrees |"
    yield "|--:|---|--:|--:|--:|--:|--:|--:|---|"
    for score in scores:
        yield (
            f"| {score.loss:.0%} | {score.policy} | {score.right} of {rounds} | {len(score.wrong)} "
            f"| {len(score.failed)} | {score.unknown} of {score.verdicts} | {median(score.seconds):.2f} "
            f"| {max(score.seconds):.2f} | {'yes' if score.agrees else 'no'} |"
        )
    for loss in dict.fromkeys(score.loss for score in scores):
        of = [score for score in scores if score.loss == loss]
        seconds = [second for score in of for second in score.seconds]
        unknown = sum(score.unknown for score in of) / sum(score.verdicts for score in of)
        yield (
            f"| {loss:.0%} | all | {sum(score.right for score in of)} of {rounds * len(of)} "
            f"| {sum(len(score.wrong) for score in of)} | {sum(len(score.failed) for score in of)} | {unknown:.1%} "
            f"| {median(seconds):.2f} | {max(seconds):.2f} | {'yes' if all(score.agrees for score in of) else 'no'} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="visits behind each NAT")
    parser.add_argument("--loss", type=float, action="append", help="each way; 0 and 0.2 unless said")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    options = parser.parse_args()
    text = "\n".join(table(list(measure_all(options.loss or LOSSES, options.rounds)), options.rounds)) + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
