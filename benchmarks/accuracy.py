"""How often is natprobe wrong, and how often does it not know? By loss and by round trip, in memory, from named seeds.

    python benchmarks/accuracy.py [--runs N] [--loss P]... [--round-trip MS]... [--processes N] [--markdown FILE]

Every run is a whole classification of a simulated NAT on a virtual clock, the client's own code against the
reflector's own rules. Run number n of a cell probes policy n modulo their number, with n as its seed: any single one
can be repeated with ``natprobe.lab.simulation.simulate``. Loss is independent, per packet and in each direction; each
packet also waits a little in queues. What is counted are core verdicts (reachable, translated, mapping, filtering),
UDP and TCP apart.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

from rich.progress import Progress

from natprobe.behaviour import Protocol
from natprobe.errors import CannotRun
from natprobe.lab.link import Impairment
from natprobe.lab.link import Path as Line
from natprobe.lab.policy import PRESETS, expected
from natprobe.lab.simulation import simulate

LOSSES = (0.0, 0.01, 0.05, 0.10, 0.20)
ROUND_TRIPS = (0.005, 0.040, 0.150, 0.600)
POLICIES = [name for name in PRESETS if "blocked" not in name and "rejected" not in name]
VERDICTS = ("UDP wrong", "UDP unknown", "TCP wrong", "TCP unknown")
CHUNK = 100

Cell = tuple[float, float]
"""Loss each way, and round trip in seconds."""


@dataclass(slots=True)
class Score:
    """What came of the runs of one cell."""

    runs: int = 0
    verdicts: Counter[tuple[Protocol, str]] = field(default_factory=Counter)
    """How many were ``right``, ``wrong`` or ``unknown``, by protocol."""
    wrong_runs: list[str] = field(default_factory=list)
    """Each wrong verdict: policy, seed, protocol and key."""
    seconds: list[float] = field(default_factory=list)
    processor: float = 0.0
    """Seconds of a processor that the runs took."""

    def add(self, other: Score) -> None:
        self.runs += other.runs
        self.verdicts += other.verdicts
        self.wrong_runs += other.wrong_runs
        self.seconds += other.seconds
        self.processor += other.processor

    def share(self, outcome: str, protocol: Protocol) -> float:
        whole = sum(count for (of, _), count in self.verdicts.items() if of is protocol)
        return self.verdicts[protocol, outcome] / whole if whole else 0.0


def line(cell: Cell) -> Line:
    """Return the line of a cell; a tenth of its round trip is spent in queues, on average."""
    loss, round_trip = cell
    return Line.alike(Impairment(delay=0.45 * round_trip, jitter=0.05 * round_trip, loss=loss))


def measure(cell: Cell, first: int, runs: int) -> Score:
    """Make so many runs of a cell, from this number on."""
    score = Score()
    begun = time.process_time()
    for number in range(first, first + runs):
        add_run(score, cell, POLICIES[number % len(POLICIES)], number)
    score.processor = time.process_time() - begun
    return score


def add_run(score: Score, cell: Cell, name: str, seed: int) -> None:
    """Make one run and count its verdicts; one in which no server answered counts as four unknown ones each."""
    score.runs += 1
    wanted = expected(PRESETS[name])
    try:
        report = simulate(PRESETS[name], line(cell), seed)
        found, seconds = report.to_json()["ipv4"], report.duration_s
    except CannotRun:
        found, seconds = {}, float("inf")
    score.seconds.append(seconds)
    for protocol, (key, value) in ((p, verdict) for p in Protocol for verdict in wanted[p].items()):
        told = (found.get(protocol) or {}).get(key, {}).get("value")
        outcome = "unknown" if told is None else "right" if told == value else "wrong"
        score.verdicts[protocol, outcome] += 1
        if outcome == "wrong":
            score.wrong_runs.append(f"{name}, seed {seed}: {protocol} {key} {told}")


def measure_all(cells: Sequence[Cell], runs: int, processes: int) -> dict[Cell, Score]:
    """Make all runs in so many processes, behind a progress bar on stderr."""
    scores = {cell: Score() for cell in cells}
    with ProcessPoolExecutor(processes) as pool, Progress() as progress:
        task = progress.add_task("runs", total=runs * len(cells))
        pending = {
            pool.submit(measure, cell, first, min(CHUNK, runs - first)): cell
            for cell, first in product(cells, range(0, runs, CHUNK))
        }
        for done in as_completed(pending):
            scores[pending[done]].add(done.result())
            progress.advance(task, done.result().runs)
    return scores


def table(scores: dict[Cell, Score]) -> Iterator[str]:
    """Yield the result as lines of Markdown."""
    headings = "loss each way", "round trip", "runs", *VERDICTS, "median s", "95 % s"
    yield f"| {' | '.join(headings)} |"
    yield "|" + "--:|" * len(headings)
    for (loss, round_trip), score in scores.items():
        shares = (
            _percent(score.share(outcome, protocol)) for protocol, outcome in product(Protocol, ("wrong", "unknown"))
        )
        times = sorted(score.seconds)
        yield (
            f"| {loss:.0%} | {round_trip * 1000:.0f} ms | {score.runs} | {' | '.join(shares)} "
            f"| {median(times):.2f} | {times[int(0.95 * (len(times) - 1))]:.2f} |"
        )


def _percent(share: float) -> str:
    return "0" if not share else f"{share:.3%}"


def main() -> None:
    """Measure, and say what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=10_000, help="of each cell")
    options.add_argument("--loss", type=float, action="append", metavar="P")
    options.add_argument("--round-trip", type=float, action="append", metavar="MS")
    options.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    chosen = options.parse_args()
    round_trips = [ms / 1000 for ms in chosen.round_trip] if chosen.round_trip else ROUND_TRIPS
    cells = list(product(chosen.loss or LOSSES, round_trips))
    begun = time.monotonic()
    scores = measure_all(cells, chosen.runs, chosen.processes)
    lines = [*table(scores), ""]
    lines += [f"* {loss:.0%}, {rt * 1000:.0f} ms: {run}" for (loss, rt), s in scores.items() for run in s.wrong_runs]
    lines.append(f"\n{chosen.runs * len(cells)} classifications of {len(POLICIES)} NATs, seeds 0 to {chosen.runs - 1}")
    print("\n".join(lines))
    processor = sum(score.processor for score in scores.values()) / sum(score.runs for score in scores.values())
    print(f"in {time.monotonic() - begun:.0f} s with {chosen.processes} processes")
    print(f"1,000 classifications take {1000 * processor:.1f} s of one core")
    if chosen.markdown:
        chosen.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
