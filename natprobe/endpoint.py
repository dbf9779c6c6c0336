"""Transport addresses (RFC 8489 §4): an IP address and a port, parsed, ordered and put into a scope.

Knows nothing of sockets or packets.
"""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, final

Address = IPv4Address | IPv6Address


class Scope(StrEnum):
    """How far an address is meaningful; what two ends must agree on before one can be reached from the other.

    Documentation ranges count as global: a lab uses them in place of the internet.
    """

    UNSPECIFIED = "unspecified"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    MULTICAST = "multicast"
    RESERVED = "reserved"  # RFC 1112 §4, and the limited broadcast address (RFC 919 §7)
    PRIVATE = "private"  # RFC 1918, RFC 4193, and site-local (RFC 3879)
    SHARED = "shared"  # RFC 6598: between a carrier's NAT and its subscribers
    GLOBAL = "global"


NO_HOST = frozenset({Scope.UNSPECIFIED, Scope.MULTICAST, Scope.RESERVED})
"""The scopes in which no address is that of one host."""
_NETWORKS = tuple(
    (scope, ip_network(network))
    for scope, networks in {
        Scope.UNSPECIFIED: ("0.0.0.0/8", "::/128"),  # RFC 1122 §3.2.1.3
        Scope.LOOPBACK: ("127.0.0.0/8", "::1/128"),
        Scope.LINK_LOCAL: ("169.254.0.0/16", "fe80::/10"),
        Scope.MULTICAST: ("224.0.0.0/4", "ff00::/8"),
        Scope.RESERVED: ("240.0.0.0/4",),
        Scope.PRIVATE: ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
        Scope.SHARED: ("100.64.0.0/10",),
    }.items()
    for network in networks
)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1


_WIDTH = (Scope.LOOPBACK, Scope.LINK_LOCAL, Scope.PRIVATE, Scope.SHARED, Scope.GLOBAL)


def is_narrower(scope: Scope, than: Scope) -> bool:
    """Return whether an address of ``scope`` is of no use to all who reach one of the scope ``than``."""
    return scope not in _WIDTH or (than in _WIDTH and _WIDTH.index(scope) < _WIDTH.index(than))


def parse_address(text: str) -> Address:
    """Return the address that ``text`` names, an IPv4-mapped IPv6 address as the IPv4 one it stands for.

    A zone (``fe80::1%eth0``) says where an address leads and is no part of it: an Endpoint keeps it. Raises ValueError
    for anything that is not a literal address.
    """
    address = ip_address(text.partition("%")[0])
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def scope_of(address: Address) -> Scope:
    """Return the scope in which ``address`` can be reached: of one that embeds an IPv4 address, that one's scope."""
    embedded = _embedded(address) if isinstance(address, IPv6Address) else None
    found = address if embedded is None else embedded
    matching = (scope for scope, network in _NETWORKS if network.version == found.version and found in network)
    return next(matching, Scope.GLOBAL)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that packets to ``address`` end up at: IPv4-mapped, 6to4 (RFC 3056) or NAT64."""
    if address in _NAT64:
        return IPv4Address(address.packed[12:])
    return address.ipv4_mapped or address.sixtofour


@final
class Endpoint:
    """A transport address: a value, ordered, written and read as ``198.51.100.1:3478`` or ``[2001:db8::1]:3478``.

    ``zone`` is the interface that leads to a link-local address (RFC 4007 §11), None for any other. It is known to this
    host alone, so two endpoints that differ in nothing else are equal.
    """

    # No dataclass: in JSON it is a string, and it is hashed and compared more often than anything else here.
    __slots__ = ("_hash", "address", "port", "zone")

    def __init__(self, address: Address, port: int, zone: str | None = None) -> None:
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"port {port} is not between 0 and 65535")
        self.address: Final = address
        self.port: Final = port
        self.zone: Final = zone if zone and address.is_link_local else None
        self._hash: Final = hash((address, port))

    @classmethod
    def of(cls, address: str | Address, port: int) -> Endpoint:
        """Return the endpoint at a literal address; raises ValueError if ``address`` or ``port`` is not one."""
        if isinstance(address, str):
            return cls(parse_address(address), port, address.partition("%")[2])
        return cls(address, port)

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read what ``str()`` writes. Raises ValueError with the offending text."""
        host, colon, port = text.rpartition(":")
        if not (colon and port.isascii() and port.isdigit()):
            raise ValueError(f"{text!r} has no port")
        return cls.of(host.removeprefix("[").removesuffix("]"), int(port))

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.address.version

    @property
    def scope(self) -> Scope:
        return scope_of(self.address)

    @property
    def sockaddr(self) -> tuple[str, int]:
        """The pair that the socket module takes."""
        return str(self.address), self.port

    def with_port(self, port: int) -> Endpoint:
        return Endpoint(self.address, port, self.zone)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Endpoint) and self.port == other.port and self.address == other.address
        )

    def __hash__(self) -> int:
        return self._hash

    def __lt__(self, other: Endpoint) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, int, int]:
        return self.version, int(self.address), self.port

    def __repr__(self) -> str:
        return f"Endpoint({self})"

    def __str__(self) -> str:
        zone = f"%{self.zone}" if self.zone else ""
        return f"[{self.address}{zone}]:{self.port}" if self.version == 6 else f"{self.address}:{self.port}"


