"""How many TCP connections one local port held at once, to how many destinations (RFC 9293 §3.4.1).

A connection is its pair of endpoints, so a host may use one local port for many destinations at the same time. What
counts as evidence is data exchanged on every connection after the last one had been opened, and the reflector's count.
"""

from __future__ import annotations

from dataclasses import dataclass

from natprobe.behaviour import Certainty, Verdict, not_determined
from natprobe.inference.facts import Facts, listing, many_servers
from natprobe.observation import Hold, Purpose


@dataclass(frozen=True, slots=True)
class Concurrent:
    """Connections from ``local_port`` open together, their destinations, and the ports they had outside."""

    held: int
    destinations: int
    local_port: int
    external_ports: tuple[int, ...]


def judge_concurrency(facts: Facts) -> Verdict[Concurrent]:
    """Return how many connections were open together from one local port."""
    if not facts.holds:
        return not_determined("no connections were held together")
    index, hold = max(facts.holds, key=lambda cited: cited[1].answered)
    evidence = tuple(i for i, e in facts.purpose(Purpose.MAPPING, Purpose.HOLD) if e.local == hold.local)
    if not hold.answered:
        return not_determined(f"no connection from {hold.local} was answered", (*evidence, index))
    reason = _reason(hold)
    if shared := facts.shared.intersection(hold.remotes):
        reason += f"; but {many_servers(shared)}, and each counts its own"
    return Verdict(_value(hold), _certainty(hold), reason, (*evidence, index))


def _value(hold: Hold) -> Concurrent:
    ports = tuple(sorted({mapped.port for mapped in hold.mapped}))
    return Concurrent(hold.answered, len(set(hold.remotes)), hold.local.port, ports)


def _certainty(hold: Hold) -> Certainty:
    if hold.counted is not None and hold.counted < hold.answered:
        return Certainty.CONFLICTING
    return Certainty.CONFIRMED


def _reason(hold: Hold) -> str:
    ports = sorted({mapped.port for mapped in hold.mapped})
    outside = f"external port{'s' if len(ports) > 1 else ''} {listing(ports)}"
    text = f"{hold.answered} connections from {hold.local} were open together, {outside}"
    if hold.counted is None:
        return f"{text}; each answered after the last was opened"
    return f"{text}; the reflector counted {hold.counted} alive at once"
