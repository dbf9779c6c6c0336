"""How many connections one external address can carry at once, where ports are exclusive and where they are shared.

An exclusive port carries the connections of one mapping, so an address has room for as many mappings as it has ports. A
port that is used again for every other destination endpoint (RFC 7857 §3) runs out towards one destination only: first
towards the one that most connections go to. With P ports, and a share s of all connections going to the busiest
destination endpoint, that happens at N = P / s, whatever the other destinations are.
"""

from __future__ import annotations

from dataclasses import dataclass

POOL = 65_536 - 1024
"""Ports that a NAT gives out (RFC 4787 §4.2.1: the range 1024 to 65535 for inside ports of that range)."""
BUSIEST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Capacity:
    """Connections per external address and protocol: of ``pool`` ports, ``busiest_share`` to one destination."""

    pool: int
    busiest_share: float

    @property
    def exclusive(self) -> int:
        """Where each connection takes a port of its own."""
        return self.pool

    @property
    def shared(self) -> int:
        """Where a port is used again for other destinations."""
        return int(self.pool / self.busiest_share)


def capacity(busiest_share: float = BUSIEST_SHARE, pool: int = POOL) -> Capacity:
    """Return what an address carries. Raises ValueError for a share that is none."""
    if not 0 < busiest_share <= 1:
        raise ValueError(f"the share of the busiest destination is more than 0 and at most 1, not {busiest_share:g}")
    return Capacity(pool, busiest_share)
