"""natprobe tells what the NATs and firewalls on the way do to your packets, how sure it is, and why.

    report = await natprobe.classify(["stun.example.org"])
    report.ipv4.udp.mapping.value      # Dependence.ENDPOINT_INDEPENDENT

Everything that the command line can do, without printing.
"""

from natprobe.behaviour import Certainty, Dependence, Protocol, Verdict
from natprobe.endpoint import Endpoint
from natprobe.errors import CannotRun, NatprobeError
from natprobe.inference import Profile
from natprobe.report import Report
from natprobe.run import classify

__all__ = [
    "CannotRun",
    "Certainty",
    "Dependence",
    "Endpoint",
    "NatprobeError",
    "Profile",
    "Protocol",
    "Report",
    "Verdict",
    "classify",
]
