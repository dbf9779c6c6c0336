"""Whether a protocol gets through, whether it is translated, and what is seen of it outside.

Blocked, rejected, server down and name not found are different things: the other protocol of the same server is the
control that tells them apart. A server that nobody claims to serve a protocol proves nothing by refusing it.
"""

from __future__ import annotations

from natprobe.behaviour import Certainty, Protocol, Verdict, not_determined
from natprobe.endpoint import Endpoint
from natprobe.inference.facts import Facts, indexes, listing
from natprobe.observation import Exchange, Outcome
from natprobe.server import Kind, describe

ENOUGH_COPIES = 5
"""Copies unanswered on a path that loses one round trip in three: 0.4 %; in five: 0.03 %."""


def judge_reachability(facts: Facts) -> Verdict[bool]:
    """Return whether this protocol reaches a server and its answer comes back."""
    if facts.answered:
        remotes = dict.fromkeys(exchange.remote for _, exchange in facts.answered)
        return Verdict(True, Certainty.CONFIRMED, f"answered by {listing(remotes)}", indexes(facts.answered))
    evidence = indexes(facts.asked)
    name, other = facts.protocol.upper(), _other(facts.protocol)
    what = _what_happened([exchange for _, exchange in facts.asked])
    reached = [(index, exchange) for index, exchange in facts.elsewhere if exchange.answered]
    if not reached:
        return not_determined(f"{what}, and nothing over {other} either: no server may be up", evidence)
    evidence += indexes(reached[:1])
    if facts.protocol is Protocol.TCP and not any(_is_reflector(exchange) for _, exchange in reached):
        return not_determined(f"{what}; these servers may not serve TCP at all", evidence)
    certain = _is_certain([exchange for _, exchange in facts.asked])
    certainty = Certainty.CONFIRMED if certain else Certainty.LIKELY
    return Verdict(False, certainty, f"{name} is blocked: {what}, while {other} reaches the same server", evidence)


def judge_translation(facts: Facts) -> Verdict[bool]:
    """Return whether the address or the port of what leaves this host is changed on the way."""
    seen = [(index, exchange) for index, exchange in facts.answered if exchange.mapped]
    if not seen:
        return not_determined("no server told what it saw")
    changed = [(index, exchange) for index, exchange in seen if exchange.mapped != exchange.local]
    if not changed:
        return Verdict(False, Certainty.CONFIRMED, "servers see this host's own address and port", indexes(seen))
    _, example = changed[0]
    reason = f"{example.local} is seen as {example.mapped}"
    if len(changed) < len(seen):
        return Verdict(True, Certainty.CONFLICTING, f"{reason}, but not by every server", indexes(seen))
    return Verdict(True, Certainty.CONFIRMED, reason, indexes(seen))


def judge_external(facts: Facts) -> Verdict[tuple[Endpoint, ...]]:
    """Return every endpoint under which this host was seen."""
    seen = [(index, exchange) for index, exchange in facts.answered if exchange.mapped]
    endpoints = tuple(sorted({exchange.mapped for _, exchange in seen if exchange.mapped}))
    if not endpoints:
        return not_determined("no server told what it saw")
    addresses = listing(dict.fromkeys(endpoint.address for endpoint in endpoints))
    return Verdict(endpoints, Certainty.CONFIRMED, f"seen from outside as {addresses}", indexes(seen))


def _what_happened(asked: list[Exchange]) -> str:
    rejected = [exchange for exchange in asked if exchange.outcome is Outcome.REJECTED]
    if rejected:
        return f"{rejected[0].remote} was answered by a rejection ({rejected[0].detail})"
    if any(exchange.outcome is Outcome.ERROR for exchange in asked):
        return f"answered with error {next(e.error for e in asked if e.outcome is Outcome.ERROR)}"
    sent, waited = sum(exchange.sent for exchange in asked), max(exchange.waited for exchange in asked)
    return f"no answer to {sent} attempts in {waited:.1f} s"


def _is_certain(asked: list[Exchange]) -> bool:
    rejected = any(exchange.outcome is Outcome.REJECTED for exchange in asked)
    return rejected or sum(exchange.sent for exchange in asked) >= ENOUGH_COPIES


def _is_reflector(exchange: Exchange) -> bool:
    return describe(exchange).kind is Kind.NATPROBE or exchange.instance is not None


def _other(protocol: Protocol) -> str:
    return (Protocol.TCP if protocol is Protocol.UDP else Protocol.UDP).upper()
