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
from natprobe.endpoint import NO_HOST, Address, Endpoint, parse_address, scope_of, split_server
from natprobe.errors import CannotRun, NameNotFound, NoServerAnswered
from natprobe.network import Network
from natprobe.observation import Exchange, Observation, Outcome, Resolution
from natprobe.probes import Setting
from natprobe.probes.control import ask_servers, try_closed_port
from natprobe.probes.partner import meeting
from natprobe.probes.ports import probe_ports
from natprobe.probes.remap import probe_remap
from natprobe.probes.tcp import probe_tcp
from natprobe.probes.udp import probe_udp
from natprobe.report import Report, Vantage
from natprobe.server import Server
from natprobe.sockets import HostNetwork
from natprobe.system_errors import own_remedy
from natprobe.version import VERSION

STUN_PORT = 3478
_PATIENCE_AGAIN = 2.4
"""Seconds for a TCP connection where the path is known to be alive: greetings leave from fresh ports twice a second."""


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
    wanted = _versions(versions, source)
    second = _source_address(second_source) if second_source else None
    if second:
        if second.version not in wanted:
            raise ValueError(f"{second} is an IPv{second.version} address, and that version is not used")
        if source and second == parse_address(source):
            raise ValueError(f"the second source is the first one, {second}: another address of this host is wanted")
        (await network.datagrams(Endpoint(second, 0))).close()  # that it is not this host's is told before all else
    on_progress = on_progress or (lambda _: None)
    run = _Run(network, asked, port=port, second=second, partner=partner, tier=tier, on_progress=on_progress)
    resolved = await run.resolve(servers, wanted)
    sources = await run.sources(resolved, _source_address(source) if source else None)
    await run.probe_all(sources, resolved)
    report = run.report(sources)
    if not report.reached:
        reasons = _why_none(report)
        raise NoServerAnswered(reasons, own_remedy(reasons) or _remedy(report))
    return report


def _source_address(text: str) -> Address:
    """Return a local address to send from. Raises ValueError for what is none, or none of one host."""
    address = parse_address(text)
    if scope_of(address) in NO_HOST:
        raise ValueError(f"{text} is no address of one host: name one that `ip address` lists")
    return address


