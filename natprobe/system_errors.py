"""What this host's system means when it refuses a socket call: errno to one line with the cause and what to do.

One table for every command and for the reflector, so that the same errno never has two explanations. What the network
says (a reset, an ICMP error) is no error of this host and is not worded here.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from natprobe.endpoint import Address, Endpoint, Scope
from natprobe.errors import NOT_SENT, OWN_FIREWALL, AddressBusy, CannotRun, NoRoute

_SCARCE = {
    errno.EMFILE: "too many sockets are open: raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this host: close programs, or raise fs.file-max",
    errno.ENOBUFS: "the system has no buffer space for another socket: close programs, or try again later",
    errno.ENOMEM: "the system has no memory for another socket: close programs, or try again later",
    errno.ENOSPC: "the system can watch no more sockets: raise fs.epoll.max_user_watches",
}
_NO_FAMILY = {errno.EAFNOSUPPORT, errno.EPFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT}
_NO_ROUTE = "no route to"
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # of IPv6 too


def words(wrong: OSError | int) -> str:
    """Return the system's own words for an errno, in lower case."""
    code = wrong if isinstance(wrong, int) else wrong.errno
    return os.strerror(code).lower() if code else str(wrong).lower()


def port_range() -> tuple[int, int] | None:
    """Return the lowest and the highest port that the system chooses by itself; None where it does not say."""
    with suppress(OSError, ValueError):
        low, high = map(int, _PORT_RANGE.read_text(encoding="ascii").split())
        return low, high
    return None


def no_free_port() -> AddressBusy:
    """Return the error for a socket that may have any port and gets none."""
    ports = port_range()
    which = f" (ip_local_port_range {ports[0]}–{ports[1]})" if ports else ""
    return AddressBusy(f"no free local port{which}: close programs that hold many, or widen the range")


def cannot_open(wrong: OSError, ip_version: int) -> CannotRun:
    """Return why there is no socket at all."""
    if wrong.errno in _NO_FAMILY:
        return NoRoute(f"this host has no IPv{ip_version}")
    if wrong.errno in (errno.EPERM, errno.EACCES):
        return AddressBusy(
            f"this host permits no IPv{ip_version} socket ({words(wrong)}): check the sandbox or security policy"
        )
    return _no_socket(wrong, "open a socket")


def cannot_bind(wrong: OSError, local: Endpoint) -> CannotRun:
    """Return why a socket cannot have ``local``."""
    if wrong.errno in (errno.EADDRINUSE, errno.EAGAIN) and not local.port:
        return no_free_port()
    if wrong.errno == errno.EADDRINUSE:
        return AddressBusy(f"local port {local.port} is in use: choose another, or none")
    if wrong.errno == errno.EADDRNOTAVAIL:
        return AddressBusy(f"{local.address} is not an address of this host: `ip address` lists those that are")
    if wrong.errno in (errno.EACCES, errno.EPERM) and 0 < local.port < 1024:
        return AddressBusy(f"local port {local.port} is reserved to root: choose one above 1023, or none")
    return _no_socket(wrong, f"use {local}")


def cannot_reach(wrong: OSError, remote: Endpoint, source: Address | None = None) -> CannotRun:
    """Return why this host sends nothing to ``remote``, from ``source`` if that is chosen already."""
    if wrong.errno in _SCARCE:
        return _no_socket(wrong, "open a socket")
    if wrong.errno in _NO_FAMILY:
        return NoRoute(f"this host has no IPv{remote.version}", "-4 or -6 picks the other IP version")
    return NoRoute(f"{_NO_ROUTE} {remote.address}: {_why_unreachable(wrong, remote, source)}", _remedy(wrong, remote))


def not_sent(wrong: OSError, remote: Endpoint, source: Address) -> str:
    """Return the reason of a Rejection that this host itself is the author of."""
    if wrong.errno == errno.EPERM:
        return OWN_FIREWALL
    return f"{NOT_SENT}: {_why_unreachable(wrong, remote, source)}"


def own_remedy(reasons: str) -> str:
    """Return what to do where servers did not answer for ``reasons`` that are this host's own; "" for all others."""
    if OWN_FIREWALL in reasons:
        return "check its rules for outbound packets (`nft list ruleset`)"
    return "check the routes of this host, and --source if given" if NOT_SENT in reasons or _NO_ROUTE in reasons else ""


def unexpected(wrong: OSError) -> CannotRun:
    """Return the error for a call that nothing more is known about than its errno."""
    return _no_socket(wrong, "go on")


def _no_socket(wrong: OSError, what: str) -> AddressBusy:
    scarce = _SCARCE.get(wrong.errno or 0)
    return AddressBusy(
        scarce or f"this host cannot {what} ({words(wrong)}): check its limits, its firewall and its security policy"
    )


def _needs_zone(remote: Endpoint) -> bool:
    return remote.version == 6 and remote.scope is Scope.LINK_LOCAL and not remote.zone


def _is_for_many(remote: Endpoint) -> bool:
    return remote.scope is Scope.MULTICAST or str(remote.address) == "255.255.255.255"


def _why_unreachable(wrong: OSError, remote: Endpoint, source: Address | None) -> str:
    if wrong.errno == errno.EINVAL and _needs_zone(remote):
        return "a link-local address needs its zone"
    if wrong.errno in (errno.ENODEV, errno.ENXIO) and remote.zone:
        return f"this host has no interface {remote.zone}"
    if _is_for_many(remote):
        return f"it is a multicast or broadcast address ({words(wrong)})"
    if wrong.errno == errno.EINVAL and source and source.is_loopback and remote.scope is not Scope.LOOPBACK:
        return f"{source} reaches this host alone ({words(wrong)})"
    return {
        errno.EINVAL: "a blackhole route discards what is sent to it (invalid argument)",
        errno.EACCES: "a route or rule prohibits it, or it is a broadcast address (permission denied)",
        errno.EPERM: OWN_FIREWALL,
    }.get(wrong.errno or 0, words(wrong))


def _remedy(wrong: OSError, remote: Endpoint) -> str:
    if wrong.errno in (errno.ENODEV, errno.ENXIO) and remote.zone:
        return "`ip link` lists the interfaces"
    if _needs_zone(remote):
        return f"write {remote.address}%eth0, with the interface that leads to it"
    if _is_for_many(remote):
        return "name one host"
    if wrong.errno == errno.EPERM:
        return "check its rules for outbound packets (`nft list ruleset`)"
    if wrong.errno in (errno.EINVAL, errno.EACCES):
        return f"`ip route get {remote.address}` shows what is in the way"
    return ""
