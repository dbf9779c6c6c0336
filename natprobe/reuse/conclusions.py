"""What follows from a holding, in sentences: what the NAT made of one local port, why it ended, what to do about it."""

from __future__ import annotations

from math import exp

from natprobe.inference.facts import listing
from natprobe.reuse.capacity import POOL
from natprobe.reuse.facts import CLOSED, SILENCE, Failure, Holding, Stage

_MORE = "natprobe reflect --destinations opens more"

_ADVICE: dict[tuple[Stage, str], str] = {
    (Stage.SOCKET, "EMFILE"): "the limit of open files of this process is reached: ulimit -n raises it",
    (Stage.SOCKET, "ENFILE"): "the limit of open files of this machine is reached: sysctl fs.file-max raises it",
    (Stage.BIND, "EADDRINUSE"): "a socket that shares its port with nobody holds this one: choose another with --port",
    (Stage.CONNECT, "EADDRNOTAVAIL"): "this port has a connection to that destination already, or had one until now: "
    "a host tells connections apart by both ends alone",
    (Stage.CONNECT, "ENETUNREACH"): "this host has no route to that destination",
    (Stage.CONNECT, "EPERM"): "this host's own firewall, or its full connection table, forbids it",
    (Stage.HANDSHAKE, "ECONNREFUSED"): "refused with a reset: by a firewall, or nobody listens there",
    (Stage.HANDSHAKE, "EHOSTUNREACH"): "refused with ICMP: so a NAT may tell that a limit is reached (RFC 6888 §4)",
    (Stage.HANDSHAKE, "EACCES"): "refused with ICMP, administratively: so a NAT may tell that a limit is reached",
}
_ENDS = {
    CLOSED: "ended before they were asked again: the servers closed them, which natprobe's reflectors do not",
    "ECONNRESET": "were reset before they were asked again, by the servers or by something on the way",
    "EPIPE": "ended before they were asked again: the servers closed them",
    SILENCE: "are silent: the path is down, or something on it has forgotten them",
}
_TELLING = 1e-3
_NO_MEMORY = ("ENOMEM", "ENOBUFS")


def outside(holding: Holding) -> str:
    """Return what one local port became outside."""
    if not holding.external:
        return "nobody told how the connections are seen from outside"
    connections = sum(external.connections for external in holding.external)
    where = listing(external.address for external in holding.external)
    if not holding.translated:
        return f"no NAT: all {connections:,} connections are seen from {holding.local} itself"
    return f"seen from {where}: {_ports(holding, connections)}"


def _ports(holding: Holding, connections: int) -> str:
    ports = holding.external_ports
    if ports == 1:
        return f"one external port, {holding.external[0].lowest}, for all {connections:,} connections"
    lowest, highest = min(e.lowest for e in holding.external), max(e.highest for e in holding.external)
    if ports == connections:
        return f"each of {connections:,} connections has an external port of its own, of {lowest} to {highest}"
    towards = [count for external in holding.external for _, count in external.towards]
    if set(towards) == {1} and len(towards) == ports:
        return f"{ports} external ports, one for each address that was connected to"
    busiest = max(external.busiest for external in holding.external)
    return f"{ports:,} external ports for {connections:,} connections, the busiest of them for {busiest:,}"


def why_ended(holding: Holding) -> str:
    """Return why there are not more connections, and what to do about it."""
    if holding.alive >= holding.wanted:
        return f"as many as were asked for ({holding.wanted:,})"
    if holding.opened >= holding.wanted:
        return f"all {holding.opened:,} that were asked for were opened, but {_lost(holding)}"
    last = _telling(holding)
    if last is None:
        told = f"there is one connection to each of the {holding.destinations:,} destinations: {_MORE}"
        return told if holding.alive == holding.opened else f"{_lost(holding)}; besides, {told}"
    seen = (
        f"{last.stage} failed {_times(last.count)} ({last.error}), first at {last.held:,} held, towards {last.remote}"
    )
    return f"{seen}: {_reason(holding, last)}"


def _lost(holding: Holding) -> str:
    """Return what became of the connections that were opened and gave no second answer."""
    count = holding.opened - holding.alive
    proofs = [failure for failure in holding.failures if failure.stage is Stage.PROOF]
    last = max(proofs, key=lambda failure: failure.count, default=None)
    how = _ENDS.get(last.error, f"failed ({last.error})") if last else "did not answer again"
    return f"{count:,} of them {how}"


def _telling(holding: Holding) -> Failure | None:
    """Return the failure that ended it: the host's own if it is final, else the most frequent one."""
    failures = [failure for failure in holding.failures if failure.stage is not Stage.PROOF]
    return max(failures, key=lambda failure: (failure.stage.final, failure.count), default=None)


def _reason(holding: Holding, failure: Failure) -> str:
    if failure.error in _NO_MEMORY:
        return "this host has no memory left for sockets"
    if holding.again and failure.stage in (Stage.HANDSHAKE, Stage.EXCHANGE):
        return (
            f"{holding.again:,} got through when they were tried again after a pause: a limit on new connections in a "
            "second, as against SYN floods, or packet loss, and no limit on their number"
        )
    if advice := _ADVICE.get((failure.stage, failure.error)):
        return advice
    if failure.error in (CLOSED, "ECONNRESET") and holding.room is not None and holding.opened >= holding.room:
        return f"the reflectors have room for {holding.room:,} connections and no more"
    if failure.error in (SILENCE, CLOSED, "ETIMEDOUT", "ECONNRESET"):
        return _limit_on_the_way(holding)
    return "the network's doing, or the server's"


def _limit_on_the_way(holding: Holding) -> str:
    if not holding.alive:
        return f"nothing is left of those that were open either: {_lost(holding)}"
    if holding.alive < holding.opened:
        return (
            f"and only {holding.alive:,} of {holding.opened:,} that were open lived on: the path itself is in trouble, "
            f"for {_lost(holding)}"
        )
    told = f"no more get through, while all {holding.opened:,} that were open lived on"
    if holding.translated and holding.opened > 1 and holding.external_ports == holding.opened:
        return (
            f"{told}, each with an external port of its own: as where a NAT shares no port between destinations and "
            f"has none for this host but these {holding.opened:,}; a limit on connections {_alike(holding)}"
        )
    return f"{told}: a limit on the way, of connections or of the memory for them"


def _alike(holding: Holding) -> str:
    """Return whether another limit would look as a pool of exclusive ports does that is used up."""
    lowest, highest = min(e.lowest for e in holding.external), max(e.highest for e in holding.external)
    if highest - lowest < 2 * holding.opened:
        return "would look alike, with ports that are given out in sequence"
    # The birthday problem: as many draws from all the ports there are, and no port twice.
    none_twice = exp(-holding.opened * (holding.opened - 1) / (2 * POOL))
    if none_twice > _TELLING:
        return f"might look alike: of so few ports, drawn at random, none need come twice (chance {none_twice:.1%})"
    return f"would have left a port that comes twice, if they are drawn at random (chance of none: {none_twice:.0e})"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