_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):(//)?(?!\d+$)", re.IGNORECASE)
_FOREIGN = {
    "stuns": "STUN over TLS is what `natprobe turn` checks; name the server's plain port here, without `stuns:`",
    "turn": "`natprobe turn` checks TURN servers; name the host alone here, without `turn:`, if it answers STUN too",
    "turns": "`natprobe turn` checks TURN servers; name the host alone here, without `turns:`, if it answers STUN too",
}
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")


def split_server(text: str) -> tuple[str, int | None]:
    """Split a server as users name it: what ``split_host_port`` takes, and ``stun:`` before it (RFC 7064).

    Raises ValueError, with what to write instead, for any other URI and for a host that is no address and no name.
    """
    place = text.strip()
    if (scheme := _SCHEME.match(place)) and not _is_ipv6(place):
        name = scheme[1].lower()
        if name in _FOREIGN:
            raise ValueError(f"{text!r} is no HOST[:PORT]: {_FOREIGN[name]}")
        if name == "stun":
            place = place[scheme.end() :]
        elif scheme[2]:
            raise ValueError(f"{text!r} is no HOST[:PORT]: name the host alone, without `{scheme[0]}`")
    for mark, what in (("?", "a query"), ("#", "a fragment"), ("/", "a path"), ("@", "a user")):
        if mark in place:
            raise ValueError(f"{text!r} has {what}, and is no HOST[:PORT]: leave out {mark!r} and what belongs to it")
    host, port = split_host_port(place)
    _check_host(host)
    return host, port


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _check_host(host: str) -> None:
    """Raise ValueError for what is neither an address nor a name (RFC 1123 §2.1, RFC 5890)."""
    try:
        ip_address(host)
    except ValueError:
        labels = host.removesuffix(".").split(".")
        if len(labels) == 4 and all(label.isascii() and label.isdigit() for label in labels):
            raise ValueError(f"{host!r} is no IPv4 address") from None
        if ":" in host:
            raise ValueError(f"{host!r} is no IPv6 address; one with a port is [ADDRESS]:PORT") from None
        encoded = [_encoded(label, host) for label in labels]
        if len(".".join(encoded)) > 253:
            raise ValueError("the name of the host is longer than 253 letters") from None


def _encoded(label: str, host: str) -> str:
    """Return a label as it is asked for (RFC 3490 §4.1); raises ValueError where it is none."""
    if not label:
        raise ValueError(f"{host!r} is no host name: there is nothing between two dots")
    try:
        encoded = label if label.isascii() else label.encode("idna").decode()
    except UnicodeError:
        raise ValueError(f"{host!r} is no host name: {label!r} cannot be written in DNS") from None
    if len(encoded) > 63:
        raise ValueError(f"{host!r} is no host name: a part of it is longer than 63 letters")
    if not _LABEL.fullmatch(encoded):
        raise ValueError(f"{host!r} is no host name: letters, digits, hyphens and dots are")
    return encoded


def split_host_port(text: str) -> tuple[str, int | None]:
    """Split ``host``, ``host:port``, ``[v6]``, ``[v6]:port`` or a bare IPv6 literal into a host and a port.

    Raises ValueError where the port is no number between 1 and 65535 or a bracket is left open.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError(f"{text!r} is not [address] or [address]:port")
    elif text.count(":") == 1:
        host, colon, rest = text.partition(":")
        rest = colon + rest
    else:
        host, rest = text, ""
    if not host:
        raise ValueError(f"{text!r} names no host")
    if not rest:
        return host, None
    port = rest[1:]
    if not (rest.startswith(":") and port.isascii() and port.isdigit() and 1 <= int(port) <= 0xFFFF):
        raise ValueError(f"{port!r} in {text!r} is no port number")
    return host, int(port)
