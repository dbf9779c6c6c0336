"""What an explanation may rest on beside the agent itself: reports of both sides, servers that were checked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from natprobe.report import Report
from natprobe.traversal import predict
from natprobe.traversal.judging import PathPrediction
from natprobe.webrtc.ice_servers import IceUrl
from natprobe.webrtc.outcome import IceServerCheck


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known beside the agent: the reports of this side and of its peer, and the servers as checked."""

    mine: Report | None = None
    theirs: Report | None = None
    servers: Sequence[IceServerCheck] = ()

    @property
    def path(self) -> PathPrediction | None:
        """What the two reports say about UDP between the two sides; A is this side."""
        return predict(self.mine, self.theirs).udp if self.mine and self.theirs else None

    def says_of(self, url: str) -> str | None:
        """Return what is wrong with a server according to the checks; None if nothing, or if it was not checked."""
        return next((check.reason for check in self._checks_of(url) if not check.usable), None)

    def found_usable(self, url: str) -> bool:
        """Whether a server was checked and nothing is wrong with it."""
        return any(check.usable for check in self._checks_of(url)) and self.says_of(url) is None

    def _checks_of(self, url: str) -> list[IceServerCheck]:
        return [check for check in self.servers if _place(check.url) == _place(url)]


def _place(url: str) -> tuple[bool, str, str, int]:
    """Return what two spellings of one URL have in common."""
    read = IceUrl.parse(url)
    return read.relay, read.transport, read.host, read.port
