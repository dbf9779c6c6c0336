"""The report in a sentence or three, for someone who never heard of RFC 4787: what gets through, what the NAT does."""

from __future__ import annotations

from collections.abc import Iterable

from natprobe.behaviour import Certainty, Dependence, Verdict
from natprobe.inference import Profile
from natprobe.inference.facts import listing
from natprobe.report import Family, Report

_GIVES = {
    Dependence.ENDPOINT_INDEPENDENT: "all destinations one and the same port",
    Dependence.ADDRESS_DEPENDENT: "each destination address a port of its own",
    Dependence.PORT_DEPENDENT: "each destination port number a port of its own",
    Dependence.ADDRESS_AND_PORT_DEPENDENT: "each destination a port of its own",
    Dependence.CONNECTION_DEPENDENT: "each connection a port of its own",
}
_LETS_IN = {
    Dependence.ENDPOINT_INDEPENDENT: "lets anybody in",
    Dependence.ADDRESS_DEPENDENT: "lets nobody in from an address that was not written to first",
    Dependence.PORT_DEPENDENT: "lets nobody in from a port number that was not written to first",
    Dependence.ADDRESS_AND_PORT_DEPENDENT: "lets nobody in who was not written to first",
    Dependence.CONNECTION_DEPENDENT: "lets nobody in who was not connected to first",
}
_HEDGES = {Certainty.CONFIRMED: "", Certainty.LIKELY: "probably ", Certainty.CONFLICTING: "perhaps "}


def summary(report: Report) -> list[str]:
    """Return what the report comes to: one line, or one for each IP version where they differ."""
    told = {version: _family(family) for version, family in report.families}
    if len(told) == 1:
        return list(told.values())
    if len(set(told.values())) == 1:
        return [f"IPv4 and IPv6 alike: {told[4]}"]
    return [f"IPv{version}: {text}" for version, text in told.items()]


def _family(family: Family) -> str:
    return " ".join([_reached(family), *_nats(family), *_cure(family)])


def _reached(family: Family) -> str:
    def over(reachable: bool | None) -> list[str]:
        return [protocol.upper() for protocol, profile in family.profiles if profile.reachable.value is reachable]

    through, blocked, unknown = over(True), over(False), over(None)
    clauses = [
        f"{listing(through)} {'get' if len(through) > 1 else 'gets'} through" if through else "",
        f"{listing(blocked)} {'are' if len(blocked) > 1 else 'is'} blocked" if blocked else "",
        f"whether {listing(unknown)} {'get' if len(unknown) > 1 else 'gets'} through is not known" if unknown else "",
    ]
    return _sentence(", ".join(filter(None, clauses)))


def _nats(family: Family) -> Iterable[str]:
    """Return a sentence for each protocol that gets through, or one for both where it is the same."""
    told = {protocol: _nat(profile) for protocol, profile in family.profiles if profile.reachable.value}
    if len(set(told.values())) == 1:
        return [_sentence(text) for text in set(told.values())]
    return [f"For {protocol.upper()}, {text}." for protocol, text in told.items()]


def _nat(profile: Profile) -> str:
    if profile.translated.value is None:
        return "whether there is a NAT is not known"
    if profile.translated.value is False:
        return f"there is no NAT{_firewall(profile.filtering)}"
    return f"your NAT {_mapping(profile.mapping)}, {_filtering(profile.filtering)}"


def _firewall(filtering: Verdict[Dependence]) -> str:
    if filtering.value is None:
        return ", and whether there is a firewall is not known"
    if filtering.value is Dependence.ENDPOINT_INDEPENDENT:
        return " and no firewall: anybody can reach you"
    return f", but a firewall {_HEDGES[filtering.certainty]}{_LETS_IN[filtering.value]}"


def _mapping(mapping: Verdict[Dependence]) -> str:
    if mapping.value is None:
        return "changes your address, in which way is not known"
    return f"{_HEDGES[mapping.certainty]}gives {_GIVES[mapping.value]}"


def _filtering(filtering: Verdict[Dependence]) -> str:
    if filtering.value is None:
        return "and whom it lets in is not known"
    return f"and {_HEDGES[filtering.certainty]}{_LETS_IN[filtering.value]}"


def _cure(family: Family) -> Iterable[str]:
    """Return what to do about a NAT that packets from strangers disturb; all else is as it is."""
    remap = family.udp.unsolicited_remap if family.udp else None
    if remap and remap.value:
        moves = f"{_HEDGES[remap.certainty]}moves your UDP port for whoever sends to you before you send to them"
        yield f"It {moves}, which breaks calls: let it drop unsolicited packets from outside."


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
