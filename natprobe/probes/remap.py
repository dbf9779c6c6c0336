"""Whether a packet that nobody asked for makes the NAT move a mapping. No RFC has a name for it, and ICE hangs on it.

A fresh socket sends to one endpoint of a server, has another one, which it has never sent to, send to it, and then
sends to that very endpoint. A NAT that took the unsolicited packets for its own finds its external endpoint occupied
towards their sender, and gives the socket another one. Three sockets do this at once, for one may share its port with a
neighbour; their control is the mapping test, whose socket nobody has sent to uninvited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from natprobe.endpoint import Endpoint
from natprobe.exchange import Mailbox
from natprobe.observation import Exchange, Purpose
from natprobe.probes import Setting, hello_attributes, plain_attributes, ranked
from natprobe.probes.volley import fire
from natprobe.server import Sender, Server
from natprobe.silence import CONVINCING
from natprobe.stun import Attribute

TRIES = 3
"""Local ports that it is tried from: two outvote a third."""
_DELIVERED = CONVINCING ** (1 / 2)
"""How improbable it must be, for each, that all of the unsolicited packets were lost; for two of them, their product.

A third may let the stranger in, on a port that an earlier run has sent to it from.
"""


async def probe_remap(setting: Setting, known: Sequence[Server]) -> None:
    """Record as what an endpoint that has sent to this host uninvited sees it, and others after that one.

    Of a server that has no such endpoint is recorded only as what it sees this host.
    """
    server, stranger = _choice(known)
    await asyncio.gather(*(_try(setting, server, stranger) for _ in range(TRIES if stranger else 1)))


def _choice(known: Sequence[Server]) -> tuple[Server, Sender | None]:
    """Return the server that can test most, of those with an endpoint that can be asked to send and also answers."""
    servers = ranked(known)
    able = ((server, stranger) for server in servers if (stranger := _stranger(server)))
    return next(able, (servers[0], None))


def _stranger(server: Server) -> Sender | None:
    """Return such an endpoint, rather at another address: a filter may let in every port of one that was sent to."""
    senders = [sender for sender in server.senders if sender[0] in server.listens]
    return min(senders, key=lambda sender: sender[0].address == server.contacted.address, default=None)


async def _try(setting: Setting, server: Server, stranger: Sender | None) -> None:
    async with await setting.mailbox() as mailbox:
        home = await _ask(setting, mailbox, server.contacted, *hello_attributes())
        if stranger is None or not home.answered:
            return
        for volley in await fire(mailbox, server, [stranger], _DELIVERED):
            setting.record(replace(volley, purpose=Purpose.REMAP))
        others = [endpoint for endpoint in server.listens if endpoint not in (server.contacted, stranger[0])]
        # The stranger first: what a destination after it is given shows how far the NAT goes.
        asked = (stranger[0], *others[:1], server.contacted)
        await asyncio.gather(*(_ask(setting, mailbox, remote, *plain_attributes()) for remote in asked))


async def _ask(setting: Setting, mailbox: Mailbox, remote: Endpoint, *attributes: Attribute) -> Exchange:
    exchange = await mailbox.ask(Purpose.REMAP, remote, *attributes)
    setting.record(exchange)
    return exchange
