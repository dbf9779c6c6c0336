"""The NAT as a pure table: a policy in, packets in with the time, packets or refusals out.

No I/O, no clock; what is random is drawn from the generator given. And no list of kinds of NAT: a mapping is found by
(protocol, internal endpoint, that part of the remote endpoint on which the mapping depends), a permission by that part
on which the filter depends, and all else follows (RFC 4787, 5382, 7857). Three tables:

- *sessions*: flows of one internal endpoint with one remote. A flow keeps the external endpoint that it began with.
- *mappings*: what a new session is given. A mapping lives as long as one of its sessions.
- *permissions*: whom a mapping, or its whole host, lets in.

With port reuse per destination this is Linux: a mapping whose external endpoint is taken towards a new remote is left
to its old sessions, and a new one takes its place; what the NAT accepts for itself takes its place outside as well.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import NamedTuple

from natprobe.behaviour import Dependence, Hairpinning, PortReuse, Protocol, Treatment
from natprobe.endpoint import Address, Endpoint
from natprobe.lab.details import Refresh
from natprobe.lab.flows import BOTH_WAYS, Mapping, Phase, Session, Way
from natprobe.lab.packet import Flags, Icmp, Packet, Unreachable, reset, unreachable
from natprobe.lab.policy import NatPolicy, ProtocolPolicy
from natprobe.lab.ports import Ports

_REFRESHING = {Refresh.OUTBOUND: Way.OUT, Refresh.INBOUND: Way.IN, Refresh.BOTH: BOTH_WAYS}


class Hairpinned(NamedTuple):
    """A packet from inside that goes back inside."""

    packet: Packet


class Dropped(NamedTuple):
    """A packet that goes no further; ``reply`` goes back to its sender, ``after`` so many seconds."""

    reason: str
    reply: Packet | None = None
    after: float = 0.0


Key = tuple[Protocol, Endpoint, Endpoint]


@dataclass(slots=True)
class Nat:
    """A NAT with these external addresses; without translation, a firewall or a router."""

    policy: NatPolicy
    addresses: Sequence[Address]
    rng: random.Random
    _sessions: dict[Key, Session] = field(default_factory=dict)  # by internal endpoint and remote
    _outside: dict[Key, Session] = field(default_factory=dict)  # by external endpoint and remote
    _mappings: dict[tuple[Protocol, Endpoint, Hashable], Mapping] = field(default_factory=dict)
    _holders: dict[tuple[Protocol, Endpoint], list[Mapping]] = field(default_factory=lambda: defaultdict(list))
    _host_permits: dict[tuple[Protocol, Address], dict[Hashable, float]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    _ports: dict[Protocol, Ports] = field(init=False)
    _lifetimes: dict[Protocol, tuple[float, float, float]] = field(init=False)

    def __post_init__(self) -> None:
        self._ports = {p: Ports(self.policy.of(p), self.addresses, self.rng) for p in Protocol}
        self._lifetimes = {p: self.policy.of(p).details.lifetimes(p) for p in Protocol}

    # --- outbound -----------------------------------------------------------------------------------------------------

    def outbound(self, packet: Packet, now: float) -> Packet | Hairpinned | Dropped:
        """Return what becomes of a packet from inside."""
        policy = self.policy.of(packet.protocol)
        if packet.error and not self._routes(policy):
            return self._error_outbound(packet, packet.error, now)
        if policy.outbound is not Treatment.ACCEPTED:
            return self._refusal("blocked", packet, policy.outbound, Way.OUT)
        if self._routes(policy):
            return packet
        if self.policy.translated and packet.destination.address in self.addresses:
            return self._hairpin(packet, policy, now)
        session = self._session_for(packet, policy, now)
        if isinstance(session, Dropped):
            return session
        self._note(session, packet, policy, Way.OUT, now)
        assert session.mapping is not None
        # Where two flows to one remote share an external endpoint, the answer is for the one that asked last.
        self._outside[packet.protocol, session.mapping.external, packet.destination] = session
        return packet.sent_from(session.mapping.external)

    def _session_for(self, packet: Packet, policy: ProtocolPolicy, now: float) -> Session | Dropped:
        session = self._sessions.get((packet.protocol, packet.source, packet.destination))
        per_connection = policy.mapping is Dependence.CONNECTION_DEPENDENT and packet.flags is Flags.SYN
        if session and session.expires > now and not (per_connection and session.phase is Phase.CLOSED):
            return session
        if packet.flags is Flags.RST:
            return Dropped("resets nothing")
        key = packet.protocol, packet.source, policy.mapping.key(packet.destination)
        mapping = None if per_connection else self._mappings.get(key)
        if mapping is None or mapping.expires <= now or not self._free(mapping, packet.destination, now):
            new = self._new_mapping(packet, policy, now)
            if isinstance(new, Dropped):
                return new
            mapping = self._mappings[key] = new
        return self._new_session(mapping, packet.destination, now)

    def _new_session(self, mapping: Mapping, remote: Endpoint, now: float) -> Session:
        session = Session(mapping, remote, now)
        self._sessions[mapping.protocol, mapping.internal, remote] = session
        self._outside[mapping.protocol, mapping.external, remote] = session
        return session

    def _new_mapping(self, packet: Packet, policy: ProtocolPolicy, now: float) -> Mapping | Dropped:
        internal, protocol = packet.source, packet.protocol
        if self._over_quota(internal, policy, now):
            return self._refusal("over quota", packet, policy.details.over_quota, Way.OUT)
        permits = self._host_permits[protocol, internal.address] if policy.details.filter_per_host else {}
        untranslated = () if self.policy.translated else (internal,)
        for external in untranslated or self._ports[protocol].candidates(internal, packet.destination):
            mapping = Mapping(protocol, internal, external, permits)
            if untranslated or self._free(mapping, packet.destination, now):
                holders = self._holders[protocol, external]
                holders[:] = [mapping, *(other for other in holders if other.expires > now)]
                return mapping
        return Dropped("no port is free")

    def _over_quota(self, internal: Endpoint, policy: ProtocolPolicy, now: float) -> bool:
        quota = policy.details.quota
        if quota is None:
            return False
        # Both protocols count: what is scarce are ports (RFC 6888 §3 REQ-4).
        return sum(m.expires > now and m.internal.address == internal.address for m in self._mappings.values()) >= quota

    def _free(self, mapping: Mapping, remote: Endpoint, now: float) -> bool:
        """Whether a mapping may use its external endpoint towards ``remote``, after what others do with it."""
        match self.policy.of(mapping.protocol).port_reuse:
            case PortReuse.OVERLOADING:
                return True
            case PortReuse.PER_DESTINATION:
                other = self._outside.get((mapping.protocol, mapping.external, remote))
                return other is None or other.mapping is mapping or not other.occupies(now)
            case PortReuse.PER_DESTINATION_ADDRESS:
                return not any(
                    session.remote.address == remote.address and session.mapping is not mapping
                    for (protocol, external, _), session in self._outside.items()
                    if (protocol, external) == (mapping.protocol, mapping.external) and session.occupies(now)
                )
            case PortReuse.PER_PROTOCOL:
                return not self._others(mapping, mapping.protocol, now)
            case PortReuse.EXCLUSIVE:
                return not any(self._others(mapping, protocol, now) for protocol in Protocol)

    def _others(self, mapping: Mapping, protocol: Protocol, now: float) -> bool:
        """Whether another mapping of a protocol holds the port; that of the same endpoint's other protocol may."""
        return any(
            other.expires > now and other is not mapping
            for other in self._holders.get((protocol, mapping.external), ())
            if protocol is mapping.protocol or other.internal != mapping.internal
        )

    def _hairpin(self, packet: Packet, policy: ProtocolPolicy, now: float) -> Hairpinned | Dropped:
        how = policy.details.hairpinning
        if how is Hairpinning.NONE:
            return self._refusal("no hairpinning", packet, Treatment.ACCEPTED, Way.OUT)
        session = self._session_for(packet, policy, now)
        if isinstance(session, Dropped):
            return session
        self._note(session, packet, policy, Way.OUT, now)
        assert session.mapping is not None
        arrived = self.inbound(packet.sent_from(session.mapping.external), now)
        if isinstance(arrived, Dropped):
            return Dropped(arrived.reason)
        return Hairpinned(arrived if how is Hairpinning.EXTERNAL_SOURCE else arrived.sent_from(packet.source))

    # --- inbound ------------------------------------------------------------------------------------------------------

    def inbound(self, packet: Packet, now: float) -> Packet | Dropped:
        """Return what becomes of a packet from outside."""
        policy = self.policy.of(packet.protocol)
        if self._routes(policy):
            return packet
        if packet.error:
            return self._error_inbound(packet, packet.error, now)
        session = self._outside.get((packet.protocol, packet.destination, packet.source))
        if session is None or not _admits(session, packet, policy, now):
            mapping = self._permitted(packet, policy, now)
            if mapping is None:
                return self._unsolicited(packet, policy, now)
            session = self._accept(mapping, packet.source, now)
        self._note(session, packet, policy, Way.IN, now)
        assert session.mapping is not None
        return packet.sent_to(session.mapping.internal)

    def _permitted(self, packet: Packet, policy: ProtocolPolicy, now: float) -> Mapping | None:
        if policy.filtering is Dependence.CONNECTION_DEPENDENT:
            return None
        key = policy.filtering.key(packet.source)
        for mapping in self._holders.get((packet.protocol, packet.destination), ()):
            if mapping.expires > now and mapping.permits.get(key, 0.0) > now:
                return mapping
        return None

    def _accept(self, mapping: Mapping, remote: Endpoint, now: float) -> Session:
        """Begin a session from outside; what the inside endpoint sends to that remote elsewhere stays as it is."""
        session = Session(mapping, remote, now)
        session.expires = now + self._lifetimes[mapping.protocol][Phase.OPENING]
        self._outside[mapping.protocol, mapping.external, remote] = session
        mine = mapping.protocol, mapping.internal, remote
        if mine not in self._sessions or self._sessions[mine].expires <= now:
            self._sessions[mine] = session
        return session

    def _unsolicited(self, packet: Packet, policy: ProtocolPolicy, now: float) -> Dropped:
        if packet.flags is Flags.RST:
            return Dropped("resets nothing")
        if policy.unsolicited is Treatment.ACCEPTED and packet.protocol is Protocol.UDP:
            # Not so over TCP: a connection that is reset at once occupies nothing.
            own = Session(None, packet.source, now)
            own.expires = now + self._lifetimes[packet.protocol][Phase.OPENING]
            self._outside[packet.protocol, packet.destination, packet.source] = own
        refusal = self._refusal("unsolicited", packet, policy.unsolicited, Way.IN)
        return refusal._replace(after=policy.details.unsolicited_after)

    def still_unsolicited(self, packet: Packet, now: float) -> bool:
        """Whether nothing has been sent to its sender since a packet was refused, so that a late refusal is due."""
        session = self._outside.get((packet.protocol, packet.destination, packet.source))
        return session is None or session.mapping is None or session.expires <= now

    # --- both ways ----------------------------------------------------------------------------------------------------

    def _routes(self, policy: ProtocolPolicy) -> bool:
        """Whether this is a plain router, which remembers nothing: it translates nothing and lets everybody in."""
        return not self.policy.translated and policy.unsolicited is Treatment.ACCEPTED

    def _note(self, session: Session, packet: Packet, policy: ProtocolPolicy, way: Way, now: float) -> None:
        """Let a packet that passes move its session on, and keep alive what it may keep alive."""
        mapping = session.mapping
        assert mapping is not None
        session.advance(packet.flags, way, now)
        refreshing = BOTH_WAYS if packet.flags else _REFRESHING[policy.details.refresh]
        if way & refreshing or not session.expires:
            session.expires = now + self._lifetimes[packet.protocol][session.phase]
            mapping.expires = max(mapping.expires, session.expires)
            mapping.permits[policy.filtering.key(session.remote)] = session.expires

    def _error_outbound(self, packet: Packet, error: Icmp, now: float) -> Packet | Dropped:
        about = error.about
        session = self._sessions.get((about.protocol, about.destination, about.source))
        if session is None or session.mapping is None or session.expires <= now:
            return Dropped("an error about nothing known")
        external = session.mapping.external
        told = Icmp(error.reason, about.sent_to(external))
        return packet._replace(source=external.with_port(0), error=told)

    def _error_inbound(self, packet: Packet, error: Icmp, now: float) -> Packet | Dropped:
        """Pass an ICMP error on; it ends nothing (RFC 4787 §9 REQ-12)."""
        about = error.about
        session = self._outside.get((about.protocol, about.source, about.destination))
        if session is None or session.mapping is None or session.expires <= now:
            return Dropped("an error about nothing known")
        internal = session.mapping.internal
        told = Icmp(error.reason, about.sent_from(internal))
        return packet._replace(destination=internal.with_port(0), error=told)

    def _refusal(self, reason: str, packet: Packet, treatment: Treatment, way: Way) -> Dropped:
        outside = self.addresses[0] if self.addresses else packet.destination.address
        by = gateway_of(packet.source.address) if way is Way.OUT else outside
        match treatment, packet.protocol:
            case Treatment.DROPPED, _:
                return Dropped(reason)
            case Treatment.ICMP, _:
                return Dropped(reason, unreachable(packet, Unreachable.PROHIBITED, by))
            case _, Protocol.TCP:
                return Dropped(reason, reset(packet))
            case _:
                return Dropped(reason, unreachable(packet, Unreachable.PORT, by))


def gateway_of(host: Address) -> Address:
    """Return the address that the gateway of a host has in its network: the first one of its /24 or /64."""
    return ip_network((host, 24 if host.version == 4 else 64), strict=False)[1]


def _admits(session: Session, packet: Packet, policy: ProtocolPolicy, now: float) -> bool:
    """Whether a packet from outside belongs to a session; no SYN does once a filter goes by connections."""
    if session.mapping is None or session.expires <= now:
        return False
    begins = packet.flags is Flags.SYN and session.phase is not Phase.OPENING
    return not (begins and policy.filtering is Dependence.CONNECTION_DEPENDENT)
