"""What holding many TCP connections from one local port has shown: figures and failures, without an opinion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from natprobe.endpoint import Address, Endpoint


class Method(StrEnum):
    """How a host is brought to give one local port to many connections."""

    REUSE = "SO_REUSEADDR and SO_REUSEPORT"
    """On every socket, before bind. Of the two it is SO_REUSEPORT whose bind does not get slower with each socket."""
    RANGE = "IP_BIND_ADDRESS_NO_PORT and IP_LOCAL_PORT_RANGE"
    """A range of one port, chosen at connect: beside sockets of other programs that share no port (Linux 6.3)."""


class Stage(StrEnum):
    """How far a connection came."""

    SOCKET = "socket"
    BIND = "bind"
    CONNECT = "connect"
    """The call itself: the host refused, nothing was sent."""
    HANDSHAKE = "handshake"
    """What came, or did not come, from the network."""
    EXCHANGE = "exchange"
    """The connection stood, but the first question on it was not answered."""
    PROOF = "proof"
    """The question after the last connection had been opened was not answered."""

    @property
    def final(self) -> bool:
        """Whether the host refused before it knew the destination, so that it will refuse all others too."""
        return self in (Stage.SOCKET, Stage.BIND)


SILENCE = "silence"
CLOSED = "closed"
NO_STUN = "no STUN"


@dataclass(frozen=True, slots=True)
class Failure:
    """Connections that failed alike: the first of them towards ``remote``, while so many others were ``held``.

    ``error`` is the name of an errno, or one of the words of this module.
    """

    stage: Stage
    error: str
    count: int
    held: int
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class Opened:
    """One connection: what bind and connect cost the host, and how long the network took; in seconds."""

    remote: Endpoint
    bind: float
    connect: float
    handshake: float


@dataclass(frozen=True, slots=True)
class Step:
    """The medians of a stretch of connections, up to the one with the number ``held``."""

    held: int
    bind_us: float
    connect_us: float
    handshake_ms: float


@dataclass(frozen=True, slots=True)
class External:
    """What one external address carried: connections, over so many ports, so many of them over the ``busiest`` port.

    ``lowest`` and ``highest`` are port numbers; ``towards`` counts the ports for each address of a destination.
    """

    address: Address
    connections: int
    ports: int
    busiest: int
    lowest: int
    highest: int
    towards: tuple[tuple[Address, int], ...]


@dataclass(frozen=True, slots=True)
class Holding:
    """Connections held together from one local endpoint.

    ``opened`` of those ``wanted`` were up when the last one was; ``alive`` of these exchanged data after that.
    ``counted`` is how many the reflectors saw alive at once (None where none counts), ``room`` how many they have room
    for (None: they do not say), ``again`` how many failed and got through when tried once more after a pause,
    ``destinations`` how many endpoints there were to connect to. ``unanswered`` are the
    servers that did not answer, each with how.
    """

    local: Endpoint
    method: Method
    wanted: int
    destinations: int
    opened: int
    alive: int
    opening_s: float
    proof_s: float
    counted: int | None = None
    room: int | None = None
    again: int = 0
    steps: tuple[Step, ...] = ()
    failures: tuple[Failure, ...] = ()
    external: tuple[External, ...] = ()
    unanswered: tuple[str, ...] = ()

    @property
    def translated(self) -> bool:
        """Whether any connection was seen from another endpoint than its own."""
        return any(
            (e.address, e.lowest, e.highest) != (self.local.address, *2 * (self.local.port,)) for e in self.external
        )

    @property
    def external_ports(self) -> int:
        return sum(external.ports for external in self.external)


def steps(opened: Sequence[Opened], rows: int = 8) -> tuple[Step, ...]:
    """Return what the connections cost as there were more and more of them: equal stretches, in their order."""
    length = max(1, -(-len(opened) // rows))
    stretches = [opened[start : start + length] for start in range(0, len(opened), length)]
    return tuple(
        Step(
            number * length + len(stretch),
            round(median(one.bind for one in stretch) * 1e6, 1),
            round(median(one.connect for one in stretch) * 1e6, 1),
            round(median(one.handshake for one in stretch) * 1e3, 2),
        )
        for number, stretch in enumerate(stretches)
    )


def external(seen: Iterable[tuple[Endpoint, Endpoint]]) -> tuple[External, ...]:
    """Return what each external address carried, of pairs of a destination and the endpoint that it saw."""
    ports: dict[Address, dict[int, int]] = {}
    towards: dict[Address, dict[Address, set[int]]] = {}
    for remote, mapped in seen:
        counts = ports.setdefault(mapped.address, {})
        counts[mapped.port] = counts.get(mapped.port, 0) + 1
        towards.setdefault(mapped.address, {}).setdefault(remote.address, set()).add(mapped.port)
    return tuple(
        External(
            address,
            sum(counts.values()),
            len(counts),
            max(counts.values()),
            min(counts),
            max(counts),
            tuple((remote, len(used)) for remote, used in towards[address].items()),
        )
        for address, counts in ports.items()
    )
