"""Controls for a protocol over which no server answered: does the path drop it, or is it the servers that are silent?

Silence over one protocol says something of the path only beside answers of the same server over the other one; and
packets to a port at which nobody listens are refused by a server's host itself (RFC 1122 §3.2.2.1, RFC 9293 §3.5.2),
whatever becomes of its service: a refusal from there shows that the protocol gets through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing

from natprobe.behaviour import Protocol
from natprobe.endpoint import Endpoint
from natprobe.extensions import udp_service_attribute
from natprobe.observation import Purpose
from natprobe.probes import Setting, answers, hello_attributes, plain_attributes

CLOSED_PORT = 33434
"""Where traceroute sends to, because nobody listens there."""


async def ask_servers(setting: Setting, servers: Sequence[Endpoint], protocol: Protocol) -> None:
    """Record whether the servers answer over a protocol: what tells a blocked other one from a dead server.

    Over TCP a reflector is also asked whether its UDP would have answered.
    """
    if protocol is Protocol.TCP:
        await asyncio.gather(*(_ask_over_tcp(setting, server, Purpose.CONTROL) for server in servers))
        return
    async with await setting.mailbox() as mailbox:
        await answers((mailbox.ask(Purpose.CONTROL, server, *hello_attributes()) for server in servers), setting.record)


async def try_closed_port(setting: Setting, servers: Sequence[Endpoint], protocol: Protocol) -> None:
    """Record what a packet to a port gets at which no service of these servers' listens."""
    closed = [server.with_port(CLOSED_PORT) for server in {server.address: server for server in servers}.values()]
    if protocol is Protocol.TCP:
        await asyncio.gather(*(_ask_over_tcp(setting, remote, Purpose.CLOSED_PORT) for remote in closed))
        return
    async with await setting.mailbox() as mailbox:
        asking = (mailbox.ask(Purpose.CLOSED_PORT, remote, *plain_attributes()) for remote in closed)
        for exchange in await asyncio.gather(*asking):
            setting.record(exchange)


async def _ask_over_tcp(setting: Setting, remote: Endpoint, purpose: Purpose) -> None:
    with closing(await setting.conversation(Endpoint(setting.source, 0), remote)) as conversation:
        setting.record(await conversation.ask(purpose, udp_service_attribute(), *plain_attributes()))
