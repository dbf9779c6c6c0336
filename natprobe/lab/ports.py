"""Which external endpoints a NAT offers to a new mapping, in the order in which it tries them.

Pure: knows nothing of what is taken, and draws only from the generator that it was given.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from natprobe.behaviour import PortAssignment
from natprobe.endpoint import Address, Endpoint
from natprobe.lab.details import Pooling
from natprobe.lab.policy import ProtocolPolicy

_FIRST_SEQUENTIAL = 40000
_CLASSES = ((512, range(1, 512)), (1024, range(600, 1024)), (1 << 16, range(1024, 1 << 16)))
"""What Linux picks from for inside ports below each bound (RFC 4787 §4.2.1 REQ-3a asks for the like)."""


@dataclass(slots=True)
class Ports:
    """The external ports of one protocol."""

    policy: ProtocolPolicy
    addresses: Sequence[Address]
    rng: random.Random
    _given: Counter[range] = field(default_factory=Counter)
    _blocks: dict[Address, int] = field(default_factory=dict)
    _turn: int = 0

    def candidates(self, internal: Endpoint, remote: Endpoint) -> Iterator[Endpoint]:
        """Yield what a new mapping may be, best first; the first one that is free is taken. None left: exhausted."""
        addresses = self._addresses(internal.address, remote.address)
        ports = self._ports(internal)
        if self.policy.port_assignment is PortAssignment.PRESERVING and self._may_keep(internal.port, ports):
            for address in addresses:
                yield Endpoint(address, internal.port)
        for port in self._in_order(ports, internal):
            yield Endpoint(addresses[0], port)

    def _addresses(self, inside: Address, remote: Address) -> Sequence[Address]:
        if len(self.addresses) == 1:
            return self.addresses
        match self.policy.details.pooling:
            case Pooling.PAIRED:
                return [self.addresses[int(inside) % len(self.addresses)]]
            case Pooling.ARBITRARY:
                first = self.rng.randrange(len(self.addresses))
            case Pooling.ARBITRARY_IN_TURN:
                first, self._turn = self._turn, self._turn + 1
            case Pooling.ARBITRARY_BY_DESTINATION:
                first = int(inside) + int(remote)
        first %= len(self.addresses)
        return [*self.addresses[first:], *self.addresses[:first]]

    def _ports(self, internal: Endpoint) -> range:
        """Return the ports that this endpoint may be given: of its range, its host's block and its parity."""
        ports = self._range(internal.port)
        if size := self.policy.details.port_block:
            block = self._blocks.setdefault(internal.address, len(self._blocks))
            ports = ports[block * size : (block + 1) * size]
        if self.policy.details.parity:
            ports = ports[(ports.start ^ internal.port) & 1 :: 2]
        return ports

    def _range(self, port: int) -> range:
        if self.policy.details.port_range:
            low, high = self.policy.details.port_range
            return range(low, high + 1)
        if self.policy.port_assignment is PortAssignment.SEQUENTIAL:
            return range(_FIRST_SEQUENTIAL, 1 << 16)
        return next(ports for bound, ports in _CLASSES if port < bound)

    def _may_keep(self, port: int, ports: range) -> bool:
        limited = self.policy.details.port_range or self.policy.details.port_block
        return port in ports or not limited

    def _in_order(self, ports: range, internal: Endpoint) -> Iterator[int]:
        match self.policy.port_assignment:
            case _ if not ports:
                return
            case PortAssignment.SEQUENTIAL:
                for _ in ports:
                    place = self._given[ports] * self.policy.details.port_step
                    self._given[ports] += 1
                    yield ports[place % len(ports)]
            case PortAssignment.OTHER:  # computed from the inside endpoint, which nobody outside can guess
                yield from _from(ports, int(internal.address) * 31 + internal.port * 40503)
            case _:
                yield from _from(ports, self.rng.randrange(len(ports)))


def _from(ports: range, place: int) -> Iterator[int]:
    start = place % len(ports)
    yield from ports[start:]
    yield from ports[:start]
