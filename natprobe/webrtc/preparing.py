"""A pre-call check: the servers of a configuration and the NAT on the way, at once and within a budget of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from natprobe.errors import CannotRun
from natprobe.report import Report
from natprobe.run import Tier, classify
from natprobe.version import VERSION
from natprobe.webrtc.agent import passed_over_by_aiortc
from natprobe.webrtc.checking import TIMEOUT, check_ice_servers
from natprobe.webrtc.choosing import choose
from natprobe.webrtc.configuration import Given, read_ice_servers
from natprobe.webrtc.ice_servers import IceServer
from natprobe.webrtc.outcome import IceServerCheck
from natprobe.webrtc.readiness import (
    Agent,
    Event,
    Finished,
    Known,
    NatClassified,
    NatTested,
    Preflight,
    ServerChecked,
    advise,
    judge,
)

BUDGET = 4.0
_SHARE = 0.9
"""The part of the budget that a server's check may take: it then says itself what was in the way."""


async def preflight(
    config: Any,
    *,
    reflectors: Iterable[str] | None = None,
    budget: float = BUDGET,
    agent: Agent | str = Agent.AIORTC,
) -> Preflight:
    """Check before a call what it may expect, in ``budget`` seconds at most: servers, NAT, a verdict, advice.

    ``config`` is an ``RTCConfiguration`` of aiortc's, a mapping in the shape of the W3C's, a list of ICE servers, or
    whatever else `check_ice_servers` takes. ``agent`` is who will use it: aiortc the first TURN URL alone, a browser
    all of them. ``reflectors`` classify the NAT (see `natprobe.classify`); without, the configuration's own STUN
    servers do, and nobody else is asked. What is not finished in time is *not determined*. Cancelling gives every
    socket and every allocation back. Raises ValueError and TypeError for what is no configuration.
    """
    async with aclosing(preflight_events(config, reflectors=reflectors, budget=budget, agent=agent)) as events:
        async for event in events:
            if isinstance(event, Finished):
                return event.result
    raise AssertionError("the last event is the result")


async def preflight_events(
    config: Any,
    *,
    reflectors: Iterable[str] | None = None,
    budget: float = BUDGET,
    agent: Agent | str = Agent.AIORTC,
) -> AsyncGenerator[Event, None]:
    """Do what `preflight` does and yield what is found as it is found; the last event is Finished, with the whole.

    Who leaves the loop early closes the iterator (``contextlib.aclosing``): the check ends there.
    """
    run = _Run(read_ice_servers(config), budget, Agent(agent))
    named = list(reflectors) if reflectors is not None else run.stun_servers()
    jobs = [asyncio.create_task(job) for job in run.jobs(named)]
    work = asyncio.gather(*jobs)
    work.add_done_callback(lambda _: run.events.put_nowait(None))
    try:
        while event := await run.next_event():
            yield event
        if work.done():
            work.result()
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(work, *jobs, return_exceptions=True)
    yield Finished(run.elapsed, run.result())


class _Run:
    """One check under way: its start, and what has been found."""

    def __init__(self, servers: Sequence[IceServer], budget: float, agent: Agent) -> None:
        self._servers = servers
        self._budget = budget
        self._agent = agent
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._date = datetime.now(UTC)
        self._checks: dict[int, tuple[IceServerCheck, ...]] = {}
        self._nat: Report | None = None
        self._missing_nat = self._late
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()

    @property
    def elapsed(self) -> float:
        return self._loop.time() - self._began

    @property
    def _late(self) -> str:
        return f"not finished within {self._budget:g} s"

    def stun_servers(self) -> list[str]:
        """Return the STUN servers of the configuration that can be asked over UDP, as `classify` takes them."""
        urls = (server.url for server in self._servers if not server.url.relay and server.url.transport == "udp")
        return [f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}" for url in urls]

    def jobs(self, reflectors: Sequence[str]) -> list[Coroutine[Any, Any, None]]:
        notes = passed_over_by_aiortc(self._servers)
        checks = [self._check(number, notes[number]) for number in range(len(self._servers))]
        return [*checks, self._classify(reflectors)]

    async def _check(self, number: int, note: str | None) -> None:
        server = self._servers[number]
        checks = await check_ice_servers([server], timeout=min(TIMEOUT, self._budget * _SHARE))
        # Only the whole list tells which of its URLs aiortc passes over.
        self._checks[number] = tuple(
            replace(check, unsupported_by_aiortc=note or check.unsupported_by_aiortc) for check in checks
        )
        self.events.put_nowait(ServerChecked(self.elapsed, self._checks[number]))

    async def _classify(self, reflectors: Sequence[str]) -> None:
        if not reflectors:
            self._missing_nat = "the configuration has no STUN server over UDP, and no reflector was named"
            return
        try:
            self._nat = await classify(reflectors, tier=Tier.QUICK, on_progress=self._tell)
        except CannotRun as failure:
            self._missing_nat = str(failure)
        else:
            self.events.put_nowait(NatClassified(self.elapsed, self._nat))

    def _tell(self, text: str) -> None:
        self.events.put_nowait(NatTested(self.elapsed, text))

    async def next_event(self) -> Event | None:
        """Return the next event; None if there is none to come, or no time."""
        try:
            async with asyncio.timeout_at(self._began + self._budget):
                return await self.events.get()
        except TimeoutError:
            return None

    def result(self) -> Preflight:
        checks = tuple(check for _, found in sorted(self._checks.items()) for check in found)
        missing = {s.url.text: self._late for number, s in enumerate(self._servers) if number not in self._checks}
        if self._nat is None:
            missing["nat"] = self._missing_nat
        known = Known(checks, self._nat, missing, self._agent, self._relay_to_choose(checks))
        verdict = judge(known)
        advice = tuple(dict.fromkeys(advise(known, verdict)))
        found = (checks, self._nat, tuple(missing.items()), verdict, advice)
        return Preflight(VERSION, self._date, self.elapsed, self._budget, *found)

    def _relay_to_choose(self, checks: Sequence[IceServerCheck]) -> str | None:
        """Return the TURN URL that `choose_ice_servers` puts first; None if it has none to give."""
        chosen = choose([Given(server, server) for server in self._servers], checks)
        return next((choice.url for choice in chosen if choice.server.url.relay), None)
