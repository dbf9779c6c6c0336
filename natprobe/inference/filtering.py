"""From whom packets come in through a mapping (RFC 4787 §5, RFC 5382 §4.3).

A sender that was heard is a fact. One that was not heard counts as filtered only if its silence is improbable on an
open path (``silence``), and only from a server that has shown that it can send from there; otherwise it says nothing.
What is left groups the senders, as for mappings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from natprobe.behaviour import Certainty, Dependence, Protocol, Verdict, not_determined
from natprobe.endpoint import Endpoint
from natprobe.inference.candidates import explaining_filter
from natprobe.inference.facts import Facts, indexes, listing, many_servers
from natprobe.observation import ConnectBack, Dialled, Exchange, Outcome, Purpose, Volley
from natprobe.server import Kind, Server
from natprobe.silence import CONVINCING, FEW, SUGGESTIVE, chance, tally, tally_dials

T = TypeVar("T", Volley, ConnectBack)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one sender: whether it came in (None: unknown), how surely, and why.

    ``few``: it was tried but a few times, and gives way to others that say something else.
    """

    passed: bool | None
    certain: bool
    why: str
    few: bool = False


_HEARD = Finding(True, True, "came in")
_GREETED = Finding(None, False, "could not be used: a server was greeted there, which opens filters to it")


def judge_filtering(facts: Facts) -> Verdict[Dependence]:
    """Return on what it depends whether a packet from outside comes in through a mapping."""
    tests = facts.volleys or facts.connect_backs
    findings = _udp_findings(facts) if facts.volleys else _tcp_findings(facts)
    evidence = indexes(tests) + indexes(facts.purpose(Purpose.PROOF))
    if not findings:
        return not_determined(_why_nothing(facts), evidence)
    contacted = tests[-1][1].remote
    server = facts.server(contacted)
    return _judge(contacted, findings, evidence, server.fault if server else None)


def _judge(
    contacted: Endpoint, findings: Mapping[Endpoint, Finding], evidence: tuple[int, ...], fault: str | None
) -> Verdict[Dependence]:
    known = {sender: finding for sender, finding in findings.items() if finding.passed is not None}
    unknown = _told(findings, None)
    if not known:
        return not_determined(unknown, evidence)
    seen = "; ".join(filter(None, (_told(findings, True), _told(findings, False))))
    explaining = _explaining(contacted, known)
    unanimous = bool(explaining)
    if not unanimous:
        known = {sender: finding for sender, finding in known.items() if not finding.few}
        explaining = _explaining(contacted, known)
    if not explaining:
        return not_determined(f"{seen}: a filter kept per host, or a sender that is down", evidence)
    if len(explaining) > 1:
        culprit = f"{contacted}: {fault}" if fault else None
        reason = "; ".join(filter(None, (seen, unknown, culprit)))
        return not_determined(f"cannot tell {listing(explaining)} apart: {reason}", evidence)
    certain = unanimous and all(finding.certain for finding in known.values())
    certainty = Certainty.CONFIRMED if certain else Certainty.LIKELY
    return Verdict(explaining[0], certainty, f"after sending to {contacted} alone, {seen}", evidence)


def _strictest(of_ports: Sequence[Mapping[Endpoint, Finding]]) -> dict[Endpoint, Finding]:
    """Return what is known of each sender, who may have been let in by one local port and not by another.

    Then the NAT keeps it out: an earlier run may have sent to it from the one, while a filter is no matter of luck.
    """
    findings: dict[Endpoint, Finding] = {}
    for sender in dict.fromkeys(sender for of_port in of_ports for sender in of_port):
        found = [of_port[sender] for of_port in of_ports if sender in of_port]
        came = [finding for finding in found if finding.passed]
        kept_out = [finding for finding in found if finding.passed is False]
        findings[sender] = (kept_out or came or found)[0]
        if came and kept_out:
            why = f"{kept_out[0].why}, but did to another local port, which an earlier run may have sent to it from"
            findings[sender] = replace(kept_out[0], certain=False, why=why)
    return findings


def _by_port(tests: Iterable[T]) -> list[list[T]]:
    """Return tests by the local port that they were made from, in the order in which these were tried."""
    of_ports: dict[Endpoint, list[T]] = {}
    for test in tests:
        of_ports.setdefault(test.local, []).append(test)
    return list(of_ports.values())


def _explaining(contacted: Endpoint, findings: Mapping[Endpoint, Finding]) -> list[Dependence]:
    return explaining_filter(contacted, {sender: bool(finding.passed) for sender, finding in findings.items()})


