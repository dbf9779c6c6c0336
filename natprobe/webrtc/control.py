"""Beside silence, a control: what else answers at the place where a STUN or TURN server was silent?"""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
from dataclasses import dataclass, replace

from natprobe.endpoint import Endpoint
from natprobe.errors import CannotRun, MalformedMessage
from natprobe.extensions import Extension, cookie_attribute, filler_attribute
from natprobe.sockets import HostNetwork
from natprobe.stun import Attribute, Class, Message, request
from natprobe.webrtc.approach import Approach
from natprobe.webrtc.ice_servers import IceUrl
from natprobe.webrtc.outcome import Unusable
from natprobe.webrtc.turn import Method, TurnType

_PADDING = 384
_UDP = 17

_NO_TURN = "a STUN server answers there, but no TURN"
_NO_STUN = "a TURN server answers there, but no STUN (coturn: no-stun)"
_REFLECTOR = "a natprobe reflector answers there, which is no TURN server"
_REFLECTOR_ALONE = "a natprobe reflector answers there, and other clients only if it is started with --compat"
_OVER_TCP = (
    "no answer over UDP, while the same server answers over TCP: UDP is blocked on the way, or the answers are lost "
    "(coturn 4.17 sends them with TTL 1)"
)


@dataclass
class Control:
    """Questions to a server that has been silent, each on a socket of its own, and what their answers mean."""

    network: HostNetwork
    url: IceUrl
    remote: Endpoint
    tls: ssl.SSLContext | None
    _service: str | None = None
    _over_tcp: str | None = None

    @property
    def said(self) -> str | None:
        """What answers there; an answer over the transport that was asked for tells more than one over TCP."""
        return self._service or self._over_tcp

    async def ask(self) -> None:
        """Ask all at once. Ends when all are answered or silent; may be cancelled before."""
        questions = [self._ask_binding()]
        if not self.url.relay:
            questions.append(self._ask_allocate())
        if self.url.transport == "udp":
            questions.append(self._ask_over_tcp())
        await asyncio.gather(*questions)

    async def _ask_binding(self) -> None:
        # With a cookie and padding, natprobe's reflector answers too: it sends nothing longer than its request.
        reply = await self._answer(request(cookie_attribute(), filler_attribute(_PADDING)), self.url)
        if reply is None:
            return
        if reply.value(Extension.SITE) is not None or reply.value(Extension.COOKIE) is not None:
            self._service = _REFLECTOR if self.url.relay else _REFLECTOR_ALONE
        elif self.url.relay:
            self._service = _NO_TURN

    async def _ask_allocate(self) -> None:
        if await self._answer(_allocate(), self.url):
            self._service = self._service or _NO_STUN

    async def _ask_over_tcp(self) -> None:
        question = _allocate() if self.url.relay else request()
        if await self._answer(question, replace(self.url, asked_transport="tcp")):
            self._over_tcp = _OVER_TCP

    async def _answer(self, question: Message, url: IceUrl) -> Message | None:
        """Return the answer, be it an error; None where none comes."""
        try:
            link = await Approach(self.network, url, self.remote, self.tls).open()
            try:
                return await link.ask(question)
            finally:
                await link.close()
        except (Unusable, CannotRun, MalformedMessage, OSError):
            return None


def _allocate() -> Message:
    transport = Attribute(TurnType.REQUESTED_TRANSPORT, struct.pack("!Bxxx", _UDP))
    return Message(Class.REQUEST, os.urandom(12), (transport,), Method.ALLOCATE)
