"""Why a connection does not connect, and its statistics: what an application asks of a running aiortc or aioice."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from natprobe.report import Report
from natprobe.webrtc.explanation import explain_transports
from natprobe.webrtc.findings import Explanation
from natprobe.webrtc.internals import transports
from natprobe.webrtc.knowledge import Knowledge
from natprobe.webrtc.outcome import IceServerCheck
from natprobe.webrtc.stats import Statistics, statistics


def explain(
    pc_or_connection: Any,
    *,
    mine: Report | None = None,
    theirs: Report | None = None,
    servers: Iterable[IceServerCheck] = (),
) -> Explanation:
    """Return why an aiortc ``RTCPeerConnection`` or an aioice ``Connection`` is not, or not directly, connected.

    At any time: while it is checking, when it has failed, when it is connected. ``mine`` and ``theirs`` are the reports
    of `natprobe.classify` on this side and on the peer's, ``servers`` what `check_ice_servers` found: the more of them,
    the surer. Costs nothing and sends nothing. Raises TypeError for any other object.
    """
    return explain_transports(transports(pc_or_connection), Knowledge(mine, theirs, tuple(servers)))


def ice_stats(pc_or_connection: Any) -> Statistics:
    """Return local-candidate, remote-candidate, candidate-pair and transport statistics, by id, as JSON values.

    Named as in W3C webrtc-stats; what aiortc's ``getStats`` leaves out. Raises TypeError as `explain` does.
    """
    return statistics(transports(pc_or_connection), time.time() * 1000)
