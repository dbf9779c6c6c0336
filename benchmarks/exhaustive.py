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
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from itertools import product
from math import ceil, comb
from pathlib import Path

from rich.progress import Progress

from natprobe import extensions, stun
from natprobe.endpoint import Endpoint, parse_address
from natprobe.errors import CannotRun, MalformedMessage
from natprobe.extensions import DialOutcome, Extension
from natprobe.lab.internet import Fault
from natprobe.lab.link import Impairment
from natprobe.lab.link import Path as Line
from natprobe.lab.mirror import Says, truthfully
from natprobe.lab.packet import Packet
from natprobe.lab.policy import PRESETS, expected, expected_further
from natprobe.lab.simulation import REFLECTOR, simulate
from natprobe.stun import Attribute, Type

LINE = Line.alike(Impairment(delay=0.010))
OUTAGES = (0.05, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0)
MOMENT = 0.025
"""Seconds between the moments at which outages begin."""
CHUNK = 100


# --- faults on the line -----------------------------------------------------------------------------------------------

Arriving = tuple[tuple[Packet, float], ...]


@dataclass
class Counting:
    """Does no harm, and counts the packets: how many in all, and which came from the reflector."""

    packets: int = 0
    down: list[int] = field(default_factory=list)

    def strike(self, packet: Packet, now: float, *, up: bool) -> Arriving:
        del now
        if not up:
            self.down.append(self.packets)
        self.packets += 1
        return ((packet, 0.0),)


@dataclass
class Struck(Counting):
    """Strikes the packets with these numbers: ``harm`` is what arrives in place of each."""

    numbers: frozenset[int] = frozenset()
    harm: Callable[[Packet], Arriving] = lambda _: ()

    def strike(self, packet: Packet, now: float, *, up: bool) -> Arriving:
        struck = self.packets in self.numbers
        unharmed = super().strike(packet, now, up=up)
        return self.harm(packet) if struck else unharmed


@dataclass
class Overtaken(Counting):
    """Holds one packet back until the next one of its direction has set out."""

    number: int = 0
    _held: tuple[Packet, bool] | None = None

    def strike(self, packet: Packet, now: float, *, up: bool) -> Arriving:
        number = self.packets
        unharmed = super().strike(packet, now, up=up)
        if number == self.number:
            self._held = packet, up
            return ()
        if self._held and self._held[1] is up:
            (held, _), self._held = self._held, None
            return *unharmed, (held, 1e-6)
        return unharmed


@dataclass
class Outage:
    """Loses all that sets out within some time."""

    begins: float
    lasts: float

    def strike(self, packet: Packet, now: float, *, up: bool) -> Arriving:
        del up
        return () if self.begins <= now < self.begins + self.lasts else ((packet, 0.0),)


def twice(packet: Packet) -> Arriving:
    return (packet, 0.0), (packet, 1e-6)


def from_the_next_port(packet: Packet) -> Arriving:
    return ((packet.sent_from(packet.source.with_port(packet.source.port + 1)), 0.0),)


def from_another_address(packet: Packet) -> Arriving:
    own = [parse_address(address) for address in REFLECTOR]
    here = own.index(packet.source.address) if packet.source.address in own else 0
    return ((packet.sent_from(Endpoint(own[(here + 1) % len(own)], packet.source.port)), 0.0),)


# --- what the reflector says ------------------------------------------------------------------------------------------

ABSENT = "absent"
WRONG: dict[str, Callable[[Endpoint], Endpoint | None]] = {
    ABSENT: lambda _: None,
    "zero": lambda _: Endpoint(IPv4Address(0), 0),
    "loopback": lambda true: Endpoint(IPv4Address("127.0.0.1"), true.port),
    "private": lambda true: Endpoint(IPv4Address("10.1.2.3"), true.port),
    "another host": lambda true: Endpoint(IPv4Address("203.0.113.77"), true.port),
    "other family": lambda true: Endpoint(IPv6Address("2001:db8::77"), true.port),
    "port off by one": lambda true: true.with_port((true.port + 1) & 0xFFFF),
}
SOURCES = [source for source in extensions.Source if source is not extensions.Source.SELF]
ENDPOINTS = ["mapped", "origin", "other", *(f"site {source.name}" for source in SOURCES)]
UNKNOWABLE = [
    *(("mapped", how) for how in ("private", "another host", "port off by one")),
    *(("connect-back", outcome.name) for outcome in (DialOutcome.REFUSED, DialOutcome.UNREACHABLE, DialOutcome.SILENT)),
]
"""What no client can find out of a server that says so of all its answers, and that is the only one."""
_ALL = [
    *((what, how) for what in ENDPOINTS for how in WRONG),
    *(("connect-back", outcome.name) for outcome in DialOutcome),
    ("connect-back", ABSENT),
]
MISREPORTS = [misreport for misreport in _ALL if misreport not in UNKNOWABLE]


