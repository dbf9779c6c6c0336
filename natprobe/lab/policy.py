"""How a NAT of the lab shall behave, in the words in which a report says how a NAT behaved, and what follows from it.

A policy is data: it becomes packets in `natprobe.lab.nftables` and in the in-memory NAT. Knows no kernel and no
socket. A policy carries its own expected report, so that the whole of natprobe is tested by one comparison.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import reduce
from operator import or_
from typing import Any, get_type_hints

from natprobe.behaviour import Dependence, PortAssignment, PortReuse, Protocol, Treatment
from natprobe.lab.details import LINUX, Details


@dataclass(frozen=True, slots=True)
class ProtocolPolicy:
    """What a NAT does to one protocol. The first four fields are named as in the report's profile."""

    mapping: Dependence = Dependence.ENDPOINT_INDEPENDENT
    filtering: Dependence = Dependence.ADDRESS_AND_PORT_DEPENDENT
    port_assignment: PortAssignment = PortAssignment.SEQUENTIAL
    port_reuse: PortReuse = PortReuse.EXCLUSIVE
    unsolicited: Treatment = Treatment.DROPPED
    """What a packet from outside gets that belongs to no mapping, or that the filter refuses."""
    outbound: Treatment = Treatment.ACCEPTED
    """What the protocol gets on its way out: anything but ACCEPTED blocks it."""
    details: Details = field(default_factory=Details)

    @classmethod
    def from_json(cls, data: object) -> ProtocolPolicy:
        """Read an object of field names and words. Raises ValueError with the key or the word that is none."""
        kinds = get_type_hints(cls)
        words = dict(_object(data, _FIELDS))
        details = Details.from_json(words.pop("details", {}))
        return cls(details=details, **{name: _word(kinds[name], name, value) for name, value in words.items()})


_FIELDS = tuple(field.name for field in fields(ProtocolPolicy))


@dataclass(frozen=True, slots=True)
class NatPolicy:
    """What a gateway does. Without translation it is a router (filtering endpoint-independent) or a firewall."""

    udp: ProtocolPolicy = ProtocolPolicy()
    tcp: ProtocolPolicy = ProtocolPolicy()
    translated: bool = True

    @classmethod
    def alike(cls, policy: ProtocolPolicy, *, translated: bool = True) -> NatPolicy:
        """Return the policy that treats both protocols the same."""
        return cls(policy, policy, translated)

    @classmethod
    def from_json(cls, data: object) -> NatPolicy:
        """Read what `to_json` returns, or one flat object for both protocols alike; what is left out is the default.

        Raises ValueError with the key or the value that is wrong.
        """
        names = [*Protocol] if isinstance(data, Mapping) and data.keys() & set(Protocol) else _FIELDS
        rest = dict(_object(data, [*names, "translated"]))
        translated = rest.pop("translated", True)
        if translated not in (True, False):
            raise ValueError(f"translated is true or false, not {translated!r}")
        if names is _FIELDS:
            return cls.alike(ProtocolPolicy.from_json(rest), translated=translated)
        udp, tcp = (ProtocolPolicy.from_json(rest.get(name, {})) for name in Protocol)
        return cls(udp, tcp, translated)

    def to_json(self) -> dict[str, Any]:
        """Return the policy in full, as JSON types."""
        return asdict(self)

    def of(self, protocol: Protocol) -> ProtocolPolicy:
        return self.udp if protocol is Protocol.UDP else self.tcp


