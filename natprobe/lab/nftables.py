"""A policy as an nftables ruleset: pure text, for the stock kernel and no module beside it.

One recipe makes every NAT that keeps a table of its own. An inside endpoint, with that part of the remote endpoint on
which the mapping depends, is given a *slot*, and the slot names an external port. A filter chain just behind the source
translation (priority srcnat + 1) sees the external source and, by ``ct original``, still the inside one: there the way
back is learnt, together with that part of the remote on which the filter depends. An address-and-port-dependent filter
needs no rule: it is what conntrack does.

Each protocol has its own table: RFC 7857 §5 lets them differ, and it keeps the keys below the five fields at which nft
1.0.6 aborts. Maps are refreshed by outbound packets only (RFC 4787 §4.3 REQ-6). Knows policies and nft's grammar.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from natprobe.behaviour import Dependence, PortAssignment, PortReuse, Protocol, Treatment
from natprobe.errors import PolicyNotPossible
from natprobe.lab.details import LINUX, Details
from natprobe.lab.policy import LOOKS_AT, NatPolicy, ProtocolPolicy

SLOTS = 2048
"""Mappings that one protocol can hold at once, each on a port of its own; loading twice as many takes 20 ms longer."""

LIFETIME = 300
"""Seconds that a mapping or a permission outlives the last outbound packet: the default of RFC 4787 §4.3 REQ-5."""

_MASQUERADE = {
    (Dependence.ENDPOINT_INDEPENDENT, PortAssignment.PRESERVING): "masquerade",
}
_NATIVE = {
    Protocol.UDP: _MASQUERADE
    | {(Dependence.ADDRESS_AND_PORT_DEPENDENT, PortAssignment.RANDOM): "masquerade fully-random"},
    Protocol.TCP: _MASQUERADE | {(Dependence.CONNECTION_DEPENDENT, PortAssignment.RANDOM): "masquerade fully-random"},
}
"""What the kernel does alone. It tells connections apart by the whole 5-tuple and so reuses ports per destination.

