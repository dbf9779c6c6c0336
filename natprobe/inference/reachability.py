"""Whether a protocol gets through, whether it is translated, and what is seen of it outside.

Blocked, rejected, server down and name not found are different things. That a protocol is blocked is a verdict on the
path, so that the silence of a server needs controls: the same server over the other protocol before and after it, its
other addresses, other servers, and a port at which nobody listens, where its host answers whatever the server does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from natprobe.behaviour import Certainty, Protocol, Verdict, not_determined
from natprobe.endpoint import Endpoint, Scope
from natprobe.errors import NOT_SENT, OWN_FIREWALL
from natprobe.inference.facts import Facts, indexes, listing, own
from natprobe.observation import Exchange, Outcome, Purpose
from natprobe.server import Kind, describe

T = TypeVar("T")

ENOUGH_COPIES = 5
"""Copies unanswered on a path that loses one round trip in three: 0.4 %; in five: 0.03 %."""


def judge_reachability(facts: Facts) -> Verdict[bool]:
    """Return whether this protocol reaches a server and something comes back."""
    for judge in (_answered, _not_as_asked, _not_sent, _not_the_path):
        if verdict := judge(facts):
            return verdict
    return _blocked(facts)


def _answered(facts: Facts) -> Verdict[bool] | None:
    if not facts.answered:
        return None
    remotes = dict.fromkeys(exchange.remote for _, exchange in facts.answered)
    return Verdict(True, Certainty.CONFIRMED, f"answered by {listing(remotes)}", indexes(facts.answered))


def _not_as_asked(facts: Facts) -> Verdict[bool] | None:
    """Return the verdict where servers sent something, though not what they were asked for; None where none did."""
    asked = [exchange for _, exchange in facts.asked]
    for outcomes, certainty, doubt in (
        ((Outcome.ERROR, Outcome.MISPLACED), Certainty.CONFIRMED, ""),
        ((Outcome.UNREADABLE,), Certainty.LIKELY, "; unless something on the way answers in its place"),
    ):
        wrongly = [exchange for exchange in asked if exchange.outcome in outcomes]
        if wrongly:
            told = "; ".join(dict.fromkeys(f"{e.remote}: {e.failure}" for e in wrongly))
            reason = f"{facts.protocol.upper()} gets through, and the server is at fault ({told}){doubt}"
            return Verdict(True, certainty, reason, indexes(facts.asked))
    return None


def _not_sent(facts: Facts) -> Verdict[bool] | None:
    """Return the verdict where this host itself kept back what was sent; None where it did not."""
    asked = [exchange for _, exchange in facts.asked]
    name, where = facts.protocol.upper(), listing(dict.fromkeys(exchange.remote for exchange in asked))
    if all(exchange.detail == OWN_FIREWALL for exchange in asked):
        reason = f"{name} to {where} does not leave this host: {OWN_FIREWALL}"
        return Verdict(False, Certainty.CONFIRMED, reason, indexes(facts.asked))
    if all(exchange.detail == OWN_FIREWALL or (exchange.detail or "").startswith(NOT_SENT) for exchange in asked):
        return not_determined(f"nothing was sent to {where} ({asked[0].detail})", indexes(facts.asked))
    return None


def _not_the_path(facts: Facts) -> Verdict[bool] | None:
    """Return the verdict where the silence may be the servers' own; None where the path must be what is silent."""
    asked = [exchange for _, exchange in facts.asked]
    mute = dict.fromkeys(exchange.remote for exchange in asked if exchange.outcome is Outcome.MUTE)
    evidence = indexes(facts.asked)
    if mute:  # what opens a connection gets through; what has become of the answer is not known
        return not_determined(f"connected to {listing(mute)} without an answer", evidence)
    for index, why in _controls(facts, asked):
        return not_determined(f"{_what_happened(asked)}{why}", (*evidence, *index))
    return None


