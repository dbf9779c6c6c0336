"""A sample of benchmarks/exhaustive.py: no small fault makes a verdict wrong. All of them take an hour."""

from __future__ import annotations

from itertools import combinations

import exhaustive
import pytest

from natprobe import stun
from natprobe.endpoint import Endpoint
from natprobe.lab.policy import PRESETS
from natprobe.lab.simulation import REFLECTOR

SAMPLE = {"loss": 8, "outage": 3, "two-losses": 3}
KNOWABLE = [kind for kind in exhaustive.KINDS if kind != "misreport-unknowable"]


@pytest.mark.parametrize("policy", PRESETS)
def test_no_small_fault_makes_a_verdict_wrong(policy: str) -> None:
    for kind in KNOWABLE:
        score = exhaustive.try_cases(policy, kind, exhaustive.indexes(policy, kind, SAMPLE.get(kind, 2)))
        assert score.bad == []
        assert score.verdicts["right"] > 0


def test_a_wrong_verdict_is_noticed_and_named() -> None:
    """What nobody can know from one server, here that it reports another host's address, comes out wrong."""
    index = exhaustive.UNKNOWABLE.index(("mapped", "another host"))
    score = exhaustive.try_cases("none", "misreport-unknowable", [index])
    assert score.verdicts["wrong"] + score.verdicts["grave"] == len(score.bad) == 2
    assert all(f"--policy none --kind misreport-unknowable --index {index}: " in line for line in score.bad)


def test_every_packet_is_struck_and_every_pair_of_them() -> None:
    run = exhaustive.Undisturbed(packets=5, down=(1, 4), seconds=0.06)
    counts = {kind: exhaustive.KINDS[kind].count(run) for kind in exhaustive.KINDS}
    assert (counts["loss"], counts["two-losses"], counts["neighbouring-port"]) == (5, 10, 2)
    assert counts["outage"] == 3 * len(exhaustive.OUTAGES)
    pairs = [exhaustive.KINDS["two-losses"].case(run, index)[0] for index in range(10)]
    assert [set(struck.numbers) for struck in pairs if isinstance(struck, exhaustive.Struck)] == [
        set(pair) for pair in combinations(range(5), 2)
    ]


@pytest.mark.parametrize("how", exhaustive.WRONG)
def test_what_is_misreported_is_what_was_asked_for(how: str) -> None:
    true = Endpoint.parse(f"{REFLECTOR[0]}:40000")
    transaction_id = bytes(12)
    attributes = (
        stun.xor_mapped_attribute(true, transaction_id),
        stun.address_attribute(stun.Type.OTHER_ADDRESS, true),
    )
    said = stun.decode(
        exhaustive.misreporting("mapped", how)(stun.Message(stun.Class.SUCCESS, transaction_id, attributes).encode())
    )
    assert said.other == true
    assert said.mapped == exhaustive.WRONG[how](true)
