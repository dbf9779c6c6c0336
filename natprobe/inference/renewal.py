"""Whether a TCP mapping belongs to the pair of endpoints or to the connection alone (RFC 5382 §4.1).

Where every destination has a mapping of its own, that may be because every connection has one. Connections between the
same two endpoints, one after the other, tell the two apart: a mapping that was seen again is not the connection's.
"""

from __future__ import annotations

from itertools import pairwise

from natprobe.behaviour import Certainty, Dependence, Verdict
from natprobe.endpoint import Endpoint
from natprobe.inference.facts import Cited, Facts, indexes
from natprobe.observation import Exchange, Purpose

_PER_ENDPOINT = Dependence.ADDRESS_AND_PORT_DEPENDENT
_PER_CONNECTION = Dependence.CONNECTION_DEPENDENT
_SURE = 2
"""Times that a mapping must have changed: one may have been lost just then, by a NAT that was restarted."""


def judge_renewal(facts: Facts, spread: Verdict[Dependence]) -> Verdict[Dependence]:
    """Return which of the two it is, where the verdict is that no two destinations share a mapping."""
    cited = facts.purpose(Purpose.RECONNECT)
    value, certainty, told = _judge(cited)
    return Verdict(value, certainty, f"{spread.reason}; {told}", (*spread.evidence, *indexes(cited)))


def _judge(cited: list[Cited[Exchange]]) -> tuple[Dependence, Certainty, str]:
    pairs = [pair for series in _series(cited).values() for pair in pairwise(series)]
    changed = [(before, after) for before, after in pairs if before.mapped != after.mapped]
    kept = [(before, after) for before, after in pairs if before.mapped == after.mapped]
    if kept:
        _, again = kept[0]
        told = f"a new connection to {again.remote} is seen as {again.mapped} again"
        if changed:
            return _PER_ENDPOINT, Certainty.LIKELY, f"{told}, though another one was not"
        return _PER_ENDPOINT, Certainty.CONFIRMED, told
    if changed:
        before, after = changed[0]
        told = f"a new connection to {after.remote} is seen as {after.mapped}, the one before it as {before.mapped}"
        return _PER_CONNECTION, Certainty.CONFIRMED if len(changed) >= _SURE else Certainty.LIKELY, told
    return (
        _PER_ENDPOINT,
        Certainty.LIKELY,
        f"whether every connection gets a mapping of its own was not seen{_why(cited)}",
    )


def _series(cited: list[Cited[Exchange]]) -> dict[tuple[Endpoint, Endpoint], list[Exchange]]:
    series: dict[tuple[Endpoint, Endpoint], list[Exchange]] = {}
    for _, exchange in cited:
        if exchange.answered and exchange.mapped:
            series.setdefault((exchange.local, exchange.remote), []).append(exchange)
    return series


def _why(cited: list[Cited[Exchange]]) -> str:
    failed = next((exchange for _, exchange in cited if not exchange.answered), None)
    return f" ({failed.remote}: {failed.detail or failed.outcome})" if failed else ""