def _told(findings: Mapping[Endpoint, Finding], passed: bool | None) -> str:
    """Return the senders with this finding in words, those with the same reason together."""
    reasons: dict[str, list[str]] = {}
    for sender, finding in findings.items():
        if finding.passed is passed:
            reasons.setdefault(finding.why, []).append(_named(sender))
    return "; ".join(f"{listing(senders)} {why}" for why, senders in reasons.items())


def _named(sender: Endpoint) -> str:
    return str(sender) if sender.port else f"another port of {sender.address}"


def _why_nothing(facts: Facts) -> str:
    if not facts.servers:
        return f"no server was reached over {facts.protocol.upper()}"
    if facts.protocol is Protocol.TCP:
        return "no server that answered can connect back (STUN has no such request; a natprobe reflector has)"
    greeted = "servers were greeted at all its addresses, which opens filters to them"
    return "; ".join(f"{server.contacted} cannot test it: {server.fault or greeted}" for server in facts.servers)


# --- UDP: volleys -----------------------------------------------------------------------------------------------------


def _udp_findings(facts: Facts) -> dict[Endpoint, Finding]:
    # Where servers refused, those before the last one did; of them nothing is to be learnt.
    contacted = facts.volleys[-1][1].remote
    server = facts.server(contacted)
    of_ports = _by_port(volley for _, volley in facts.volleys if volley.remote == contacted)
    greeted = {sender: _GREETED for sender, _ in server.senders} if server else {}
    return greeted | _strictest([_of_volleys(facts, server, volleys) for volleys in of_ports])


def _of_volleys(facts: Facts, server: Server | None, volleys: list[Volley]) -> dict[Endpoint, Finding]:
    asked = dict.fromkeys(sender for volley in volleys for sender in volley.asked if sender != volley.remote)
    return {sender: _heard_or_not(facts, server, volleys, sender) for sender in asked}


def _heard_or_not(facts: Facts, server: Server | None, volleys: list[Volley], sender: Endpoint) -> Finding:
    proofs = [e for _, e in facts.purpose(Purpose.PROOF) if e.answer_from == sender]
    counted = tally(volleys, sender, max((proof.rtt or 0 for proof in proofs), default=0))
    if counted.heard:
        return _HEARD
    refusal = _refusal(volleys, sender)
    if refusal:
        return Finding(None, False, f"could not be used: {refusal}")
    told = f"({counted.rounds} times asked, {counted.controls} controls back)"
    missing = _missing_proof(facts, server, sender, proofs)
    if missing or volleys[0].remote in facts.shared:
        missing = missing or many_servers([volleys[0].remote])
        return Finding(None, False, f"stayed silent {told}, but {missing}")
    if counted.chance > SUGGESTIVE:
        return Finding(None, False, f"stayed silent {told}, too few to tell a filter from loss")
    return Finding(False, counted.chance <= CONVINCING, f"did not come in {told}")


def _refusal(volleys: list[Volley], sender: Endpoint) -> str | None:
    """Return how the server answered in place of the sender, if it did."""
    for volley in volleys:
        for arrival in volley.arrivals:
            if arrival.asked == sender and arrival.error is not None:
                return f"the server refuses to change its source (error {arrival.error})"
            if arrival.asked == sender and arrival.source != sender:
                return f"the server answered from {arrival.source} in place of it"
    return None


def _missing_proof(facts: Facts, server: Server | None, sender: Endpoint, proofs: list[Exchange]) -> str | None:
    """Return why the silence of a sender does not count, or None: the server has shown that it sends from there."""
    if server is None or server.kind is not Kind.NATPROBE:
        if any(proof.answered for proof in proofs):
            return None
        return "the server has not shown that it can send from there" + _what_it_did(proofs)
    return _dead_address(facts, server, sender, 0.0)


def _dead_address(facts: Facts, server: Server, sender: Endpoint, since: float) -> str | None:
    """Return why the silence of a reflector's address does not count, or None: it did answer, later than ``since``.

    For an address that is quiet its other one must stand in. What answers there must be the same reflector.
    """
    own = server.contacted.address
    alternates = {endpoint.address for endpoint in server.listens} - {own}
    itself = {e.instance for _, e in facts.purpose(Purpose.HELLO) if e.remote == server.contacted} | {None}
    late = [e for _, e in facts.answered if e.at + e.waited > since]
    alive = {exchange.remote.address for exchange in late if exchange.instance in itself}
    if sender.address == own:
        return None if own in alive else f"{own} did not answer any more"
    if alternates & alive:
        return None
    if others := alternates & {exchange.remote.address for exchange in late}:
        return f"another reflector answers at {listing(others)}"
    return f"the reflector's other address {listing(alternates)} did not answer either"


