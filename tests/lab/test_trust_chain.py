"""One policy, three substrates, one report: what is believed of the NAT in memory is held against the kernel's.

The grid and the accuracy figures rest on the NAT in memory; here it is shown to be taken for the same NAT as the
kernel's, by the same probes, verdict by verdict and with the same certainty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lab.test_classify import classify
from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS, compose, parse_policy
from natprobe.lab.simulation import simulate
from natprobe.run import Tier

pytestmark = [pytest.mark.lab, pytest.mark.slow]

Told = dict[tuple[str, str], tuple[object, str]]


def told(report: Mapping[str, Any]) -> Told:
    """Return each verdict on the NAT of a report with its certainty."""
    return {
        (protocol, key): (profile[key]["value"], profile[key]["certainty"])
        for protocol, profile in report["ipv4"].items()
        for key in ("reachable", "translated", "mapping", "filtering", "unsolicited_remap")
        if key in profile
    }


NATS = {**PRESETS, "a table that takes strangers' packets": parse_policy('{"unsolicited": "accepted"}')}


@pytest.mark.parametrize("name", NATS)
def test_memory_and_kernel_are_taken_for_the_same_nat(lab: Lab, name: str) -> None:
    lab.apply("home", NATS[name])
    (report,) = classify(lab)
    assert told(report) == told(simulate(NATS[name], tier=Tier.DEFAULT).to_json())


def test_two_in_series_are_taken_for_the_same_two(lab: Lab) -> None:
    inner, outer = PRESETS["eim-adf"], PRESETS["apdm-eif"]
    lab.apply("home", inner)
    lab.apply("cgn", outer)
    lab.put_behind("home", "cgn")
    try:
        (report,) = classify(lab)
    finally:
        lab.put_behind("home", None)
    assert told(report) == told(simulate([inner, outer], tier=Tier.DEFAULT).to_json())
    assert compose(inner, outer).udp.filtering == report["ipv4"]["udp"]["filtering"]["value"]
