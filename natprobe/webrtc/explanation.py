"""Why an ICE transport has not connected, or not directly: a decision table over what is known. Pure.

Each rule is a small function that looks at one possible cause and returns a `Finding` or None. What the agent knows
(`ice.IceTransport`) tells which cause it can be; a NAT report of each side and checked servers tell which it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from natprobe.behaviour import Certainty, Dependence, Verdict
from natprobe.inference import Profile
from natprobe.report import Report
from natprobe.traversal.judging import PathPrediction
from natprobe.traversal.model import Traversal
from natprobe.webrtc.connected import closed_early, connected, consent_lost, in_doubt
from natprobe.webrtc.findings import Cause, Explanation, Finding
from natprobe.webrtc.ice import CandidatePair, CandidateType, IceTransport, PairState, TransportState
from natprobe.webrtc.knowledge import Knowledge, sides


def explain_transports(transports: Sequence[IceTransport], known: Knowledge) -> Explanation:
    """Return why these transports are as they are."""
    if not transports:
        reason = "there is no ICE transport yet: no track and no data channel was added, and no offer came in"
        return Explanation((Finding(Cause.NOT_STARTED, Certainty.CONFIRMED, reason),))
    findings = (finding for transport in transports for finding in _explain(transport, known))
    return Explanation(tuple(dict.fromkeys(findings)))


def _explain(transport: IceTransport, known: Knowledge) -> list[Finding]:
    if transport.consent_lost:
        return [consent_lost(transport)]
    if transport.selected:
        return [*in_doubt(transport, transport.selected), connected(transport, transport.selected, known)]
    if transport.state is TransportState.CLOSED:
        return [closed_early(transport), *_nats(transport, known, [])]
    if transport.state is TransportState.NEW:
        return [_not_started(transport), *_why_not(transport, known)]
    found = [*_why_not(transport, known), *_unfinished(transport)]
    return found or [_undetermined(transport)]


# --- not connected ----------------------------------------------------------------------------------------------------


def _not_started(transport: IceTransport) -> Finding:
    missing = "its candidates are not gathered" if not transport.gathered else "the peer's description is not here yet"
    return Finding(Cause.NOT_STARTED, Certainty.CONFIRMED, f"connecting has not begun: {missing}")


def _why_not(transport: IceTransport, known: Knowledge) -> list[Finding]:
    """Return every cause that can be told, signalling first, then servers, then NATs."""
    if not transport.gathered:
        return []
    signalling = [f for f in (_no_local(transport), _no_remote(transport), _no_common_version(transport)) if f]
    servers = [*_blocked(known), *_turn(transport, known), *_stun(transport, known)]
    if signalling or not transport.pairs:
        return [*signalling, *servers]
    # A relay cannot do what a blocked peer forbids, and a server that is not there relays nothing.
    silent = [] if any(f.cause is Cause.UDP_BLOCKED for f in servers) else [*_relay(transport, known)]
    return [*servers, *silent, *_nats(transport, known, servers)]


def _no_local(transport: IceTransport) -> Finding | None:
    if transport.local:
        return None
    if transport.relay_only:
        reason = "this side may use relays only and has none"
    else:
        reason = "this host has no address to send from but loopback"
    return Finding(Cause.NO_LOCAL_CANDIDATE, Certainty.CONFIRMED, reason)


def _no_remote(transport: IceTransport) -> Finding | None:
    if transport.remote:
        return None
    if transport.unresolved:
        reason = f"the peer gave nothing but mDNS names, and {transport.unresolved[0]} stands for no address here"
        advice = "mDNS names work within one LAN only: give both sides a STUN or TURN server."
        return Finding(Cause.MDNS_UNRESOLVED, Certainty.CONFIRMED, reason, advice)
    if transport.state is TransportState.NEW and not transport.end_of_candidates:
        return None
    reason = "the peer's candidates have not come: none was given to this side"
    advice = "Look at the signalling: the peer's description without a=candidate lines, or its candidates not added."
    return Finding(Cause.NO_REMOTE_CANDIDATE, Certainty.CONFIRMED, reason, advice)


def _no_common_version(transport: IceTransport) -> Finding | None:
    ours = {candidate.version for candidate in transport.local}
    theirs = {candidate.version for candidate in transport.remote}
    if not ours or not theirs or ours & theirs or None in theirs:
        return None
    names = ["/".join(f"IPv{version}" for version in sorted(filter(None, side))) for side in (ours, theirs)]
    reason = f"no pair can be made: this side has {names[0]} candidates, the peer {names[1]}"
    advice = "Offer a TURN server that has both IP versions."
    return Finding(Cause.NO_COMMON_VERSION, Certainty.CONFIRMED, reason, advice)


def _blocked(known: Knowledge) -> Iterator[Finding]:
    """Tell of each side whose report says that UDP does not get out."""
    for whose, report in (("this side's", known.mine), ("the peer's", known.theirs)):
        verdicts = [profile.reachable for profile in _udp(report)]
        if report is known.mine and known.answered_over_udp():
            continue  # a server has answered over UDP since
        if verdicts and all(verdict.value is False for verdict in verdicts):
            reason = f"{whose} network lets no UDP out: {verdicts[0].reason}"
            advice = "Give that side a TURN server over TLS on port 443 (turns:...:443?transport=tcp)."
            yield Finding(Cause.UDP_BLOCKED, verdicts[0].certainty, reason, advice)


def _udp(report: Report | None) -> list[Profile]:
    return [family.udp for _, family in report.families if family.udp] if report else []


def _turn(transport: IceTransport, known: Knowledge) -> Iterator[Finding]:
    """No relayed candidate though a TURN server is set: the allocation failed."""
    url = transport.turn
    if not url or transport.has_local(CandidateType.RELAY):
        return
    why = _server_fault(transport, url, known)
    if why:
        advice = _give_another(url, known)
    elif known.found_usable(url, transport.turn_mark):
        advice = (
            "It was usable when it was checked: see which credentials the agent was given, and that they still hold."
        )
    else:
        advice = "aioice does not tell why: check_ice_servers does, and so does a watch around the gathering."
    reason = f"{url} gave no relayed address{f': {why}' if why else ''}"
    yield Finding(Cause.TURN_FAILED, Certainty.CONFIRMED, reason, advice)


def _give_another(url: str | None, known: Knowledge) -> str:
    """Advise to use a TURN server that was found usable, if there is one."""
    other = known.other_relay(url)
    return f"{other} works; aiortc uses the first TURN URL alone: choose_ice_servers puts it first." if other else ""


def _unused_relay(transport: IceTransport, known: Knowledge) -> str:
    """Advise to use a TURN server that was found usable, where the agent has got no relay."""
    return "" if transport.has_local(CandidateType.RELAY) else _give_another(transport.turn, known)


def _stun(transport: IceTransport, known: Knowledge) -> Iterator[Finding]:
    """No server-reflexive candidate though a STUN server is set: UDP is blocked, or the server is at fault."""
    url = transport.stun
    if not url or transport.relay_only or transport.has_local(CandidateType.SERVER_REFLEXIVE):
        return
    why = _server_fault(transport, url, known)
    got_none = f"{url} told this side no external address"
    profiles = _udp(known.mine)
    gets_out = _udp_gets_out(transport, url, known)
    if gets_out and _is_silent(why):
        reason = f"{got_none}, though UDP gets out ({gets_out}): the server is down, or its name or port is wrong"
        yield Finding(Cause.STUN_FAILED, Certainty.CONFIRMED, reason, _CHOOSE_STUN if known.servers else "")
    elif why and not _is_silent(why):
        yield Finding(Cause.STUN_FAILED, Certainty.CONFIRMED, f"{got_none}: {why}")
    elif not profiles:
        reason = f"{got_none}, and no other server was reached over UDP: UDP out is blocked, or the server is down"
        yield Finding(Cause.UDP_BLOCKED, Certainty.LIKELY, reason, "natprobe.classify tells which of the two it is.")


_CHOOSE_STUN = "choose_ice_servers leaves it out."


def _udp_gets_out(transport: IceTransport, url: str, known: Knowledge) -> str | None:
    """Return what shows that UDP gets out of this side's network; None if nothing does."""
    if any(profile.reachable.value for profile in _udp(known.mine)):
        return "this side's report says so"
    if transport.has_local(CandidateType.RELAY) and (transport.turn or "").endswith("udp"):
        return f"{transport.turn} gave a relayed address"
    answered = known.answered_over_udp(url)
    return f"{answered} answered" if answered else None


