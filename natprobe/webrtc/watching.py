"""A connection watched while it is made and used: what took how long, and what went wrong on the way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aioice import Connection

from natprobe.report import Report
from natprobe.webrtc.diagnosis import explain
from natprobe.webrtc.findings import Cause
from natprobe.webrtc.internals import connections, listen, transport_id, unlisten
from natprobe.webrtc.steps import Step

_APPEARANCE = ("icegatheringstatechange", "signalingstatechange")
"""The events of a peer connection at which it may have made new transports, before they do anything."""


@dataclass(frozen=True, slots=True)
class Event:
    """A step of one transport: ``at`` seconds after the watch began; ``subject`` is a server's URL or a pair."""

    at: float
    step: Step
    transport: str
    subject: str = ""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.at:7.3f} s  {' '.join(filter(None, (self.step, self.subject, self.detail)))}"


class Watch:
    """Watches a connection from `start` to `stop`, or for the length of an `async with` block; see `watch`.

    ``events`` are the steps so far, in order.
    """

    def __init__(self, subject: Any, mine: Report | None, theirs: Report | None) -> None:
        self._subject = subject
        self._mine = mine
        self._theirs = theirs
        self._watched: list[Connection] = []
        self._began = 0.0
        self.events: list[Event] = []

    def start(self) -> Self:
        """Begin to watch; for a watch that does not fit a block. To be called inside a running loop, once."""
        self._began = asyncio.get_running_loop().time()
        self._look()
        if not isinstance(self._subject, Connection):
            for name in _APPEARANCE:
                self._subject.on(name, self._look)
        return self

    def stop(self) -> None:
        """End the watch, and leave the connection as it was; the events stay. May be called twice."""
        if not isinstance(self._subject, Connection):
            for name in _APPEARANCE:
                # A peer connection that has closed has removed its listeners itself.
                if self._look in self._subject.listeners(name):
                    self._subject.remove_listener(name, self._look)
        while self._watched:
            unlisten(self._watched.pop(), self._note)

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _look(self) -> None:
        for connection in connections(self._subject):
            if connection not in self._watched:
                self._watched.append(connection)
                listen(connection, self._note)

    def _note(self, connection: Connection, step: Step, subject: str, detail: str) -> None:
        at = asyncio.get_running_loop().time() - self._began
        self.events.append(Event(at, step, transport_id(connection), subject, detail))
        if step is Step.CONNECTED:
            finding = explain(connection, mine=self._mine, theirs=self._theirs).findings[0]
            if finding.cause is Cause.RELAYED_THOUGH_DIRECT:
                self._note(connection, Step.RELAYED_THOUGH_DIRECT, subject, finding.reason)

    def first(self, step: Step) -> Event | None:
        """Return the first event of a kind; None if it has not come."""
        return next((event for event in self.events if event.step is step), None)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the events as JSON values, times to the millisecond."""
        return [
            {
                "at": round(e.at, 3),
                "step": str(e.step),
                "transport": e.transport,
                "subject": e.subject,
                "detail": e.detail,
            }
            for e in self.events
        ]


def watch(pc_or_connection: Any, *, mine: Report | None = None, theirs: Report | None = None) -> Watch:
    """Watch an aiortc ``RTCPeerConnection`` or an aioice ``Connection`` for the length of an ``async with`` block.

        async with watch(pc) as watched:
            await pc.setLocalDescription(await pc.createOffer())
            ...
        for event in watched.events: print(event)

        watched = watch(pc).start()     # for what does not fit a block; ends with watched.stop()

    Begin before the gathering: how long each server took, and why one gave nothing, cannot be learned later; `explain`
    knows it from then on. With both sides' reports a relay that was chosen although the NATs let both through is told.
    Raises TypeError for any other object.
    """
    connections(pc_or_connection)
    return Watch(pc_or_connection, mine, theirs)
