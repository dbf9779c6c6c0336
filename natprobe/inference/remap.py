"""Whether an unsolicited packet makes the NAT move a mapping (docs/behaviours.md; no RFC has a name for it).

Each local port is seen by one server first, its home, and then sent to by a stranger. Where that stranger, once it is
sent to, sees something else than home, though the NAT gives both of them the same mapping, it has been moved. Where it
sees the same, it has stayed, provided that the stranger's packets got as far as the NAT (``silence``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from natprobe.behaviour import Certainty, Dependence, Verdict, not_determined
from natprobe.endpoint import Endpoint
from natprobe.inference.facts import Facts, indexes
from natprobe.observation import Exchange, Purpose, Volley
from natprobe.server import Kind
from natprobe.silence import CONVINCING, SUGGESTIVE, tally

_INDEPENDENT = Dependence.ENDPOINT_INDEPENDENT


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one local port: whether it was moved (None: unknown), why, and by what chance it only seems so."""

    moved: bool | None
    why: str
    chance: float = 0.0


@dataclass(frozen=True, slots=True)
class _Try:
    """One local port: as what it was seen by ``contacted``, what was sent to it, as what it was seen after that."""

    contacted: Endpoint
    home: Endpoint | None
    volleys: Sequence[Volley]
    after: Mapping[Endpoint, Endpoint]

    @property
    def stranger(self) -> Endpoint:
        return self.volleys[0].asked[1]


def judge_remap(facts: Facts, mapping: Verdict[Dependence], filtering: Verdict[Dependence]) -> Verdict[bool] | None:
    """Return whether a packet that came uninvited moves a mapping made after it; None where that was not tested.

    The verdicts on mapping and filtering say what the NAT does without such packets, and which packets are such.
    """
    asked = facts.purpose(Purpose.REMAP)
    if not asked:
        return None
    locals_ = dict.fromkeys(exchange.local for _, exchange in asked)
    findings = [_finding(facts, _try(facts, local), mapping, filtering) for local in locals_]
    return _verdict(findings, indexes(asked) + indexes(facts.knocks) + mapping.evidence)


def _try(facts: Facts, local: Endpoint) -> _Try:
    home, *after = (exchange for _, exchange in facts.purpose(Purpose.REMAP) if exchange.local == local)
    volleys = [volley for _, volley in facts.knocks if volley.local == local and len(volley.asked) > 1]
    seen = {exchange.remote: mapped for exchange in after if (mapped := _mapped(exchange))}
    return _Try(home.remote, _mapped(home), volleys, seen)


def _mapped(exchange: Exchange) -> Endpoint | None:
    return exchange.mapped if exchange.answered else None


def _verdict(findings: Sequence[Finding], evidence: tuple[int, ...]) -> Verdict[bool]:
    moved, stayed = ([finding for finding in findings if finding.moved is value] for value in (True, False))
    if moved and stayed:
        reason = f"not every local port is treated alike: {_told(moved)}; but {_told(stayed)}"
        # Of as many of both, those speak that were moved: the others' packets may have been lost.
        return Verdict(len(moved) >= len(stayed), Certainty.CONFLICTING, reason, evidence)
    if moved:
        certainty = Certainty.CONFIRMED if len(moved) > 1 else Certainty.LIKELY
        return Verdict(True, certainty, _told(moved), evidence)
    chance = prod(finding.chance for finding in stayed)
    if stayed and chance <= SUGGESTIVE:
        certainty = Certainty.CONFIRMED if chance <= CONVINCING else Certainty.LIKELY
        return Verdict(False, certainty, _told(stayed), evidence)
    few = [f"{finding.why}, but so few packets may all have been lost" for finding in stayed]
    unknown = [finding.why for finding in findings if finding.moved is None]
    return not_determined("; ".join(dict.fromkeys([*few, *unknown])), evidence)


def _told(findings: Sequence[Finding]) -> str:
    """Return the first finding in words, and of how many local ports it holds."""
    return findings[0].why if len(findings) == 1 else f"{findings[0].why} (so from {len(findings)} local ports)"


def _finding(facts: Facts, of: _Try, mapping: Verdict[Dependence], filtering: Verdict[Dependence]) -> Finding:
    if of.home is None:
        return Finding(None, f"{of.contacted} did not answer")
    if not of.volleys:
        return Finding(None, f"{of.contacted} has no endpoint that sends when asked to and also answers")
    seen = of.after.get(of.stranger)
    if seen is None:
        return Finding(None, f"{of.stranger} did not answer after it had sent packets that were not asked for")
    if of.after.get(of.contacted, of.home) != of.home:
        return Finding(None, f"the mapping towards {of.contacted} changed as well, whatever it was")
    if seen == of.home:
        return _stayed(facts, of, of.home, filtering)
    return _moved(of, of.home, seen, mapping)


def _moved(of: _Try, home: Endpoint, seen: Endpoint, mapping: Verdict[Dependence]) -> Finding:
    if mapping.value is None:
        here = f"{of.stranger} sees {seen} and {of.contacted} {home}"
        return Finding(None, f"{here}, which may be so in any case: on what the mapping depends is not determined")
    if mapping.value.key(of.stranger) != mapping.value.key(of.contacted):
        return Finding(None, f"{of.stranger} is given a mapping of its own in any case, so that there is none to move")
    others = {remote: mapped for remote, mapped in of.after.items() if remote not in (of.stranger, of.contacted)}
    later = "".join(f"; {remote}, sent to after that, sees {mapped}" for remote, mapped in others.items())
    still = f", while {of.contacted} still sees that" if of.contacted in of.after else ""
    came = f"once {of.stranger} has sent packets that were not asked for"
    return Finding(True, f"{came}, it sees {seen} in place of {home}{still}{later}")


def _stayed(facts: Facts, of: _Try, home: Endpoint, filtering: Verdict[Dependence]) -> Finding:
    knocks = tally(of.volleys, of.stranger)
    if knocks.heard and filtering.value is not _INDEPENDENT:
        anybody = "who else would be is not known" if filtering.value is None else "another test may have seen to that"
        return Finding(None, f"{of.stranger} was let in, so that its packets were not unsolicited: {anybody}")
    if knocks.heard:
        return Finding(False, f"{of.stranger} is let in, as anybody is, and sees {home} like {of.contacted}")
    if not _sends(facts, of):
        return Finding(None, f"{of.contacted} has not shown that it can send from {of.stranger}")
    sent = f"{knocks.rounds} packets that were not asked for"
    return Finding(False, f"{of.stranger} sees {home} like {of.contacted}, though it had sent {sent}", knocks.chance)


def _sends(facts: Facts, of: _Try) -> bool:
    """Whether the server is known to send from the stranger's endpoint: a reflector says so, others have shown it."""
    server = facts.server(of.contacted)
    if server is not None and server.kind is Kind.NATPROBE:
        return True
    proofs = [exchange for _, exchange in facts.purpose(Purpose.PROOF) if exchange.answer_from == of.stranger]
    return any(proof.answered for proof in proofs)
