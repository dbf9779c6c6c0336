"""Where a reflector stands: its addresses and ports, and which of them is what to the one that got a request.

Pure: knows endpoints and the names that the extensions give to sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from natprobe.endpoint import Address, Endpoint, Scope, scope_of
from natprobe.extensions import Site, Source
from natprobe.stun import Change


@dataclass(frozen=True)
class Layout:
    """Where a reflector stands: up to three addresses (primary, alternate, quiet) and one or two ports.

    ``quiet_ports`` has one port per address, from which is only ever sent. ``destinations`` are more ports of the
    primary and the alternate address, over TCP, that only answer: for clients that hold many connections. Raises
    ValueError for a set that is none.
    """

    addresses: tuple[Address, ...]
    ports: tuple[int, ...]
    quiet_ports: tuple[int, ...]
    destinations: range = range(0)

    def __post_init__(self) -> None:
        if not 1 <= len(self.addresses) <= 3 or len(set(self.addresses)) != len(self.addresses):
            named = ", ".join(map(str, self.addresses)) or "none"
            raise ValueError(f"a reflector has one, two or three different addresses of an IP version, not {named}")
        if len({address.version for address in self.addresses}) > 1:
            raise ValueError("the addresses of a reflector are all IPv4 or all IPv6")
        if not 1 <= len(self.ports) <= 2 or len(set(self.ports)) != len(self.ports):
            raise ValueError(f"a reflector has one or two different ports, not {', '.join(map(str, self.ports))}")
        if not all(0 < port <= 0xFFFF for port in self.ports):
            raise ValueError("the ports of a reflector are fixed, from 1 to 65535: 0 would be another one each time")
        if len(self.quiet_ports) != len(self.addresses):
            raise ValueError("a reflector has one quiet port for each address")
        if any(port in self.destinations for port in self.ports):
            raise ValueError("the destination ports of a reflector are others than its ports")

    @cached_property
    def listening(self) -> tuple[Endpoint, ...]:
        """The endpoints that answer, over UDP and over TCP; the first one is where clients are sent."""
        return tuple(Endpoint(address, port) for address in self.addresses[:2] for port in self.ports)

    def reached(self) -> Iterator[Endpoint]:
        """Yield the endpoints that answer over TCP alone, an address after the other."""
        return (Endpoint(address, port) for address in self.addresses[:2] for port in self.destinations)

    @cached_property
    def sending(self) -> tuple[Endpoint, ...]:
        """The endpoints that only send, over UDP."""
        quiet = tuple(map(Endpoint, self.addresses, self.quiet_ports))
        return quiet + tuple(Endpoint(address, port) for address in self.addresses[2:] for port in self.ports)

    def sources(self, local: Endpoint) -> dict[Source, Endpoint]:
        """Return from where can be sent, seen from the endpoint that got the request."""
        quiet = dict(zip(self.addresses, self.quiet_ports, strict=True))
        found = {Source.SELF: local, Source.SAME_ADDRESS: local.with_port(quiet[local.address])}
        if len(self.addresses) > 1:
            alternate = self.addresses[local.address == self.addresses[0]]
            found[Source.ALTERNATE_SAME_PORT] = Endpoint(alternate, local.port)
            found[Source.ALTERNATE] = Endpoint(alternate, quiet[alternate])
        for silent in self.addresses[2:]:
            found[Source.QUIET_SAME_PORT] = Endpoint(silent, local.port)
            found[Source.QUIET] = Endpoint(silent, quiet[silent])
        return found

    def dialled_from(self, local: Endpoint) -> dict[Source, Endpoint]:
        """Return from where can be dialled; port 0 stands for a fresh one, for TCP has no need of quiet ports."""
        return {
            source: origin if origin.port == local.port else origin.with_port(0)
            for source, origin in self.sources(local).items()
        }

    def changed(self, local: Endpoint, change: Change) -> Endpoint | None:
        """Return where CHANGE-REQUEST moves the reply's origin; None where there is no such address or port."""
        address, port = local.address, local.port
        if change & Change.ADDRESS:
            if len(self.addresses) < 2:
                return None
            address = self.addresses[address == self.addresses[0]]
        if change & Change.PORT:
            if len(self.ports) < 2:
                return None
            port = self.ports[port == self.ports[0]]
        return Endpoint(address, port)

    def limits(self) -> list[str]:
        """Return, a sentence each, what cannot be tested with these addresses and ports."""
        found = []
        if len(self.addresses) == 1:
            found.append("One address only: whether mapping and filtering depend on the address cannot be tested.")
        elif len(self.addresses) == 2:
            found.append("No quiet address: filtering is tested from addresses that clients also send to.")
        private = [str(a) for a in self.addresses if scope_of(a) in (Scope.PRIVATE, Scope.SHARED)]
        if private:
            found.append(
                f"{' and '.join(private)} {'are' if len(private) > 1 else 'is'} private: clients outside this network "
                "cannot be answered from there; serve on a public address of this host for them."
            )
        if len(self.ports) == 1:
            found.append("One port only: whether mapping depends on the port cannot be tested.")
        return found

    def site(self, local: Endpoint, *, stream: bool = False) -> Site:
        """Return what SITE tells who asks ``local`` over UDP or over TCP: what it may ask for, and who listens."""
        sources = self.dialled_from(local) if stream else self.sources(local)
        roles = tuple((source, endpoint) for source, endpoint in sources.items() if source is not Source.SELF)
        return roles + tuple((Source.LISTENS, endpoint) for endpoint in self.listening)
