"""Two uplinks, each with a kernel's NAT of its own: `home` masquerades on the one, `cgn` on the other.

Which one a packet takes is the routing's choice: by destination, or by a hash over the flow (RFC 2992). A NAT behind it
shows itself as if it depended on what the routing looks at; the reason must say that there may be several ways out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS

from .conftest import not_here, open_here
from .test_classify import classify

pytestmark = [pytest.mark.lab, pytest.mark.slow]

FIRST, SECOND = "198.51.100.1", "198.51.100.3"
PRIMARY, ALTERNATE = "198.51.100.10", "198.51.100.11"


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab of its own, whose routes may be changed."""
    with open_here() as lab:
        for gateway in ("home", "cgn"):
            lab.apply(gateway, PRESETS["linux-masquerade"])
        yield lab


def carrier(lab: Lab) -> str:
    return str(lab.topology.nodes["cgn"].addresses["carrier"])


def profiles(lab: Lab) -> list[dict[str, Any]]:
    (report,) = classify(lab)
    return [*report["ipv4"].values()]


def test_two_uplinks_by_destination(lab: Lab) -> None:
    lab.must("home", ["ip", "route", "add", ALTERNATE, "via", carrier(lab)])
    for profile in profiles(lab):
        mapping = profile["mapping"]
        assert (mapping["value"], mapping["certainty"]) == ("address-dependent", "likely")
        assert f"external addresses differ, {FIRST} and {SECOND}: there may be several ways out" in mapping["reason"]
        assert profile["filtering"]["value"] == "address-and-port-dependent"


def test_two_uplinks_by_flow(lab: Lab) -> None:
    uplink = lab.legs("home").uplink
    hops = ["nexthop", "via", carrier(lab), "nexthop", "dev", uplink]
    lab.must("home", ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/fib_multipath_hash_policy"])
    for server in (PRIMARY, ALTERNATE):
        if lab.run("home", ["ip", "route", "add", server, *hops]).returncode:
            not_here("this kernel has no multipath routes (CONFIG_IP_ROUTE_MULTIPATH)")
    for profile in profiles(lab):
        assert profile["mapping"]["certainty"] in ("not-determined", "likely"), profile["mapping"]
        assert "there may be several ways out" in profile["mapping"]["reason"]
        assert profile["filtering"]["value"] in ("address-and-port-dependent", None)
