"""The report in a sentence or three, for someone who never heard of RFC 4787: what gets through, what the NAT does."""

from __future__ import annotations

from collections.abc import Iterable

from natprobe.behaviour import Certainty, Dependence, Protocol, Verdict
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
    """Return what gets through; each claim with how sure it is."""
    names: dict[tuple[bool | None, Certainty], list[str]] = {}
    for protocol, profile in family.profiles:
        names.setdefault((profile.reachable.value, profile.reachable.certainty), []).append(protocol.upper())
    found = sorted(names.items(), key=lambda item: _ORDER.index(item[0][0]))
    return _sentence(", ".join(_gets(listing(who), len(who) > 1, *how) for how, who in found))


_ORDER = (True, False, None)


def _gets(who: str, several: bool, through: bool | None, certainty: Certainty) -> str:
    if through is None:
        return f"whether {who} {'get' if several else 'gets'} through is not known"
    hedge = _HEDGES[certainty]
    if through:
        return f"{who} {hedge}{'get' if several else 'gets'} through"
    return f"{who} {'are' if several else 'is'} {hedge}blocked"


def _nats(family: Family) -> Iterable[str]:
    """Return a sentence for each protocol that gets through, or one for both where both do and it is the same."""
    told = {protocol: _nat(profile) for protocol, profile in family.profiles if profile.reachable.value}
    if len(told) == len(Protocol) and len(set(told.values())) == 1:
        return [_sentence(text) for text in set(told.values())]
    return [f"For {protocol.upper()}, {text}." for protocol, text in told.items()]


def _nat(profile: Profile) -> str:
    if profile.translated.value is None:
        return "whether there is a NAT is not known"
    hedge = _HEDGES[profile.translated.certainty]
    if profile.translated.value is False:
        return f"there is {hedge}no NAT{_firewall(profile.filtering)}"
    nat = f"there is {hedge}a NAT: it" if hedge else "your NAT"
    return f"{nat} {_mapping(profile.mapping)}, {_filtering(profile.filtering)}"


def _firewall(filtering: Verdict[Dependence]) -> str:
    if filtering.value is None:
        return ", and whether there is a firewall is not known"
    hedge = _HEDGES[filtering.certainty]
    if filtering.value is Dependence.ENDPOINT_INDEPENDENT:
        return f" and {hedge}no firewall: anybody can {hedge}reach you"
    return f", but a firewall {hedge}{_LETS_IN[filtering.value]}"


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
