"""On real packets: a reflector whose own host drops what it is sent is no path that blocks a protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS, differences

from .conftest import open_here

pytestmark = [pytest.mark.lab, pytest.mark.slow]

PRIMARY = "198.51.100.10"
TABLE = "table inet server {{ chain input {{ type filter hook input priority filter; {rule} drop; }}; }}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with open_here() as lab:
        yield lab


@pytest.fixture
def drop(lab: Lab, request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the reflector's host drop what the parameter says."""
    lab.must("reflector", ["nft", "-f", "-"], stdin=TABLE.format(rule=request.param))
    yield
    lab.must("reflector", ["nft", "delete", "table", "inet", "server"])


def classify(lab: Lab, policy: str, *, knowable: bool = True) -> Any:
    """Return the report of a quick run, in which no determined verdict is wrong where that is ``knowable``."""
    lab.apply("home", PRESETS[policy])
    ended = lab.run("home-1", ["natprobe", "classify", "-4", "-s", PRIMARY, "--quick", "--json"], timeout=60)
    assert ended.stdout, ended.stderr
    report = json.loads(ended.stdout)
    wrong = [line for line in differences(PRESETS[policy], report) if "not determined" not in line]
    assert wrong == [] or not knowable
    return report["ipv4"]


@pytest.mark.parametrize(
    ("policy", "drop", "transport"),
    [
        ("none", "udp dport {3478, 3479}", "udp"),
        ("apdm-apdf", "udp dport {3478, 3479}", "udp"),
        ("eim-eif", "tcp dport {3478, 3479}", "tcp"),
    ],
    indirect=["drop"],
)
@pytest.mark.usefixtures("drop")
def test_a_service_that_is_mute_is_told_from_a_blocked_path(lab: Lab, policy: str, transport: str) -> None:
    verdict = classify(lab, policy)[transport]["reachable"]
    assert verdict["value"] is None
    assert (
        f"{PRIMARY} itself refuses packets to its port 33434" in verdict["reason"]
        or "does not work" in verdict["reason"]
    )


@pytest.mark.parametrize("drop", ["udp dport 3478", "tcp dport 3478"], indirect=True)
@pytest.mark.usefixtures("drop")
def test_one_port_that_is_mute_leaves_the_other(lab: Lab) -> None:
    for profile in classify(lab, "eim-adf").values():
        assert profile is None or profile["reachable"]["value"] is True


@pytest.mark.parametrize("drop", ["meta l4proto udp"], indirect=True)
@pytest.mark.usefixtures("drop")
def test_a_host_that_drops_all_udp_is_never_confirmed_to_be_a_blocked_path_and_soon_says_so(lab: Lab) -> None:
    """The reflector finds out within three seconds that it hears nothing."""
    for _ in range(5):
        verdict = classify(lab, "eim-apdf", knowable=False)["udp"]["reachable"]
        assert verdict["certainty"] != "confirmed"
        if verdict["value"] is None:
            assert f"{PRIMARY}:3478 says that its own UDP does not work" in verdict["reason"]
            return
    pytest.fail(f"the reflector never said so: {verdict}")
