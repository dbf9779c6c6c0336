"""Whether a TCP mapping belongs to the pair of endpoints or to the connection alone (RFC 5382 §4.1).

Where every destination has a mapping of its own, that may be because every connection has one. Connections between the
same two endpoints, one after the other, tell the two apart: a mapping that was seen again is not the connection's.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from natprobe.behaviour import Certainty, Dependence, Verdict, not_determined
from natprobe.endpoint import Endpoint
from natprobe.inference.facts import Cited, Facts, indexes, listing
from natprobe.observation import Exchange, Outcome, Purpose

Pair = tuple[Exchange, Exchange]

_PER_ENDPOINT = Dependence.ADDRESS_AND_PORT_DEPENDENT
_PER_CONNECTION = Dependence.CONNECTION_DEPENDENT
_SURE = 2
"""Times that the mapping of a series must have changed: one may have been lost just then, as a NAT was restarted."""


def judge_renewal(facts: Facts, spread: Verdict[Dependence]) -> Verdict[Dependence]:
    """Return which of the two it is, where the verdict is that no two destinations share a mapping."""
    cited = facts.purpose(Purpose.RECONNECT)
    evidence = (*spread.evidence, *indexes(cited))
    pairs = [pair for series in _series(cited).values() for pair in pairwise(series)]
    if not pairs:
        return _unseen(spread, cited, evidence)
    value, certainty, told = _judge(pairs)
    if value is _PER_CONNECTION and any(exchange.outcome is Outcome.REJECTED for _, exchange in cited):
        certainty = Certainty.LIKELY
        told += " (that one was reset, for this system connects again in no other way)"
    return Verdict(value, certainty, f"{spread.reason}; {told}", evidence)


def _judge(pairs: list[Pair]) -> tuple[Dependence, Certainty, str]:
    """Return the dependence, how sure it is and why, from what two connections after each other were seen as."""
    changed = [pair for pair in pairs if pair[0].mapped != pair[1].mapped]
    kept = [pair for pair in pairs if pair not in changed]
    before, after = (kept or changed)[0]
    if not kept:
        told = f"a new connection to {after.remote} is seen as {after.mapped}, the one before it as {before.mapped}"
        most = max(Counter(before.local for before, _ in changed).values())
        return _PER_CONNECTION, Certainty.CONFIRMED if most >= _SURE else Certainty.LIKELY, told
    told = f"a new connection to {after.remote} is seen as {after.mapped} again"
    if changed:
        return _PER_ENDPOINT, Certainty.LIKELY, f"{told}, though another one was not"
    return _PER_ENDPOINT, Certainty.CONFIRMED, told


def _unseen(
    spread: Verdict[Dependence], cited: list[Cited[Exchange]], evidence: tuple[int, ...]
) -> Verdict[Dependence]:
    """Return the verdict where no connection followed another one, by why that is.

    Loss tells nothing. Where a system does not connect from there again, or nobody asked, the plain reading is left.
    """
    lost = next((e for _, e in cited if e.outcome in (Outcome.SILENT, Outcome.MUTE)), None)
    untold = "whether every connection gets a mapping of its own was not seen"
    if lost:
        why = f"{lost.remote}: {lost.detail or lost.outcome}"
        both = f"cannot tell {listing((_PER_ENDPOINT, _PER_CONNECTION))} apart"
        return not_determined(f"{both}: {spread.reason}; {untold} ({why})", evidence)
    refused = next((f" ({e.remote}: {e.detail})" for _, e in cited if not e.answered), "")
    return Verdict(_PER_ENDPOINT, Certainty.LIKELY, f"{spread.reason}; {untold}{refused}", evidence)


def _series(cited: list[Cited[Exchange]]) -> dict[tuple[Endpoint, Endpoint], list[Exchange]]:
    series: dict[tuple[Endpoint, Endpoint], list[Exchange]] = {}
    for _, exchange in cited:
        if exchange.answered and exchange.mapped:
            series.setdefault((exchange.local, exchange.remote), []).append(exchange)
    return series
