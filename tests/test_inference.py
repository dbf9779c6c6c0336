"""From hand-made facts to verdicts: what is lost, late, in conflict or a lie must never become a wrong class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from natprobe.behaviour import Certainty, Dependence, Protocol, Verdict
from natprobe.endpoint import Endpoint
from natprobe.errors import NOT_SENT, OWN_FIREWALL
from natprobe.inference import Profile, conclude
from natprobe.observation import (
    Arrival,
    ConnectBack,
    Dialled,
    Exchange,
    Hold,
    Observation,
    Outcome,
    Purpose,
    Volley,
)

EI, AD, PD, APD = (
    Dependence.ENDPOINT_INDEPENDENT,
    Dependence.ADDRESS_DEPENDENT,
    Dependence.PORT_DEPENDENT,
    Dependence.ADDRESS_AND_PORT_DEPENDENT,
)
UDP, TCP = Protocol.UDP, Protocol.TCP
CONFIRMED, LIKELY, CONFLICTING = Certainty.CONFIRMED, Certainty.LIKELY, Certainty.CONFLICTING

LOCAL = Endpoint.parse("10.64.1.10:50000")
FRESH = Endpoint.parse("10.64.1.10:50001")
OUTSIDE = Endpoint.parse("198.51.100.1:40000")
R1, R1_OTHER, R2, R2_OTHER = (
    Endpoint.of(address, port) for address, port in product(("198.51.100.10", "198.51.100.11"), (3478, 3479))
)
GRID = (R1, R1_OTHER, R2, R2_OTHER)
ELSEWHERE = Endpoint.parse("203.0.113.9:3478")
QUIET = Endpoint.parse("198.51.100.12:50002")
SITE = (
    ("SAME_ADDRESS", R1.with_port(50001)),
    ("ALTERNATE_SAME_PORT", R2),
    ("ALTERNATE", R2.with_port(50001)),
    ("QUIET", QUIET),
    *(("LISTENS", endpoint) for endpoint in GRID),
)


def exchange(purpose: Purpose, remote: Endpoint, **fields: Any) -> Exchange:
    """An exchange over UDP that was answered, but for what ``fields`` say."""
    local = FRESH if purpose in (Purpose.HELLO, Purpose.FILTERING) else LOCAL
    base = Exchange(purpose, UDP, local, remote, 0.1, 1, 0.04, Outcome.ANSWERED, 0.04, OUTSIDE, remote)
    return replace(base, **fields)


def silent(purpose: Purpose, remote: Endpoint, **fields: Any) -> Exchange:
    base: dict[str, Any] = {"outcome": Outcome.SILENT, "sent": 8, "waited": 3.0}
    return exchange(purpose, remote, **(base | {"rtt": None, "mapped": None, "source": None} | fields))


def hello(remote: Endpoint = R1, **fields: Any) -> Exchange:
    """The greeting of an RFC 5780 server, or of whatever ``fields`` make of it."""
    return exchange(Purpose.HELLO, remote, **({"other": R2_OTHER} | fields))


def mapping(mapped: Mapping[Endpoint, Endpoint]) -> list[Exchange]:
    return [exchange(Purpose.MAPPING, remote, mapped=outside) for remote, outside in mapped.items()]


def outside(port: int, address: str = "198.51.100.1") -> Endpoint:
    return Endpoint.of(address, port)


def volleys(
    *heard: Endpoint,
    asked: Sequence[Endpoint] = GRID[1:],
    rounds: int = 12,
    controls: int | None = None,
    waited: float = 1.0,
) -> list[Volley]:
    """Volleys of an RFC 5780 server in which these senders are heard, and the control so many times."""
    controls = rounds if controls is None else controls
    found = []
    for number in range(rounds):
        arrivals = [Arrival(R1, R1, 0.04)] if number < controls else []
        arrivals += [Arrival(sender, sender, 0.04) for sender in heard]
        found.append(Volley(FRESH, R1, 0.1 * number, (R1, *asked), waited, tuple(arrivals)))
    return found


def proof(sender: Endpoint, **fields: Any) -> Exchange:
    """The server has answered from there when its filter was open."""
    return exchange(Purpose.PROOF, R1, **({"answer_from": sender, "source": sender} | fields))


PROOFS = [proof(sender) for sender in GRID[1:]]


def profile(*facts: Observation, protocol: Protocol = UDP) -> Profile:
    found = conclude(facts, protocol, 4)
    assert found
    for verdict in (found.reachable, found.translated, found.external, found.mapping, found.filtering):
        assert set(verdict.evidence) <= set(range(len(facts)))
        assert verdict.reason
    return found


def told(verdict: Verdict[Dependence]) -> tuple[Dependence | None, Certainty]:
    return verdict.value, verdict.certainty


def unknown(verdict: Verdict[Any], *why: str) -> bool:
    """Return whether a verdict is not determined, and its reason says all that it should."""
    assert verdict.value is None, verdict
    for words in why:
        assert words in verdict.reason
    return verdict.certainty is Certainty.NOT_DETERMINED


# --- what no packet from here can be seen as, or one server alone reports --------------------------------------------

THIRD = Endpoint.parse("203.0.113.20:3478")
PRIVATE = Endpoint.parse("10.99.0.7:51000")


def seen_by(reports: Mapping[Endpoint, Endpoint | None]) -> list[Observation]:
    """Return what servers reported, each in its greeting and in the mapping test; None: this host's own endpoint."""
    facts = [hello(remote) for remote in reports] + mapping(dict.fromkeys(reports, OUTSIDE))
    return [replace(fact, mapped=reports[fact.remote] or fact.local) for fact in facts]


def test_a_private_mapped_address_from_a_public_server_is_never_confirmed() -> None:
    found = profile(*seen_by(dict.fromkeys(GRID, PRIVATE)))
    for verdict in (found.translated, found.external, found.mapping):
        assert verdict.certainty is LIKELY
        assert "reports the private address 10.99.0.7, perhaps of a NAT on its own side" in verdict.reason


