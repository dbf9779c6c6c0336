"""Observations in words, one line each: what was asked, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

from natprobe.inference.facts import listing
from natprobe.observation import (
    ConnectBack,
    Draws,
    Exchange,
    Flow,
    Hold,
    Idle,
    Observation,
    Outcome,
    Purpose,
    Recognition,
    Resolution,
    Sharing,
    Volley,
    to_json,
)
from natprobe.report import Report
from natprobe.views.wording import blocks, ranges, value_in_words

_SHOWN = 48
"""Ports that are told one by one; more than that nobody reads."""


def cited(report: Report) -> Iterator[tuple[int, str]]:
    """Yield the observations that some verdict rests on, each with its index, in the order of the report."""
    evidence = {index for block in blocks(report) for row in block.rows for index in row.evidence}
    return ((index, in_words(fact)) for index, fact in enumerate(report.observations) if index in evidence)


@singledispatch
def in_words(fact: Observation) -> str:
    """Return an observation on one line."""
    return ", ".join(f"{name} {value}" for name, value in to_json(fact).items())


@in_words.register
def _(fact: Resolution) -> str:
    return f"{fact.name} is {listing(fact.endpoints)}" if fact.endpoints else f"{fact.name}: {fact.error}"


@in_words.register
def _(fact: Exchange) -> str:
    asked = f" (answer asked from {fact.answer_from})" if fact.answer_from else ""
    who = f"{fact.protocol.upper()} {fact.purpose} {fact.local} → {fact.remote}{asked}"
    return f"{_at(fact.at)} {who}: {_outcome(fact)}"


def _outcome(fact: Exchange) -> str:
    match fact.outcome:
        case Outcome.ANSWERED:
            return f"seen as {fact.mapped}{_in(fact.rtt)}" if fact.mapped else f"answered{_in(fact.rtt)}"
        case Outcome.ERROR | Outcome.UNREADABLE:
            return f"{fact.failure}{_in(fact.rtt)}"
        case Outcome.MISPLACED:
            return f"answered from {fact.source}{_in(fact.rtt)}"
        case Outcome.REJECTED:
            return f"rejected ({fact.detail})"
        case Outcome.MUTE:
            return f"connected, but silent for {fact.waited:.1f} s" + (f" ({fact.detail})" if fact.detail else "")
        case Outcome.SILENT:
            return f"silent for {fact.waited:.1f} s, asked {_times(fact.sent)}"


@in_words.register
def _(fact: Volley) -> str:
    asked = [endpoint for endpoint in fact.asked if endpoint != fact.remote]
    came = [endpoint for endpoint in asked if fact.heard(endpoint)]
    control = f"control back{_in(fact.control_after)}" if fact.control_after is not None else "control lost"
    told = f"{control}, {listing(came) or 'none'} came in, {len(asked) - len(came)} silent"
    unsolicited = f", unsolicited from {listing(asked)}" if fact.purpose is Purpose.REMAP else ""
    return f"{_at(fact.at)} UDP volley {fact.remote} → {fact.local}{unsolicited}: {told}"


@in_words.register
def _(fact: ConnectBack) -> str:
    source = str(fact.source) if fact.source.port else f"{fact.source.address}, any port,"
    outcome = fact.outcome.replace("-", " ")
    return f"{_at(fact.at)} TCP connect-back {source} → {fact.local}: {outcome}, tried {_times(fact.attempts)}"


@in_words.register
def _(fact: Hold) -> str:
    seen = value_in_words(tuple(dict.fromkeys(fact.mapped)))
    counted = "" if fact.counted is None else f", {fact.counted} counted by the reflector"
    told = f"{fact.answered} answered, seen as {seen}{counted}"
    return f"{_at(fact.at)} TCP held together {fact.local} → {value_in_words(fact.remotes)}: {told}"


@in_words.register
def _(fact: Draws) -> str:
    ports = [flow.mapped.port for flow in fact.flows if flow.mapped]
    some = f", seen on ports {ranges(ports)}" if 0 < len(ports) <= _SHOWN else ""
    told = f"{len(fact.flows)} of {fact.begun} answered{some}"
    return f"{_at(fact.at)} {fact.protocol.upper()} flows from fresh local ports: {told}"


@in_words.register
def _(fact: Sharing) -> str:
    between = f" over {fact.other.upper()}" if fact.other else ""
    told = [
        f"{flow.local} → {flow.remote}{over}: {_seen(flow)}"
        for flow, over in ((fact.first, ""), (fact.second, between), (fact.again, ""))
    ]
    if fact.control:
        told.append(f"beside it {fact.control.local} → {fact.control.remote}: {_seen(fact.control)}")
    outcome = "shared" if fact.shared else "refused" if fact.refused else "not told"
    return f"{_at(fact.at)} {fact.protocol.upper()} one port for two, {outcome}: {'; '.join(told)}"


def _seen(flow: Flow) -> str:
    return f"seen as {flow.mapped}" if flow.mapped else "silent"


@in_words.register
def _(fact: Idle) -> str:
    told = f"{fact.heard} of {fact.sent} packets came in, beside {fact.controls} controls"
    return f"{_at(fact.at)} UDP idle for {fact.idle:.1f} s {fact.remote} → {fact.local}: {told}"


@in_words.register
def _(fact: Recognition) -> str:
    told = "finds" if fact.own else "does not find"
    return f"{_at(fact.at)} the browser {told} {fact.mapped} among its own addresses"


def _at(seconds: float) -> str:
    return f"{seconds:.3f} s"


def _in(seconds: float | None) -> str:
    return "" if seconds is None else f" in {seconds * 1000:.1f} ms"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
