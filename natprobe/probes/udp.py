"""The UDP tests: who answers (RFC 8489), what comes in (RFC 5780 §4.4), how the mapping depends (RFC 5780 §4.3).

The order matters. Filtering is tested first and from a socket of its own, while no alternate address has been sent
to: a NAT that keeps its filter by host would have been opened. Mapping is tested from another fresh socket, so that
no packet of the filtering test can have touched its mapping: on a plain Linux NAT that alone would move it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from natprobe.endpoint import Endpoint
from natprobe.exchange import Mailbox
from natprobe.observation import Exchange, Purpose, Volley
from natprobe.probes import (
    FURTHER_PORTS,
    Setting,
    answers,
    choose,
    endpoints_to_map,
    hello_attributes,
    irregular,
    may_have_been_let_in_before,
    plain_attributes,
    ranked,
    uncontacted,
)
from natprobe.probes.volley import fire, refused
from natprobe.server import Kind, Sender, Server, describe
from natprobe.silence import tally
from natprobe.stun import Change, change_attribute, response_port_attribute


async def probe_udp(setting: Setting, servers: Sequence[Endpoint]) -> list[Server]:
    """Record what the servers answer, what comes in through a mapping, and how mappings depend on the remote.

    Returns the servers that answered.
    """
    async with await setting.mailbox(setting.port) as mapping, await setting.mailbox() as filtering:
        hellos = await answers(
            (filtering.ask(Purpose.HELLO, server, *hello_attributes()) for server in servers), setting.record
        )
        known = [describe(hello) for hello in sorted(hellos, key=lambda hello: servers.index(hello.remote))]
        tested = await _test_filtering(setting, filtering, known, servers)
        await setting.filters_tested.wait()
        if not known:
            return []
        endpoints = endpoints_to_map(choose(known), known)
        if irregular(await map_endpoints(setting, mapping, endpoints)):
            for _ in range(FURTHER_PORTS):
                async with await setting.mailbox() as another:
                    await map_endpoints(setting, another, endpoints)
    if tested and tested[0].kind is Kind.RFC5780:
        await prove_change(setting, *tested)
    return known


async def control_udp(setting: Setting, servers: Sequence[Endpoint]) -> None:
    """Record whether the servers answer over UDP: what tells a blocked TCP from a dead server."""
    async with await setting.mailbox() as mailbox:
        await answers((mailbox.ask(Purpose.CONTROL, server, *hello_attributes()) for server in servers), setting.record)


async def _test_filtering(
    setting: Setting, mailbox: Mailbox, known: Sequence[Server], greeted: Sequence[Endpoint]
) -> tuple[Server, list[Volley]] | None:
    """Fire at the server that can test most, at the next one if it refuses; return who did not, and what came of it.

    What came of it last: who was silent then, though not before, has yet to prove that it still sends.
    """
    for server in ranked(known):
        senders = uncontacted(server, greeted)
        volleys = await _fire(setting, mailbox, server, senders)
        if all(refused(volleys, sender) for sender, _ in senders):
            continue
        heard = (sender for sender, _ in senders if any(volley.heard(sender) for volley in volleys))
        if may_have_been_let_in_before(server, heard):
            async with await setting.mailbox() as another:
                hello = await another.ask(Purpose.HELLO, server.contacted, *hello_attributes())
                setting.record(hello)
                if hello.answered:
                    volleys = await _fire(setting, another, server, senders)
        return server, volleys
    return None


async def _fire(setting: Setting, mailbox: Mailbox, server: Server, senders: Sequence[Sender]) -> list[Volley]:
    volleys = await fire(mailbox, server, senders)
    for volley in volleys:
        setting.record(volley)
    return volleys


async def map_endpoints(setting: Setting, mailbox: Mailbox, endpoints: Sequence[Endpoint]) -> list[Exchange]:
    """From one fresh socket, ask every endpoint at once for the mapped address, and who answered first once more.

    A mapping that was lost and made anew meanwhile has moved for whoever answered before, and so for the first.
    """

    async def ask(remote: Endpoint) -> Exchange:
        exchange = await mailbox.ask(Purpose.MAPPING, remote, *plain_attributes())
        setting.record(exchange)
        return exchange

    exchanges = await asyncio.gather(*map(ask, endpoints))
    answered = [exchange for exchange in exchanges if exchange.answered]
    if answered:
        exchanges.append(await ask(min(answered, key=lambda exchange: exchange.at + exchange.waited).remote))
    return exchanges


async def prove_change(setting: Setting, server: Server, volleys: Sequence[Volley]) -> None:
    """Show that the server does answer from the endpoints that were silent, through a filter that has been opened.

    A throwaway socket first asks the silent endpoint itself, which opens the filter towards it. Where the NAT gives
    that endpoint another mapping, RESPONSE-PORT (RFC 5780 §7.5) aims the changed answer at it.
    """
    silent = [sender for sender in server.senders if _was_silent(volleys, sender[0])]
    if not silent:
        return
    async with await setting.mailbox() as mailbox:
        home = await mailbox.ask(Purpose.PROOF, server.contacted, *plain_attributes())
        setting.record(home)
        await asyncio.gather(*(_prove(setting, mailbox, home, sender) for sender in silent))


def _was_silent(volleys: Sequence[Volley], sender: Endpoint) -> bool:
    asked = tally(volleys, sender)
    return asked.rounds > 0 and asked.heard == 0 and not refused(volleys, sender)


async def _prove(setting: Setting, mailbox: Mailbox, home: Exchange, sender: Sender) -> None:
    endpoint, how = sender
    alive = await mailbox.ask(Purpose.PROOF, endpoint, *plain_attributes())
    setting.record(alive)
    attributes = [change_attribute(Change(how))]
    if home.mapped and alive.mapped and home.mapped.port != alive.mapped.port:
        attributes.append(response_port_attribute(alive.mapped.port))
    proof = await mailbox.ask(Purpose.PROOF, home.remote, *attributes, answer_from=endpoint)
    setting.record(proof)
