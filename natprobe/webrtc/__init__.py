"""natprobe inside WebRTC diagnostics, with or without aiortc.

checks = await natprobe.webrtc.check_ice_servers(configuration.iceServers)
configuration.iceServers = natprobe.webrtc.choose_ice_servers(configuration.iceServers, checks)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from natprobe.webrtc.checking import check_ice_servers
    from natprobe.webrtc.choosing import choose_ice_servers
    from natprobe.webrtc.ice_servers import timed_credentials
    from natprobe.webrtc.outcome import Depth, IceServerCheck, IceServerState

__all__ = [
    "Depth",
    "IceServerCheck",
    "IceServerState",
    "check_ice_servers",
    "choose_ice_servers",
    "timed_credentials",
]

_HOMES = {
    "checking": ("check_ice_servers",),
    "choosing": ("choose_ice_servers",),
    "ice_servers": ("timed_credentials",),
    "outcome": ("Depth", "IceServerCheck", "IceServerState"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(f"natprobe.webrtc.{home}"), name))
    raise AttributeError(f"module 'natprobe.webrtc' has no attribute {name!r}")
