"""Which ports the NAT gives, and whether it gives one to two flows at a time (RFC 4787 §4.2, RFC 7857 §3).

Fresh local ports are tried one after the other towards all endpoints of a reflector; what is learnt on the way decides
what is tried next. A port that the NAT chose itself is asked for once more by name: a local port of that very number,
towards another endpoint, is given it by a NAT that keeps ports and shares them. Where ports are random, many are drawn
until two meet. Whatever meets is asked in turn, so that both are known to be alive; and the second one of a pair then
goes to endpoints ever closer to the first one's, as far as the NAT lets it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress

from natprobe.behaviour import Difference, Protocol
from natprobe.draws import answered, chance_of_none, in_turn, kept, meetings, pairs, ports, widest_pool
from natprobe.endpoint import Address, Endpoint
from natprobe.errors import AddressBusy
from natprobe.observation import Draws, Flow, Sharing
from natprobe.probes import Setting, choose
from natprobe.probes.lines import Lines, lines_of
from natprobe.server import Kind, Server
from natprobe.silence import CONVINCING

SAMPLE = 48
"""Flows that show how ports are given; half of it would, but for neighbours that take theirs meanwhile."""
FEW = 10
"""Flows with other people's servers, ten a second with each (RFC 5780 §5)."""
MOST = {Protocol.UDP: 700, Protocol.TCP: 128}
"""Flows that the default tier may begin. A connection costs the NAT more, and longer, than a datagram does."""
MOST_DEEP = {Protocol.UDP: 1_600, Protocol.TCP: 900}
MOST_DATAGRAMS = 760
"""Datagrams after which the default tier draws no more, copies of lost ones included."""
LONGEST = 1.7
"""Seconds that all of it may take, beside three round trips, where nobody asked for it in particular."""
LONGEST_WANTED = 20.0
_STRAGGLING = {Protocol.UDP: 0.5, Protocol.TCP: 0.8}
"""Seconds without news after which those flows that are still waited for are given up: a lost one was repeated."""
_PACE = 0.001
_POLITE_PACE = 0.1
_REFUSALS = 2
"""Ports that must be refused when asked for by name: a neighbour may have the first one."""
_TRIES = 5
"""Ports asked for by name at most: of one that is in use, or not answered for, nothing is learnt."""


async def probe_ports(setting: Setting, known: Sequence[Server], protocol: Protocol) -> None:
    """Record which external ports fresh local ones are given, and whether two flows can have one at the same time."""
    server = choose(known)
    own = server.kind is Kind.NATPROBE
    remotes = server.listens if own else [other.contacted for other in known]
    with closing(lines_of(setting, protocol)) as lines, closing(lines_of(setting, _other(protocol))) as others:
        seconds = {protocol: lines, _other(protocol): others}
        if setting.partner:
            seconds = {each: setting.partner.lines(each) for each in Protocol}
        hunt = _Hunt(setting, protocol, lines, seconds, remotes)
        async with setting.sampling:
            pace = _PACE if own else _POLITE_PACE / len(remotes)
            await hunt.draw(SAMPLE if own else FEW, pace, to_the_end=True)
        if own and hunt.translated:
            with suppress(TimeoutError, AddressBusy):  # somebody may have taken a port meanwhile
                async with asyncio.timeout(hunt.left):
                    await hunt.pursue()


def _other(protocol: Protocol) -> Protocol:
    return Protocol.TCP if protocol is Protocol.UDP else Protocol.UDP


