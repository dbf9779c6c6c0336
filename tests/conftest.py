"""What all tests share: the choice to do without Docker, and that nothing leaves this machine."""

from __future__ import annotations

import signal
import sys
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

OWN = [ip_network(net) for net in ("127.0.0.0/8", "::1/128", "198.51.100.0/24", "100.64.0.0/16", "10.64.0.0/16")]
"""Loopback, and the lab."""


def _keep_inside(event: str, args: tuple[Any, ...]) -> None:
    """Refuse, in this process, every address and every name that is not this machine's own (PEP 578)."""
    if event == "socket.getaddrinfo":
        where = args[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(args[1], tuple):
        # From an address of loopback the system lets nothing out anyhow.
        where = None if _is_own(args[0].getsockname()[0]) else args[1][0]
    else:
        return
    if where not in (None, "", "localhost") and not _is_own(str(where)):
        raise RuntimeError(f"a test may not reach out of this machine: {event} {where}")


def _is_own(where: str) -> bool:
    try:
        address = ip_address(where)
    except ValueError:
        return False
    return any(address in network for network in OWN if network.version == address.version)


sys.addaudithook(_keep_inside)

# Who is started in the background of a script ignores Ctrl-C, and so would every program that a test starts and ends.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-docker", action="store_true", help="leave out what needs Docker")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--no-docker"):
        left_out = [item for item in items if item.get_closest_marker("docker")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have aioice gather its host candidates on 127.0.0.1, which it leaves out otherwise, and nowhere else."""
    import aioice.ice  # noqa: PLC0415 few tests need it

    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
