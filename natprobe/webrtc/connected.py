"""What is to be said of an ICE transport that is, or was, connected: directly or not, and whether it still is. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from natprobe.behaviour import Certainty
from natprobe.traversal.model import Traversal
from natprobe.webrtc.findings import Cause, Finding
from natprobe.webrtc.ice import CandidatePair, CandidateType, IceTransport, PairState, TransportState
from natprobe.webrtc.knowledge import Knowledge, sides


def consent_lost(transport: IceTransport) -> Finding:
    pair = transport.selected
    relay = _relay_of(transport, pair) if pair else None
    if relay is None:
        reason = f"the peer stopped answering over {pair}: its consent has expired (RFC 7675 §5.1)"
        advice = "The path or the peer went away while it was in use: make a new connection."
    else:
        reason = f"consent over {pair} has expired (RFC 7675 §5.1): {_suspicion(transport, relay)}"
        advice = f"{_LOOK_AT_RELAY} Then make a new connection, over another relay if this one is down."
    return Finding(Cause.CONSENT_LOST, Certainty.CONFIRMED, reason, advice)


def in_doubt(transport: IceTransport, pair: CandidatePair) -> Iterator[Finding]:
    """Tell that a connection in use may be gone: consent checks are not answered, or its relay is not there."""
    misses, relay = transport.consent_misses, _relay_of(transport, pair)
    lost = transport.relay_lost if pair.local.type is CandidateType.RELAY else None
    if transport.state is TransportState.CLOSED or not (misses or lost):
        return
    since = f", for {transport.unanswered_s:.0f} s" if transport.unanswered_s is not None else ""
    missed = f"consent checks are not answered over {pair} ({misses} in a row{since}; six end it)"
    if relay is None:
        yield Finding(Cause.CONSENT_MISSED, Certainty.CONFIRMED, f"{missed}: the peer or the path to it is gone")
        return
    certainty = Certainty.CONFIRMED if lost else Certainty.LIKELY
    reason = f"{missed if misses else f'over {pair} nothing gets through'}: {_suspicion(transport, relay)}"
    yield Finding(Cause.CONSENT_MISSED, certainty, reason, _LOOK_AT_RELAY)


_LOOK_AT_RELAY = "Check the relay (check_ice_servers, natprobe turn)."


def _relay_of(transport: IceTransport, pair: CandidatePair) -> str | None:
    """Return the relay that a pair goes through; None for a direct pair."""
    if pair.local.type is CandidateType.RELAY:
        return transport.turn or str(pair.local)
    return f"the peer's TURN server ({pair.remote.address})" if pair.relayed else None


def _suspicion(transport: IceTransport, relay: str) -> str:
    """Say whom to suspect where nothing comes back through a relay."""
    lost = transport.relay_lost if relay == transport.turn else None
    if lost:
        return f"the relay {relay} is gone: {lost}"
    return f"the pair goes through the relay {relay}, so it is suspected first, and then the peer"


def closed_early(transport: IceTransport) -> Finding:
    tried = f"{len(transport.pairs)} pairs were tried" if transport.pairs else "nothing was tried"
    reason = f"it was closed before it was connected: {tried}; what else it knew of its candidates went with it"
    return Finding(Cause.CLOSED, Certainty.CONFIRMED, reason, "Ask before it is closed.")


def connected(transport: IceTransport, pair: CandidatePair, known: Knowledge) -> Finding:
    if transport.state is TransportState.CLOSED:
        return Finding(Cause.CLOSED, Certainty.CONFIRMED, f"it was connected over {pair}, and was closed on this side")
    if not pair.relayed:
        return Finding(Cause.DIRECT, Certainty.CONFIRMED, f"connected directly over {pair}")
    return _relayed(transport, pair, known)


def _relayed(transport: IceTransport, pair: CandidatePair, known: Knowledge) -> Finding:
    via = f"connected through a relay, {pair}"
    if transport.relay_only:
        return Finding(Cause.RELAYED, Certainty.CONFIRMED, f"{via}: this side is told to use relays only")
    though = Cause.RELAYED_THOUGH_DIRECT
    advice = "The agent takes the first pair that answers: connect again, or offer the relay a little later."
    for other in transport.pairs:
        if other.state is PairState.SUCCEEDED and not other.relayed:
            return Finding(though, Certainty.CONFIRMED, f"{via}, though {other} answered as well", advice)
    path = known.path
    if path and path.outcome is Traversal.DIRECT:
        return Finding(though, path.certainty, f"{via}, though {sides(path)}", advice)
    if path and path.outcome is not Traversal.UNKNOWN:
        return Finding(Cause.RELAYED, path.certainty, f"{via}: {sides(path)}", path.advice)
    return Finding(Cause.RELAYED, Certainty.CONFIRMED, f"{via}; no direct pair has answered")