def _controls(facts: Facts, asked: list[Exchange]) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield what the controls say against a blocked path, each with the observation that it rests on."""
    reached = _reached(facts)
    if not reached:
        yield (), f", and nothing over {_other(facts)} either: no server may be up"
    elif gone := _gone(facts, asked):
        yield indexes(reached[:1]), f", and later {gone.remote} did not answer over {_other(facts)} either"
    for index, exchange in reached if facts.protocol is Protocol.UDP else ():
        if fault := _UDP_FAULTS.get(exchange.udp_service or ""):
            yield (index,), f"; but {exchange.remote} {fault}"
    if host := _refused_by_its_host(facts):
        index, refusal = host
        where = f"the host at {refusal.remote.address} itself refuses packets to its port {refusal.remote.port}"
        culprit = f"{facts.protocol.upper()} gets as far, so that the server may be down, overloaded or behind a filter"
        yield (index,), f"; but {where}: {culprit}"


_UDP_FAULTS = {
    "deaf": "says that its own UDP does not work",
    "exhausted": "says that it sends no more UDP to this network for now (a flood, or too many tests)",
}


def _reached(facts: Facts) -> list[tuple[int, Exchange]]:
    """Return the answers over the other protocol."""
    return [(index, exchange) for index, exchange in facts.elsewhere if exchange.answered]


def _gone(facts: Facts, asked: list[Exchange]) -> Exchange | None:
    """Return an exchange that shows that who answers over the other protocol does so no longer, or None.

    It may have begun before this protocol failed: what counts is that no answer came after that.
    """
    failed = min(exchange.at + exchange.waited for exchange in asked)
    addresses = {exchange.remote.address for exchange in asked}
    later = [e for _, e in facts.elsewhere if e.at + e.waited >= failed and e.remote.address in addresses]
    return later[0] if later and not any(exchange.answered for exchange in later) else None


def _refused_by_its_host(facts: Facts) -> tuple[int, Exchange] | None:
    """Return an exchange that a server's own host refused: packets of this protocol get there. None without one.

    A reset bears the server's address whoever sends it, but who resets what goes to one port of a host, and drops what
    goes to another one, is no NAT or firewall that blocks the protocol.
    """
    dropped = any(exchange.outcome is Outcome.SILENT for _, exchange in facts.asked)
    for index, exchange in (*facts.asked, *facts.purpose(Purpose.CLOSED_PORT)):
        by_host = exchange.source is not None and exchange.source.address == exchange.remote.address
        by_reset = facts.protocol is Protocol.TCP and exchange.purpose is Purpose.CLOSED_PORT and dropped
        if exchange.outcome is Outcome.REJECTED and (by_host or by_reset):
            return index, exchange
    return None


def _blocked(facts: Facts) -> Verdict[bool]:
    """Return the verdict where the servers answer over the other protocol and not over this one."""
    asked = [exchange for _, exchange in facts.asked]
    reached = [exchange for _, exchange in _reached(facts)]
    evidence = indexes(facts.asked) + indexes(_reached(facts)[:1])
    name, what = facts.protocol.upper(), _what_happened(asked)
    serves = _serve_both(facts.protocol, reached)
    if not serves and (facts.protocol is Protocol.TCP or _no_such_port(asked)):
        return not_determined(f"{what}; these servers may not serve {name} at all", evidence)
    reason = f"{name} is blocked: {what}, while {_other(facts)} reaches the same server"
    certain = sum(map(_copies, asked)) >= ENOUGH_COPIES
    if not serves:
        reason, certain = f"{reason} (unless that serves no {name})", False
    elif any(map(_rejected_on_this_side, asked)):
        certain = True
    elif _independent(reached, asked) < 2:
        doubt = f"unless that server's own firewall keeps {name} out; a second server would settle it"
        reason, certain = f"{reason} ({doubt})", False
    return Verdict(False, Certainty.CONFIRMED if certain else Certainty.LIKELY, reason, evidence)


def _rejected_on_this_side(exchange: Exchange) -> bool:
    """Return whether an ICMP error came from an address that is no part of the public server's own network."""
    sender = exchange.source if exchange.outcome is Outcome.REJECTED else None
    return sender is not None and sender.scope is not Scope.GLOBAL and exchange.remote.scope is Scope.GLOBAL


def _independent(reached: list[Exchange], asked: list[Exchange]) -> int:
    """Return how many of the servers that were named are up after these questions failed: a reflector counts once."""
    failed = min(exchange.at + exchange.waited for exchange in asked)
    late = [exchange for exchange in reached if exchange.at + exchange.waited >= failed]
    named = [exchange for exchange in late if exchange.purpose in (Purpose.HELLO, Purpose.CONTROL)]
    return len({exchange.instance or exchange.remote.address for exchange in named})


def judge_translation(facts: Facts) -> Verdict[bool]:
    """Return whether the address or the port of what leaves this host is changed on the way."""
    seen = _agreed(facts)
    if not seen:
        return not_determined("no server reported a mapped address")
    changes = [_is_changed(exchange) for _, exchange in seen]
    if True not in changes and None in changes:
        return _recognised(facts, seen)
    if True not in changes:
        reason = "servers see this host's own address and port"
        return _as_agreed(facts, Verdict(False, Certainty.CONFIRMED, reason, indexes(seen)), seen)
    _, example = seen[changes.index(True)]
    reason = f"{own(example.local)} is seen as {example.mapped}"
    if False in changes:
        return Verdict(True, Certainty.CONFLICTING, f"{reason}, but not by every server", indexes(seen))
    return _as_agreed(facts, Verdict(True, Certainty.CONFIRMED, reason, indexes(seen)), seen)