At random each connection gets a port of its own: the entry of the one before, which has ended, gives way to it.
"""

_NO_REUSE = (PortReuse.PER_DESTINATION_ADDRESS, PortReuse.OVERLOADING)

_FIRST_PORT = {
    PortAssignment.SEQUENTIAL: 40000,
    # Where the inside port is taken: below the ephemeral ports of every common system.
    PortAssignment.PRESERVING: 20000,
}


def ruleset(policy: NatPolicy, *, uplink: str, lan: str, external: str) -> str:
    """Return what ``nft -f -`` swaps in, in one transaction, for whatever policy the gateway had before.

    ``uplink`` and ``lan`` are interface names and ``external`` is the IPv4 address on the uplink. Raises
    PolicyNotPossible, naming the field, for a NAT that the kernel cannot be.
    """
    require_possible(policy)
    return "".join(
        str(_Table(protocol, policy.of(protocol), policy.translated, uplink, lan, external)) for protocol in Protocol
    )


def require_possible(policy: NatPolicy) -> None:
    """Raise PolicyNotPossible, naming the field, for a NAT that the kernel cannot be."""
    for protocol in Protocol:
        own = policy.of(protocol)
        for impossible, what in _nat_obstacles(own, protocol) if policy.translated else _router_obstacles(own):
            if impossible:
                raise PolicyNotPossible(f"{protocol}: the kernel's NAT has no {what}")


def _router_obstacles(policy: ProtocolPolicy) -> Iterator[tuple[bool, str]]:
    filters = policy.filtering is not Dependence.ENDPOINT_INDEPENDENT
    yield policy.filtering is Dependence.CONNECTION_DEPENDENT, f"filtering {policy.filtering}"
    yield policy.details != Details(), str(policy.details)
    yield filters and policy.unsolicited is Treatment.ACCEPTED, "unsolicited accepted behind a filter that refuses it"


def _nat_obstacles(policy: ProtocolPolicy, protocol: Protocol) -> Iterator[tuple[bool, str]]:
    how = f"mapping {policy.mapping} and port_assignment {policy.port_assignment}"
    native = (policy.mapping, policy.port_assignment) in _NATIVE[protocol]
    overlapping, exclusive = (policy.port_reuse is reuse for reuse in (PortReuse.PER_DESTINATION, PortReuse.EXCLUSIVE))
    own_way = native and overlapping
    yield policy.mapping is Dependence.CONNECTION_DEPENDENT and not own_way, how
    yield policy.filtering is Dependence.CONNECTION_DEPENDENT, f"filtering {policy.filtering}"
    yield policy.port_assignment is PortAssignment.OTHER, f"port_assignment {policy.port_assignment}"
    yield policy.port_reuse in _NO_REUSE, f"port_reuse {policy.port_reuse}"
    own = [Details(), *(LINUX.values() if native else ())]
    yield policy.details not in own, str(policy.details)
    yield overlapping and not native, f"port_reuse {policy.port_reuse} with {how}"
    # One external port for two inside endpoints: only the whole remote endpoint tells them apart (RFC 7857 §3).
    apart = policy.filtering is Dependence.ADDRESS_AND_PORT_DEPENDENT
    yield overlapping and not apart, f"filtering {policy.filtering} with port_reuse {policy.port_reuse}"
    # The tables of the two protocols do not see each other; where ports are not kept, pools that do not meet will do.
    preserving = policy.port_assignment is PortAssignment.PRESERVING
    yield exclusive and preserving, "port_reuse exclusive with preserved ports: take per-protocol or per-destination"


def _key(endpoint: str, dependence: Dependence, address: str, port: str) -> str:
    """Return an endpoint with that part of a remote at which ``dependence`` looks, as types or as expressions."""
    remote = {"address": address, "port": port}
    return " . ".join([endpoint, *(text for part, text in remote.items() if part in LOOKS_AT[dependence])])


def _refusal(treatment: Treatment, protocol: Protocol) -> str | None:
    """Return the statement that gives a packet this treatment, or None where it may pass."""
    match treatment, protocol:
        case Treatment.ACCEPTED, _:
            return None
        case Treatment.DROPPED, _:
            return "drop"
        case Treatment.RESET, Protocol.TCP:
            return "reject with tcp reset"
        case Treatment.RESET, _:
            return "reject with icmp type port-unreachable"
        case _:
            # Not port-unreachable, which to a socket is the same as a RST.
            return "reject with icmp type admin-prohibited"


@dataclass(frozen=True, slots=True)
class _Table:
    """The table of one protocol on one gateway; its text first deletes the one that stood there before."""

    protocol: Protocol
    policy: ProtocolPolicy
    translated: bool
    uplink: str
    lan: str
    external: str

    def __str__(self) -> str:
        name = f"table ip natprobe_{self.protocol}"
        body = "".join(f"  {line}\n" for line in (*self._state(), *self._chains()))
        return f"{name}\ndelete {name}\n{name} {{\n{body}}}\n"

    @property
    def _slots(self) -> bool:
        return self.translated and self.policy.port_reuse is not PortReuse.PER_DESTINATION

    @property
    def _keeps(self) -> bool:
        return self._slots and self.policy.port_assignment is PortAssignment.PRESERVING

    @property
    def _permits(self) -> bool:
        return self.policy.filtering is not Dependence.ADDRESS_AND_PORT_DEPENDENT

    # --- maps and sets ------------------------------------------------------------------------------------------------

    def _state(self) -> Iterator[str]:
        endpoint, remote = "ipv4_addr . inet_service", ("ipv4_addr", "inet_service")
        inside = _key(endpoint, self.policy.mapping, *remote)
        if self._slots:
            yield _learnt("map slot", f"{inside} : mark", SLOTS)
            yield _learnt("map inside", f"{endpoint} : {endpoint}")
            # numgen counts in the host's byte order, so that its result must not become a port but by a constant map.
            ports = ", ".join(f"{slot} : {port}" for slot, port in enumerate(self._pool(), 1))
            yield f"map port {{ type mark : inet_service; elements = {{ {ports} }}; }}"
        if self._keeps:
            yield _learnt("set kept", inside)
            yield _learnt("set taken", "inet_service")
        if self._permits:
            yield _learnt("set permitted", _key(endpoint, self.policy.filtering, *remote))

    def _pool(self) -> Iterable[int]:
        """Return the external ports, in the order in which they are given out; exclusive pools do not meet."""
        first = _FIRST_PORT.get(self.policy.port_assignment)
        # Always the same random order: a ruleset is a function of its policy.
        two = range(first, first + 2 * SLOTS) if first else random.Random(4787).sample(range(1024, 1 << 16), 2 * SLOTS)
        apart = self.policy.port_reuse is PortReuse.EXCLUSIVE and self.protocol is Protocol.TCP
        return two[SLOTS:] if apart else two[:SLOTS]

    # --- chains -------------------------------------------------------------------------------------------------------

    def _chains(self) -> Iterator[str]:
        chains = {
            "enter": ("nat hook prerouting priority dstnat", self._enter()),
            "pass": ("filter hook forward priority filter", self._pass()),
            "own": ("filter hook input priority filter", self._own()),
            "allot": ("filter hook postrouting priority srcnat - 1", self._allot()),
            "translate": ("nat hook postrouting priority srcnat", self._translate()),
            "learn": ("filter hook postrouting priority srcnat + 1", self._learn()),
        }
        for name, (kind, rules) in chains.items():
            yield f"chain {name} {{ type {kind};"
            yield from (f"  {rule}" for rule in rules)
            yield "}"

    @property
    def _inbound(self) -> str:
        return f'iifname "{self.uplink}" meta l4proto {self.protocol} ct state new'

    @property
    def _outbound(self) -> str:
        # Not what the gateway itself sends: its RST to a stranger must not permit that stranger's next packet.
        return f'iifname "{self.lan}" oifname "{self.uplink}" meta l4proto {self.protocol}'

    @property
    def _source(self) -> str:
        return f"ip saddr . {self.protocol} sport"

    @property
    def _destination(self) -> str:
        return f"ip daddr . {self.protocol} dport"

    @property
    def _wanted(self) -> str:
        """What a packet on its way out wants a mapping for."""
        return _key(self._source, self.policy.mapping, "ip daddr", f"{self.protocol} dport")

    @property
    def _permitted(self) -> str:
        key = _key(self._destination, self.policy.filtering, "ip saddr", f"{self.protocol} sport")
        return f"{self._inbound} {key} @permitted"

    def _enter(self) -> Iterator[str]:
        if self._slots and self._permits:
            yield f"{self._permitted} dnat ip to {self._destination} map @inside"

    def _pass(self) -> Iterator[str]:
        if refusal := _refusal(self.policy.outbound, self.protocol):
            yield f"{self._outbound} {refusal}"
        if self.translated:
            # An inside address is not to be reached by its own name from outside.
            yield f"{self._inbound} ct status & dnat == 0 drop"
            return
        if self._permits:
            yield f"{self._permitted} accept"
        if refusal := _refusal(self.policy.unsolicited, self.protocol):
            yield f"{self._inbound} {refusal}"

    def _own(self) -> Iterator[str]:
        # To accept is to answer as a host without a listener does, and an entry in conntrack, which would take the
        # external port, towards the stranger, from the slot that has it: a table of its own knows no such entry.
        taken = self._slots and self.policy.unsolicited is Treatment.ACCEPTED
        if refusal := _refusal(Treatment.RESET if taken else self.policy.unsolicited, self.protocol):
            yield f"{self._inbound} {refusal}"

    def _allot(self) -> Iterator[str]:
        if not self._slots:
            return
        key = self._wanted
        new, port = f"{self._outbound} ct state new {key} != @slot", f"{self.protocol} sport"
        if self._keeps:
            yield f"{new} {key} != @kept {port} != @taken add @taken {{ {port} }} add @kept {{ {key} }}"
            new = f"{new} {key} != @kept"
        yield f"{new} add @slot {{ {key} : numgen inc mod {SLOTS} offset 1 }}"
        yield f"{self._outbound} ct state new ct mark set {key} map @slot"

    def _translate(self) -> Iterator[str]:
        if self._slots:
            yield f"{self._outbound} snat to {self.external} : ct mark map @port"
            if self._keeps:
                # The port is named, or the kernel would prefer one that the inside endpoint has elsewhere.
                yield f"{self._outbound} {self._wanted} @kept snat to {self.external} : {self.protocol} sport"
            # All slots are taken, and a port that is somebody's is not given out again.
            yield f"{self._outbound} drop"
        elif self.translated:
            yield f"{self._outbound} {_NATIVE[self.protocol][self.policy.mapping, self.policy.port_assignment]}"

    def _learn(self) -> Iterator[str]:
        if self._permits:
            key = _key(self._source, self.policy.filtering, "ip daddr", f"{self.protocol} dport")
            yield f"{self._outbound} update @permitted {{ {key} }}"
        if not self._slots:
            return
        original, reply = (f"ct {way} ip saddr . ct {way} proto-src" for way in ("original", "reply"))
        key = _key(original, self.policy.mapping, "ct original ip daddr", "ct original proto-dst")
        mine = f"{self._outbound} ct direction original"
        yield f"{mine} update @inside {{ {self._source} : {original} }}"
        yield f"{self._outbound} ct direction reply update @inside {{ {self._source} : {reply} }}"
        if self._keeps:
            yield f"{mine} update @taken {{ {self.protocol} sport }}"
            yield f"{mine} ct mark 0 update @kept {{ {key} }}"
            mine = f"{mine} ct mark != 0"
        yield f"{mine} update @slot {{ {key} : ct mark }}"


def _learnt(what: str, kind: str, size: int = 65535) -> str:
    return f"{what} {{ type {kind}; flags dynamic,timeout; timeout {LIFETIME}s; size {size}; }}"
