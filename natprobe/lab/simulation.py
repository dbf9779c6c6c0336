"""A whole classification in memory: a client, the NATs before it, a line, a reflector of three addresses; one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from natprobe.behaviour import Protocol
from natprobe.lab.clock import run
from natprobe.lab.host import Host
from natprobe.lab.internet import Fault, Gateway, Internet
from natprobe.lab.link import PATHS, Path
from natprobe.lab.mirror import Mirror, Says, truthfully
from natprobe.lab.policy import NatPolicy
from natprobe.report import Report
from natprobe.run import Tier, classify

REFLECTOR = ("198.51.100.10", "198.51.100.11", "198.51.100.12")
CLIENT = "10.64.1.10"
SECOND = "10.64.1.20"
"""Another address of the client's."""
_INTERNET = "198.51.100.1"
_CARRIER = "100.64.0.{}"
_EPOCH = datetime.fromtimestamp(0, UTC)


def simulate(
    policies: NatPolicy | Sequence[NatPolicy],
    path: Path | str = "lan",
    seed: int | str = 0,
    *,
    protocols: Iterable[Protocol] = tuple(Protocol),
    tier: Tier = Tier.QUICK,
    second_source: str | None = None,
    fault: Fault | None = None,
    says: Says = truthfully,
) -> Report:
    """Classify a NAT, or several from the client's outwards, over a path (or the name of one); seconds take none.

    ``fault`` strikes on the path, between the outermost NAT and the internet; ``says`` alters what the reflector
    says. The same arguments give the same report, which is dated at the epoch. Raises what `classify` does, and Hang.
    """
    several = [policies] if isinstance(policies, NatPolicy) else policies
    line = PATHS[path] if isinstance(path, str) else path

    async def classified() -> Report:
        internet = Internet(seed)
        client = client_behind(internet, several, line, fault)
        Mirror(internet.host(*REFLECTOR), says=says)
        return await classify(
            [REFLECTOR[0]], versions=[4], protocols=protocols, tier=tier, second_source=second_source, network=client
        )

    return replace(run(classified()), started=_EPOCH)


def client_behind(internet: Internet, policies: Sequence[NatPolicy], path: Path, fault: Fault | None = None) -> Host:
    """Add NATs in series, the last one on the internet over ``path``, and a client behind the first."""
    gateway: Gateway | None = None
    for level, policy in reversed(list(enumerate(policies))):
        address = _CARRIER.format(level + 1) if gateway else _INTERNET
        if gateway:
            gateway = internet.gateway(policy, address, behind=gateway)
        else:
            gateway = internet.gateway(policy, address, path=path, fault=fault)
    return internet.host(CLIENT, SECOND, behind=gateway, path=None if gateway else path)