def test_a_private_mapped_address_that_is_this_hosts_own_is_no_doubt() -> None:
    found = profile(*seen_by(dict.fromkeys(GRID)))
    assert (found.translated.value, found.translated.certainty) == (False, CONFIRMED)


def test_one_server_against_two_is_a_conflict_in_which_most_decide() -> None:
    found = profile(*seen_by({R1: PRIVATE, ELSEWHERE: None, THIRD: None}))
    assert (found.translated.value, found.translated.certainty) == (False, Certainty.CONFLICTING)
    assert f"{R1.address} alone reports 10.99.0.7" in found.translated.reason
    assert PRIVATE not in (found.external.value or ())
    assert (found.mapping.value, found.mapping.certainty) == (EI, LIKELY)


def test_one_server_against_one_is_no_majority() -> None:
    found = profile(*seen_by({R1: PRIVATE, ELSEWHERE: None}))
    assert (found.translated.value, found.translated.certainty) == (True, Certainty.CONFLICTING)


def test_two_addresses_of_one_server_do_not_outvote_another() -> None:
    """The reflector's alternate is the same machine."""
    facts = [hello(R1, mapped=PRIVATE, site=SITE), hello(ELSEWHERE, mapped=OUTSIDE)]
    found = profile(*facts, *mapping(dict.fromkeys(GRID, PRIVATE) | {ELSEWHERE: OUTSIDE}))
    assert found.external.value == tuple(sorted((PRIVATE, OUTSIDE)))


# --- mapping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ports", "dependence"),
    [((1, 1, 1, 1), EI), ((1, 1, 2, 2), AD), ((1, 2, 1, 2), PD), ((1, 2, 3, 4), APD)],
)
def test_four_endpoints_tell_every_mapping(ports: Sequence[int], dependence: Dependence) -> None:
    facts = mapping(dict(zip(GRID, map(outside, ports), strict=True)))
    assert told(profile(*facts).mapping) == (dependence, CONFIRMED)


def test_a_preserved_port_is_never_more_than_likely_endpoint_independent() -> None:
    kept = outside(LOCAL.port)
    assert told(profile(*mapping(dict.fromkeys(GRID, kept))).mapping) == (EI, LIKELY)


def test_no_nat_reads_endpoint_independent() -> None:
    found = profile(*mapping(dict.fromkeys(GRID, LOCAL)))
    assert told(found.mapping) == (EI, CONFIRMED)
    assert found.translated.value is False


def test_one_server_that_sees_this_host_itself_makes_no_nat_likely() -> None:
    assert told(profile(*mapping({R1: LOCAL})).mapping) == (EI, LIKELY)


@pytest.mark.parametrize("lost", GRID)
@pytest.mark.parametrize("ports", [(1, 1, 1, 1), (1, 1, 2, 2), (1, 2, 1, 2), (1, 2, 3, 4)], ids=str)
def test_one_lost_reply_leaves_the_class_or_leaves_it_open(lost: Endpoint, ports: Sequence[int]) -> None:
    """natdiscovery compares with a stale address: "endpoint-independent" behind a symmetric NAT."""
    whole = dict(zip(GRID, map(outside, ports), strict=True))
    truth = profile(*mapping(whole)).mapping.value
    facts = mapping({remote: mapped for remote, mapped in whole.items() if remote != lost})
    verdict = profile(*facts, silent(Purpose.MAPPING, lost)).mapping
    assert verdict.value == truth


