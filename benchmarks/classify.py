"""How long does it take to learn what a NAT does to UDP? natprobe beside two other tools, in the same run.

    python benchmarks/classify.py [--rounds N] [--markdown FILE]

In the namespace lab, over a wire of 20 ms one way, behind two NATs that filter by address and port: the case in which
silence is the answer, which is what takes time. Each tool is a process of its own, timed from its start to its end,
against the same server; the NAT forgets everything before each one, and they take turns, round by round. Nothing
leaves the machine, and nothing is written but the file asked for.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from natprobe.behaviour import Dependence
from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS, expected
from natprobe.lab.session import open_lab

SERVER = "198.51.100.10"
DELAY = 0.020
POLICIES = ("eim-apdf", "linux-masquerade-drop")
BUDGET = 0.7
"""Seconds that natprobe's whole process may take, in the median."""
TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Tool:
    """A program to race: its command, and how to read in its output a verdict (mapping and filtering, or a name)."""

    name: str
    command: Sequence[str]
    verdict: Callable[[str], str]


@dataclass(slots=True)
class Score:
    """What came of the runs of one tool behind one NAT."""

    seconds: list[float] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    """What natprobe says of its own duration: the rest is the interpreter's start, imports and the end."""

    def right(self, truth: str) -> int:
        return sum(verdict == truth for verdict in self.verdicts)


def natprobe_verdict(output: str) -> str:
    profile = json.loads(output)["ipv4"]["udp"]
    return f"{profile['mapping']['value']} mapping, {profile['filtering']['value']} filtering"


def natdiscovery_verdict(output: str) -> str:
    found = re.findall(r"NAT with ([\w ]+) (Mapping|Filtering)!", output)
    told = {what.lower(): _hyphenated(dependence) for dependence, what in found}
    return f"{told.get('mapping')} mapping, {told.get('filtering')} filtering"


def _hyphenated(dependence: str) -> str:
    return dependence.strip().lower().replace(" ", "-")


CONES = {
    "Restric Port NAT": (Dependence.ENDPOINT_INDEPENDENT, Dependence.ADDRESS_AND_PORT_DEPENDENT),
    "Restric NAT": (Dependence.ENDPOINT_INDEPENDENT, Dependence.ADDRESS_DEPENDENT),
    "Full Cone": (Dependence.ENDPOINT_INDEPENDENT, Dependence.ENDPOINT_INDEPENDENT),
}


def pystun3_verdict(output: str) -> str:
    name = re.search(r"NAT Type: (.*)", output)
    told = name[1].strip() if name else "nothing"
    if told not in CONES:
        return f'"{told}"'
    mapping, filtering = CONES[told]
    return f"{mapping} mapping, {filtering} filtering"


def tools() -> list[Tool]:
    """Return the tools that are here; what is missing is said, and left out."""
    pystun3 = str(Path(sys.executable).with_name("pystun3"))
    natprobe = ["natprobe", "classify", "--quick", "--only", "udp", "--json", "-s", SERVER]
    found = [
        Tool("natprobe", natprobe, natprobe_verdict),
        Tool("turnutils_natdiscovery", ["turnutils_natdiscovery", "-m", "-f", SERVER], natdiscovery_verdict),
        Tool("pystun3", [pystun3, "-H", SERVER], pystun3_verdict),
    ]
    missing = [tool for tool in found[1:] if not shutil.which(tool.command[0])]
    for tool in missing:
        print(f"left out: {tool.name} is not installed")
    return [tool for tool in found if tool not in missing]


def race(lab: Lab, racing: Sequence[Tool], rounds: int) -> dict[tuple[str, str], Score]:
    """Run every tool behind every NAT so many times, in turn, another one first in every round."""
    scores = {(policy, tool.name): Score() for policy in POLICIES for tool in racing}
    for number in range(rounds):
        first = number % len(racing)
        for policy in POLICIES:
            for tool in (*racing[first:], *racing[:first]):
                lab.apply("home", PRESETS[policy])
                run(lab, tool, scores[policy, tool.name])
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return scores


def run(lab: Lab, tool: Tool, score: Score) -> None:
    started = time.perf_counter()
    ended = lab.run("home-1", tool.command, timeout=TIMEOUT)
    score.seconds.append(time.perf_counter() - started)
    score.verdicts.append(tool.verdict(ended.stdout))
    if tool.name == "natprobe":
        score.own.append(json.loads(ended.stdout)["duration_s"])


def truth(policy: str) -> str:
    verdicts = expected(PRESETS[policy])["udp"]
    return f"{verdicts['mapping']} mapping, {verdicts['filtering']} filtering"


def table(scores: dict[tuple[str, str], Score], racing: Sequence[Tool], rounds: int) -> list[str]:
    """Return the result as lines of Markdown."""
    lines = [
        "| NAT | tool | median s | min s | max s | × natprobe | right | verdict |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for policy in POLICIES:
        ours = median(scores[policy, "natprobe"].seconds)
        for tool in racing:
            score = scores[policy, tool.name]
            middle = median(score.seconds)
            times = f"{middle:.2f} | {min(score.seconds):.2f} | {max(score.seconds):.2f} | {middle / ours:.1f}"
            said = "; ".join(dict.fromkeys(score.verdicts))
            lines.append(f"| {policy} | {tool.name} | {times} | {score.right(truth(policy))} of {rounds} | {said} |")
    return lines


def summary(scores: dict[tuple[str, str], Score], overhead: float) -> list[str]:
    """Return where natprobe's time goes, and whether that is within the budget."""
    ours = [scores[policy, "natprobe"] for policy in POLICIES]
    whole = median(second for score in ours for second in score.seconds)
    own = median(second for score in ours for second in score.own)
    wrong = sum(len(score.verdicts) - score.right(truth(policy)) for policy, score in zip(POLICIES, ours, strict=True))
    budget = f"PASS, within {BUDGET} s" if whole <= BUDGET else f"over the budget of {BUDGET} s"
    trips = f"{own / (2 * DELAY):.1f} round trips of {2 * DELAY * 1000:.0f} ms"
    return [
        f"natprobe: {whole:.2f} s in the median, {budget}; {wrong or 'no'} verdict{'s' * (wrong > 1)} not right",
        f"of these {own:.2f} s on the network by its own report ({trips}); every tool pays {overhead:.2f} s to enter",
    ]


def entering(lab: Lab, rounds: int) -> float:
    """Return the seconds that it takes to run a program on the client that does nothing."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        lab.run("home-1", ["true"])
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def main() -> None:
    """Race, and say what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--markdown", type=Path, metavar="FILE")
    chosen = options.parse_args()
    racing = tools()
    with open_lab("namespaces", delay=DELAY) as lab:
        overhead = entering(lab, chosen.rounds)
        scores = race(lab, racing, chosen.rounds)
    lines = [*table(scores, racing, chosen.rounds), "", *summary(scores, overhead)]
    print("\n".join(lines))
    if chosen.markdown:
        chosen.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
