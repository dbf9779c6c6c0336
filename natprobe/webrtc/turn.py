"""A TURN client (RFC 8656) that says why: allocate, permit a peer, send through the relay, give the allocation back.

Every refusal is raised with the server's own code and words.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.integrity import long_term_key
from natprobe.stun import Attribute, Class, Message, Type, address, xor_address, xor_mapped_attribute
from natprobe.webrtc.link import Link
from natprobe.webrtc.outcome import IceServerState, Unusable

_UDP = 17
_UNAUTHENTICATED, _STALE_NONCE = 401, 438


class Method(IntEnum):
    """RFC 8656 §17."""

    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008


class TurnType(IntEnum):
    """RFC 8656 §18; ALTERNATE-SERVER and ALTERNATE-DOMAIN of RFC 8489 §14.15 and §14.16; RFC 7635 §6.1."""

    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_TRANSPORT = 0x0019
    PASSWORD_ALGORITHMS = 0x8002
    ALTERNATE_DOMAIN = 0x8003
    ALTERNATE_SERVER = 0x8023
    THIRD_PARTY_AUTHORIZATION = 0x802E


_REGISTERED = range(0x0001, 0x0030)
"""Comprehension-required attributes that some RFC defines; in an answer they surprise nobody."""


class TurnRefusal(Exception):
    """An error response to a request of ``method``.

    ``signed`` is False where it should be signed and is not; ``lacks`` names what is missing to answer a challenge.
    """

    def __init__(self, method: Method, reply: Message, *, signed: bool = True, lacks: str | None = None) -> None:
        self.code, self.phrase = reply.error or (0, "")
        super().__init__(f"{self.code} {self.phrase}".strip())
        self.method = method
        self.signed = signed
        self.lacks = lacks
        self.realm = reply.value(Type.REALM)
        self.alternate = _alternate(reply)
        self.domain = text(reply.value(TurnType.ALTERNATE_DOMAIN))
        self.wants_token = reply.value(TurnType.THIRD_PARTY_AUTHORIZATION) is not None
        self.wants_sha256 = reply.value(TurnType.PASSWORD_ALGORITHMS) is not None
        self.not_followed: str | None = None
        """Why the alternate server was not asked."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a server granted."""

    relayed: Endpoint
    mapped: Endpoint | None
    lifetime: int | None