@pytest.mark.parametrize("ports", [(1, 1, 1, 1), (1, 1, 2, 2), (1, 2, 1, 2), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("dead", [(R2, R2_OTHER), (R1_OTHER, R2_OTHER), (R1_OTHER, R2), GRID[1:]], ids=str)
def test_a_dead_alternate_never_makes_a_wrong_class(dead: Sequence[Endpoint], ports: Sequence[int]) -> None:
    whole = dict(zip(GRID, map(outside, ports), strict=True))
    truth = profile(*mapping(whole)).mapping.value
    facts = mapping({remote: mapped for remote, mapped in whole.items() if remote not in dead})
    verdict = profile(*facts, *(silent(Purpose.MAPPING, remote) for remote in dead)).mapping
    if verdict.value is None:
        assert all(str(remote) in verdict.reason for remote in dead)
    else:
        # Two endpoints on one port: what looks at the port alone cannot be seen, and no such NAT is known.
        assert (verdict.value, verdict.certainty) == (EI, LIKELY) or verdict.value == truth
        assert verdict.value == truth or (truth, dead) == (PD, (R1_OTHER, R2_OTHER))


def test_an_irregular_grouping_is_no_class() -> None:
    facts = mapping(dict(zip(GRID, map(outside, (1, 2, 2, 2)), strict=True)))
    assert unknown(profile(*facts).mapping, "no dependence on the destination explains this")


def from_port(port: int, *seen: int, address: str = "198.51.100.1") -> list[Exchange]:
    """What the four endpoints saw of a local port: external ports, in their order."""
    local = LOCAL.with_port(port)
    facts = mapping({remote: outside(number, address) for remote, number in zip(GRID, seen, strict=True)})
    return [replace(fact, local=local) for fact in facts]


def test_ports_that_are_not_treated_alike_are_in_conflict_and_most_decide() -> None:
    collided, others = from_port(7, 7, 7, 9, 9), [*from_port(8, 8, 8, 8, 8), *from_port(9, 10, 10, 10, 10)]
    verdict = profile(*collided, *others).mapping
    assert told(verdict) == (EI, CONFLICTING)
    assert verdict.evidence == tuple(range(12))
    assert told(profile(*collided, *others[:4]).mapping) == (None, Certainty.NOT_DETERMINED)


def test_flows_that_take_turns_between_two_ways_out_are_no_class() -> None:
    mixed = [replace(fact, mapped=outside(7, "198.51.100.2")) for fact in from_port(7, 7, 7, 7, 7)[:1]]
    facts = [*mixed, *from_port(7, 7, 7, 7, 7)[1:], *from_port(8, 8, 8, 8, 8), *from_port(9, 9, 9, 9, 9)]
    assert unknown(profile(*facts).mapping, "not every local port", "there may be several ways out")


def test_a_port_that_was_seen_as_one_where_others_had_another_address_is_not_certain() -> None:
    facts = [hello(mapped=outside(1, "198.51.100.2")), *from_port(7, 9, 9, 9, 9)]
    verdict = profile(*facts).mapping
    assert told(verdict) == (EI, LIKELY)
    assert "other ports were seen as 198.51.100.2: there may be several ways out" in verdict.reason


def test_a_mapping_that_moves_during_the_test_is_no_class() -> None:
    facts = [*mapping(dict.fromkeys(GRID, outside(1))), exchange(Purpose.MAPPING, R1, mapped=outside(2))]
    assert unknown(profile(*facts).mapping, f"the mapping towards {R1} moved")


def test_two_plain_servers_tell_independence_and_no_dependence() -> None:
    assert told(profile(*mapping({R1: outside(1), ELSEWHERE: outside(1)})).mapping) == (EI, LIKELY)
    verdict = profile(*mapping({R1: outside(1), ELSEWHERE: outside(2)})).mapping
    assert unknown(verdict, "address-dependent and address-and-port-dependent")


def test_a_server_that_lies_beside_two_that_do_not_makes_no_class() -> None:
    others = {R1: outside(1), R2: outside(1), ELSEWHERE: outside(9, "192.0.2.99")}
    assert unknown(profile(*mapping(others)).mapping)


def test_a_server_this_side_of_the_nat_says_nothing_of_it() -> None:
    """It sees this host itself, so that the NAT would seem to treat it otherwise: as address-dependent."""
    inside = Endpoint.parse("10.64.1.3:3478")
    found = profile(*mapping({R1: outside(1), R1_OTHER: outside(1), inside: LOCAL}))
    assert unknown(found.mapping, "endpoint-independent and address-dependent")
    assert found.translated.certainty is CONFLICTING
    found = profile(*mapping(dict.fromkeys(GRID, outside(1)) | {inside: LOCAL}))
    assert told(found.mapping) == (EI, CONFIRMED)


def test_several_ways_out_look_like_a_dependence_and_are_not_certain_to_be_one() -> None:
    ways = {R1: outside(1), R1_OTHER: outside(1), R2: outside(1, "192.0.2.1"), R2_OTHER: outside(1, "192.0.2.1")}
    verdict = profile(*mapping(ways)).mapping
    assert told(verdict) == (AD, LIKELY)
    assert "there may be several ways out" in verdict.reason


def test_an_answer_that_is_no_answer_maps_nothing() -> None:
    facts = [
        *mapping({R1: outside(1), R1_OTHER: outside(1), R2: outside(1)}),
        exchange(Purpose.MAPPING, R2_OTHER, outcome=Outcome.MISPLACED, mapped=outside(7), source=ELSEWHERE),
        exchange(Purpose.MAPPING, R2_OTHER, outcome=Outcome.ERROR, mapped=outside(8), error=500),
    ]
    assert told(profile(*facts).mapping) == (EI, CONFIRMED)


def test_greetings_and_proofs_are_of_another_port_and_map_nothing() -> None:
    facts = [hello(mapped=outside(5)), *mapping(dict.fromkeys(GRID, outside(1))), proof(R2, mapped=outside(6))]
    assert told(profile(*facts).mapping) == (EI, CONFIRMED)


def test_a_server_without_an_alternate_is_named() -> None:
    facts = [hello(other=None), *mapping({R1: outside(1)})]
    assert unknown(profile(*facts).mapping, f"only one endpoint could be asked ({R1}: it names no other address")


# --- filtering over UDP -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heard", "dependence"),
    [(GRID[1:], EI), ((R1_OTHER,), AD), ((R2,), PD), ((), APD)],
    ids=str,
)
def test_three_senders_tell_every_filter(heard: Sequence[Endpoint], dependence: Dependence) -> None:
    facts: list[Observation] = [hello(), *volleys(*heard), *PROOFS]
    verdict = profile(*facts).filtering
    assert told(verdict) == (dependence, CONFIRMED)
    assert f"after sending to {R1} alone" in verdict.reason


def test_hearing_needs_no_proof() -> None:
    assert told(profile(hello(), *volleys(*GRID[1:], rounds=1)).filtering) == (EI, CONFIRMED)


def test_one_reply_that_came_outweighs_every_one_that_was_lost() -> None:
    facts: list[Observation] = [hello(), *volleys(rounds=11), *volleys(*GRID[1:], rounds=1), *PROOFS]
    assert told(profile(*facts).filtering) == (EI, CONFIRMED)


def test_silence_without_proof_is_no_filter() -> None:
    """An alternate that is firewalled at the server is silent behind every NAT."""
    verdict = profile(hello(), *volleys()).filtering
    assert unknown(verdict, *map(str, GRID[1:]), "the server has not shown that it can send from there")


@pytest.mark.parametrize(
    ("failed", "why"),
    [
        ({"outcome": Outcome.ERROR, "error": 420}, "(error 420)"),
        ({"outcome": Outcome.MISPLACED, "source": R1}, f"(it answered from {R1})"),
        ({"outcome": Outcome.SILENT}, "the server has not shown"),
    ],
)
def test_a_proof_that_failed_is_told(failed: dict[str, Any], why: str) -> None:
    facts: list[Observation] = [hello(), *volleys(), *(proof(sender, **failed) for sender in GRID[1:])]
    assert unknown(profile(*facts).filtering, why)


def test_the_proof_of_one_sender_proves_no_other() -> None:
    verdict = profile(hello(), *volleys(), proof(R1_OTHER)).filtering
    assert unknown(verdict, "cannot tell port-dependent and address-and-port-dependent apart", f"{R1_OTHER} did not")


@pytest.mark.parametrize(("rounds", "controls"), [(12, 2), (3, 3), (12, 0), (5, 4), (40, 5)])
def test_too_few_controls_are_no_filter(rounds: int, controls: int) -> None:
    """Where most is lost, the test replies are lost as well."""
    verdict = profile(hello(), *volleys(rounds=rounds, controls=controls), *PROOFS).filtering
    assert unknown(verdict, "too few to tell a filter from loss" if controls else "controls back")


def test_fair_controls_make_a_filter_likely() -> None:
    assert told(profile(hello(), *volleys(rounds=8), *PROOFS).filtering) == (APD, LIKELY)


def test_a_reply_that_takes_longer_than_was_waited_is_not_missed() -> None:
    """The proof tells how long a changed answer takes, where that is longer than a plain one."""
    slow = [proof(sender, rtt=2.0) for sender in GRID[1:]]
    assert unknown(profile(hello(), *volleys(waited=1.5), *slow).filtering)
    assert told(profile(hello(), *volleys(waited=2.5), *slow).filtering) == (APD, CONFIRMED)


@pytest.mark.parametrize(
    ("arrival", "why"),
    [
        (Arrival(R2_OTHER, R1, 0.04, error=420), "the server refuses to change its source (error 420)"),
        (Arrival(R2_OTHER, R1, 0.04), f"the server answered from {R1} in place of it"),
        (Arrival(R2_OTHER, R2, 0.04), f"the server answered from {R2} in place of it"),
    ],
)
def test_an_answer_in_place_of_the_sender_is_neither_passing_nor_a_filter(arrival: Arrival, why: str) -> None:
    shots = [replace(v, asked=(R1, R2_OTHER), arrivals=(Arrival(R1, R1, 0.04), arrival)) for v in volleys()]
    assert unknown(profile(hello(), *shots, *PROOFS).filtering, f"{R2_OTHER} could not be used: {why}")


def test_evidence_in_conflict_is_no_class() -> None:
    """The other address comes in by its other port alone: no filter that looks at the remote does this."""
    verdict = profile(hello(), *volleys(R2_OTHER), *PROOFS).filtering
    assert unknown(verdict, "a filter kept per host, or a sender that is down", f"{R2_OTHER} came in")


def test_a_sender_heard_once_and_refused_once_was_heard() -> None:
    first, *rest = volleys(*GRID[1:])
    refused = replace(first, arrivals=(*first.arrivals, Arrival(R2, R1, 0.05, error=420)))
    assert told(profile(hello(), refused, *rest).filtering) == (EI, CONFIRMED)


def test_a_sender_that_was_greeted_as_a_server_is_no_stranger() -> None:
    verdict = profile(hello(), hello(R2), *volleys(R1_OTHER, asked=(R1_OTHER,))).filtering
    assert unknown(
        verdict, "cannot tell endpoint-independent and address-dependent apart", "a server was greeted there"
    )


def test_a_server_that_has_no_sender_is_named() -> None:
    assert unknown(profile(hello(other=None)).filtering, f"{R1} cannot test it: it names no other address")
    assert unknown(profile(hello(other=R1_OTHER)).filtering, f"{R1} cannot test it: its OTHER-ADDRESS repeats its own")
    assert unknown(profile(hello(), hello(R1_OTHER), hello(R2)).filtering, "servers were greeted at all its addresses")


def test_of_two_servers_the_one_that_did_not_refuse_is_believed() -> None:
    refusing = [
        replace(v, remote=ELSEWHERE, asked=(ELSEWHERE, QUIET), arrivals=(Arrival(QUIET, ELSEWHERE, 0.04, 420),))
        for v in volleys(rounds=3)
    ]
    facts: list[Observation] = [hello(ELSEWHERE), hello(), *refusing, *volleys(R1_OTHER), *PROOFS]
    assert told(profile(*facts).filtering) == (AD, CONFIRMED)


# --- filtering by a reflector -----------------------------------------------------------------------------------------

REFLECTED = (R1.with_port(50001), R2, R2.with_port(50001), QUIET)


@pytest.mark.parametrize(
    "faces",
    [
        [hello(instance="aa"), exchange(Purpose.CONTROL, R1_OTHER, protocol=TCP, instance="bb")],
        [hello(), exchange(Purpose.MAPPING, R1, other=ELSEWHERE)],
    ],
    ids=["two reflectors", "two servers of RFC 5780"],
)
def test_silence_of_a_server_with_two_faces_is_no_filter(faces: Sequence[Exchange]) -> None:
    """Which of them was asked is not known, nor what that one can do."""
    verdict = profile(*faces, *volleys(), *PROOFS).filtering
    assert unknown(verdict, f"several servers answer at {R1.address} in turn")
    assert told(profile(*faces, *volleys(*GRID[1:])).filtering) == (EI, CONFIRMED)


def test_a_mapping_that_moves_at_a_server_with_two_faces_is_put_down_to_that() -> None:
    facts = [
        exchange(Purpose.MAPPING, R1, mapped=outside(port), instance=name) for port, name in ((1, "aa"), (2, "bb"))
    ]
    assert unknown(profile(*facts).mapping, "moved", f"several servers answer at {R1.address} in turn")


def test_a_reflector_needs_its_other_address_alive() -> None:
    shots = volleys(asked=REFLECTED)
    alive = mapping(dict.fromkeys(GRID, outside(1)))
    dead = [
        *mapping(dict.fromkeys(GRID[:2], outside(1))),
        silent(Purpose.MAPPING, R2),
        silent(Purpose.MAPPING, R2_OTHER),
    ]
    assert told(profile(hello(site=SITE), *shots, *alive).filtering) == (APD, CONFIRMED)
    verdict = profile(hello(site=SITE), *shots, *dead).filtering
    assert unknown(verdict, f"the reflector's other address {R2.address} did not answer either")


def test_a_filter_kept_per_host_is_seen_from_the_quiet_address() -> None:
    """The alternate has been let in by something else; the quiet address, which nobody contacts, has not."""
    facts: list[Observation] = [
        hello(site=SITE),
        *volleys(*REFLECTED[:3], asked=REFLECTED),
        *mapping(dict.fromkeys(GRID, outside(1))),
    ]
    assert unknown(profile(*facts).filtering, "a filter kept per host")


def dialled(outcome: Dialled, source: Endpoint, attempts: int = 12) -> ConnectBack:
    return ConnectBack(FRESH, R1, source, 0.1, attempts, 0.5, outcome)


def tcp(*facts: Observation, alive: Sequence[Endpoint] = GRID, results: Outcome = Outcome.ANSWERED) -> Profile:
    """The profile of facts over TCP beside a reflector's greeting, what it told of its dials, and who is alive then."""
    greeting = hello(site=SITE, protocol=TCP)
    asked = exchange(Purpose.FILTERING, R1, protocol=TCP, outcome=results)
    held = [replace(fact, protocol=TCP, at=1.0) for fact in mapping(dict.fromkeys(alive, outside(1)))]
    return profile(greeting, asked, *facts, *held, protocol=TCP)


DIALS = (R1.with_port(0), R2, R2.with_port(0), QUIET.with_port(0))


@pytest.mark.parametrize(
    ("accepted", "dependence"),
    [(DIALS, EI), (DIALS[:1], AD), (DIALS[1:2], PD), ((), APD)],
    ids=str,
)
@pytest.mark.parametrize("refusal", [Dialled.SILENT, Dialled.REFUSED, Dialled.UNREACHABLE])
def test_connect_backs_tell_every_filter(
    accepted: Sequence[Endpoint], dependence: Dependence, refusal: Dialled
) -> None:
    facts = [dialled(Dialled.ACCEPTED if source in accepted else refusal, source) for source in DIALS]
    assert told(tcp(*facts).filtering) == (dependence, CONFIRMED)


def test_few_dials_into_silence_are_no_filter() -> None:
    facts = [dialled(Dialled.SILENT, source, attempts=2) for source in DIALS]
    assert unknown(tcp(*facts).filtering, "too few to tell a filter from loss")


@pytest.mark.parametrize(
    ("controls", "certainty"),
    [(12, CONFIRMED), (9, LIKELY), (7, Certainty.NOT_DETERMINED), (0, Certainty.NOT_DETERMINED)],
)
def test_dials_into_silence_count_as_far_as_controls_were_answered(controls: int, certainty: Certainty) -> None:
    """A path that was dead for a while is no filter: what was sent beside the dials did not get through either."""
    passed = [dialled(Dialled.ACCEPTED, source) for source in DIALS[1:]]
    silent = replace(dialled(Dialled.SILENT, DIALS[0]), controls=controls)
    same_address = tcp(silent, *(replace(silent, source=source) for source in DIALS[1:])).filtering
    assert same_address.certainty is certainty
    assert f"{controls} controls answered" in same_address.reason
    heard_later = tcp(silent, replace(silent, outcome=Dialled.ACCEPTED), *passed).filtering
    assert told(heard_later) == (EI, CONFIRMED)


def test_a_few_dials_that_contradict_all_others_are_left_aside_and_remembered() -> None:
    """Three SYNs may be lost by chance; that they contradict the rest is a reason to be less sure."""
    facts = [dialled(Dialled.ACCEPTED, source) for source in DIALS if source != R2]
    assert told(tcp(*facts).filtering) == (EI, CONFIRMED)
    assert told(tcp(*facts, dialled(Dialled.SILENT, R2, attempts=3)).filtering) == (EI, LIKELY)


def test_silence_of_a_dead_alternate_is_no_filter() -> None:
    """A reflector whose other addresses are cut off would make every open path address-dependent."""
    facts = [dialled(Dialled.ACCEPTED, DIALS[0]), *(dialled(Dialled.SILENT, source) for source in DIALS[1:])]
    assert told(tcp(*facts).filtering) == (AD, CONFIRMED)
    verdict = tcp(*facts, alive=GRID[:2]).filtering
    assert unknown(verdict, "cannot tell", f"the reflector's other address {R2.address} did not answer either")


def test_silence_of_a_reflector_that_died_meanwhile_is_no_filter() -> None:
    """It greeted, dialled, told what came of it, and did not hear who answered its dials."""
    verdict = tcp(*(dialled(Dialled.SILENT, source) for source in DIALS), alive=GRID[2:]).filtering
    assert unknown(verdict, "cannot tell", f"another port of {R1.address} stayed silent", "did not answer any more")
    nobody = tcp(*(dialled(Dialled.SILENT, source) for source in DIALS), alive=()).filtering
    assert unknown(nobody, f"{R1.address} did not answer any more")


def test_a_connection_lost_before_it_told_of_the_dials_is_named() -> None:
    lost = tcp(*(dialled(Dialled.NOT_DIALLED, source) for source in DIALS), results=Outcome.MUTE).filtering
    assert unknown(lost, f"{R1} did not tell what came of it, the connection to it was lost")


def test_what_accepts_in_this_hosts_place_is_neither_passing_nor_a_filter() -> None:
    verdict = tcp(*(dialled(Dialled.INTERCEPTED, source) for source in DIALS)).filtering
    assert unknown(verdict, "something that accepts connections in this host's place")
    assert unknown(tcp(*(dialled(Dialled.NOT_DIALLED, source) for source in DIALS)).filtering, "did not dial")


def test_tcp_filtering_needs_a_server_that_connects_back() -> None:
    facts = [hello(protocol=TCP)]
    assert unknown(profile(*facts, protocol=TCP).filtering, "no server that answered can connect back")
    assert unknown(profile(silent(Purpose.HELLO, R1, protocol=TCP), protocol=TCP).filtering, "over TCP")


def test_a_volley_says_nothing_of_tcp_nor_a_connect_back_of_udp() -> None:
    facts: list[Observation] = [
        hello(),
        hello(protocol=TCP),
        *volleys(*GRID[1:]),
        *(dialled(Dialled.REFUSED, source) for source in DIALS),
        *(replace(fact, protocol=TCP, at=1.0) for fact in mapping(dict.fromkeys(GRID, outside(1)))),
    ]
    assert profile(*facts).filtering.value is EI
    assert profile(*facts, protocol=TCP).filtering.value is APD


@pytest.mark.parametrize("outcome", [Dialled.REFUSED, Dialled.UNREACHABLE])
def test_a_refusal_counts_only_from_an_address_that_is_alive(outcome: Dialled) -> None:
    """The reflector's own host may be what refuses: an address of it that answers nobody shows nothing."""
    refused = [dialled(outcome, source) for source in DIALS]
    assert tcp(*refused).filtering.value is APD
    dead = tcp(*refused, alive=[R1, R1_OTHER]).filtering
    assert dead.value is None
    assert f"the reflector's other address {R2.address} did not answer either" in dead.reason


def test_held_connections_are_counted_by_both_ends() -> None:
    def held(answered: int, counted: int | None) -> Verdict[object]:
        hold = Hold(LOCAL, GRID[:answered], (OUTSIDE,) * answered, 0.2, answered, counted)
        concurrent = profile(hello(protocol=TCP), hold, protocol=TCP).concurrent
        assert concurrent
        return concurrent  # type: ignore[return-value]

    assert held(4, 4).certainty is held(4, None).certainty is CONFIRMED
    assert held(4, 2).certainty is CONFLICTING
    assert held(0, None).value is None


# --- reachability -----------------------------------------------------------------------------------------------------

ANSWERED, ERROR, MISPLACED, REJECTED, UNREADABLE, MUTE, SILENT = Outcome


def asked(outcome: Outcome, protocol: Protocol, remote: Endpoint = R1, **fields: Any) -> Exchange:
    """A first request over a protocol, and what came of it."""
    base: dict[str, Any] = {"outcome": outcome, "protocol": protocol, "other": None}
    match outcome:
        case Outcome.ERROR:
            base |= {"mapped": None, "error": 500}
        case Outcome.MISPLACED:
            base |= {"source": R1_OTHER, "detail": f"answered from {R1_OTHER}"}
        case Outcome.REJECTED:
            reason = "host administratively prohibited" if protocol is UDP else "connection refused"
            base |= {"mapped": None, "rtt": None, "source": None, "sent": 2, "waited": 0.1, "detail": reason}
        case Outcome.UNREADABLE:
            base |= {"mapped": None, "rtt": None, "sent": 8, "waited": 3.0, "detail": "what came back is no STUN"}
        case Outcome.SILENT | Outcome.MUTE:
            base |= {"mapped": None, "rtt": None, "sent": 8, "waited": 3.0}
    return hello(remote, **(base | fields))


GATEWAY, FAR_ROUTER = Endpoint.of("10.64.1.1", 0), Endpoint.of("198.51.100.254", 0)
YES, NO, WHO_KNOWS = True, False, None
UDP_BY_TCP = {
    # What UDP brought: its verdict where TCP brought an answer, and where TCP brought none.
    ANSWERED: (YES, YES),
    ERROR: (YES, YES),
    MISPLACED: (YES, YES),
    UNREADABLE: (YES, YES),
    REJECTED: (NO, WHO_KNOWS),
    MUTE: (WHO_KNOWS, WHO_KNOWS),
    SILENT: (NO, WHO_KNOWS),
}


@pytest.mark.parametrize(("udp", "tcp_"), list(product(Outcome, Outcome)), ids=str)
def test_the_reachability_of_udp_by_what_tcp_brought(udp: Outcome, tcp_: Outcome) -> None:
    facts = [asked(udp, UDP), asked(tcp_, TCP)]
    assert profile(*facts).reachable.value is UDP_BY_TCP[udp][tcp_ is not ANSWERED]


@pytest.mark.parametrize(("udp", "tcp_"), list(product(Outcome, Outcome)), ids=str)
def test_the_reachability_of_tcp_by_what_udp_brought(udp: Outcome, tcp_: Outcome) -> None:
    """A plain server need not serve TCP: that it does not answer there says nothing. A reflector serves both."""
    plain = profile(asked(udp, UDP), asked(tcp_, TCP), protocol=TCP).reachable
    assert plain.value is (YES if tcp_ in (ANSWERED, ERROR, MISPLACED, UNREADABLE) else WHO_KNOWS)
    reflector = profile(asked(udp, UDP, site=SITE), asked(tcp_, TCP), protocol=TCP).reachable
    assert reflector.value is UDP_BY_TCP[tcp_][udp is not ANSWERED]


@pytest.mark.parametrize(
    ("facts", "certainty"),
    [
        ([asked(SILENT, UDP), asked(ANSWERED, TCP, site=SITE)], LIKELY),
        ([asked(REJECTED, UDP), asked(ANSWERED, TCP, site=SITE)], LIKELY),
        ([asked(REJECTED, UDP, source=GATEWAY), asked(ANSWERED, TCP, site=SITE)], CONFIRMED),
        ([asked(REJECTED, UDP, source=FAR_ROUTER), asked(ANSWERED, TCP, site=SITE)], LIKELY),
        ([asked(SILENT, UDP, sent=2), asked(ANSWERED, TCP, site=SITE)], LIKELY),
        ([asked(SILENT, UDP), asked(ANSWERED, TCP)], LIKELY),
        (
            [asked(o, p, r, at=at) for o, p, at in ((SILENT, UDP, 0.0), (ANSWERED, TCP, 4.0)) for r in (R1, ELSEWHERE)],
            CONFIRMED,
        ),
        (
            [
                *(asked(o, p, r) for o, p in ((SILENT, UDP), (ANSWERED, TCP)) for r in (R1, ELSEWHERE)),
                asked(ANSWERED, TCP, ELSEWHERE, at=4.0),
            ],
            LIKELY,
        ),
    ],
    ids=[
        "reflector",
        "rejected by who knows",
        "rejected on this side",
        "rejected near the server",
        "few copies",
        "one plain server",
        "two plain servers",
        "two, of which one died",
    ],
)
def test_how_sure_it_is_that_udp_is_blocked(facts: list[Observation], certainty: Certainty) -> None:
    reachable = profile(*facts).reachable
    assert (reachable.value, reachable.certainty) == (False, certainty)
    assert reachable.reason.startswith("UDP is blocked")


def test_a_port_without_a_listener_is_no_blocked_udp() -> None:
    """A server for TCP alone says of UDP what any host says of a closed port."""
    facts = [asked(REJECTED, UDP, detail="port unreachable"), asked(ANSWERED, TCP)]
    reachable = profile(*facts).reachable
    assert reachable.value is None
    assert "may not serve UDP at all" in reachable.reason
    facts[1] = asked(ANSWERED, TCP, site=SITE)
    assert profile(*facts).reachable.value is False


@pytest.mark.parametrize(
    ("outcome", "fields", "words"),
    [
        (ERROR, {}, f"{R1}: error 500"),
        (ERROR, {"error": 401, "detail": "Unauthorized"}, f"{R1}: error 401 Unauthorized"),
        (MISPLACED, {}, f"{R1}: answered from {R1_OTHER}"),
        (REJECTED, {}, "a rejection (host administratively prohibited)"),
        (SILENT, {}, "no answer to 8 attempts in 3.0 s"),
        (UNREADABLE, {}, f"({R1}: what came back is no STUN)"),
    ],
)
def test_the_culprit_is_named(outcome: Outcome, fields: dict[str, Any], words: str) -> None:
    assert words in profile(asked(outcome, UDP, **fields), asked(ANSWERED, TCP)).reachable.reason


def test_one_server_that_answers_is_enough() -> None:
    facts = [asked(SILENT, UDP), asked(REJECTED, UDP, R2), asked(ANSWERED, UDP, ELSEWHERE)]
    assert profile(*facts).reachable.value is True


def test_what_does_not_get_through_needs_no_other_verdict() -> None:
    blocked = profile(asked(SILENT, UDP), asked(ANSWERED, TCP, site=SITE))
    assert blocked.settled
    assert unknown(blocked.mapping)
    assert unknown(blocked.filtering)
    assert not profile(asked(SILENT, UDP), asked(SILENT, TCP)).settled


def test_a_server_that_died_meanwhile_blocks_nothing() -> None:
    """It answered over TCP, then over UDP not, and later not over TCP either."""
    facts = [asked(ANSWERED, TCP, site=SITE), asked(SILENT, UDP)]
    later = [replace(fact, protocol=TCP, at=4.0) for fact in mapping({R1: OUTSIDE, R2: OUTSIDE})]
    assert profile(*facts, *later).reachable.value is False
    dead = [replace(later[0], outcome=SILENT, mapped=None), later[1]]
    assert unknown(profile(*facts, *dead).reachable, f"later {R1} did not answer over TCP either")
    begun_before = replace(asked(ANSWERED, TCP), outcome=Outcome.MUTE, mapped=None, at=1.0, waited=4.0)
    assert unknown(profile(*facts, begun_before).reachable, f"later {R1} did not answer over TCP either")


def test_a_control_for_the_other_protocol_is_no_question_about_this_one() -> None:
    facts = [asked(SILENT, UDP), replace(asked(ANSWERED, TCP, site=SITE), purpose=Purpose.CONTROL)]
    assert profile(*facts).reachable.value is False
    assert conclude(facts, TCP, 4) is None
    assert conclude(facts, UDP, 6) is None


# --- unsolicited packets ----------------------------------------------------------------------------------------------

HOME, MOVED = outside(1), outside(9)
SAME_FOR_ALL = mapping(dict.fromkeys(GRID, outside(5)))
CLOSED: list[Observation] = [*volleys(), *PROOFS]


def tried(port: int, *, rounds: int = 5, heard: bool = False, **seen: Endpoint | None) -> list[Observation]:
    """One local port: greeted, sent to by R2, asked again; ``seen`` are what R2, R1_OTHER and R1 see then (or None)."""
    local = LOCAL.with_port(port)
    after = {"stranger": HOME, "other": HOME, "contacted": HOME} | seen
    remotes = {"stranger": R2, "other": R1_OTHER, "contacted": R1}
    shots = volleys(*([R2] if heard else []), asked=(R2,), rounds=rounds)
    return [
        exchange(Purpose.REMAP, R1, local=local, mapped=HOME),
        *(replace(shot, local=local, purpose=Purpose.REMAP) for shot in shots),
        *(
            silent(Purpose.REMAP, remotes[who], local=local)
            if mapped is None
            else exchange(Purpose.REMAP, remotes[who], local=local, mapped=mapped)
            for who, mapped in after.items()
        ),
    ]


def remap(*facts: Observation) -> Verdict[bool]:
    verdict = profile(hello(), *facts).unsolicited_remap
    assert verdict
    assert set(verdict.evidence) <= set(range(len(facts) + 1))
    return verdict


def moved(port: int, contacted: Endpoint = HOME) -> list[Observation]:
    return tried(port, stranger=MOVED, other=MOVED, contacted=contacted)


def test_without_its_test_there_is_no_verdict_on_unsolicited_packets() -> None:
    assert profile(hello(), *SAME_FOR_ALL, *CLOSED).unsolicited_remap is None
    assert profile(exchange(Purpose.HELLO, R1, protocol=TCP), protocol=TCP).unsolicited_remap is None


def test_the_volleys_of_one_test_are_none_of_the_others() -> None:
    facts = [hello(), *SAME_FOR_ALL, *CLOSED]
    assert profile(*facts, *tried(1, heard=True)).filtering == profile(*facts).filtering


@pytest.mark.parametrize(("ports", "certainty"), [(1, LIKELY), (2, CONFIRMED), (3, CONFIRMED)])
def test_a_mapping_that_moves_is_told_with_what_becomes_of_other_destinations(ports: int, certainty: Certainty) -> None:
    verdict = remap(*SAME_FOR_ALL, *CLOSED, *(fact for port in range(ports) for fact in moved(port)))
    assert (verdict.value, verdict.certainty) == (True, certainty)
    assert f"it sees {MOVED} in place of {HOME}, while {R1} still sees that" in verdict.reason
    assert f"{R1_OTHER}, sent to after that, sees {MOVED}" in verdict.reason


@pytest.mark.parametrize(("ports", "certainty"), [(2, LIKELY), (3, CONFIRMED)])
def test_a_mapping_stays_as_surely_as_the_packets_got_there(ports: int, certainty: Certainty) -> None:
    verdict = remap(*SAME_FOR_ALL, *CLOSED, *(fact for port in range(ports) for fact in tried(port)))
    assert (verdict.value, verdict.certainty) == (False, certainty)
    assert "5 packets that were not asked for" in verdict.reason


def test_packets_that_may_all_have_been_lost_show_nothing() -> None:
    few = [fact for port in range(3) for fact in tried(port, rounds=2)]
    assert unknown(remap(*SAME_FOR_ALL, *CLOSED, *few), "so few packets may all have been lost")


@pytest.mark.parametrize(("stay", "value"), [(1, True), (2, True), (3, False)])
def test_ports_that_are_not_treated_alike_are_in_conflict(stay: int, value: bool) -> None:
    ports = [fact for port in range(stay) for fact in tried(port)]
    verdict = remap(*SAME_FOR_ALL, *CLOSED, *ports, *moved(8), *(moved(9) if stay == 2 else []))
    assert (verdict.value, verdict.certainty) == (value, CONFLICTING)
    assert "not every local port is treated alike" in verdict.reason


def test_where_each_destination_has_its_mapping_there_is_none_to_move() -> None:
    for ports in ((1, 1, 2, 2), (1, 2, 3, 4)):
        own = mapping(dict(zip(GRID, map(outside, ports), strict=True)))
        assert unknown(remap(*own, *CLOSED, *moved(1), *moved(2)), "there is none to move")
    assert unknown(remap(*CLOSED, *moved(1), *moved(2)), "which may be so in any case")


def test_who_anybody_is_let_in_with_is_no_stranger() -> None:
    open_filter = volleys(*GRID[1:])
    verdict = remap(*SAME_FOR_ALL, *open_filter, *tried(1, rounds=1, heard=True))
    assert (verdict.value, verdict.certainty) == (False, CONFIRMED)


def test_who_comes_in_though_others_do_not_was_let_in_by_another_test() -> None:
    let_in = [fact for port in range(3) for fact in tried(port, heard=True)]
    assert unknown(remap(*SAME_FOR_ALL, *CLOSED, *let_in), "another test may have seen to that")
    assert unknown(remap(*SAME_FOR_ALL, *let_in), "who else would be is not known")


def test_a_server_that_has_not_shown_that_it_sends_from_there_shows_no_more() -> None:
    stay = [fact for port in range(3) for fact in tried(port)]
    assert unknown(remap(*SAME_FOR_ALL, *volleys(), *stay), f"not shown that it can send from {R2}")


def test_a_server_that_cannot_send_from_where_it_answers_is_named() -> None:
    facts = [*SAME_FOR_ALL, exchange(Purpose.REMAP, R1)]
    assert unknown(remap(*facts), f"{R1} has no endpoint that sends when asked to and also answers")


def test_silence_after_unsolicited_packets_is_told_as_it_is() -> None:
    facts = [*SAME_FOR_ALL, *CLOSED]
    assert unknown(remap(*facts, *tried(1, stranger=None)), f"{R2} did not answer after it had sent")
    assert unknown(remap(*facts, silent(Purpose.REMAP, R1)), f"{R1} did not answer")


def test_a_mapping_that_moves_towards_all_was_not_moved_by_a_stranger() -> None:
    assert unknown(remap(*SAME_FOR_ALL, *CLOSED, *moved(1, contacted=MOVED)), f"towards {R1} changed as well")


# --- what does not leave this host ------------------------------------------------------------------------------------


def test_the_own_firewall_decides_only_where_it_keeps_back_all() -> None:
    kept = asked(REJECTED, UDP, detail=OWN_FIREWALL, source=None)
    alone = profile(kept, asked(ANSWERED, TCP, site=SITE)).reachable
    assert (alone.value, alone.certainty) == (False, CONFIRMED)
    assert f"does not leave this host: {OWN_FIREWALL}" in alone.reason
    beside = profile(kept, asked(SILENT, UDP, ELSEWHERE), asked(ANSWERED, TCP, ELSEWHERE, site=SITE)).reachable
    assert beside.certainty is not CONFIRMED


def test_what_was_not_sent_is_no_silence() -> None:
    unsent = asked(REJECTED, UDP, detail=f"{NOT_SENT}: network is unreachable", source=None)
    assert unknown(profile(unsent, asked(ANSWERED, TCP, site=SITE)).reachable, "nothing was sent to")