def _is_silent(why: str | None) -> bool:
    """Whether nothing is known of a server but that it did not answer."""
    return why is None or "no answer" in why


def _server_fault(transport: IceTransport, url: str, known: Knowledge) -> str | None:
    """Return what the agent met, or else what the checks say."""
    mark = transport.turn_mark if url == transport.turn else None
    fault = known.fault_of(url, mark)
    return (fault and fault.reason) or dict(transport.failures).get(url)


def _relay(transport: IceTransport, known: Knowledge) -> Iterator[Finding]:
    """A relayed candidate whose pairs have all failed: its server relays nothing."""
    relayed = [pair for pair in transport.pairs if pair.relayed]
    if not relayed or not _all_failed(relayed):
        return
    ours = transport.has_local(CandidateType.RELAY)
    whose = transport.turn if ours else "the peer's TURN server"
    fault = known.fault_of(transport.turn, transport.turn_mark) if ours and transport.turn else None
    why = fault and fault.reason
    reason = f"{whose} gave a relayed address but relayed nothing: all {len(relayed)} pairs over it failed"
    if ours and transport.turn and known.found_usable(transport.turn, transport.turn_mark):
        advice = "It relayed when it was checked: its rules deny this peer (denied-peer-ip), or the peer is gone."
    else:
        advice = (
            "Its rules on peers (denied-peer-ip), or a firewall before its relay ports; check_ice_servers tells which."
        )
    yield Finding(Cause.RELAY_SILENT, Certainty.CONFIRMED, f"{reason}: {why}" if why else reason, advice)