def misreporting(what: str, how: str) -> Says:
    """Return what alters one field of every message; ``what`` and ``how`` are one of MISREPORTS or UNKNOWABLE."""

    def says(data: bytes) -> bytes:
        try:
            message = stun.decode(data)
        except MalformedMessage:
            return data
        altered = (_altered(attribute, message.transaction_id, what, how) for attribute in message.attributes)
        return replace(message, attributes=tuple(filter(None, altered))).encode()

    return says


def _altered(attribute: Attribute, transaction_id: bytes, what: str, how: str) -> Attribute | None:
    if what == "connect-back" and attribute.type == Extension.CONNECT_BACK_RESULT:
        if how == ABSENT:
            return None
        results = extensions.read_connect_back_result(attribute.value)
        told = (replace(result, outcome=DialOutcome[how]) for result in results)
        return extensions.connect_back_result_attribute(told)
    if what == "mapped" and attribute.type == Type.XOR_MAPPED_ADDRESS:
        mapped = WRONG[how](stun.xor_address(attribute.value, transaction_id))
        return stun.xor_mapped_attribute(mapped, transaction_id) if mapped else None
    if attribute.type == {"origin": Type.RESPONSE_ORIGIN, "other": Type.OTHER_ADDRESS}.get(what):
        named = WRONG[how](stun.address(attribute.value))
        return stun.address_attribute(attribute.type, named) if named else None
    if what.startswith("site") and attribute.type == Extension.SITE:
        site = extensions.read_site(attribute.value)
        altered = ((role, WRONG[how](end) if what == f"site {role.name}" else end) for role, end in site)
        return extensions.site_attribute(tuple((role, end) for role, end in altered if end))
    return attribute


# --- cases ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What a run without a fault is like: its packets, those of them that the reflector sent, its seconds."""

    packets: int
    down: tuple[int, ...]
    seconds: float

    @property
    def moments(self) -> int:
        return ceil(self.seconds / MOMENT)


@cache
def undisturbed(policy: str) -> Undisturbed:
    counting = Counting()
    report = simulate(PRESETS[policy], LINE, fault=counting)
    return Undisturbed(counting.packets, tuple(counting.down), report.duration_s)


Case = tuple[Fault | None, Says]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: how many cases of it a run has, and each by its index."""

    count: Callable[[Undisturbed], int]
    case: Callable[[Undisturbed, int], Case]


def _pair(packets: int, index: int) -> tuple[int, int]:
    """Return the pair with this index, of all pairs of so many packets in order."""
    first = 0
    while index >= packets - 1 - first:
        index -= packets - 1 - first
        first += 1
    return first, first + 1 + index


def _outage(index: int) -> Outage:
    moment, lasts = divmod(index, len(OUTAGES))
    return Outage(moment * MOMENT, OUTAGES[lasts])


def _each(harm: Callable[[Packet], Arriving]) -> Kind:
    return Kind(
        lambda run: run.packets,
        lambda _, index: (Struck(numbers=frozenset({index}), harm=harm), truthfully),
    )


def _each_down(harm: Callable[[Packet], Arriving]) -> Kind:
    return Kind(
        lambda run: len(run.down),
        lambda run, index: (Struck(numbers=frozenset({run.down[index]}), harm=harm), truthfully),
    )


KINDS = {
    "loss": _each(lambda _: ()),
    "two-losses": Kind(
        lambda run: comb(run.packets, 2),
        lambda run, index: (Struck(numbers=frozenset(_pair(run.packets, index))), truthfully),
    ),
    "outage": Kind(lambda run: run.moments * len(OUTAGES), lambda _, index: (_outage(index), truthfully)),
    "duplicate": _each(twice),
    "reordered": Kind(lambda run: run.packets, lambda _, index: (Overtaken(number=index), truthfully)),
    "neighbouring-port": _each_down(from_the_next_port),
    "neighbouring-address": _each_down(from_another_address),
    "misreport": Kind(lambda _: len(MISREPORTS), lambda _, index: (None, misreporting(*MISREPORTS[index]))),
    "misreport-unknowable": Kind(lambda _: len(UNKNOWABLE), lambda _, index: (None, misreporting(*UNKNOWABLE[index]))),
}


def indexes(policy: str, kind: str, most: int | None) -> list[int]:
    """Return the cases to try: all, or so many drawn of them, the same ones every time."""
    count = KINDS[kind].count(undisturbed(policy))
    if most is None or most >= count:
        return list(range(count))
    return sorted(random.Random(f"{policy} {kind}").sample(range(count), most))  # noqa: S311 (nothing secret)


# --- runs -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Score:
    """What came of some runs: verdicts ``right``, ``unknown``, ``wrong`` and ``grave``, and a line for each bad one."""

    runs: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    processor: float = 0.0
    """Seconds of a processor that the runs took."""

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
                    file.write(json.dumps([part, asdict(score)]) + "\n")
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
