"""Every small fault, not a sample: does any of them make a verdict wrong? In memory, each a whole quick classification.

    python benchmarks/exhaustive.py [--policy NAME]... [--kind KIND]... [--index N]... [--most N] [--processes N]
                                    [--results FILE] [--markdown FILE]

One fault a run, on the internet's side of a NAT of the lab (10 ms one way), or in what the reflector says. The packets
of the run without a fault are numbered from 0, both directions together, in the order in which they set out:

    loss                one packet is lost, each in turn
    two-losses          two are, every pair
    outage              all packets are, for 0.05 to 3 s from every moment of the run, 25 ms apart
    duplicate           one packet arrives twice
    reordered           one packet arrives after the next one of its direction
    neighbouring-port   one packet from the reflector comes from the port beside the right one
    neighbouring-address one packet from the reflector comes from another address of its own
    misreport           one field of all that the reflector says of itself is not what it ought to be
    misreport-unknowable the same, where no other server is there to tell that it is wrong

*Wrong* is a verdict whose value is determined, not conflicting, and not what the policy makes; a wrong one that is
*confirmed* is grave. Each is named by policy, kind and index: with these three options the same run is made again.
``--results`` is a file to which each finished part is added, and from which it is taken where it is there already: a
run that was interrupted goes on. ``--most`` cases of each policy and kind are drawn where there are more.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from rich.progress import Progress
from small_faults import KINDS, LINE, indexes, undisturbed

from natprobe.errors import CannotRun
from natprobe.lab.internet import Fault
from natprobe.lab.mirror import Says
from natprobe.lab.policy import PRESETS, expected, expected_further
from natprobe.lab.simulation import simulate

CHUNK = 100


# --- runs -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Score:
    """What came of some runs: verdicts ``right``, ``unknown``, ``wrong`` and ``grave``, and a line for each bad one."""

    runs: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    processor: float = 0.0
    """Seconds of a processor that the runs took."""

    def to_json(self) -> dict[str, object]:
        return {"runs": self.runs, "verdicts": self.verdicts, "bad": self.bad, "processor": self.processor}

    def add(self, other: Score) -> None:
        self.runs += other.runs
        self.verdicts += other.verdicts
        self.bad += other.bad
        self.processor += other.processor


def try_cases(policy: str, kind: str, numbers: Sequence[int]) -> Score:
    """Make the runs of some cases and count their verdicts."""
    score = Score()
    begun = time.process_time()
    for index in numbers:
        score.runs += 1
        fault, says = KINDS[kind].case(undisturbed(policy), index)
        for name, outcome, told in judged(policy, fault, says):
            score.verdicts[outcome] += 1
            if outcome in ("wrong", "grave"):
                score.bad.append(f"{outcome}: --policy {policy} --kind {kind} --index {index}: {name} {told}")
    score.processor = time.process_time() - begun
    return score


def judged(policy: str, fault: Fault | None, says: Says) -> Iterator[tuple[str, str, str]]:
    """Make one run; yield each verdict's name, what it is, and its value with its reason."""
    try:
        family = simulate(PRESETS[policy], LINE, fault=fault, says=says).to_json()["ipv4"]
    except CannotRun:
        family = {}
    further = expected_further(PRESETS[policy])
    for protocol, wanted in expected(PRESETS[policy]).items():
        profile = family.get(protocol) or {}
        known = wanted | {key: value for key, value in further[protocol].items() if key in profile}
        for key, value in known.items():
            verdict = profile.get(key) or {"value": None, "certainty": "not-determined", "reason": "no report"}
            told = f"{verdict['value']}, {verdict['certainty']}: {verdict['reason']}"
            yield f"{protocol} {key}", _outcome(verdict, value), told


def _outcome(verdict: dict[str, object], value: object) -> str:
    if verdict["value"] == value:
        return "right"
    if verdict["value"] is None or verdict["certainty"] == "conflicting":
        return "unknown"
    return "grave" if verdict["certainty"] == "confirmed" else "wrong"


Part = tuple[str, str, tuple[int, ...]]
"""A policy, a kind of fault, and some cases of it."""


def parts(policies: Sequence[str], kinds: Sequence[str], most: int | None, only: Sequence[int]) -> Iterator[Part]:
    for policy, kind in product(policies, kinds):
        numbers = list(only) or indexes(policy, kind, most)
        for first in range(0, len(numbers), CHUNK):
            yield policy, kind, tuple(numbers[first : first + CHUNK])


def try_all(todo: Sequence[Part], processes: int, results: Path | None) -> dict[Part, Score]:
    """Make all runs in so many processes, behind a progress bar on stderr, but those whose results are there."""
    scores = {part: score for part, score in _read(results) if part in set(todo)}
    with ProcessPoolExecutor(processes) as pool, Progress() as progress:
        task = progress.add_task("runs", total=sum(len(numbers) for *_, numbers in todo))
        progress.advance(task, sum(score.runs for score in scores.values()))
        pending = {pool.submit(try_cases, *part): part for part in todo if part not in scores}
        for done in as_completed(pending):
            part, score = pending[done], done.result()
            scores[part] = score
            progress.advance(task, score.runs)
            if results:
                with results.open("a") as file:
                    file.write(json.dumps([part, score.to_json()]) + "\n")
    return scores


def _read(results: Path | None) -> Iterator[tuple[Part, Score]]:
    lines = results.read_text().splitlines() if results and results.exists() else []
    for (policy, kind, numbers), score in map(json.loads, lines):
        yield (policy, kind, tuple(numbers)), Score(**score | {"verdicts": Counter(score["verdicts"])})


def table(scores: dict[Part, Score]) -> Iterator[str]:
    """Yield the result as lines of Markdown."""
    headings = "fault", "runs", "verdicts right", "not determined", "wrong", "of them confirmed", "s of one core"
    yield f"| {' | '.join(headings)} |"
    yield "|---|" + "--:|" * (len(headings) - 1)
    for kind in dict.fromkeys(kind for _, kind, _ in scores):
        whole = Score()
        for (_, of, _), score in scores.items():
            if of == kind:
                whole.add(score)
        told = whole.verdicts
        counts = (told["right"], told["unknown"], told["wrong"] + told["grave"], told["grave"])
        cells = (whole.runs, *counts, round(whole.processor))
        yield f"| {kind} | {' | '.join(f'{cell:,}' for cell in cells)} |"


def main() -> None:
    """Try the faults, and say what came of them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--policy", action="append", choices=PRESETS, metavar="NAME")
    options.add_argument("--kind", action="append", choices=KINDS)
    options.add_argument("--index", type=int, action="append", default=[], metavar="N", help="only these cases")
    options.add_argument("--most", type=int, metavar="N", help="cases of each policy and kind")
    options.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options.add_argument("--results", type=Path, metavar="FILE")
    options.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    chosen = options.parse_args()
    begun = time.monotonic()
    todo = list(parts(chosen.policy or list(PRESETS), chosen.kind or list(KINDS), chosen.most, chosen.index))
    scores = try_all(todo, chosen.processes, chosen.results)
    scores = {part: scores[part] for part in todo}
    lines = [*table(scores), "", *(f"* {bad}" for score in scores.values() for bad in score.bad)]
    print("\n".join(lines))
    print(f"in {time.monotonic() - begun:.0f} s with {chosen.processes} processes")
    if chosen.markdown:
        chosen.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