class _Hunt:
    """The flows of one protocol so far, and what to try next."""

    def __init__(
        self,
        setting: Setting,
        protocol: Protocol,
        lines: Lines,
        seconds: Mapping[Protocol, Lines],
        remotes: Sequence[Endpoint],
    ) -> None:
        self._setting = setting
        self._protocol = protocol
        self._lines = lines
        self._seconds = seconds
        """From where the second of two flows comes: this host, or a partner."""
        self._remotes = remotes
        self._flows: list[Flow] = []
        self._begun = 0
        self._met: dict[Endpoint, Flow] = {}
        self._tried: set[tuple[Endpoint, Endpoint]] = set()
        self._given: dict[Endpoint, Flow] = {}
        """Of the second of two that share a port, where it was given it."""
        self._shared = Difference.PROTOCOL
        """The least difference by which two flows of the protocol were seen to share a port, if that is less."""
        self._ceiling = Difference.NOTHING
        """The least difference by which they may share one, as far as is known."""
        self._rtt = setting.known_rtt() or 0.1
        self._wanted = bool(setting.deep or setting.second or setting.partner)
        """Whether somebody asked for it in particular, and has time."""
        self._deadline = setting.now() + (LONGEST_WANTED if self._wanted else LONGEST) + 3 * self._rtt
        self._most = (MOST_DEEP if setting.deep else MOST)[protocol]

    @property
    def translated(self) -> bool:
        """Whether there is a NAT to give ports at all."""
        return any(flow.mapped != flow.local for flow in answered(self._flows))

    @property
    def left(self) -> float:
        """How many seconds there are left."""
        return max(0.0, self._deadline - self._setting.now())

    async def pursue(self) -> None:
        """Find out how much alike two flows may be that share a port, as far as it can be told from here."""
        refusals: list[Sharing] = []
        for first in self._askable():
            second, remote = Endpoint(self._partner, _port(first)), self._apart(first, Difference.ADDRESS)
            trial = await self._try(first, second, remote)
            if trial and trial.shared:
                await self._approach(trial)
                return
            if trial and trial.refused:
                refusals.append(trial)
            elif trial and trial.control and trial.control.mapped and not refusals:
                break  # this NAT keeps no ports
            if len(refusals) == _REFUSALS:
                break
        if len(refusals) < _REFUSALS:
            await self._draw_on()
            return
        for trial in refusals:
            second = Endpoint(self._partner, _port(trial.first))
            await self._trial(trial.first, second, trial.first.remote, _other(self._protocol))

    # --- asked for by name --------------------------------------------------------------------------------------------

    @property
    def _partner(self) -> Address:
        if self._setting.partner:
            return self._setting.partner.address
        return self._setting.second or self._setting.source

    def _askable(self) -> list[Flow]:
        """Return flows of whose external port's number there is a local port that has not been used, a few at most.

        And that no third flow was given as well, which would be in the way. First those that kept theirs.
        """
        used = {flow.local for flow in self._flows}
        flows = answered(self._flows)
        holders = Counter(flow.mapped for flow in flows)
        fit = [f for f in flows if holders[f.mapped] == 1 and Endpoint(self._partner, _port(f)) not in used]
        return [*kept(fit), *(flow for flow in fit if flow not in kept(fit))][:_TRIES]

    def _apart(self, first: Flow, difference: Difference, *but: Endpoint) -> Endpoint | None:
        """Return a remote that differs in this, and no more, from that of a flow."""
        fitting = (r for r in self._remotes if Difference.between(first.remote, r) is difference and r not in but)
        return next(fitting, None)

    async def _try(self, first: Flow, second: Endpoint, remote: Endpoint | None) -> Sharing | None:
        """Record whether ``second`` shares the port of ``first`` towards a remote; None where it cannot be tried."""
        return await self._trial(first, second, remote, None) if remote else None

    async def _trial(self, first: Flow, second: Endpoint, remote: Endpoint, other: Protocol | None) -> Sharing | None:
        """Record a trial; also one that time cuts short, for that a flow fell silent may be what sharing does to it."""
        lines = self._seconds[other or self._protocol]
        at = self._setting.now()
        before, between, after = first, Flow(second, remote), Flow(first.local, first.remote)
        control: Flow | None = None
        try:
            # To one remote the second flow may have taken the answers of the first one already.
            if remote != first.remote or other:
                before = await self._ask(self._lines, first)
            between = await self._ask(lines, between)
            after = await self._ask(self._lines, first)
            control = await self._control(lines, between)
        except AddressBusy:
            return None
        except asyncio.CancelledError:
            self._setting.record(Sharing(self._protocol, at, before, between, after, control, other))
            raise
        trial = Sharing(self._protocol, at, before, between, after, control, other)
        self._setting.record(trial)
        if trial.shared:
            self._shared = max(self._shared, trial.difference)
        elif trial.refused:
            self._ceiling = Difference(max(Difference.PROTOCOL, min(self._ceiling, trial.difference - 1)))
        return trial

    async def _ask(self, lines: Lines, flow: Flow) -> Flow:
        """Ask a flow's remote again as what its local endpoint is seen, for as long as an answer may be expected."""
        try:
            async with asyncio.timeout(max(2.0 if self._wanted else 0.5, 6 * self._rtt)):
                return await lines.ask(flow.local, flow.remote)
        except TimeoutError:
            return Flow(flow.local, flow.remote)

    async def _control(self, lines: Lines, second: Flow) -> Flow | None:
        """Return what shows whether the second would have been given the port, had it been let.

        What it has where it was given it; else what a local port just beside it is given.
        """
        if second.local in self._given:
            return await self._ask(lines, self._given[second.local])
        taken = {flow.local.port for flow in self._flows} | {_port(flow) for flow in answered(self._flows)}
        for port in range(second.local.port + 1, min(second.local.port + 50, 1 << 16)):
            if port not in taken:
                return await self._ask(lines, Flow(second.local.with_port(port), second.remote))
        return None

    async def _approach(self, trial: Sharing) -> None:
        """Send the second of two that share a port to remotes ever more like the first one's.

        Which says something only where it keeps its port towards yet another remote that is as unlike.
        """
        second = trial.second
        elsewhere = self._apart(trial.first, Difference.ADDRESS, second.remote)
        if (
            not elsewhere
            or (await self._ask(self._seconds[self._protocol], Flow(second.local, elsewhere))).mapped != second.mapped
        ):
            return
        self._given[second.local] = second
        for nearer in (Difference.PORT, Difference.NOTHING):
            if trial.shared and nearer > self._shared:
                held = [
                    flow.remote for flow in self._flows if flow.mapped == second.mapped and nearer < Difference.NOTHING
                ]
                remote = self._apart(trial.first, nearer, *held)
                trial = await self._try(trial.first, second.local, remote) or trial

    # --- drawn --------------------------------------------------------------------------------------------------------

    async def _draw_on(self) -> None:
        """Draw until two meet that are alike enough, or until that none do is evidence, or for as long as is fit."""
        while True:
            meeting = self._untried()
            if meeting:
                first, second = meeting
                trial = await self._try(first, second.local, second.remote)
                if trial:
                    await self._approach(trial)
            elif self._worth_drawing:
                await self.draw(self._most - self._begun, _PACE)
            else:
                return

    def _untried(self) -> tuple[Flow, Flow] | None:
        """Return two flows that have met and are more alike than any that were seen to share a port, each pair once."""
        for first, second in meetings(self._flows):
            pair = first.local, second.local
            if pair not in self._tried and Difference.between(first.remote, second.remote) > self._shared:
                self._tried.add(pair)
                return first, second
        return None

    @property
    def _worth_drawing(self) -> bool:
        flows = answered(self._flows)
        at_random = len(kept(flows)) * 2 < len(flows) and not in_turn(flows)
        spent = self.left == 0.0 or self._begun >= self._most
        return at_random and not spent and not self._settled(flows)

    def _settled(self, flows: Sequence[Flow]) -> bool:
        """Whether nothing more is to be learnt by drawing."""
        if self._ceiling <= self._shared:
            return True
        pool = widest_pool(ports(flows))
        return chance_of_none(pairs(flows, Difference(self._shared + 1)), pool) <= CONVINCING

    async def draw(self, number: int, pace: float, *, to_the_end: bool = False) -> None:
        """Begin so many flows, spaced by so many seconds, and record them; until two meet, unless ``to_the_end``."""
        at = self._setting.now()
        flows: dict[int, Flow] = {}
        ended: asyncio.Queue[Flow] = asyncio.Queue()
        tasks: list[asyncio.Future[None]] = []

        async def begin(which: int) -> None:
            remote = self._remotes[which % len(self._remotes)]
            flows[which] = await self._lines.ask(Endpoint(self._setting.source, 0), remote)
            ended.put_nowait(flows[which])

        async def begin_all() -> None:
            # One a turn of the loop: where this host is short of time, it is for all that wait for an answer.
            for which in range(number):
                await asyncio.sleep(max(0.0, at + which * pace - self._setting.now()))
                tasks.append(asyncio.ensure_future(begin(which)))

        beginning = asyncio.ensure_future(begin_all())
        try:
            async with asyncio.timeout(self.left):
                for _ in range(number):
                    async with asyncio.timeout(max(_STRAGGLING[self._protocol], 5 * self._rtt)):
                        flow = await ended.get()
                    if not to_the_end and (self._meets(flow) or self._over(flows)):
                        break
        except TimeoutError:
            pass  # also where time is up, what has been drawn until then is evidence
        finally:
            for task in (beginning, *tasks):
                task.cancel()
            await asyncio.gather(beginning, *tasks, return_exceptions=True)
            drawn = tuple(flows[which] for which in sorted(flows) if flows[which].mapped)
            self._flows += drawn
            self._begun += len(tasks)
            self._setting.record(Draws(self._protocol, at, self._setting.now() - at, len(tasks), drawn))

    def _meets(self, flow: Flow) -> bool:
        """Whether a flow has met another one, and they are more alike than any that shared a port before."""
        if flow.mapped is None:
            return False
        other = self._met.setdefault(flow.mapped, flow)
        return other.local != flow.local and Difference.between(other.remote, flow.remote) > self._shared

    def _over(self, flows: dict[int, Flow]) -> bool:
        if not self._setting.deep and self._lines.sent >= MOST_DATAGRAMS:
            return True
        return len(flows) % 32 == 0 and self._settled(answered([*self._flows, *flows.values()]))


def _port(flow: Flow) -> int:
    assert flow.mapped
    return flow.mapped.port
