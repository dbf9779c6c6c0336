"""Packets of the in-memory internet: what NATs, links and hosts hand to each other. Values, and nothing that acts."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NamedTuple

from natprobe.behaviour import Protocol
from natprobe.endpoint import Address, Endpoint


class Flags(Enum):
    """What a TCP segment does (RFC 9293 §3.1); all but the first SYN acknowledge as well."""

    SYN = "SYN"
    SYN_ACK = "SYN-ACK"
    ACK = "ACK"
    FIN = "FIN"
    RST = "RST"


class Unreachable(StrEnum):
    """Why an ICMP destination unreachable was sent (RFC 792), in the words in which a socket's Rejection tells it."""

    NETWORK = "network unreachable"
    HOST = "host unreachable"
    PORT = "port unreachable"
    PROHIBITED = "communication administratively prohibited"


class Icmp(NamedTuple):
    """An ICMP error: why, and the packet that it is about, as whoever sent the error saw that."""

    reason: Unreachable
    about: Packet


class Packet(NamedTuple):
    """A datagram, a TCP segment (then it has ``flags``) or an ICMP error about one (then it has ``error``).

    Sequence numbers count bytes, a SYN and a FIN one each, and never wrap round.
    """

    protocol: Protocol
    source: Endpoint
    destination: Endpoint
    payload: bytes = b""
    flags: Flags | None = None
    seq: int = 0
    ack: int = 0
    error: Icmp | None = None

    def sent_from(self, source: Endpoint) -> Packet:
        """Return this packet with another source."""
        return Packet(self[0], source, *self[2:])

    def sent_to(self, destination: Endpoint) -> Packet:
        """Return this packet with another destination."""
        return Packet(self[0], self[1], destination, *self[3:])

    @property
    def end(self) -> int:
        """The sequence number that follows this segment."""
        return self.seq + len(self.payload) + (self.flags in (Flags.SYN, Flags.SYN_ACK, Flags.FIN))


def unreachable(about: Packet, reason: Unreachable, by: Address) -> Packet:
    """Return the ICMP error about a packet, sent by ``by`` to where that packet says that it comes from."""
    home = about.source.with_port(0)
    return Packet(about.protocol, Endpoint(by, 0), home, error=Icmp(reason, about))


def reset(about: Packet) -> Packet:
    """Return the RST that answers a segment which belongs to no connection (RFC 9293 §3.5.2)."""
    seq = 0 if about.flags is Flags.SYN else about.ack
    return Packet(about.protocol, about.destination, about.source, flags=Flags.RST, seq=seq, ack=about.end)
