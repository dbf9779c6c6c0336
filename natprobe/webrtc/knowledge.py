"""What an explanation may rest on beside the agent itself: reports of both sides, servers that were checked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from natprobe.report import Report
from natprobe.traversal import predict
from natprobe.traversal.judging import PathPrediction
from natprobe.webrtc.agent import serves_aiortc, taken_by_aiortc
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

    def fault_of(self, url: str, mark: str | None = None) -> IceServerCheck | None:
        """Return the check that tells what is wrong with a server as aiortc uses it; None if nothing, or none was made.

        ``mark`` tells the credentials that are used (``ice_servers.mark_of``): those of others do not count.
        """
        checks = self._checks_of(url, mark)
        return next((check for check in taken_by_aiortc(IceUrl.parse(url), checks) if not check.serves_aiortc), None)

    def found_usable(self, url: str, mark: str | None = None) -> bool:
        """Whether a server was checked and nothing is wrong with it as aiortc uses it."""
        return serves_aiortc(IceUrl.parse(url), self._checks_of(url, mark))

    def other_relay(self, url: str | None) -> str | None:
        """Return a TURN server that was found usable, other than one."""
        others = (c.url for c in self.servers if c.usable and IceUrl.parse(c.url).relay)
        return next((other for other in others if url is None or _place(other) != _place(url)), None)

    def answered_over_udp(self, url: str | None = None) -> str | None:
        """Return a server, other than one, that has answered a check over UDP, whatever it answered."""
        answered = (check.url for check in self.servers if check.transport == "udp" and check.rtt_ms is not None)
        return next((other for other in answered if url is None or _place(other) != _place(url)), None)

    def _checks_of(self, url: str, mark: str | None) -> list[IceServerCheck]:
        found = [check for check in self.servers if _place(check.url) == _place(url)]
        own = [check for check in found if mark is not None and check.mark == mark]
        return own or found


def sides(path: PathPrediction) -> str:
    """Return what a prediction rests on, for whoever sees only one of its sides."""
    return f"{path.reason} (A is this side, B its peer)"


def _place(url: str) -> tuple[bool, str, str, int]:
    """Return what two spellings of one URL have in common."""
    read = IceUrl.parse(url)
    return read.relay, read.transport, read.server_name, read.port