def _all_failed(pairs: Iterable[CandidatePair]) -> bool:
    return all(pair.state is PairState.FAILED for pair in pairs)


# --- what the NATs do -------------------------------------------------------------------------------------------------

_CAUSES = {
    Traversal.RELAY: Cause.NAT_PAIR,
    Traversal.TIMING: Cause.TIMING,
    Traversal.SAME_NAT: Cause.SAME_NAT,
}


def _nats(transport: IceTransport, known: Knowledge, servers: Sequence[Finding]) -> Iterator[Finding]:
    """Tell why the direct pairs fail."""
    path = known.path
    if not transport.pairs:
        return
    blocked = any(finding.cause is Cause.UDP_BLOCKED for finding in servers)
    if path and path.outcome in _CAUSES:
        if not blocked:  # which has been said, and is all the reason there is
            advice = _unused_relay(transport, known) or path.advice
            yield Finding(_CAUSES[path.outcome], path.certainty, sides(path), advice)
    elif not _all_failed(transport.pairs):
        return
    elif path and path.outcome is Traversal.DIRECT:
        yield _unanswered(transport, known, path)
    elif path:
        yield Finding(Cause.UNDETERMINED, Certainty.NOT_DETERMINED, sides(path), path.advice)
    elif not blocked and transport.state is not TransportState.CLOSED:
        yield from _without_both_reports(transport, known)


def _unanswered(transport: IceTransport, known: Knowledge, path: PathPrediction) -> Finding:
    """Both NATs would let the checks pass, and yet none was answered."""
    if transport.stun is None and transport.turn is None and _is_hidden(known.mine):
        return _no_server(f"though {sides(path)}", known)
    outside = (CandidateType.SERVER_REFLEXIVE, CandidateType.RELAY)
    if _is_hidden(known.theirs) and not any(map(transport.has_remote, outside)):
        reason = f"the peer gave no address that can be reached from outside, though {sides(path)}"
        return Finding(Cause.PEER_SILENT, Certainty.CONFIRMED, reason, "Give the peer a STUN server that answers.")
    if path.certainty is Certainty.LIKELY:  # what is not sure about the path is then the likeliest cause
        reason = f"no check was answered, though the reports let expect it: {sides(path)}"
        return Finding(Cause.TIMING, Certainty.LIKELY, reason, path.advice)
    reason = f"no check was answered, though {sides(path)}: the peer was not there, or its credentials are not these"
    advice = "See that both connect at the same time, with the ufrag and password of each other."
    return Finding(Cause.PEER_SILENT, Certainty.LIKELY, reason, advice)


def _is_hidden(report: Report | None) -> bool:
    """Whether a side has an address of its own that is not seen from outside."""
    return any(profile.translated.value for profile in _udp(report))


