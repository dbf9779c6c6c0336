"""From facts to verdicts: pure functions, the same for a run of this minute and for a report of years ago."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from natprobe.behaviour import Dependence, Hairpinning, PortReuse, Protocol, Treatment, Verdict
from natprobe.endpoint import Endpoint
from natprobe.inference.assignment import AssignmentVerdict, judge_assignment
from natprobe.inference.concurrency import Concurrent, judge_concurrency
from natprobe.inference.facts import Facts
from natprobe.inference.filtering import judge_filtering
from natprobe.inference.hairpinning import judge_hairpinning
from natprobe.inference.lifetime import Lifetime, judge_lifetime
from natprobe.inference.mapping import judge_mapping
from natprobe.inference.reachability import judge_external, judge_reachability, judge_translation
from natprobe.inference.remap import judge_remap
from natprobe.inference.reuse import judge_reuse
from natprobe.inference.unsolicited import judge_unsolicited_syn
from natprobe.observation import Observation


@dataclass(frozen=True, slots=True)
class Profile:
    """How the path treats one protocol of one IP version. The names are the keys of the report's JSON."""

    reachable: Verdict[bool]
    translated: Verdict[bool]
    external: Verdict[tuple[Endpoint, ...]]
    mapping: Verdict[Dependence]
    filtering: Verdict[Dependence]
    port_assignment: AssignmentVerdict | None = None
    port_reuse: Verdict[PortReuse] | None = None
    concurrent: Verdict[Concurrent] | None = None
    unsolicited_remap: Verdict[bool] | None = None
    hairpinning: Verdict[Hairpinning] | None = None
    lifetime: Verdict[Lifetime] | None = None
    unsolicited_syn: Verdict[Treatment] | None = None

    @property
    def settled(self) -> bool:
        """Whether every core verdict is determined; a protocol that does not get through needs no others."""
        if not self.reachable.determined:
            return False
        return not self.reachable.value or (self.mapping.determined and self.filtering.determined)


def conclude(observations: Sequence[Observation], protocol: Protocol, version: int) -> Profile | None:
    """Return what the observations say of a protocol over an IP version; None where nothing was asked over it."""
    facts = Facts(observations, protocol, version)
    if not facts.asked:
        return None
    mapping, filtering = judge_mapping(facts), judge_filtering(facts)
    drawn = any(fact.protocol is protocol for _, fact in facts.draws)
    return Profile(
        reachable=judge_reachability(facts),
        translated=judge_translation(facts),
        external=judge_external(facts),
        mapping=mapping,
        filtering=filtering,
        port_assignment=judge_assignment(facts) if drawn else None,
        port_reuse=judge_reuse(facts, mapping) if drawn else None,
        concurrent=judge_concurrency(facts) if protocol is Protocol.TCP else None,
        unsolicited_syn=judge_unsolicited_syn(facts, filtering),
        hairpinning=judge_hairpinning(facts),
        lifetime=judge_lifetime(facts),
        unsolicited_remap=judge_remap(facts, mapping, filtering) if protocol is Protocol.UDP else None,
    )
