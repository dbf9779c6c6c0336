"""Why two peers connect or do not, in one sentence, and what to do about it: words for what the model found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from natprobe.behaviour import Dependence, Protocol
from natprobe.traversal.model import Behaviour, Candidate, Meeting, Order, Refusal, Traversal

_ANYBODY = Dependence.ENDPOINT_INDEPENDENT
_LETS_IN = {
    Dependence.ADDRESS_DEPENDENT: "all that comes from an address that {0} has sent to",
    Dependence.PORT_DEPENDENT: "all that comes from a port number that {0} has sent to",
    Dependence.ADDRESS_AND_PORT_DEPENDENT: "only those whom {0} has sent to",
    Dependence.CONNECTION_DEPENDENT: "only what belongs to a connection of {0}'s own",
}
_MOVES = "moves its own side's packets to another port once one has come in uninvited"
_RESETS = "answers a SYN that comes too early with a reset, which ends the attempt"
_REFUSES = "refuses a SYN to a connection that is being opened from within"
_ELSEWHERE = "sends the answer to a packet from another port than the one that it came to"
IN_SHORT = {
    Traversal.DIRECT: "the packets of one get in at the other",
    Traversal.TIMING: "it depends on who sends first",
    Traversal.RELAY: "no packet gets in at either",
}


class Unusual(NamedTuple):
    """A field of a side's behaviour (0: A, 1: B) and the value that it has if things are not as usual."""

    side: int
    field: str
    value: Any


def why_direct(a: Behaviour, b: Behaviour, meeting: Meeting) -> str:
    """Return why the packets of one get in at the other."""
    if meeting.by_a:
        return _gets_in("A", "B", b, meeting.a)
    return _gets_in("B", "A", a, meeting.b)


def _gets_in(sender: str, receiver: str, there: Behaviour, source: Candidate) -> str:
    gate = _gate(receiver, there)
    told = f"{sender}'s packets get in at {receiver}: {gate} lets in"
    if there.filtering is _ANYBODY:
        return f"{told} anybody" + ("" if _known(there) else ", and its answers come from where they were asked")
    whom = _LETS_IN[there.filtering].format(receiver)
    if source is Candidate.PEER_REFLEXIVE:
        return f"{told} {whom}, and {receiver} has sent to {sender}'s"
    return f"{told} {whom}, and they come from where {receiver} has sent to"


def why_not(a: Behaviour, b: Behaviour) -> str:
    """Return why the packets of neither get in at the other."""
    return f"no packet gets in: {_stays_out('A', 'B', b)}, and {_stays_out('B', 'A', a)}"


def _stays_out(sender: str, receiver: str, there: Behaviour) -> str:
    gate = _gate(receiver, there)
    if not _known(there):
        return f"{gate} sends {receiver}'s packets to {sender} from a port that {sender} cannot know"
    return f"{gate} lets in {_LETS_IN[there.filtering].format(receiver)}, and {receiver} cannot know {sender}'s port"


def why_timing(a: Behaviour, b: Behaviour, protocol: Protocol) -> str:
    """Return what comes of it if the wrong side sends first."""
    culprits = _culprits(a, b)
    whose = "the NAT of either" if len(culprits) > 1 else f"{culprits[0]}'s NAT"
    return f"it depends on who sends first: {whose} {_does('refusal', protocol)}"


def _culprits(a: Behaviour, b: Behaviour) -> list[str]:
    return [name for name, behaviour in (("A", a), ("B", b)) if behaviour.refusal is not Refusal.NOTHING]


def unless(exceptions: Sequence[Sequence[Unusual]], usual: Sequence[Behaviour], protocol: Protocol) -> str:
    """Return what was not tested and would lead elsewhere: any of the exceptions, each as a whole."""
    gates = [_gate(name, behaviour) for name, behaviour in zip("AB", usual, strict=True)]
    told: dict[str, list[str]] = {}
    for changes in exceptions:
        whose = " and ".join(gates[change.side] for change in changes)
        does = " and ".join(dict.fromkeys(_does(change.field, protocol) for change in changes))
        told.setdefault(f"each {does}" if len(changes) > 1 else does, []).append(whose)
    questions = (f"whether {' or '.join(whose)} {does}" for does, whose in told.items())
    return f"not tested, and it would matter: {', or '.join(questions)}"


def _does(field: str, protocol: Protocol) -> str:
    if field == "refusal":
        return _RESETS if protocol is Protocol.TCP else _MOVES
    return _REFUSES if field == "filtering" else _ELSEWHERE


def _gate(name: str, behaviour: Behaviour) -> str:
    if behaviour.translated:
        return f"{name}'s NAT"
    return f"{name}'s network" if behaviour.filtering is _ANYBODY else f"{name}'s firewall"


def _known(behaviour: Behaviour) -> bool:
    """Whether the peer can be told the endpoint that packets to it will come from."""
    return not behaviour.translated or behaviour.mapping is Dependence.ENDPOINT_INDEPENDENT


# --- advice -----------------------------------------------------------------------------------------------------------


def advise(
    outcome: Traversal, first: Order | None, usual: Sequence[Behaviour], protocol: Protocol, *, sure: bool
) -> str:
    """Return what to do, so that they connect or connect better."""
    match outcome:
        case Traversal.DIRECT:
            return "No relay is needed." if sure else "Offer a relay in case; it will hardly be needed."
        case Traversal.TIMING:
            return _advise_timing(first, _culprits(*usual), protocol)
        case _ if protocol is Protocol.TCP:
            return "Connect over UDP if that is possible, or to a relay."
        case _:
            return "Offer a TURN server. IPv6, or a NAT that maps independently of the endpoint, would do without."


def _advise_timing(first: Order | None, culprits: Sequence[str], protocol: Protocol) -> str:
    begin = "Let both begin at the same instant"
    if first is not Order.TOGETHER and first:
        other = "B" if first is Order.A else "A"
        webrtc = f" (in WebRTC: {other} offers, {first.upper()} answers)" if protocol is Protocol.UDP else ""
        begin = f"Let {first.upper()} send first{webrtc}"
    routers = " and ".join(f"{name}'s router" for name in culprits)
    return f"{begin}, and offer a relay in case. For good: let {routers} drop what comes to itself uninvited."


def advise_blocked(protocol: Protocol) -> str:
    """Return what gets through where a protocol does not."""
    if protocol is Protocol.UDP:
        return "Offer a TURN server over TCP, and over TLS on port 443 (turns:HOST:443?transport=tcp)."
    return "Connect over UDP if that is possible, or to a relay."