def _no_server(though: str, known: Knowledge) -> Finding:
    reason = f"this side has no STUN and no TURN server and could offer only its own addresses, {though}"
    usable = any(check.usable for check in known.servers)
    advice = (
        "Give the agent what choose_ice_servers returns: some of the servers that were checked work."
        if usable
        else "Give both sides a STUN server, and a TURN server for the rest."
    )
    return Finding(Cause.NO_SERVER, Certainty.CONFIRMED, reason, advice)


_CLASSIFY = (
    "natprobe.classify on both sides tells whether these two can connect directly at all; a TURN server mends it."
)


def _without_both_reports(transport: IceTransport, known: Knowledge) -> Iterator[Finding]:
    """Tell what can be told from one report, or from the candidates alone."""
    for whose, report in (("this side's", known.mine), ("the peer's", known.theirs)):
        for profile in _udp(report):
            if found := _one_sided(whose, profile.mapping, profile.filtering):
                yield found
                return
    moved = _moved_peer(transport)
    if moved:
        reason = f"the peer's NAT gave it another port towards this side ({moved}) than towards its server"
        yield Finding(Cause.NAT_PAIR, Certainty.LIKELY, f"{reason}: its mapping depends on the destination", _CLASSIFY)
    elif transport.stun is None and transport.turn is None:
        yield _no_server("and none of the peer's checks reached one of them", known)
    elif not any(map(transport.has_remote, (CandidateType.SERVER_REFLEXIVE, CandidateType.RELAY))):
        reason = "the peer offered only its own addresses, which cannot be reached from here"
        yield Finding(Cause.PEER_SILENT, Certainty.LIKELY, reason, "Give the peer a STUN server that answers.")
    else:
        reason = "both sides know their external addresses, and yet no check got through: a NAT or firewall drops them"
        yield Finding(Cause.NAT_PAIR, Certainty.LIKELY, reason, _CLASSIFY)


def _one_sided(whose: str, mapping: Verdict[Dependence], filtering: Verdict[Dependence]) -> Finding | None:
    """Return what one NAT does to a connection, whatever the other is; None if it stands in nobody's way."""
    if not (mapping.determined and filtering.determined) or filtering.value is Dependence.ENDPOINT_INDEPENDENT:
        return None
    if mapping.value is Dependence.ENDPOINT_INDEPENDENT:
        reason = f"{whose} NAT lets in only whom it has written to ({filtering.reason})"
    else:
        reason = f"{whose} NAT uses a port towards the peer that the peer cannot know ({mapping.reason})"
    return Finding(Cause.NAT_PAIR, Certainty.LIKELY, reason, _CLASSIFY)


def _moved_peer(transport: IceTransport) -> str | None:
    """Return a peer-reflexive endpoint at an address under which the peer is known with another port."""
    known = {c.address for c in transport.remote if c.type is CandidateType.SERVER_REFLEXIVE}
    met = (c for c in transport.remote if c.type is CandidateType.PEER_REFLEXIVE and c.address in known)
    return next((str(candidate) for candidate in met), None)


# --- not finished -----------------------------------------------------------------------------------------------------


def _unfinished(transport: IceTransport) -> Iterator[Finding]:
    """Tell what is still waited for."""
    if transport.state is not TransportState.CHECKING:
        return
    if transport.pairs and _all_failed(transport.pairs) and not transport.end_of_candidates:
        reason = "all pairs have failed, but the peer has not said that it has no more candidates: this never ends"
        advice = "Signal the end of candidates: addIceCandidate(None), add_remote_candidate(None)."
        yield Finding(Cause.NO_END_OF_CANDIDATES, Certainty.CONFIRMED, reason, advice)
    elif not transport.end_of_candidates and not transport.remote:
        reason = "the peer's candidates and their end are still waited for: this never ends by itself"
        yield Finding(Cause.NO_END_OF_CANDIDATES, Certainty.CONFIRMED, reason)
    else:
        done = sum(pair.state in (PairState.FAILED, PairState.SUCCEEDED) for pair in transport.pairs)
        reason = f"{done} of {len(transport.pairs)} pairs are checked; aioice gives a pair up after 63.5 s"
        yield Finding(Cause.CHECKING, Certainty.CONFIRMED, reason)


def _undetermined(transport: IceTransport) -> Finding:
    reason = f"the transport is {transport.state} and nothing that is known tells why"
    return Finding(Cause.UNDETERMINED, Certainty.NOT_DETERMINED, reason)