def _object(data: object, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ValueError(f"a policy is an object with {', '.join(known)}, not {data!r}")  # noqa: TRY004 it is a text's
    if unknown := [key for key in data if key not in known]:
        raise ValueError(f"a policy has no {', '.join(map(repr, unknown))}: it has {', '.join(known)}")
    return data


def _word(kind: type[StrEnum], name: str, value: object) -> Any:
    words = {str(word): word for word in kind}
    if str(value) not in words:
        raise ValueError(f"{name} is one of {', '.join(words)}, not {value!r}")
    return words[str(value)]


def parse_policy(text: str) -> NatPolicy:
    """Return the policy that ``text`` names, or spells out as JSON. Raises ValueError, saying what is wrong."""
    if text in PRESETS:
        return PRESETS[text]
    if not text.lstrip().startswith("{"):
        raise ValueError(f"no policy is called {text!r}: give a JSON object or one of {', '.join(PRESETS)}")
    try:
        return NatPolicy.from_json(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"the policy is no JSON: {error}") from error


# --- presets ----------------------------------------------------------------------------------------------------------

_DEPENDENCES = {
    "ei": Dependence.ENDPOINT_INDEPENDENT,
    "ad": Dependence.ADDRESS_DEPENDENT,
    "apd": Dependence.ADDRESS_AND_PORT_DEPENDENT,
}

_PLAIN = ProtocolPolicy(port_assignment=PortAssignment.PRESERVING, port_reuse=PortReuse.PER_DESTINATION)
_RANDOM_UDP = replace(_PLAIN, mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT, port_assignment=PortAssignment.RANDOM)
_RANDOM_TCP = replace(_RANDOM_UDP, mapping=Dependence.CONNECTION_DEPENDENT)
_OPEN = ProtocolPolicy(filtering=Dependence.ENDPOINT_INDEPENDENT, unsolicited=Treatment.ACCEPTED)


def _linux(udp: ProtocolPolicy, tcp: ProtocolPolicy | None = None) -> NatPolicy:
    return NatPolicy(replace(udp, details=LINUX[Protocol.UDP]), replace(tcp or udp, details=LINUX[Protocol.TCP]))


PRESETS: Mapping[str, NatPolicy] = {
    "none": NatPolicy.alike(_OPEN, translated=False),
    "firewall": NatPolicy.alike(ProtocolPolicy(), translated=False),
    "udp-blocked": NatPolicy(replace(_PLAIN, outbound=Treatment.DROPPED), _PLAIN),
    "udp-rejected": NatPolicy(replace(_PLAIN, outbound=Treatment.ICMP), _PLAIN),
    **{
        f"{m}m-{f}f": NatPolicy.alike(ProtocolPolicy(mapping, filtering))
        for m, mapping in _DEPENDENCES.items()
        for f, filtering in _DEPENDENCES.items()
    },
    "linux-masquerade": _linux(_PLAIN),
    "linux-masquerade-accept": _linux(replace(_PLAIN, unsolicited=Treatment.ACCEPTED)),
    "linux-masquerade-drop": _linux(_PLAIN),
    "linux-masquerade-reject": _linux(replace(_PLAIN, unsolicited=Treatment.RESET)),
    "linux-fully-random": _linux(_RANDOM_UDP, _RANDOM_TCP),
}
"""Every policy that has a name. ``eim-apdf`` reads: endpoint-independent mapping, address-and-port-dependent filter."""


# --- two gateways in series -------------------------------------------------------------------------------------------

# As sets of what is looked at, the dependences form a lattice: the join of two is the union of their sets.
LOOKS_AT: Mapping[Dependence, frozenset[str]] = {
    Dependence.ENDPOINT_INDEPENDENT: frozenset(),
    Dependence.ADDRESS_DEPENDENT: frozenset({"address"}),
    Dependence.PORT_DEPENDENT: frozenset({"port"}),
    Dependence.ADDRESS_AND_PORT_DEPENDENT: frozenset({"address", "port"}),
    Dependence.CONNECTION_DEPENDENT: frozenset({"address", "port", "connection"}),
}
_DEPENDENCE_ON = {looks_at: dependence for dependence, looks_at in LOOKS_AT.items()}


def join(*dependences: Dependence) -> Dependence:
    """Return the least dependence that looks at all that any of these looks at."""
    return _DEPENDENCE_ON[reduce(or_, (LOOKS_AT[dependence] for dependence in dependences), frozenset())]


def compose(inner: NatPolicy, outer: NatPolicy) -> NatPolicy:
    """Return what two gateways in series look like from inside: the weaker link wins each axis."""
    udp, tcp = (_compose(inner, outer, protocol) for protocol in Protocol)
    return NatPolicy(udp, tcp, translated=inner.translated or outer.translated)


def _compose(inner: NatPolicy, outer: NatPolicy, protocol: Protocol) -> ProtocolPolicy:
    near, far = inner.of(protocol), outer.of(protocol)
    translator = far if outer.translated else near
    # A translator that preserves ports shows the choice of the one before it.
    chooser = near if inner.translated and far.port_assignment is PortAssignment.PRESERVING else translator
    passes = not outer.translated and far.unsolicited is Treatment.ACCEPTED
    return ProtocolPolicy(
        mapping=join(_mapping(inner, protocol), _mapping(outer, protocol)),
        filtering=join(near.filtering, far.filtering),
        port_assignment=chooser.port_assignment,
        port_reuse=translator.port_reuse,
        unsolicited=near.unsolicited if passes else far.unsolicited,
        outbound=far.outbound if near.outbound is Treatment.ACCEPTED else near.outbound,
        details=_details(inner, outer, protocol, ports=chooser, refusing=near if passes else far),
    )


def _details(
    inner: NatPolicy, outer: NatPolicy, protocol: Protocol, *, ports: ProtocolPolicy, refusing: ProtocolPolicy
) -> Details:
    """Return the finer points of two in series; a plain router remembers nothing and so has none."""
    stateful = [policy.of(protocol) for policy in (inner, outer) if policy.translated or _filters(policy.of(protocol))]
    own = [policy.details for policy in stateful] or [Details()]
    both = own[0].behind(own[1], protocol) if len(own) > 1 else own[0]
    filters = list(filter(_filters, stateful))
    return replace(
        both,
        port_step=ports.details.port_step,
        port_range=ports.details.port_range,
        port_block=ports.details.port_block,
        parity=ports.details.parity,
        filter_per_host=bool(filters) and all(policy.details.filter_per_host for policy in filters),
        unsolicited_after=refusing.details.unsolicited_after,
    )


def _filters(policy: ProtocolPolicy) -> bool:
    return policy.filtering is not Dependence.ENDPOINT_INDEPENDENT


def _mapping(policy: NatPolicy, protocol: Protocol) -> Dependence:
    return policy.of(protocol).mapping if policy.translated else Dependence.ENDPOINT_INDEPENDENT


# --- what a report must say -------------------------------------------------------------------------------------------


def expected(policy: NatPolicy) -> dict[str, dict[str, bool | str]]:
    """Return per protocol the verdicts that a report on this NAT must give, by the report's keys.

    A protocol that is blocked on the way out has one verdict, that it is not reachable.
    """
    return {str(protocol): _expected(policy, protocol) for protocol in Protocol}


def _expected(policy: NatPolicy, protocol: Protocol) -> dict[str, bool | str]:
    if policy.of(protocol).outbound is not Treatment.ACCEPTED:
        return {"reachable": False}
    return {
        "reachable": True,
        "translated": policy.translated,
        "mapping": str(_mapping(policy, protocol)),
        "filtering": str(policy.of(protocol).filtering),
    }


def expected_further(policy: NatPolicy) -> dict[str, dict[str, bool]]:
    """Return per protocol what a report of the default tier must say beyond that, as far as the policy decides it.

    Of two gateways in series an outer one that lets anybody in shows what the inner one does with strangers, which
    `compose` cannot tell.
    """
    moves = _moves(policy)
    udp = {} if moves is None else {"unsolicited_remap": moves}
    return {str(Protocol.UDP): udp, str(Protocol.TCP): {}}


_BY_DESTINATION = (PortReuse.PER_DESTINATION, PortReuse.PER_DESTINATION_ADDRESS)
"""Where a port is shared out by destination, what the gateway takes for itself has its share, and is in the way."""


def _moves(policy: NatPolicy) -> bool | None:
    """Whether an unsolicited packet moves a later mapping; None where it cannot be seen.

    So it is where destinations have mappings of their own, and where the filter lets in a stranger at the port, or by
    way of the host, that was sent to.
    """
    udp = policy.udp
    lax = udp.filtering is Dependence.PORT_DEPENDENT or udp.details.filter_per_host
    reused = _mapping(policy, Protocol.UDP) is Dependence.ENDPOINT_INDEPENDENT
    if udp.outbound is not Treatment.ACCEPTED or not reused or lax:
        return None
    taken = udp.unsolicited is Treatment.ACCEPTED and udp.filtering is not Dependence.ENDPOINT_INDEPENDENT
    return policy.translated and taken and udp.port_reuse in _BY_DESTINATION


def differences(policy: NatPolicy, report: Mapping[str, Any]) -> list[str]:
    """Return one line for each verdict of a report's JSON that is not what the policy makes; none if all agree.

    What was not probed is not compared: a protocol that is null in the report, a verdict of the default tier.
    """
    family = report.get("ipv4") or {}
    if not any(family.get(name) for name in Protocol):
        return ["the report has no ipv4 profile"]
    further = expected_further(policy)
    return [
        f"{name} {key}: expected {_say(value)}, but {_verdict(profile.get(key))}"
        for name, verdicts in expected(policy).items()
        if (profile := family.get(name))
        for key, value in (verdicts | {key: further[name][key] for key in further[name] if key in profile}).items()
        if (profile.get(key) or {}).get("value") != value
    ]


def _say(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _verdict(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return "the report has no such verdict"
    if verdict.get("value") is None:
        return f"not determined: {verdict.get('reason')}"
    return f"the report says {_say(verdict['value'])}: {verdict.get('reason')}"
