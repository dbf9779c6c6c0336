"""What a NAT does beyond its classes: ports, pools, hairpins, lifetimes, quotas. The defaults are the RFCs'.

Part of a policy, and data like it. Only the in-memory NAT can be told all of this; a kernel has its own ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import msgspec

from natprobe.behaviour import Hairpinning, Protocol, Treatment


class Pooling(StrEnum):
    """How one of several external addresses is chosen (RFC 4787 §4.1)."""

    PAIRED = "paired"
    """By the inside address, always the same one."""
    ARBITRARY = "arbitrary"
    """At random for every mapping."""
    ARBITRARY_IN_TURN = "arbitrary-in-turn"
    ARBITRARY_BY_DESTINATION = "arbitrary-by-destination"
    """By both addresses of the first packet, as Linux does."""


class Refresh(StrEnum):
    """Which packets keep a UDP mapping alive (RFC 4787 §4.3 REQ-6)."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Details:
    """The finer points of one protocol's treatment. Times are seconds; None is the RFC's figure for the protocol."""

    port_step: int = 1
    """From one sequential port to the next."""
    port_range: tuple[int, int] | None = None
    """The lowest and the highest external port."""
    port_block: int | None = None
    """So many external ports, side by side, are all that one inside address is given (RFC 6888 §3)."""
    parity: bool = False
    """Whether odd ports stay odd and even ones even (RFC 4787 §4.2.2)."""
    pooling: Pooling = Pooling.PAIRED
    hairpinning: Hairpinning = Hairpinning.NONE
    filter_per_host: bool = False
    """Whether what one inside endpoint has sent to may come in to any other of the same inside address."""
    refresh: Refresh = Refresh.OUTBOUND
    lifetime: float | None = None
    """After a packet that was not answered (UDP: 300 s, RFC 4787 §4.3; TCP: 240 s, RFC 5382 §5)."""
    lifetime_stream: float | None = None
    """After a flow has gone both ways, over UDP for two seconds (UDP: 300 s; TCP: 7440 s)."""
    lifetime_closed: float | None = None
    """After a TCP connection's end by two FINs or a RST (240 s, RFC 7857 §2.2)."""
    unsolicited_after: float = 0.0
    """How late an unsolicited packet is refused; not at all if one is sent to its sender meanwhile (RFC 5382 §4.3)."""
    quota: int | None = None
    """How many mappings one inside address may have at once (RFC 6888 §3 REQ-4)."""
    over_quota: Treatment = Treatment.DROPPED

    @classmethod
    def from_json(cls, data: object) -> Details:
        """Read an object of field names and values. Raises ValueError saying which is wrong."""
        if isinstance(data, Mapping) and (unknown := data.keys() - cls.__dataclass_fields__.keys()):
            raise ValueError(f"details have no {', '.join(sorted(map(repr, unknown)))}")
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as wrong:
            raise ValueError(f"details: {wrong}") from None

    def __str__(self) -> str:
        """Name those that are not the default."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return ", ".join(f"{name} {value}" for name, value in values.items() if value != getattr(_DEFAULT, name))

    def lifetimes(self, protocol: Protocol) -> tuple[float, float, float]:
        """Return how long a session lives after its last packet: before it went both ways, then, and once closed."""
        own = self.lifetime, self.lifetime_stream, self.lifetime_closed
        opening, stream, closed = (
            asked if asked is not None else default for asked, default in zip(own, _LIFETIMES[protocol], strict=True)
        )
        return opening, stream, closed

    def behind(self, outer: Details, protocol: Protocol) -> Details:
        """Return what two in series come to as a host behind both sees it, these the nearer; ports are not looked at.

        A flow lives as long as both remember it, and what keeps it alive must pass both.
        """
        opening, stream, closed = map(min, self.lifetimes(protocol), outer.lifetimes(protocol))
        quotas = [details for details in (self, outer) if details.quota is not None]
        scarce = min(quotas, key=lambda details: details.quota or 0, default=outer)
        return replace(
            outer,
            refresh=self.refresh if outer.refresh is Refresh.BOTH else outer.refresh,
            lifetime=opening,
            lifetime_stream=stream,
            lifetime_closed=closed,
            quota=scarce.quota,
            over_quota=scarce.over_quota,
        )


_DEFAULT = Details()
_LIFETIMES: Mapping[Protocol, tuple[float, float, float]] = {
    Protocol.UDP: (300.0, 300.0, 300.0),
    Protocol.TCP: (240.0, 7440.0, 240.0),
}

_CONNTRACK: dict[str, Any] = {"pooling": Pooling.ARBITRARY_BY_DESTINATION, "refresh": Refresh.BOTH}

LINUX: Mapping[Protocol, Details] = {
    Protocol.UDP: Details(lifetime=30.0, lifetime_stream=120.0, **_CONNTRACK),
    Protocol.TCP: Details(lifetime=120.0, lifetime_stream=432_000.0, lifetime_closed=120.0, **_CONNTRACK),
}
"""What the kernel's connection tracking does unless told otherwise."""
