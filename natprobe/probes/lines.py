"""Flows from chosen local ports: what is sent from where, and as what it is seen; the same over UDP and over TCP."""

from __future__ import annotations

from typing import Protocol as Shape

from natprobe.behaviour import Protocol
from natprobe.conversation import Conversation
from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedMessage
from natprobe.extensions import Extension, group_attribute, overlap_attribute, read_overlap
from natprobe.observation import Flow, Purpose
from natprobe.probes import Setting, plain_attributes
from natprobe.stun import Message


class Lines(Shape):
    """Flows of one protocol, alive until closed; to ask a remote again from one local endpoint is the same flow."""

    sent: int
    """Datagrams sent."""

    async def ask(self, local: Endpoint, remote: Endpoint) -> Flow:
        """Ask ``remote`` as what ``local`` (port 0: a fresh one) is seen. Raises AddressBusy."""

    def close(self) -> None: ...


class UdpLines:
    """Datagrams. A NAT keeps a mapping whether or not there is a socket behind it, so that none is held."""

    def __init__(self, setting: Setting) -> None:
        self.sent = 0
        self._setting = setting

    async def ask(self, local: Endpoint, remote: Endpoint) -> Flow:
        async with await self._setting.mailbox(local.port, local.address) as mailbox:
            exchange = await mailbox.ask(Purpose.MAPPING, remote, *plain_attributes())
        self.sent += exchange.sent
        return Flow(mailbox.local, remote, exchange.mapped if exchange.answered else None)

    def close(self) -> None: ...


class TcpLines:
    """Connections, held."""

    def __init__(self, setting: Setting) -> None:
        self.sent = 0
        self._setting = setting
        self._conversations: dict[tuple[Endpoint, Endpoint], Conversation] = {}

    async def ask(self, local: Endpoint, remote: Endpoint) -> Flow:
        conversation = self._conversations.get((local, remote))
        if conversation is None:
            conversation = await self._setting.conversation(local, remote)
            if conversation.connected:  # one that failed has no port yet, and would answer for all that are to come
                self._conversations[conversation.local, remote] = conversation
        tag = group_attribute(self._setting.tag)
        exchange = await conversation.ask(Purpose.MAPPING, tag, overlap_attribute(), *plain_attributes())
        mapped = exchange.mapped if exchange.answered else None
        return Flow(conversation.local, remote, mapped, _overlap(conversation.reply))

    def close(self) -> None:
        for conversation in self._conversations.values():
            conversation.close()


def _overlap(reply: Message | None) -> Endpoint | None:
    value = reply.value(Extension.OVERLAP) if reply else None
    try:
        return read_overlap(value) if value else None
    except MalformedMessage:
        return None


def lines_of(setting: Setting, protocol: Protocol) -> Lines:
    """Return lines from this host; whoever asks for them closes them."""
    return UdpLines(setting) if protocol is Protocol.UDP else TcpLines(setting)
