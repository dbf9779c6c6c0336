"""On what of the destination the mapping depends (RFC 4787 §4.1, RFC 5382 §4.1).

One socket asks several endpoints what they see; how the mapped endpoints group is compared with how each dependence
would group them. A NAT that keeps the local port wherever it is free shows the same picture whatever its mapping
depends on, so that alone is never more than likely.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from natprobe.behaviour import Certainty, Dependence, Protocol, Verdict, not_determined
from natprobe.endpoint import Address, Endpoint
from natprobe.inference.candidates import explaining_mapping
from natprobe.inference.facts import Cited, Facts, indexes, listing, many_servers, own
from natprobe.inference.renewal import judge_renewal
from natprobe.observation import Exchange, Purpose

_INDEPENDENT = Dependence.ENDPOINT_INDEPENDENT
_SEVERAL_WAYS = "there may be several ways out"


def judge_mapping(facts: Facts) -> Verdict[Dependence]:
    """Return on what the external endpoint depends, of the destinations that one local port was used for.

    Where several local ports were tried and the NAT did not treat them alike, the verdict is conflicting.
    """
    ports: dict[Endpoint, list[Cited[Exchange]]] = {}
    for index, exchange in facts.purpose(Purpose.MAPPING):
        ports.setdefault(exchange.local, []).append((index, exchange))
    # A port that fewer endpoints told of than of another is no contradiction by itself.
    told = {local: len({e.remote for _, e in asked if e.answered}) for local, asked in ports.items()}
    full = [asked for local, asked in ports.items() if told[local] == max(told.values())]
    verdicts = [_judge_port(facts, asked) for asked in full]
    if not verdicts:
        return not_determined(_why_nothing(facts, []))
    if len({verdict.value for verdict in verdicts}) > 1:
        return _conflicting(verdicts, several_ways_out=any(map(_several_ways_out, ports.values())))
    others = (asked for local, asked in ports.items() if told[local] < max(told.values()))
    against = [_judge_port(facts, asked) for asked in others if not _agrees(asked, verdicts[0].value)]
    return _conflicting([verdicts[0], *against], several_ways_out=False) if against else verdicts[0]


def _agrees(asked: list[Cited[Exchange]], value: Dependence | None) -> bool:
    """Return whether what one port was seen as, by however few endpoints, may be what a dependence makes."""
    mapped = {e.remote: e.mapped for _, e in asked if e.answered and e.mapped and e.mapped != e.local}
    if value is None or len(mapped) < 2 or _several_ways_out(asked):
        return True
    expected = Dependence.ADDRESS_AND_PORT_DEPENDENT if value is Dependence.CONNECTION_DEPENDENT else value
    return expected in explaining_mapping(mapped)


def _conflicting(verdicts: list[Verdict[Dependence]], *, several_ways_out: bool) -> Verdict[Dependence]:
    """Return what most ports say, and all that was seen; nothing where flows take turns between several ways out."""
    evidence = tuple(index for verdict in verdicts for index in verdict.evidence)
    value, count = Counter(verdict.value for verdict in verdicts).most_common(1)[0]
    reasons = "; but ".join(dict.fromkeys(verdict.reason for verdict in verdicts))
    reason = f"not every local port is treated alike: {reasons}"
    if value is None or several_ways_out or 2 * count <= len(verdicts):
        return not_determined(reason, evidence)
    return Verdict(value, Certainty.CONFLICTING, reason, evidence)


def _several_ways_out(asked: list[Cited[Exchange]]) -> bool:
    return len({exchange.mapped.address for _, exchange in asked if exchange.mapped}) > 1


def _judge_port(facts: Facts, asked: list[Cited[Exchange]]) -> Verdict[Dependence]:
    """Return what the exchanges of one local port say."""
    seen = [(index, exchange) for index, exchange in asked if exchange.answered and exchange.mapped]
    if not seen:
        return not_determined(_why_nothing(facts, asked), indexes(asked))
    mapped: dict[Endpoint, Endpoint] = {}
    for _, exchange in seen:
        assert exchange.mapped is not None
        if mapped.setdefault(exchange.remote, exchange.mapped) != exchange.mapped:
            moved = f"from {mapped[exchange.remote]} to {exchange.mapped} while it was being tested"
            return not_determined(
                f"the mapping towards {exchange.remote} moved {moved}: {_who_moved_it(facts, asked, exchange.remote)}",
                indexes(seen),
            )
    verdict = _judge(facts, seen, mapped)
    if verdict.certainty is Certainty.CONFIRMED and (doubt := facts.doubt(seen)):
        return replace(verdict, certainty=Certainty.LIKELY, reason=f"{verdict.reason}; but {doubt}")
    return verdict


def _judge(facts: Facts, seen: list[Cited[Exchange]], everything: dict[Endpoint, Endpoint]) -> Verdict[Dependence]:
    local = seen[0][1].local
    evidence = indexes(seen)
    # A server that sees this host itself stands on this side of the NAT and says nothing of it: unless most of them do.
    alone = set(facts.dissenting) if local in everything.values() else set()
    mapped = {r: external for r, external in everything.items() if external != local and r.address not in alone}
    if not mapped:
        itself = {remote: external for remote, external in everything.items() if external == local}
        certainty = Certainty.CONFIRMED if len(itself) > 1 and not alone else Certainty.LIKELY
        return Verdict(_INDEPENDENT, certainty, f"no NAT: {_everywhere(itself)} {local} itself", evidence)
    explaining = explaining_mapping(mapped)
    if explaining == [Dependence.ENDPOINT_INDEPENDENT]:
        return _independent(facts, local, mapped, evidence)
    if len(explaining) == 1:
        verdict = Verdict(explaining[0], Certainty.CONFIRMED, _spread(mapped), evidence)
        if facts.protocol is Protocol.TCP and explaining == [Dependence.ADDRESS_AND_PORT_DEPENDENT]:
            verdict = judge_renewal(facts, verdict)
        # Several external addresses may as well be several ways out, each with a NAT of its own.
        ways = len(_addresses(mapped))
        return replace(verdict, certainty=Certainty.LIKELY) if verdict.determined and ways > 1 else verdict
    if not explaining:
        return not_determined(f"no dependence on the destination explains this: {_spread(mapped)}", evidence)
    if explaining == [Dependence.ENDPOINT_INDEPENDENT, Dependence.PORT_DEPENDENT]:
        reason = f"{_everywhere(mapped)} {mapped[next(iter(mapped))]}; no other port was there to be asked"
        return Verdict(_INDEPENDENT, Certainty.LIKELY, reason, evidence)
    return not_determined(f"cannot tell {listing(explaining)} apart: {_what_is_missing(facts, mapped)}", evidence)


def _independent(
    facts: Facts, local: Endpoint, mapped: dict[Endpoint, Endpoint], evidence: tuple[int, ...]
) -> Verdict[Dependence]:
    external = next(iter(mapped.values()))
    reason = f"{_everywhere(mapped)} {own(local)} as {external}"
    elsewhere = facts.external_addresses - {external.address}
    if elsewhere:
        reason += f"; other ports were seen as {listing(sorted(elsewhere, key=str))}: {_SEVERAL_WAYS}"
        return Verdict(_INDEPENDENT, Certainty.LIKELY, reason, evidence)
    if external.port != local.port:
        return Verdict(_INDEPENDENT, Certainty.CONFIRMED, reason, evidence)
    reason += "; port-preserving: the port may differ once another host's use of it to the same destination collides"
    return Verdict(_INDEPENDENT, Certainty.LIKELY, reason, evidence)


def _everywhere(mapped: dict[Endpoint, Endpoint]) -> str:
    """Return the remotes as the subject of what they see."""
    if len(mapped) == 1:
        return f"{next(iter(mapped))} sees"
    addresses = len({remote.address for remote in mapped})
    what = "address" if addresses == 1 else "addresses"
    return f"all {len(mapped)} endpoints on {addresses} {what} see"


def _addresses(mapped: dict[Endpoint, Endpoint]) -> set[Address]:
    return {external.address for external in mapped.values()}


def _spread(mapped: dict[Endpoint, Endpoint]) -> str:
    """Return which remotes saw which external endpoint, the ports alone where the address is one."""
    addresses = _addresses(mapped)
    shown = {remote: external.port if len(addresses) == 1 else external for remote, external in mapped.items()}
    text = ", ".join(f"{remote} sees {external}" for remote, external in shown.items())
    if len(addresses) > 1:
        text += f" (external addresses differ, {listing(sorted(addresses, key=str))}: {_SEVERAL_WAYS})"
    return text


def _who_moved_it(facts: Facts, asked: list[Cited[Exchange]], remote: Endpoint) -> str:
    if remote in facts.shared:
        return many_servers([remote])
    if _several_ways_out(asked):
        return _SEVERAL_WAYS
    return "it was lost meanwhile, or something on the way or a neighbour on the same port changed it"


def _what_is_missing(facts: Facts, mapped: dict[Endpoint, Endpoint]) -> str:
    unanswered = {e.remote: e for _, e in facts.purpose(Purpose.MAPPING) if not e.answered and e.remote not in mapped}
    if unanswered:
        why = next((f" ({e.remote}: {e.detail})" for e in unanswered.values() if e.detail), "")
        return f"{listing(sorted(unanswered))} did not tell{why}"
    faults = [f"{server.contacted}: {server.fault}" for server in facts.servers if server.fault]
    few = "only one endpoint" if len(mapped) == 1 else f"only {listing(mapped)}"
    return f"{few} could be asked ({'; '.join(faults)})" if faults else f"{few} could be asked"


def _why_nothing(facts: Facts, asked: list[Cited[Exchange]]) -> str:
    if not facts.answered:
        return f"no server answered over {facts.protocol.upper()}"
    if not asked:
        return "it was not asked" if facts.servers else f"no server answered a greeting over {facts.protocol.upper()}"
    return f"no endpoint told the mapping: {listing(dict.fromkeys(f'{e.remote} {e.outcome}' for _, e in asked))}"
