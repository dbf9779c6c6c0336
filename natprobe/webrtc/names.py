"""The addresses of a server's name, as an agent gets them and in its order, and each IP version by itself.

Agents ask the system for both IP versions at once (``getaddrinfo``), and take the addresses in the order in which it
gives them (RFC 6724). So that is asked first, once for all URLs with that name. Where it takes long, each version is
asked for alone: a name server that never answers for IPv6 addresses then does not keep the IPv4 ones back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from natprobe.endpoint import NO_HOST, Address, Endpoint, parse_address, scope_of
from natprobe.errors import AddressBusy, CannotRun, NameNotFound, NoRoute
from natprobe.sockets import HostNetwork
from natprobe.webrtc.outcome import IceServerState, Unusable

_PATIENCE = 0.25
"""Seconds after which each IP version is asked for alone: most name servers have answered by then."""
_OTHER_VERSION = 1.0
"""Seconds that one version has left once the other is told; a resolver asks again after five."""

Addresses = tuple[Address, ...]


class Silent(Unusable):
    """No name server has answered for one IP version of a name."""

    def __init__(self, host: str, version: int) -> None:
        super().__init__(IceServerState.DNS, f"no name server has answered for the IPv{version} address of {host}")


class Name:
    """One host as a URL has it, a name or an address. Made inside a running loop; ``close`` ends what is under way."""

    def __init__(self, network: HostNetwork, host: str, versions: Sequence[int]) -> None:
        self.host = host
        self._network = network
        self._versions = versions
        self._tasks: dict[int | None, asyncio.Task[Addresses]] = {}
        self._told = asyncio.Event()
        self._literal: Address | None = None
        with suppress(ValueError):
            self._literal = parse_address(host)

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def endpoints(self, version: int, port: int, deadline: float) -> list[Endpoint]:
        """Return the endpoints at all of the host's addresses of an IP version to which this host has a route.

        Raises Unusable where there is none: Silent where no name server has answered by then.
        """
        try:
            async with asyncio.timeout_at(deadline):
                addresses = await self._addresses(version)
        except NameNotFound as none:
            raise Unusable(IceServerState.DNS, _told(none)) from None
        except TimeoutError:
            raise Silent(self.host, version) from None
        hosts = [address for address in addresses if scope_of(address) not in NO_HOST]
        if not hosts:
            if self._literal:
                raise Unusable(IceServerState.UNREACHABLE, f"{self.host} is no address of a host")
            raise Unusable(IceServerState.DNS, f"{self.host} stands for {addresses[0]}, which is no address of a host")
        routes = [await _route(self._network, Endpoint(address, port)) for address in hosts]
        reachable = [route for route in routes if isinstance(route, Endpoint)]
        if not reachable:
            raise Unusable(IceServerState.UNREACHABLE, str(routes[0]))
        return reachable

    def position(self, address: Address) -> int:
        """Return which address of the host this is in the system's order; 0 where that is not known."""
        order = _result(self._tasks.get(None)) or ()
        return order.index(address) if address in order else 0

    async def _addresses(self, version: int) -> Addresses:
        if self._literal:
            if self._literal.version != version:
                raise NameNotFound(f"{self.host} is an IPv{self._literal.version} address")
            return (self._literal,)
        if len(self._versions) > 1:
            await asyncio.wait([self._lookup(None)], timeout=_PATIENCE)
            if (both := _result(self._lookup(None))) is not None:
                return self._of_version(both, version)
        return await self._alone(version)

    async def _alone(self, version: int) -> Addresses:
        """Return what comes first: the answer for this version, the one for both, or the end of patience."""
        own = self._lookup(version)
        too_late = asyncio.create_task(self._after_the_other())
        waited = {own, too_late, *(task for task in [self._tasks.get(None)] if task)}
        try:
            while own in waited:
                done, waited = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if (both := _result(self._tasks.get(None))) is not None:
                    return self._of_version(both, version)
                if too_late in done and own in waited:
                    raise TimeoutError
            return await own
        finally:
            too_late.cancel()

    async def _after_the_other(self) -> None:
        await self._told.wait()
        await asyncio.sleep(_OTHER_VERSION)

    def _of_version(self, addresses: Addresses, version: int) -> Addresses:
        found = tuple(address for address in addresses if address.version == version)
        if not found:
            raise NameNotFound(f"{self.host}: no IPv{version} address found")
        return found

    def _lookup(self, version: int | None) -> asyncio.Task[Addresses]:
        """Return the lookup of one version, or of both (None), which is begun once."""
        if version not in self._tasks:
            self._tasks[version] = asyncio.create_task(self._resolve(version))
        return self._tasks[version]

    async def _resolve(self, version: int | None) -> Addresses:
        network = self._network
        found = await (network.resolve(self.host, version) if version else network.resolve_both(self.host))
        self._told.set()
        return found


def _result(task: asyncio.Task[Addresses] | None) -> Addresses | None:
    """Return what a lookup has found; None while it is under way, or where it has failed."""
    if task is None or not task.done() or task.cancelled() or task.exception():
        return None
    return task.result()


def why_unreachable(failures: Sequence[Unusable], host: str) -> Unusable:
    """Return why a host cannot be asked in any IP version, from why in each."""
    if all(isinstance(failure, Silent) for failure in failures):
        return Unusable(IceServerState.DNS, f"no name server has answered for {host}")
    told = [failure for failure in failures if failure.state is IceServerState.UNREACHABLE] or failures
    first = next(failure for failure in told if not isinstance(failure, Silent))
    silent = [failure.reason for failure in failures if isinstance(failure, Silent)]
    return Unusable(first.state, "; ".join([first.reason, *silent]))


async def _route(network: HostNetwork, remote: Endpoint) -> Endpoint | str:
    """Return ``remote`` if this host has a route there, else why not. Raises Unusable where nothing can be checked."""
    try:
        await network.source_for(remote)
    except NoRoute as none:
        return _told(none)
    except AddressBusy as here:
        raise Unusable(IceServerState.NOT_CHECKED, str(here)) from None
    return remote


def _told(failure: CannotRun) -> str:
    """Return what is in the way, and what to do about it where that is known."""
    return f"{failure}: {failure.advice}" if failure.advice else str(failure)
