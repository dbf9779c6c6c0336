"""The whole of a run: names to addresses, probes to facts, facts to a report. Here, and only here, they meet."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial
from typing import Any

from natprobe.behaviour import Protocol
from natprobe.endpoint import Address, Endpoint, parse_address, split_server
from natprobe.errors import CannotRun, NameNotFound, NoRoute, NoServerAnswered
from natprobe.network import Network
from natprobe.observation import Exchange, Observation, Outcome, Resolution
from natprobe.probes import Setting
from natprobe.probes.partner import meeting
from natprobe.probes.ports import probe_ports
from natprobe.probes.remap import probe_remap
from natprobe.probes.tcp import control_tcp, probe_tcp
from natprobe.probes.udp import control_udp, probe_udp
from natprobe.report import Report, Vantage
from natprobe.server import Server
from natprobe.sockets import HostNetwork
from natprobe.version import VERSION

STUN_PORT = 3478
_UNAUTHORIZED = 401  # RFC 8489 §14.8
_SILENCE_ADVICE = "name another server with -s; if that is silent too, this network lets nothing through"


class Tier(IntEnum):
    """How much a run tests, each tier all that the one before it does."""

    QUICK = 0
    """What every traversal hangs on: reachability, mapping, filtering."""
    DEFAULT = 1
    """And what can be told within seconds."""
    DEEP = 2
    """And what takes patience, from the network too: hundreds of flows at a time."""


_CORE = {Protocol.UDP: probe_udp, Protocol.TCP: probe_tcp}
Probe = Callable[[Setting, Sequence[Server]], Coroutine[Any, Any, None]]
_FURTHER: Mapping[Protocol, Sequence[Probe]] = {
    Protocol.UDP: (probe_remap, partial(probe_ports, protocol=Protocol.UDP)),
    Protocol.TCP: (partial(probe_ports, protocol=Protocol.TCP),),
}
"""The tests that follow, those of a protocol in turn; each is given the servers that answered over it."""


async def classify(
    servers: Sequence[str],
    *,
    versions: Iterable[int] = (4, 6),
    protocols: Iterable[Protocol] = tuple(Protocol),
    source: str | None = None,
    second_source: str | None = None,
    partner: bool = False,
    port: int = 0,
    tier: Tier = Tier.DEFAULT,
    on_progress: Callable[[str], None] | None = None,
    network: Network | None = None,
) -> Report:
    """Probe the path to ``servers`` and return what it does to UDP and TCP, with the evidence.

    ``servers`` are ``host``, ``host:port`` or ``[v6]:port``; one natprobe reflector is enough. ``source`` is the local
    address to send from, ``port`` the local port of the mapping test (0: any), ``tier`` how much is tested. Port reuse
    can often be told only by two addresses: ``second_source`` is another one of this host behind the same NAT, and
    ``partner`` says to wait, up to a minute, for another host there that does likewise. ``on_progress`` is called with
    a phrase whenever something has been found out. Cancelling closes every socket.

    Raises CannotRun (one of its kinds in ``errors``) if nothing could be measured, ValueError for a malformed server or
    source, or what contradicts itself. A protocol that is blocked is a verdict, not an error.
    """
    network = network or HostNetwork()
    asked = frozenset(protocols)
    if tier is Tier.QUICK and (second_source or partner):
        raise ValueError("the quick tier does not test port reuse, for which a second source or a partner is")
    if partner and Protocol.TCP not in asked:
        raise ValueError("partners meet over TCP: it must be among the protocols")
    second = parse_address(second_source) if second_source else None
    if second:
        (await network.datagrams(Endpoint(second, 0))).close()  # that it is not this host's is told before all else
    on_progress = on_progress or (lambda _: None)
    run = _Run(network, asked, port=port, second=second, partner=partner, tier=tier, on_progress=on_progress)
    wanted = _versions(versions, source)
    resolved = await run.resolve(servers, wanted)
    sources = await run.sources(resolved, parse_address(source) if source else None)
    await _together(run.probe(address, [e for e in resolved if e.version == v]) for v, address in sources.items())
    report = run.report(sources)
    if not report.reached:
        raise NoServerAnswered(_why_none(report))
    return report


def _versions(versions: Iterable[int], source: str | None) -> tuple[int, ...]:
    wanted = tuple(versions)
    if source is None:
        return wanted
    version = parse_address(source).version
    if version not in wanted:
        raise ValueError(f"{source} is not an IPv{wanted[0]} address")
    return (version,)


class _Run:
    """One run under way: the clock's start, and what has been recorded."""

    def __init__(
        self,
        network: Network,
        protocols: frozenset[Protocol],
        *,
        port: int,
        second: Address | None,
        partner: bool,
        tier: Tier,
        on_progress: Callable[[str], None],
    ) -> None:
        self._network = network
        self._protocols = protocols
        self._port = port
        self._second = second
        self._partner = partner
        self._tier = tier
        self._on_progress = on_progress
        self._started = network.now()
        self._date = datetime.now(UTC)
        self._observations: list[Observation] = []
        self._rtts: dict[int, float] = {}

    def _record(self, fact: Observation) -> None:
        self._observations.append(fact)
        if isinstance(fact, Exchange):
            self._note_rtt(fact)
            self._on_progress(f"{fact.purpose} {fact.protocol.upper()} {fact.remote}: {fact.outcome}")

    def _note_rtt(self, exchange: Exchange) -> None:
        if exchange.rtt is not None:
            version = exchange.remote.version
            self._rtts[version] = min(exchange.rtt, self._rtts.get(version, exchange.rtt))

    async def resolve(self, servers: Sequence[str], versions: Sequence[int]) -> list[Endpoint]:
        """Return an endpoint for every server and IP version that has one. Raises NameNotFound where none has."""
        if not servers:
            raise ValueError("no server was named")
        split = [split_server(server) for server in servers]
        asking = (self._resolved(server, *place, versions) for server, place in zip(servers, split, strict=True))
        facts = await asyncio.gather(*asking)
        for fact in facts:
            self._record(fact)
        endpoints = [endpoint for fact in facts for endpoint in fact.endpoints]
        if not endpoints:
            asked = " or ".join(f"IPv{version}" for version in versions)
            told = ", ".join(f"{fact.name} ({fact.error})" for fact in facts)
            raise NameNotFound(f"no {asked} address found for {told}")
        return list(dict.fromkeys(endpoints))

    async def _resolved(self, server: str, host: str, port: int | None, versions: Sequence[int]) -> Resolution:
        """Return the first address of a host for each IP version, one a name, so that names count alike."""
        try:
            literal = parse_address(host)
        except ValueError:
            found = await asyncio.gather(*(self._first_address(host, version) for version in versions))
        else:
            of_another = f"it is an IPv{literal.version} address"
            found = [literal if literal.version in versions else of_another]
        endpoints = tuple(Endpoint(one, port or STUN_PORT) for one in found if not isinstance(one, str))
        why = "; ".join(dict.fromkeys(one for one in found if isinstance(one, str)))
        return Resolution(server, endpoints, None if endpoints else why)

    async def _first_address(self, host: str, version: int) -> Address | str:
        """Return the first address of a name, or the resolver's words where there is none."""
        try:
            return next(iter(await self._network.resolve(host, version)), "no address found")
        except NameNotFound as none:
            return str(none)

    async def sources(self, servers: Sequence[Endpoint], source: Address | None) -> dict[int, Address]:
        """Return the local address to use for each IP version that has a route. Raises NoRoute where none has."""
        sources: dict[int, Address] = {}
        failure: CannotRun | None = None
        for server in servers:
            try:
                sources.setdefault(server.version, source or await self._network.source_for(server))
            except NoRoute as none:
                failure = none
        if not sources and failure:
            raise failure
        return sources

    async def probe(self, source: Address, servers: Sequence[Endpoint]) -> None:
        """Put every test asked for to the servers, from one address; UDP and TCP at once."""
        setting = Setting(
            self._network,
            source,
            self._port,
            self._started,
            self._record,
            known_rtt=partial(self._rtts.get, source.version),
            filters_tested=asyncio.Barrier(len(self._protocols)),
            sampling=asyncio.Lock(),
            tag=os.urandom(16),
            second=self._second if self._second and self._second.version == source.version else None,
            deep=self._tier >= Tier.DEEP,
        )
        known = await self._probe_core(setting, servers)
        # Silence over the only protocol that was tried says nothing without the other one as control.
        if len(self._protocols) == 1 and not self._any_answer(source.version):
            await (control_udp if Protocol.TCP in self._protocols else control_tcp)(setting, servers)
        if self._tier >= Tier.DEFAULT:
            await self._probe_further(setting, known)

    async def _probe_further(self, setting: Setting, known: Mapping[Protocol, Sequence[Server]]) -> None:
        """Put the tests that follow, with a partner if one was asked for and comes."""
        async with AsyncExitStack() as stack:
            reached = known.get(Protocol.TCP)
            if self._partner and reached and (external := self._translated(setting.source)):
                partner = await stack.enter_async_context(meeting(setting, reached, external))
                self._on_progress(f"met {partner.address}" if partner else "no partner came")
                setting = replace(setting, partner=partner)
            found = {protocol: servers for protocol, servers in known.items() if servers}
            await _together(_in_turn(_FURTHER[protocol], setting, servers) for protocol, servers in found.items())

    async def _probe_core(self, setting: Setting, servers: Sequence[Endpoint]) -> dict[Protocol, list[Server]]:
        """Test what every tier tests; return the servers that answered over each protocol."""
        known: dict[Protocol, list[Server]] = {}

        async def probe(protocol: Protocol) -> None:
            known[protocol] = await _CORE[protocol](setting, servers)

        await _together(probe(protocol) for protocol in Protocol if protocol in self._protocols)
        return known

    def _translated(self, source: Address) -> Address | None:
        """Return as what address ``source`` was seen last, over TCP; None if as itself."""
        exchanges = (e for e in reversed(self._exchanges(Protocol.TCP)) if e.remote.version == source.version)
        seen = next((exchange.mapped.address for exchange in exchanges if exchange.mapped), source)
        return seen if seen != source else None

    def _any_answer(self, version: int) -> bool:
        return any(
            e.answered for protocol in Protocol for e in self._exchanges(protocol) if e.remote.version == version
        )

    def _exchanges(self, protocol: Protocol) -> list[Exchange]:
        return [fact for fact in self._observations if isinstance(fact, Exchange) and fact.protocol is protocol]

    def report(self, sources: dict[int, Address]) -> Report:
        duration = self._network.now() - self._started
        return Report.of(VERSION, self._date, duration, Vantage.here(sources.values()), self._observations)


async def _in_turn(probes: Iterable[Probe], setting: Setting, known: Sequence[Server]) -> None:
    """Put tests one after the other: the hundreds of flows of one would be in the way of another's few packets."""
    for probe in probes:
        await probe(setting, known)


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run everything at once; the first failure ends all and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _why_none(report: Report) -> str:
    """Return, in a line, which servers were asked and how each failed; an answer without an address is one too."""
    exchanges = [fact for fact in report.observations if isinstance(fact, Exchange)]
    failures: dict[str, str] = {}
    for fact in exchanges:
        how = fact.detail or (f"error {fact.error}" if fact.error else f"silent for {fact.waited:.1f} s")
        if fact.error:
            how = f"error {fact.error} {fact.detail or ''}".rstrip()
            how += ", it wants authentication" if fact.error == _UNAUTHORIZED else ""
        failures.setdefault(f"{fact.remote} over {fact.protocol.upper()}", how)
    told = "; ".join(f"{remote}: {how}" for remote, how in sorted(failures.items()))
    if any(fact.outcome is Outcome.ERROR for fact in exchanges):
        return f"no server gave an answer that tells anything ({told}): name another server with -s"
    return f"no server answered ({told}): {_SILENCE_ADVICE}"
