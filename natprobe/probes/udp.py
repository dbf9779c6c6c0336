"""The UDP tests: who answers (RFC 8489), what comes in (RFC 5780 §4.4), how the mapping depends (RFC 5780 §4.3).

The order matters. Filtering is tested first and from a socket of its own, while no alternate address has been sent
to: a NAT that keeps its filter by host would have been opened. Mapping is tested from another fresh socket, so that
no packet of the filtering test can have touched its mapping: on a plain Linux NAT that alone would move it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from natprobe.endpoint import Endpoint
from natprobe.exchange import Mailbox
from natprobe.observation import Exchange, Purpose, Volley
from natprobe.probes import (
    FURTHER_PORTS,
    Further,
    Setting,
    Targets,
    answers,
    hello_attributes,
    irregular,
    may_have_been_let_in_before,
    plain_attributes,
    ports_are_drawn,
    proven,
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
        mappings = await _test_mapping(setting, mapping, Targets.of(known), repeat=ports_are_drawn(hellos))
    known = proven(known, mappings)
    if tested and tested[0].kind is Kind.RFC5780:
        await prove_change(setting, *tested, {mapping.remote for mapping in mappings if mapping.answered})
    return known


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


async def _test_mapping(setting: Setting, mailbox: Mailbox, targets: Targets, *, repeat: bool) -> list[Exchange]:
    """Ask from one fresh socket, and from others where what it shows may be owed to chance; return its answers."""
    async with AsyncExitStack() as sockets:
        repeating: list[Coroutine[Any, Any, list[Exchange]]] = []
        if repeat:
            another = await sockets.enter_async_context(await setting.mailbox())
            repeating.append(_ask_all(setting, another, targets.to_repeat()))
        asking = map_endpoints(setting, mailbox, targets.at_once, targets.served)
        mappings, *_ = await asyncio.gather(asking, *repeating)
    if irregular(mappings):
        # In another order, by which flows that take turns between several ways out are found out.
        answering = sorted({m.remote for m in mappings if m.answered}, key=lambda remote: (remote.port, remote))
        for _ in range(FURTHER_PORTS):
            async with await setting.mailbox() as another:
                await map_endpoints(setting, another, answering)
    return mappings


async def map_endpoints(
    setting: Setting, mailbox: Mailbox, remotes: Iterable[Endpoint], further: Further = lambda _: ()
) -> list[Exchange]:
    """From one fresh socket, ask every endpoint for the mapped address, and who answered first once more.

    A mapping that was lost and made anew meanwhile has moved for whoever answered before, and so for the first.
    ``further`` returns the endpoints to ask beside it, by those that have answered.
    """
    exchanges = await _ask_all(setting, mailbox, remotes)
    answered = [exchange for exchange in exchanges if exchange.answered]
    if answered:
        first = min(answered, key=lambda exchange: exchange.at + exchange.waited).remote
        exchanges += await _ask_all(setting, mailbox, [*further(e.remote for e in answered), first])
    return exchanges


async def _ask_all(setting: Setting, mailbox: Mailbox, remotes: Iterable[Endpoint]) -> list[Exchange]:
    """Ask every remote at once for the mapped address, and record what came of it."""

    async def ask(remote: Endpoint) -> Exchange:
        exchange = await mailbox.ask(Purpose.MAPPING, remote, *plain_attributes())
        setting.record(exchange)
        return exchange

    return await asyncio.gather(*map(ask, remotes))


async def prove_change(
    setting: Setting, server: Server, volleys: Sequence[Volley], answering: Container[Endpoint]
) -> None:
    """Show that the server does answer from the endpoints that were silent, through a filter that has been opened.

    A throwaway socket first asks the silent endpoint itself, which opens the filter towards it; ``answering`` are the
    endpoints that are known to answer. Where the NAT gives that endpoint another mapping, RESPONSE-PORT (RFC 5780 §7.5)
    aims the changed answer at it.
    """
    silent = [sender for sender in server.senders if sender[0] in answering and _was_silent(volleys, sender[0])]
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
