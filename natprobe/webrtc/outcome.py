"""What the check of one STUN or TURN server came to, and its JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from natprobe.endpoint import Endpoint

CHECKS_SCHEMA = "natprobe.ice-servers/1"


class Depth(StrEnum):
    """How far a check goes; each step contains those before it. A STUN server can only be bound to."""

    BIND = "bind"
    """A Binding request is answered (RFC 8489)."""
    ALLOCATE = "allocate"
    """An allocation is made (RFC 8656 §7)."""
    PERMISSION = "permission"
    """A peer may be let in (RFC 8656 §9)."""
    ECHO = "echo"
    """Bytes go out through the relay and come back."""


class IceServerState(StrEnum):
    """Whether a server is usable, and if not, what is in the way."""

    OK = "ok"
    DNS = "dns"
    """The name has no address, or nobody tells it."""
    UNREACHABLE = "unreachable"
    """This host has no route there, or a router on the way said that it has none."""
    TIMEOUT = "timeout"
    REFUSED = "refused"
    """Nobody listens on the port: a TCP reset, or ICMP port unreachable."""
    CLOSED = "closed"
    """The connection was closed in place of an answer."""
    TLS = "tls"
    """The certificate is not valid, or what listens there does not speak TLS."""
    NOT_STUN = "not_stun"
    UNAUTHORIZED = "unauthorized"
    """401: credentials are wanted, or those given are wrong."""
    STALE_NONCE = "stale_nonce"
    """438, also to the nonce that the server had just given."""
    QUOTA = "quota"
    """486: this user has all the allocations that the server grants."""
    FORBIDDEN_PEER = "forbidden_peer"
    """403: the server relays to none of the peers tried."""
    NO_DATA = "no_data"
    """An allocation and a permission were granted, but nothing goes through."""
    SELF_ONLY = "self_only"
    """Bytes go through the relay to itself, and none come in from outside of the server."""
    RELAY_ADDRESS = "relay_address"
    """The relayed address is one that peers cannot reach, as a private address of a public server's."""
    ERROR = "error"
    """The server refuses with another error, or breaks the protocol."""
    NOT_CHECKED = "not_checked"
    """natprobe cannot speak the way to this server that the URL asks for."""


class Unusable(Exception):
    """Ends a check: what is in the way, and why."""

    def __init__(self, state: IceServerState, reason: str) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason

    @property
    def outcome(self) -> tuple[IceServerState, str]:
        return self.state, self.reason


@dataclass(frozen=True, slots=True)
class IceServerCheck:
    """One server over one transport and one IP version: usable or not, why not, and what was measured.

    Times are in milliseconds, ``lifetime`` in seconds. What was not learnt is None.
    """

    url: str
    transport: str
    """``udp``, ``tcp`` or ``tls``; ``dtls`` is never checked."""
    family: int | None
    """4 or 6; None where no address was found."""
    state: IceServerState
    reason: str | None = None
    """Why not, in one line. For a usable server None, or what could not be tested and how the server was found."""
    code: int | None = None
    """The STUN error code (RFC 8489 §14.8), where the server answered with one that ended the check."""
    username: str | None = None
    """As whom it was checked."""
    mark: str | None = None
    """By this the process that checked knows the credentials again; it betrays nothing of them."""
    unsupported_by_aiortc: str | None = None
    """Why aiortc passes over this URL without a word, or refuses it; None where it would use it."""
    address: Endpoint | None = None
    alternate: Endpoint | None = None
    """Where the server sent this client by 300 Try Alternate, and what was checked in its place."""
    depth: Depth | None = None
    """The deepest step that succeeded."""
    rtt_ms: float | None = None
    """The shortest time from a request to its answer."""
    allocate_ms: float | None = None
    """From the first Allocate request to the relayed address: two round trips, with the server's challenge."""
    mapped: Endpoint | None = None
    """How the server sees this host."""
    relayed: Endpoint | None = None
    lifetime: int | None = None
    """What the server grants to an allocation."""
    software: str | None = None
    realm: str | None = None
    not_after: datetime | None = None
    """Until when the server's certificate is valid."""

    @property
    def usable(self) -> bool:
        return self.state is IceServerState.OK

    @property
    def serves_aiortc(self) -> bool:
        """Whether aiortc too can use the server at this address: it does not follow 300 Try Alternate."""
        return self.usable and self.alternate is None

    @property
    def confirmed(self) -> bool:
        """Whether all that was asked for was tested, by a path that peers' packets take too."""
        return self.usable and self.reason is None

    def to_json(self) -> dict[str, Any]:
        """Return this as an object for ``json.dumps``, every field by its name."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value) if isinstance(value, Endpoint) else value
