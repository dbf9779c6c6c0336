"""Does natprobe predict right which two hosts connect? Every pair of the lab's NATs, with real ICE and real TCP.

    python benchmarks/traversal.py [--labs N] [--only udp|tcp|rtc] [--policy NAME]... [--markdown FILE]

Two hosts stand behind two gateways, with a wire of 50 ms one way between them. Each is classified by `natprobe
classify` behind each NAT, and every ordered pair of reports is predicted. Then the hosts try to connect, three times:
both at the same instant, A first, B first (by 0.3 s, so that its packets arrive before the other sends any). Over UDP
by aioice, over TCP by simultaneous open, and some pairs with a data channel of aiortc's. Several labs work beside each
other. Nothing leaves the machine, and nothing is written but the file asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from pairs import DELAY, NODES, Attempt, Pair, classify, peers, works

import natprobe
from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS
from natprobe.lab.session import open_lab
from natprobe.report import Report
from natprobe.traversal import Order, PathPrediction, Traversal

POLICIES = [name for name in PRESETS if name != "linux-masquerade"]  # that one is linux-masquerade-drop
CALLED = ["eim-eif", "eim-apdf", "apdm-apdf", "firewall", "linux-masquerade-drop", "linux-masquerade-accept"]
"""The NATs behind which data channels are tried: a call takes a second."""
ORDERS = {"udp": tuple(Order), "tcp": tuple(Order), "rtc": (Order.A, Order.B)}
ATTEMPTS = 2
"""What does not come out as predicted is tried once more: an instant may be missed on a machine that is busy."""


@dataclass(frozen=True, slots=True)
class Result:
    """A pair of NATs, what was predicted of it, and what came of it."""

    a: str
    b: str
    predicted: PathPrediction
    found: dict[Order, Attempt]
    """By who began."""
    again: list[Order]
    """Who began where an attempt came out otherwise at first."""

    @property
    def right(self) -> bool:
        return all(attempt.connected is works(self.predicted, order) for order, attempt in self.found.items())


# --- measuring --------------------------------------------------------------------------------------------------------


async def measure(labs: Sequence[Lab], kind: str, policies: Sequence[str]) -> list[Result]:
    """Try every ordered pair of policies once in one of the labs."""
    reports = await classified(labs, policies)
    waiting = list(product(policies, policies))
    results: list[Result] = []

    async def work(lab: Lab) -> None:
        async with peers(lab, kind) as pair:
            while waiting:
                a, b = waiting.pop(0)
                prediction = natprobe.predict(reports["home", a], reports["office", b])
                predicted = prediction.tcp if kind == "tcp" else prediction.udp
                assert predicted
                results.append(await tried(pair, Result(a, b, predicted, {}, []), kind))
                if len(results) % 10 == 0:
                    print(f"{kind}: {len(results)} of {len(policies) ** 2}", file=sys.stderr)

    await asyncio.gather(*map(work, labs))
    return results


async def classified(labs: Sequence[Lab], policies: Sequence[str]) -> dict[tuple[str, str], Report]:
    """Classify from behind either gateway, with each policy."""
    waiting = list(product(NODES, policies))
    reports = {}

    async def work(lab: Lab) -> None:
        while waiting:
            gateway, name = waiting.pop(0)
            reports[gateway, name] = await asyncio.to_thread(classify, lab, gateway, PRESETS[name])

    await asyncio.gather(*map(work, labs))
    return reports


async def tried(pair: Pair, result: Result, kind: str) -> Result:
    """Have the two connect in every order."""
    for order in ORDERS[kind]:
        for _ in range(ATTEMPTS):
            await pair.behind(PRESETS[result.a], PRESETS[result.b])
            # Whoever answers an offer begins.
            attempt = await (pair.call(a_offers=order is Order.B) if kind == "rtc" else pair.attempt(order))
            result.found[order] = attempt
            if attempt.connected is works(result.predicted, order):
                break
            result.again.append(order)
    return result


# --- telling ----------------------------------------------------------------------------------------------------------

_LETTERS = {Traversal.DIRECT: "D", Traversal.RELAY: "R", Traversal.UNKNOWN: "?", Traversal.SAME_NAT: "S"}


def table(results: Sequence[Result], policies: Sequence[str]) -> Iterator[str]:
    """Yield a matrix in Markdown: A down, B across; predicted, then found, once for each order."""
    cells = {(result.a, result.b): cell(result) for result in results}
    yield f"| A ↓ B → | {' | '.join(policies)} |"
    yield "|---" * (len(policies) + 1) + "|"
    for a in policies:
        yield f"| **{a}** | {' | '.join(cells[a, b] for b in policies)} |"


def cell(result: Result) -> str:
    first = result.predicted.first
    letter = _LETTERS.get(result.predicted.outcome) or str(first)[0].upper()
    found = "".join("+" if attempt.connected else "−" for attempt in result.found.values())
    return f"{letter} {found}" if result.right else f"**{letter} {found} !**"


def summary(results: Sequence[Result], kind: str) -> Iterator[str]:
    """Yield how many were right, by what was predicted, and every one that was not."""
    for outcome in Traversal:
        mine = [result for result in results if result.predicted.outcome is outcome]
        if mine:
            yield f"* {kind}: {outcome}: {sum(result.right for result in mine)} of {len(mine)} pairs as predicted"
    paired = [r for r in results if r.found and all(attempt.pair for attempt in r.found.values())]
    same = sum(any(attempt.pair == r.predicted.pair for attempt in r.found.values()) for r in paired)
    again = [f"{result.a} × {result.b}" for result in results for _ in result.again]
    if again:
        yield f"* {kind}: {len(again)} attempts came out otherwise, and were made once more: {', '.join(again)}"
    yield f"* {kind}: of {len(paired)} pairs that connect in any order, {same} did by the candidates predicted"
    for result in results:
        if not result.right:
            yield f"* {kind}: wrong: {result.a} × {result.b}: {result.predicted.reason}"


def report_of(kind: str, results: Sequence[Result], policies: Sequence[str]) -> str:
    return "\n".join([f"### {kind}", "", *table(results, policies), "", *summary(results, kind), ""])


async def main() -> None:
    """Measure, and say what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--labs", type=int, default=3)
    options.add_argument("--only", choices=ORDERS)
    options.add_argument("--policy", action="append", choices=POLICIES, metavar="NAME")
    options.add_argument("--markdown", type=Path, metavar="FILE")
    chosen = options.parse_args()
    told = []
    with ExitStack() as stack:
        labs = [stack.enter_context(open_lab("namespaces", delay=DELAY)) for _ in range(chosen.labs)]
        for kind in [chosen.only] if chosen.only else ORDERS:
            policies = chosen.policy or (CALLED if kind == "rtc" else POLICIES)
            told.append(report_of(kind, await measure(labs, kind, policies), policies))
            print(told[-1])
    if chosen.markdown:
        chosen.markdown.write_text("\n".join(told))


if __name__ == "__main__":
    asyncio.run(main())
