"""Reports of the lab's NATs, made in memory: of a host at home, and of its peer in an office."""

from __future__ import annotations

from functools import cache

from natprobe.lab.policy import PRESETS
from natprobe.lab.simulation import simulate
from natprobe.report import Report


@cache
def home(policy: str) -> Report:
    """Return the report of a host behind such a NAT. Its clock does not run within another event loop."""
    return simulate(PRESETS[policy])


@cache
def office(policy: str) -> Report:
    """Return the report of a host behind another router of this kind, with another address outside."""
    text = home(policy).dumps().replace('"198.51.100.1:', '"198.51.100.2:').replace("10.64.1.10", "10.64.2.10")
    return Report.loads(text)
