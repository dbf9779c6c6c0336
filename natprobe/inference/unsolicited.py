"""What a SYN from outside gets that the filter does not let in (RFC 5382 §4.3 REQ-4).

No test of its own: the connections back of the filtering test are such SYNs wherever the filter refuses them. What it
tells decides whether two hosts that connect to each other at the same time may miss each other by a hair: a reset ends
a connection that silence would have let come about.
"""

from __future__ import annotations

from natprobe.behaviour import Certainty, Dependence, Treatment, Verdict, not_determined
from natprobe.inference.facts import Facts, indexes, listing
from natprobe.observation import Dialled

_GETS = {
    Dialled.REFUSED: (Treatment.RESET, "was answered with a reset"),
    Dialled.UNREACHABLE: (Treatment.ICMP, "was answered with an ICMP error"),
    Dialled.SILENT: (Treatment.DROPPED, "met silence"),
}


def judge_unsolicited_syn(facts: Facts, filtering: Verdict[Dependence]) -> Verdict[Treatment] | None:
    """Return what a SYN gets that the filter refuses; None where nothing could be refused, or none was sent.

    Whether silence is the filter's is for the verdict on the filter to say, so that this is as certain as that one.
    """
    dialled = [(index, fact) for index, fact in facts.connect_backs if fact.outcome is not Dialled.NOT_DIALLED]
    if not dialled or filtering.value is Dependence.ENDPOINT_INDEPENDENT:
        return None
    if filtering.value is None:
        return not_determined(f"whom the filter refuses is not known: {filtering.reason}", indexes(dialled))
    answered = [cited for cited in dialled if cited[1].outcome in (Dialled.REFUSED, Dialled.UNREACHABLE)]
    refused = answered or [cited for cited in dialled if cited[1].outcome is Dialled.SILENT]
    if not refused:
        return not_determined("no connection from outside was refused", filtering.evidence)
    outcome = refused[0][1].outcome
    value, what = _GETS[outcome]
    senders = listing(dict.fromkeys(fact.source.address for _, fact in refused if fact.outcome is outcome))
    certainty, says = filtering.certainty, ""
    if answered and certainty is Certainty.CONFIRMED:  # no packet of it comes here
        certainty, says = Certainty.LIKELY, ", by the word of the reflector alone"
    return Verdict(value, certainty, f"a SYN from {senders} {what}{says}", indexes(refused))
