"""natprobe tells what the NATs and firewalls on the way do to your packets, how sure it is, and why.

    report = await natprobe.classify(["stun.example.org"])
    report.ipv4.udp.mapping.value      # Dependence.ENDPOINT_INDEPENDENT

Everything that the command line can do, without printing.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing's own takes ten milliseconds to import, and until `main` runs Ctrl-C is a traceback
if TYPE_CHECKING:
    from typing import Any

    from natprobe.behaviour import Certainty, Dependence, Protocol, Verdict
    from natprobe.endpoint import Endpoint
    from natprobe.errors import CannotRun, NatprobeError
    from natprobe.inference import Profile
    from natprobe.report import Report
    from natprobe.run import Tier, classify
    from natprobe.traversal import Prediction, predict

__all__ = [
    "CannotRun",
    "Certainty",
    "Dependence",
    "Endpoint",
    "NatprobeError",
    "Prediction",
    "Profile",
    "Protocol",
    "Report",
    "Tier",
    "Verdict",
    "classify",
    "predict",
]

# A reflector and a lab do without the client, and Ctrl-C must find a program that listens: nothing is imported early.
_HOMES = {
    "behaviour": ("Certainty", "Dependence", "Protocol", "Verdict"),
    "endpoint": ("Endpoint",),
    "errors": ("CannotRun", "NatprobeError"),
    "inference": ("Profile",),
    "report": ("Report",),
    "run": ("Tier", "classify"),
    "traversal": ("Prediction", "predict"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(f"natprobe.{home}"), name))
    raise AttributeError(f"module 'natprobe' has no attribute {name!r}")