class TurnClient:
    """One client's allocation at one server; `release` gives it back, whether or not it is known to be there."""

    def __init__(self, link: Link, username: str | None, credential: str | None) -> None:
        self.realm: bytes | None = None
        self.software: str | None = None
        self._link = link
        self._username, self._credential = username, credential
        self.nonce: bytes | None = None
        self._key: bytes | None = None
        self._wanted = False

    async def allocate(self) -> Allocation:
        """Ask for a relayed address for UDP. Raises TurnRefusal, Unusable, MalformedMessage."""
        transport = Attribute(TurnType.REQUESTED_TRANSPORT, struct.pack("!Bxxx", _UDP))
        self._wanted = True  # from now on the server may have one, whether or not its answer arrives
        try:
            reply = await self._request(Method.ALLOCATE, transport)
        except TurnRefusal:
            self._wanted = False
            raise
        relayed = reply.value(TurnType.XOR_RELAYED_ADDRESS)
        if relayed is None:
            raise Unusable(IceServerState.ERROR, "an answer to Allocate without a relayed address")
        return Allocation(xor_address(relayed, reply.transaction_id), reply.mapped, _lifetime(reply))

    async def permit(self, peer: Endpoint) -> None:
        """Let in, and send to, the peer's address. Raises TurnRefusal, Unusable."""
        await self._request(Method.CREATE_PERMISSION, peer=peer)

    async def send(self, data: bytes, peer: Endpoint) -> None:
        """Send a datagram to a peer through the relay; what becomes of it is told by nobody."""
        message = Message(Class.INDICATION, os.urandom(12), (Attribute(TurnType.DATA, data),), Method.SEND)
        await self._link.send(_to(peer, message).encode())

    async def receive(self) -> tuple[bytes, Endpoint]:
        """Wait for the next datagram that a peer has sent through the relay."""
        while True:
            message = await self._link.unasked.get()
            data, peer = message.value(TurnType.DATA), message.value(TurnType.XOR_PEER_ADDRESS)
            if message.method == Method.DATA and data is not None and peer is not None:
                try:
                    return data, xor_address(peer, message.transaction_id)
                except MalformedMessage:
                    continue

    async def release(self) -> None:
        """Give the allocation back (RFC 8656 §8), if there may be one. Raises TurnRefusal, Unusable."""
        if self._wanted:
            await self._request(Method.REFRESH, Attribute(TurnType.LIFETIME, bytes(4)))
            self._wanted = False

    async def _request(self, method: Method, *attributes: Attribute, peer: Endpoint | None = None) -> Message:
        """Ask: with the credentials once they are asked for, and once more where the nonce has become stale."""
        stale = False
        while True:
            challenged = self._key is not None
            reply = await self._link.ask(self._message(method, attributes, peer), self._key)
            self.software = software_of(reply) or self.software
            if reply.class_ is Class.SUCCESS:
                refuse_unknown(reply)
                return reply
            refused = TurnRefusal(method, reply, signed=reply is not self._link.unsigned)
            again = refused.code == _UNAUTHENTICATED and not challenged
            again = again or (refused.code == _STALE_NONCE and not stale)
            if not again or refused.wants_token or self._username is None or self._credential is None:
                raise refused
            refused.lacks = self._take_challenge(reply)
            if refused.lacks:
                raise refused
            stale = stale or refused.code == _STALE_NONCE

    def _message(self, method: Method, attributes: tuple[Attribute, ...], peer: Endpoint | None) -> Message:
        message = Message(Class.REQUEST, os.urandom(12), attributes + self._credentials(), method)
        return _to(peer, message) if peer else message

    def _credentials(self) -> tuple[Attribute, ...]:
        if self._key is None:
            return ()
        username = (self._username or "").encode()
        values = {Type.USERNAME: username, Type.REALM: self.realm, Type.NONCE: self.nonce}
        return tuple(Attribute(type_, value or b"") for type_, value in values.items())

    def _take_challenge(self, reply: Message) -> str | None:
        """Take realm and nonce from an error; return the name of what is missing. An empty realm is a realm."""
        realm, nonce = reply.value(Type.REALM), reply.value(Type.NONCE)
        self.realm = self.realm if realm is None else realm
        if self.realm is None:
            return "REALM"
        if nonce is None:
            return "NONCE"
        assert self._username is not None
        assert self._credential is not None
        self.nonce = nonce
        self._key = long_term_key(self._username, self.realm, self._credential)
        return None


def refuse_unknown(reply: Message) -> None:
    """Raise Unusable for a success with an attribute that must be understood and is not (RFC 8489 §6.3.3)."""
    unknown = reply.unknown(_REGISTERED)
    if unknown:
        names = ", ".join(f"0x{type_:04x}" for type_ in unknown)
        raise Unusable(
            IceServerState.ERROR, f"its answer has an unknown required attribute ({names}): clients discard it"
        )


def software_of(message: Message) -> str | None:
    """Return what a server calls itself (RFC 8489 §14.14), if it says so."""
    return text(message.value(Type.SOFTWARE))


def text(value: bytes | None) -> str | None:
    """Return what a server has written, as far as it can be read."""
    return value.decode("utf-8", "replace").rstrip("\0") if value else None


def _to(peer: Endpoint, message: Message) -> Message:
    """Return the message with XOR-PEER-ADDRESS as its first attribute."""
    value = xor_mapped_attribute(peer, message.transaction_id).value
    return replace(message, attributes=(Attribute(TurnType.XOR_PEER_ADDRESS, value), *message.attributes))


def _lifetime(reply: Message) -> int | None:
    value = reply.value(TurnType.LIFETIME)
    return int.from_bytes(value, "big") if value is not None and len(value) == 4 else None


def _alternate(reply: Message) -> Endpoint | None:
    value = reply.value(TurnType.ALTERNATE_SERVER)
    try:
        return address(value) if value else None
    except MalformedMessage:
        return None
