"""Whether a packet to an external endpoint of the own NAT comes back in, and with which source (RFC 4787 §6)."""

from __future__ import annotations

from natprobe.behaviour import Certainty, Dependence, Hairpinning, Verdict, not_determined
from natprobe.endpoint import Endpoint
from natprobe.inference.facts import Facts, indexes
from natprobe.inference.mapping import judge_mapping
from natprobe.inference.reachability import judge_translation
from natprobe.observation import Exchange, Purpose

_FEW = 5
"""Packets within one network, where hardly any is lost."""


def judge_hairpinning(facts: Facts) -> Verdict[Hairpinning] | None:
    """Return what comes of a packet from one socket of this host to another one's external endpoint.

    None where that was not tried, or where there is no NAT.
    """
    tried = facts.purpose(Purpose.HAIRPIN)
    if not tried or judge_translation(facts).value is False:
        return None
    came = [(index, exchange) for index, exchange in tried if exchange.answered]
    if came:
        return _came(came[0][1], indexes(came))
    sent = sum(exchange.sent for _, exchange in tried)
    remote = tried[0][1].remote
    if judge_mapping(facts).value is not Dependence.ENDPOINT_INDEPENDENT:
        why = "where each destination is shown another port, a filter may have stopped them as well"
        return not_determined(f"{sent} packets to {remote} did not come back in, but {why}", indexes(tried))
    if sent < _FEW:
        return not_determined(f"only {sent} packets were sent to {remote}", indexes(tried))
    # Both sockets are this host's, and a system takes no packet from outside that has its own address as the source.
    reason = f"{sent} packets to {remote} did not come back in, or only with this host's own address as their source"
    return Verdict(Hairpinning.NONE, Certainty.LIKELY, reason, indexes(tried))


def _came(exchange: Exchange, evidence: tuple[int, ...]) -> Verdict[Hairpinning]:
    source, remote = exchange.mapped, exchange.remote
    if source is None:
        return not_determined(f"what was sent to {remote} came back in, but not with which source", evidence)
    how = _how(source, remote)
    reason = f"what was sent to {remote} came back in from {source if source.port else 'an inside address'}"
    return Verdict(how, Certainty.CONFIRMED, reason, evidence)


def _how(source: Endpoint, remote: Endpoint) -> Hairpinning:
    return Hairpinning.EXTERNAL_SOURCE if source.address == remote.address else Hairpinning.INTERNAL_SOURCE