def _agreed(facts: Facts) -> list[tuple[int, Exchange]]:
    """Return the answers with a mapped address, but those of servers that contradict the majority."""
    seen = [(index, exchange) for index, exchange in facts.answered if exchange.mapped]
    return [(index, exchange) for index, exchange in seen if exchange.remote.address not in facts.dissenting]


def _as_agreed(facts: Facts, verdict: Verdict[T], seen: Sequence[tuple[int, Exchange]]) -> Verdict[T]:
    """Return a verdict as far as it can be trusted by who contradicts it, and by what can be true."""
    against = [f"{server} alone reports {address}" for server, address in facts.dissenting.items()]
    if against:
        reason = f"{verdict.reason}; but {listing(against)}"
        return replace(verdict, certainty=Certainty.CONFLICTING, reason=reason)
    if doubt := facts.doubt(seen):
        return replace(verdict, certainty=Certainty.LIKELY, reason=f"{verdict.reason}; but {doubt}")
    return verdict


def _is_changed(exchange: Exchange) -> bool | None:
    """Return whether the server saw another endpoint than this host's own; None where that one is not known whole."""
    local, mapped = exchange.local, exchange.mapped
    assert mapped
    if not local.address.is_unspecified:
        return mapped != local
    return True if local.port not in (0, mapped.port) else None


def _recognised(facts: Facts, seen: Sequence[tuple[int, Exchange]]) -> Verdict[bool]:
    """Return what the browser says to how it is seen, where it does not tell its own address and the port is kept."""
    if not facts.recognitions:
        return not_determined("the browser does not tell its own address, and the port is not changed", indexes(seen))
    index, found = facts.recognitions[0]
    told = "finds" if found.own else "does not find"
    return Verdict(not found.own, Certainty.CONFIRMED, f"the browser {told} {found.mapped} among its own", (index,))


def judge_external(facts: Facts) -> Verdict[tuple[Endpoint, ...]]:
    """Return every endpoint under which this host was seen."""
    seen = _agreed(facts)
    endpoints = tuple(sorted({exchange.mapped for _, exchange in seen if exchange.mapped}))
    if not endpoints:
        return not_determined("no server reported a mapped address")
    addresses = listing(dict.fromkeys(endpoint.address for endpoint in endpoints))
    reason = f"seen from outside as {addresses}"
    return _as_agreed(facts, Verdict(endpoints, Certainty.CONFIRMED, reason, indexes(seen)), seen)


def _what_happened(asked: list[Exchange]) -> str:
    rejected = [exchange for exchange in asked if exchange.outcome is Outcome.REJECTED]
    if rejected:
        return f"{rejected[0].remote} was answered by a rejection ({rejected[0].detail})"
    sent, waited = sum(exchange.sent for exchange in asked), max(exchange.waited for exchange in asked)
    odd = next((f" ({e.remote}: {e.detail})" for e in asked if e.detail), "")
    return f"no answer to {sent} attempts in {waited:.1f} s{odd}"


def _copies(exchange: Exchange) -> float:
    """Return how many packets went unanswered: of a SYN, about one a second."""
    return exchange.sent if exchange.protocol is Protocol.UDP else 1 + exchange.waited


def _serve_both(protocol: Protocol, reached: list[Exchange]) -> bool:
    """Return whether the servers reached would answer over this protocol too, were it not blocked.

    Reflectors do. Of STUN servers some serve UDP alone; that two that were named serve TCP alone is not to be expected.
    """
    named = {e.remote.address for e in reached if e.purpose in (Purpose.HELLO, Purpose.CONTROL)}
    return any(map(_is_reflector, reached)) or (protocol is Protocol.UDP and len(named) > 1)


def _no_such_port(asked: list[Exchange]) -> bool:
    """Return whether all that came back is what any host without the service sends."""
    return all(exchange.detail == "port unreachable" for exchange in asked)


def _is_reflector(exchange: Exchange) -> bool:
    return describe(exchange).kind is Kind.NATPROBE or exchange.instance is not None


def _other(facts: Facts) -> str:
    return (Protocol.TCP if facts.protocol is Protocol.UDP else Protocol.UDP).upper()