def _versions(versions: Iterable[int], source: str | None) -> tuple[int, ...]:
    wanted = tuple(versions)
    if source is None:
        return wanted
    version = _source_address(source).version
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
        asking = (self._addresses(host, port or STUN_PORT, versions) for host, port in split)
        failures: list[NameNotFound] = []
        resolved: list[Endpoint] = []
        for server, found in zip(servers, await asyncio.gather(*asking), strict=True):
            endpoints = tuple(endpoint for endpoint in found if isinstance(endpoint, Endpoint))
            failed = [failure for failure in found if isinstance(failure, NameNotFound)]
            why = "; ".join(dict.fromkeys(map(str, failed)))
            self._record(Resolution(server, endpoints, None if endpoints else why))
            resolved += endpoints
            failures += failed
        if not resolved:
            raise _no_address(servers, versions, failures)
        return list(dict.fromkeys(resolved))

    async def _addresses(self, host: str, port: int, versions: Sequence[int]) -> list[Endpoint | NameNotFound]:
        """Return one address of a host for each IP version, so that names count alike, or why there is none.

        Raises ValueError for a literal address that no single host has.
        """
        try:
            literal = Endpoint.of(host, port)
        except ValueError:
            return await asyncio.gather(*(self._first_address(host, port, version) for version in versions))
        if literal.scope in NO_HOST:
            raise ValueError(f"{host} is a {literal.scope} address: name one host")
        return [literal if literal.version in versions else NameNotFound(f"it is an IPv{literal.version} address")]

    async def _first_address(self, host: str, port: int, version: int) -> Endpoint | NameNotFound:
        try:
            found = await self._network.resolve(host, version)
        except NameNotFound as failure:
            return failure
        endpoints = (Endpoint(address, port) for address in found)
        nobody = NameNotFound(f"{host} stands for {found[0]}, which is no address of a host")
        return next((endpoint for endpoint in endpoints if endpoint.scope not in NO_HOST), nobody)

    async def sources(self, servers: Sequence[Endpoint], source: Address | None) -> dict[int, Address]:
        """Return the local address to use for each IP version that has one. Raises CannotRun where none has."""
        sources: dict[int, Address] = {}
        failure: CannotRun | None = None
        for server in servers:
            try:
                sources.setdefault(server.version, source or await self._network.source_for(server))
            except CannotRun as none:
                failure = none
                self._on_progress(str(none))
        if not sources and failure:
            raise failure
        return sources

    async def probe_all(self, sources: Mapping[int, Address], servers: Sequence[Endpoint]) -> None:
        """Probe over each IP version, all at once. Raises CannotRun where this host fails all that might be reached."""
        failures: list[CannotRun] = []

        async def probe(version: int, source: Address) -> None:
            try:
                await self.probe(source, [server for server in servers if server.version == version])
            except CannotRun as failure:
                failures.append(failure)
                self._on_progress(str(failure))

        await _together(probe(version, source) for version, source in sources.items())
        if failures and not any(self._reached(protocol, version) for protocol in Protocol for version in sources):
            raise failures[0]

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
        await _together(
            self._question_silence(setting, servers, protocol, known)
            for protocol in Protocol
            if known.get(protocol) == []
        )
        if self._tier >= Tier.DEFAULT:
            await self._probe_further(setting, known)

    async def _question_silence(
        self, setting: Setting, servers: Sequence[Endpoint], silent: Protocol, known: dict[Protocol, list[Server]]
    ) -> None:
        """Find out whether a protocol over which nobody answered is blocked: only if servers answer over the other one.

        Then it is tried once more, by now also at those of the servers' endpoints that have answered over the other
        one; what may have been an outage, or one address of a server, has not the last word.
        """
        other = next(protocol for protocol in Protocol if protocol is not silent)
        if other not in known:
            await ask_servers(setting, servers, other)
        reached = self._reached(other, setting.source.version)
        if not reached:
            return
        again = replace(setting, port=0, filters_tested=asyncio.Barrier(1), tcp_patience=_PATIENCE_AGAIN)
        known[silent], _ = await asyncio.gather(
            _CORE[silent](again, list(dict.fromkeys([*servers, *reached]))), try_closed_port(again, servers, silent)
        )
        if not known[silent]:
            await ask_servers(setting, servers, other)  # they must be up at the end as well

    def _reached(self, protocol: Protocol, version: int) -> list[Endpoint]:
        """Return the endpoints that have answered over a protocol."""
        return [e.remote for e in self._exchanges(protocol) if e.answered and e.remote.version == version]

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


def _no_address(servers: Sequence[str], versions: Sequence[int], failures: Sequence[NameNotFound]) -> NameNotFound:
    """Return why no server has an address, in the resolver's words, with what to do where the resolver has failed."""
    asked = " or ".join(f"IPv{version}" for version in versions)
    why = "; ".join(dict.fromkeys(map(str, failures)))
    advice = next(filter(None, (failure.advice for failure in failures)), "")
    return NameNotFound(f"no {asked} address found for {', '.join(servers)} ({why})", advice)


def _why_none(report: Report) -> str:
    """Return, in a line, which servers were asked and how each failed; an answer without an address is one too."""
    exchanges = [fact for fact in report.observations if isinstance(fact, Exchange)]
    failures: dict[str, str] = {}
    for fact in exchanges:
        failures.setdefault(f"{fact.remote} over {fact.protocol.upper()}", fact.failure)
    told = "; ".join(f"{remote}: {how}" for remote, how in sorted(failures.items()))
    return f"no server {'gave a usable answer' if _any_answer(report) else 'answered'} ({told})"


def _any_answer(report: Report) -> bool:
    """Return whether something came back from a server, though of no use."""
    exchanges = (fact for fact in report.observations if isinstance(fact, Exchange))
    return any(fact.outcome in (Outcome.ERROR, Outcome.UNREADABLE, Outcome.MISPLACED) for fact in exchanges)


def _remedy(report: Report) -> str:
    return "name another server with -s" if _any_answer(report) else ""
