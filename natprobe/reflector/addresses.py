"""On which addresses a reflector can be served: those of this host that a packet can be sent to and sent from."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address

from natprobe.endpoint import Address, Scope, parse_address, scope_of
from natprobe.errors import AddressBusy

_NEVER = {
    Scope.UNSPECIFIED: "stands for all addresses: a reflector tells clients each one that it answers from",
    Scope.MULTICAST: "is a multicast address",
    Scope.LINK_LOCAL: "is a link-local address, which clients beyond this link cannot reach",
}


def servable(addresses: Iterable[str | Address]) -> tuple[Address, ...]:
    """Return the addresses. Raises ValueError, with those that this host has, for what no host can serve on."""
    return tuple(_servable(address) for address in addresses)


def _servable(given: str | Address) -> Address:
    try:
        address = parse_address(str(given).replace("%", " "))  # a zone means nothing to clients
    except ValueError:
        raise ValueError(f"{str(given)!r} is no address that can be served: {own_addresses()}") from None
    why = _NEVER.get(scope_of(address))
    if isinstance(address, IPv4Address) and address.is_reserved:
        why = "is a reserved address, or the one for broadcasts"
    if why:
        raise ValueError(f"{address} {why}: {own_addresses()}")
    return address


def check_own(address: Address) -> None:
    """Raise AddressBusy for an address that can be bound and not connected to: the broadcast address of a network.

    Nothing is sent to find this out.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
            probe.connect((str(address), 9))
    except PermissionError:
        raise AddressBusy(f"{address} is a broadcast address: {own_addresses()}") from None


def own_addresses() -> str:
    """Return the addresses of this host that can be served, in words; those that most clients can reach come first."""
    import ifaddr  # noqa: PLC0415 - for those alone who named another address

    found = (ip.ip if isinstance(ip.ip, str) else ip.ip[0] for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    order = list(Scope)
    usable = {address for address in map(parse_address, found) if scope_of(address) not in _NEVER}
    served = sorted(usable, key=lambda address: (-order.index(scope_of(address)), address.version, int(address)))
    return f"this host has {', '.join(map(str, served))}" if served else "this host has no address up"
