"""natprobe inside WebRTC diagnostics, with or without aiortc.

checks = await natprobe.webrtc.check_ice_servers(configuration.iceServers)
configuration.iceServers = natprobe.webrtc.choose_ice_servers(configuration.iceServers, checks)
print(natprobe.webrtc.explain(pc, mine=report, theirs=other))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from natprobe.webrtc.checking import check_ice_servers
    from natprobe.webrtc.choosing import choose_ice_servers
    from natprobe.webrtc.diagnosis import explain, ice_stats
    from natprobe.webrtc.findings import Cause, Explanation, Finding
    from natprobe.webrtc.ice_servers import timed_credentials
    from natprobe.webrtc.outcome import Depth, IceServerCheck, IceServerState
    from natprobe.webrtc.preparing import preflight, preflight_events
    from natprobe.webrtc.readiness import (
        Agent,
        Finished,
        NatClassified,
        NatTested,
        Preflight,
        Readiness,
        ServerChecked,
    )
    from natprobe.webrtc.steps import Step
    from natprobe.webrtc.watching import Event, Watch, watch

__all__ = [
    "Agent",
    "Cause",
    "Depth",
    "Event",
    "Explanation",
    "Finding",
    "Finished",
    "IceServerCheck",
    "IceServerState",
    "NatClassified",
    "NatTested",
    "Preflight",
    "Readiness",
    "ServerChecked",
    "Step",
    "Watch",
    "check_ice_servers",
    "choose_ice_servers",
    "explain",
    "ice_stats",
    "preflight",
    "preflight_events",
    "timed_credentials",
    "watch",
]

_HOMES = {
    "checking": ("check_ice_servers",),
    "choosing": ("choose_ice_servers",),
    "diagnosis": ("explain", "ice_stats"),
    "findings": ("Cause", "Explanation", "Finding"),
    "ice_servers": ("timed_credentials",),
    "outcome": ("Depth", "IceServerCheck", "IceServerState"),
    "preparing": ("preflight", "preflight_events"),
    "readiness": (
        *("Agent", "Finished", "NatClassified", "NatTested"),
        *("Preflight", "Readiness", "ServerChecked"),
    ),
    "steps": ("Step",),
    "watching": ("Event", "Watch", "watch"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(f"natprobe.webrtc.{home}"), name))
    raise AttributeError(f"module 'natprobe.webrtc' has no attribute {name!r}")
