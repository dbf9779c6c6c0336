"""A reflector that misreports itself, in each of the ways that are told here: in memory, or as a program in the lab:

    python tests/misreports.py PORT LIE ADDRESS ADDRESS ADDRESS

What it says of itself is wrong; what it does is right, so that whoever believes packets is not misled.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from natprobe import extensions
from natprobe.endpoint import Endpoint
from natprobe.extensions import DialOutcome, DialResult, Site, Source, site_attribute
from natprobe.reflector import Reflector
from natprobe.reflector.rules import Rules

BYSTANDER = "198.51.100.77"
"""A host that has nothing to do with the test."""
ELSEWHERE = {
    "loopback": "127.0.0.1:2222",
    "another loopback": "127.8.8.8:3478",
    "link-local": "169.254.169.254:80",
    "private": "10.1.2.3:22",
    "this network": "10.64.1.20:3478",
    "shared": "100.64.0.9:3478",
    "multicast": "224.0.0.251:5353",
    "broadcast": "255.255.255.255:3478",
    "reserved": "240.0.0.1:3478",
    "unspecified": "0.0.0.0:3478",
    "another family": "[2001:db8::77]:3478",
    "a bystander's other port": f"{BYSTANDER}:22",
}
"""Where a client must send nothing, whatever a server says."""


def _everything_at(where: str) -> Callable[[Site], Site]:
    """Name one endpoint in place of all but the reflector's own."""
    named = Endpoint.parse(where)

    def misnamed(site: Site) -> Site:
        own = next(endpoint for role, endpoint in site if role is Source.LISTENS)
        return tuple((role, endpoint if endpoint == own else named) for role, endpoint in site)

    return misnamed


def _each(change: Callable[[Source, Endpoint], Endpoint]) -> Callable[[Site], Site]:
    return lambda site: tuple((role, change(role, endpoint)) for role, endpoint in site)


def _without(*roles: Source) -> Callable[[Site], Site]:
    return lambda site: tuple((role, endpoint) for role, endpoint in site if role not in roles)


def _port_off_by_one(_: Source, endpoint: Endpoint) -> Endpoint:
    return endpoint.with_port(endpoint.port + 1)


def _at_bystander(role: Source, endpoint: Endpoint) -> Endpoint:
    return Endpoint.of(BYSTANDER, endpoint.port) if role is not Source.SAME_ADDRESS else endpoint


def _a_crowd(site: Site) -> Site:
    """Thirty endpoints of other hosts, as many as a reply has room for."""
    return (*site[:1], *((Source.LISTENS, Endpoint.of(f"198.51.100.{100 + n}", 3478)) for n in range(30)))


SITES: dict[str, Callable[[Site], Site]] = {
    **{name: _everything_at(where) for name, where in ELSEWHERE.items()},
    "a port off by one": _each(_port_off_by_one),
    "a bystander": _each(_at_bystander),
    "no address of its own": _each(lambda _, endpoint: Endpoint.of("10.5.0.2", endpoint.port)),
    "a crowd": _a_crowd,
    "no listener": _without(Source.LISTENS),
    "no alternate": _without(Source.ALTERNATE, Source.ALTERNATE_SAME_PORT),
    "nothing": lambda _: (),
}
RESULTS: dict[str, Callable[[DialResult], DialResult]] = {
    "every connect-back was accepted": lambda result: replace(result, outcome=DialOutcome.ACCEPTED, attempts=1),
    "no connect-back was dialled": lambda result: DialResult(result.source, DialOutcome.NOT_DIALLED, 0),
    "accepted ones were silent": lambda result: replace(
        result, outcome=DialOutcome.SILENT if result.outcome is DialOutcome.ACCEPTED else result.outcome
    ),
    "accepted ones were refused": lambda result: replace(
        result, outcome=DialOutcome.REFUSED if result.outcome is DialOutcome.ACCEPTED else result.outcome
    ),
}
LIES = (*SITES, *RESULTS)


@contextmanager
def misreporting(rules: Rules, lie: str) -> Iterator[None]:
    """Have a reflector's rules misreport it while the block runs (the results of connect-backs: all reflectors')."""
    if lie in SITES:
        for local, stream in tuple(rules._sites):
            site = SITES[lie](rules.layout.site(local, stream=stream))
            rules._sites[local, stream] = site_attribute(site)
            named = [endpoint for role, endpoint in site if role is Source.LISTENS]
            rules._others[local] = named[-1] if named else None
        yield
        return
    honest = extensions.connect_back_result_attribute
    extensions.connect_back_result_attribute = lambda results: honest(map(RESULTS[lie], results))
    try:
        yield
    finally:
        extensions.connect_back_result_attribute = honest


async def serve(port: int, lie: str, addresses: Sequence[str]) -> None:
    """Serve on a port and the next one until cancelled; says ``serving`` on stderr when all sockets are bound."""
    async with Reflector(addresses, (port, port + 1)) as reflector:
        with misreporting(reflector._rules, lie):
            sys.stderr.write("serving\n")
            sys.stderr.flush()
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
