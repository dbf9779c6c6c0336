"""How often is port reuse told, and how often wrongly? Every level behind every way of choosing ports, in memory.

    python benchmarks/port_reuse.py [--runs N] [--loss P] [--deep] [--processes N]

Run number n of a cell has n as its seed, over a line of 40 ms. A cell is a level (P0 to P4), a way of choosing ports
and a number of internal addresses; counted are *right*, *cannot tell* and *wrong*, UDP and TCP apart. The last line
counts false positives: runs on NATs that give each port once in which sharing was claimed.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product

from rich.progress import track

from natprobe.behaviour import PortAssignment, PortReuse, Protocol
from natprobe.lab.details import Details
from natprobe.lab.link import Impairment, Path
from natprobe.lab.policy import NatPolicy, ProtocolPolicy
from natprobe.lab.simulation import SECOND, simulate
from natprobe.run import Tier

BLOCK = Details(port_block=512)
CHOICES = {
    "preserving": ProtocolPolicy(port_assignment=PortAssignment.PRESERVING),
    "sequential": ProtocolPolicy(port_assignment=PortAssignment.SEQUENTIAL),
    "random": ProtocolPolicy(port_assignment=PortAssignment.RANDOM),
    "preserving, 512 ports": ProtocolPolicy(port_assignment=PortAssignment.PRESERVING, details=BLOCK),
    "random, 512 ports": ProtocolPolicy(port_assignment=PortAssignment.RANDOM, details=BLOCK),
}
OUTCOMES = ("right", "cannot tell", "wrong")

Cell = tuple[str, int, PortReuse]
"""How ports are chosen, how many addresses the client has, and what the NAT does."""
Run = tuple[Cell, int, float, Tier]


def outcomes(run: Run) -> tuple[Cell, list[tuple[Protocol, str]]]:
    """Return how one run ended for each protocol."""
    (choice, addresses, reuse), seed, loss, tier = run
    policy = NatPolicy.alike(replace(CHOICES[choice], port_reuse=reuse))
    line = Path.alike(Impairment(0.018, 0.002, loss))
    report = simulate(policy, line, seed, tier=tier, second_source=SECOND if addresses == 2 else None)
    assert report.ipv4
    verdicts = {protocol: profile.port_reuse for protocol, profile in report.ipv4.profiles}
    values = {protocol: verdict.value if verdict else None for protocol, verdict in verdicts.items()}
    told = {protocol: "right" if value is reuse else "wrong" for protocol, value in values.items()}
    return run[0], [(protocol, told[protocol] if values[protocol] else "cannot tell") for protocol in values]


def table(counted: dict[Cell, Counter[tuple[Protocol, str]]]) -> Iterator[str]:
    """Yield the result as lines of Markdown."""
    yield "| ports | addresses | level | UDP right / cannot tell / wrong | TCP right / cannot tell / wrong |"
    yield "|---|--:|---|--:|--:|"
    for (choice, addresses, reuse), count in counted.items():
        cells = (" / ".join(str(count[protocol, outcome]) for outcome in OUTCOMES) for protocol in Protocol)
        yield f"| {choice} | {addresses} | {reuse} | {' | '.join(cells)} |"


def main() -> None:
    """Measure, and say what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=40, help="of each cell")
    options.add_argument("--loss", type=float, default=0.0, help="each way")
    options.add_argument("--deep", action="store_true")
    options.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    chosen = options.parse_args()
    tier = Tier.DEEP if chosen.deep else Tier.DEFAULT
    cells = list(product(CHOICES, (1, 2), PortReuse))
    runs = [(cell, seed, chosen.loss, tier) for cell in cells for seed in range(chosen.runs)]
    counted: dict[Cell, Counter[tuple[Protocol, str]]] = {cell: Counter() for cell in cells}
    with ProcessPoolExecutor(chosen.processes) as pool:
        for cell, told in track(pool.map(outcomes, runs, chunksize=8), total=len(runs)):
            counted[cell].update(told)
    print("\n".join(table(counted)))
    wrong = sum(count[protocol, "wrong"] for count in counted.values() for protocol in Protocol)
    exclusive = [count for (*_, reuse), count in counted.items() if reuse is PortReuse.EXCLUSIVE]
    false = sum(count[protocol, "wrong"] for count in exclusive for protocol in Protocol)
    print(
        f"\n{wrong} of {2 * len(runs)} verdicts wrong; sharing claimed in {false} of {2 * chosen.runs * len(exclusive)}"
    )
    print(f"verdicts on NATs that give each port once. Seeds 0 to {chosen.runs - 1}, {chosen.loss:.0%} loss each way.")


if __name__ == "__main__":
    main()
