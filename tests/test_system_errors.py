"""Errnos of the world: whatever a socket call is refused with, one line says why and what to do."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import failing_sockets
import pytest

from natprobe.endpoint import Endpoint
from natprobe.errors import NOT_SENT, OWN_FIREWALL, AddressBusy, NoRoute
from natprobe.system_errors import cannot_bind, cannot_open, cannot_reach, not_sent

SERVER = Endpoint.of("198.51.100.10", 3478)
HERE = Endpoint.of("198.51.100.100", 0)


def refused(name: str) -> OSError:
    code = getattr(errno, name)
    return OSError(code, os.strerror(code))


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", failing_sockets.ERRNOS)
def test_every_errno_has_a_line_and_blames_no_server(name: str) -> None:
    for text in (
        str(cannot_open(refused(name), 4)),
        str(cannot_bind(refused(name), HERE)),
        str(cannot_reach(refused(name), SERVER)),
        not_sent(refused(name), SERVER, HERE.address),
    ):
        assert text
        assert "\n" not in text
        assert "Errno" not in text
        assert "server" not in text
        assert "port 0" not in text


@pytest.mark.parametrize(
    ("name", "remote", "words", "advice"),
    [
        ("EINVAL", "198.51.100.10", "a blackhole route", "ip route get 198.51.100.10"),
        ("EACCES", "198.51.100.10", "a route or rule prohibits it", "ip route get"),
        ("EACCES", "255.255.255.255", "broadcast", "name one host"),
        ("EINVAL", "ff02::1", "multicast", "name one host"),
        ("EINVAL", "fe80::1", "needs its zone", "fe80::1%eth0"),
        ("ENODEV", "fe80::1%nosuch", "no interface nosuch", "ip link"),
        ("EPERM", "2001:db8::1", OWN_FIREWALL, "nft list ruleset"),
        ("ENETUNREACH", "2001:db8::1", "network is unreachable", ""),
    ],
)
def test_why_there_is_no_way_to_a_server(name: str, remote: str, words: str, advice: str) -> None:
    failure = cannot_reach(refused(name), Endpoint.of(remote, 3478))
    assert isinstance(failure, NoRoute)
    assert words in str(failure)
    assert advice in failure.advice


def test_a_source_that_leads_nowhere_is_named() -> None:
    reason = not_sent(refused("EINVAL"), SERVER, Endpoint.of("127.0.0.1", 0).address)
    assert reason == f"{NOT_SENT}: 127.0.0.1 reaches this host alone (invalid argument)"


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_a_limit_of_this_host_is_no_missing_ip_version(name: str) -> None:
    failure = cannot_open(refused(name), 4)
    assert isinstance(failure, AddressBusy)
    assert "IPv4" not in str(failure)


# --- every call, refused ----------------------------------------------------------------------------------------------

UNREACHABLE = "127.77.0.99"
COMMANDS = {
    "classify": ["classify", "-s", UNREACHABLE, "--quick"],
    "turn": ["turn", f"stun:{UNREACHABLE}", f"turn:{UNREACHABLE}?transport=tcp", "--timeout", "1"],
    "reuse": ["reuse", "-s", UNREACHABLE],
}
STATUS = {"classify": 1, "turn": 3, "reuse": 1}
SAMPLE = ["EPERM", "EINVAL", "EMFILE", "EADDRNOTAVAIL"]
"""One of each kind. All of them: benchmarks/errnos.py."""


def outcomes(jobs: list[list[str]]) -> list[list[Any]]:
    program = Path(failing_sockets.__file__)
    done = subprocess.run(
        [sys.executable, str(program)],
        input="\n".join(map(json.dumps, jobs)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_call_that_fails_ends_in_one_line() -> None:
    calls = ("socket", "setsockopt", "bind", "connect", "connect_ex", "sendto", "dup", "getsockname", "register")
    jobs = [[call, name, *words] for call in calls for name in SAMPLE for words in COMMANDS.values()]
    results = outcomes(jobs)
    assert len(results) == len(jobs)
    for call, name, arguments, status, output in results:
        told = f"{arguments[0]}, {call}: {name}\n{output}"
        assert status == STATUS[arguments[0]], told
        assert "Traceback" not in output, told
        assert "port 0" not in output, told
        if status == 1:
            assert output.count("\n") == 1, told


def test_a_reflector_that_cannot_be_opened_ends_in_one_line() -> None:
    calls = ("socket", "setsockopt", "bind", "listen", "getsockname", "register")
    jobs = [[c, name, "reflect", "--address", "127.77.0.98", "--port", "3478"] for c in calls for name in SAMPLE]
    for call, name, _, status, output in outcomes(jobs):
        assert (status, output.count("\n")) == (1, 1), f"{call}: {name}\n{output}"
        assert output.startswith("natprobe: ")