def _what_it_did(proofs: list[Exchange]) -> str:
    for proof in proofs:
        if proof.outcome is Outcome.ERROR:
            return f" (error {proof.error})"
        if proof.outcome is Outcome.MISPLACED:
            return f" (it answered from {proof.source})"
    return ""


# --- TCP: connect-backs -----------------------------------------------------------------------------------------------


def _tcp_findings(facts: Facts) -> dict[Endpoint, Finding]:
    of_ports = _by_port(dialled for _, dialled in facts.connect_backs)
    return _strictest([_of_dials(facts, dials) for dials in of_ports])


def _of_dials(facts: Facts, dials: list[ConnectBack]) -> dict[Endpoint, Finding]:
    of_sources: dict[Endpoint, list[ConnectBack]] = {}
    for dialled in dials:
        of_sources.setdefault(dialled.source, []).append(dialled)
    findings = {source: _dialled(facts, made) for source, made in of_sources.items()}
    few = [source for source, finding in findings.items() if finding.few]
    together = tally_dials(dialled for source in few for dialled in of_sources[source])
    if len(few) > 1 and together.chance <= _BORNE_OUT:
        findings |= {source: replace(findings[source], certain=True) for source in few}
    return findings


_BORNE_OUT = chance(6, 6)
"""Three turns of each of two sources that have but one port: they bear each other out."""


def _dialled(facts: Facts, made: list[ConnectBack]) -> Finding:
    """Return what the connect-backs from one source show, from one request or several."""
    dialled = min(made, key=lambda one: _TELLING.index(one.outcome))
    if dialled.outcome is Dialled.NOT_DIALLED and not _was_told(facts, dialled):
        lost = f"could not be used: {dialled.remote} did not tell what came of it, the connection to it was lost"
        return Finding(None, False, lost)
    if dialled.outcome is Dialled.MISPLACED:
        where = f"came from {dialled.came_from}" if dialled.came_from else "was reported but never reached this host"
        return Finding(None, False, f"could not be used: its connection {where}")
    if dialled.outcome is Dialled.SILENT:
        return _silent_dials(facts, made)
    finding = _DIALLED[dialled.outcome]
    if finding.passed is False and (dead := _not_from_there(facts, made)):
        return Finding(None, False, f"{finding.why}, but {dead}")
    return finding


def _silent_dials(facts: Facts, made: list[ConnectBack]) -> Finding:
    counted = tally_dials(made)
    beside = "" if made[0].controls is None else f", {counted.controls} controls answered"
    tried = f"({counted.rounds} times tried{beside})"
    if counted.chance > (FEW if made[0].source.port else SUGGESTIVE):
        return Finding(None, False, f"stayed silent {tried}, too few to tell a filter from loss")
    if dead := _not_from_there(facts, made):
        return Finding(None, False, f"stayed silent {tried}, but {dead}")
    few = counted.chance > SUGGESTIVE
    return Finding(False, counted.chance <= CONVINCING, f"did not come in {tried}", few)


def _not_from_there(facts: Facts, made: list[ConnectBack]) -> str | None:
    """Return why connect-backs may not have left from their source at all, or None."""
    remote, source = made[0].remote, made[0].source
    if remote in facts.shared:
        return many_servers([remote])
    server = facts.server(remote)
    return _dead_address(facts, server, source, max(one.at + one.waited for one in made)) if server else None


def _was_told(facts: Facts, dialled: ConnectBack) -> bool:
    """Return whether the request to connect back was answered at all."""
    requests = (exchange for _, exchange in facts.purpose(Purpose.FILTERING) if exchange.local == dialled.local)
    return any(request.answered for request in requests)


_TELLING = (
    *(Dialled.ACCEPTED, Dialled.REFUSED, Dialled.UNREACHABLE, Dialled.MISPLACED, Dialled.INTERCEPTED),
    *(Dialled.SILENT, Dialled.NOT_DIALLED),
)
"""What says most of a source, of what became of several requests, comes first."""

_DIALLED = {
    Dialled.ACCEPTED: _HEARD,
    Dialled.REFUSED: Finding(False, True, "got a reset"),
    Dialled.UNREACHABLE: Finding(False, True, "got an ICMP error"),
    Dialled.INTERCEPTED: Finding(None, False, "reached something that accepts connections in this host's place"),
    Dialled.NOT_DIALLED: Finding(None, False, "could not be used: the reflector did not dial from there"),
}
