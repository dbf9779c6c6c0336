"""STUN and TURN servers that are as broken as people's servers are: coturn, each time broken in one way alone.

Everything is asked from behind a NAT that depends on everything, and each check must name its server's one fault.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from certificates import Pair, make

from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS

from .conftest import not_here, open_here
from .test_foreign_servers import ready

pytestmark = [pytest.mark.lab, pytest.mark.interop, pytest.mark.slow]

SERVER = "198.51.100.10"
GOOD, EXPIRED, SELF_SIGNED, OTHER_NAME, UNTRUSTED, QUOTA, DENIED, MUTE, NO_STUN, DROPPED, CLOSED, SELFLESS = range(
    3500, 3620, 10
)
EDGE, FOREIGN, INSIDE, NO_TURN, TURN_ALONE = range(3620, 3670, 10)
LIMIT = 3.0


def relay_ports(port: int) -> range:
    """Return the ports that the server at ``port`` relays from."""
    return range(first := 40000 + (port - GOOD) * 10, first + 100)


SWALLOWED = f"""
table ip swallowed {{
    chain received {{
        type filter hook input priority filter;
        udp dport {relay_ports(MUTE)[0]}-{relay_ports(MUTE)[-1]} drop
        iifname != "lo" udp dport {relay_ports(EDGE)[0]}-{relay_ports(EDGE)[-1]} drop
        udp dport {DROPPED} drop
        tcp dport {DROPPED} drop
    }}
}}
"""
RUN_OUT = datetime.now(UTC) - timedelta(days=3)
CHECK = """
import asyncio, json, ssl, sys, time
from natprobe.webrtc import check_ice_servers
from aioice.turn import create_turn_endpoint
servers, authority, held = json.loads(sys.argv[1])
trust = ssl.create_default_context(cafile=authority)
async def check(server):
    began = time.monotonic()
    checks = await check_ice_servers([server], tls=trust, versions=[4])
    return [check.to_json() | {"seconds": time.monotonic() - began} for check in checks]
async def main():
    if held:
        await create_turn_endpoint(asyncio.DatagramProtocol, tuple(held), "user", "right")
    print(json.dumps(await asyncio.gather(*map(check, servers))))
asyncio.run(main())
"""


def turn(port: int, *, scheme: str = "turn", transport: str = "", password: str = "right", host: str = SERVER) -> Any:
    url = f"{scheme}:{host}:{port}" + (f"?transport={transport}" if transport else "")
    return {"urls": url, "username": "user", "credential": password}


BROKEN: dict[str, tuple[Any, str, str]] = {
    "wrong password": (turn(GOOD, password="wrong"), "unauthorized", "401 Unauthorized: wrong username or credential"),
    "closed port, UDP": (turn(CLOSED), "refused", "port unreachable"),
    "closed port, TCP": (turn(CLOSED, transport="tcp"), "refused", "connection refused"),
    "black hole, UDP": (turn(DROPPED), "timeout", "no answer: the packets are lost on the way, or nobody is there"),
    "black hole, TCP": (
        turn(DROPPED, transport="tcp"),
        "timeout",
        "no TCP connection: the packets are lost on the way",
    ),
    "expired certificate": (
        turn(EXPIRED, scheme="turns"),
        "tls",
        f"the certificate has expired, on {RUN_OUT:%Y-%m-%d %H:%M} UTC",
    ),
    "self-signed certificate": (
        turn(SELF_SIGNED, scheme="turns"),
        "tls",
        "the certificate is self-signed (valid until",
    ),
    "somebody's certificate": (turn(UNTRUSTED, scheme="turns"), "tls", "the certificate is signed by nobody who is"),
    "wrong host name": (turn(OTHER_NAME, scheme="turns"), "tls", f"the certificate is not for {SERVER} (valid until"),
    "no such name": (turn(GOOD, host="turn.invalid"), "dns", "turn.invalid: no IPv4 address found"),
    "quota reached": (turn(QUOTA), "quota", "486 Allocation Quota Reached"),
    "denied peers": (
        turn(DENIED),
        "forbidden_peer",
        "403 Forbidden IP: the server relays neither to itself nor to this",
    ),
    "no data": (turn(MUTE), "no_data", "allocated and permitted, but no bytes go through the relay"),
    "relay ports closed at a firewall before the server": (
        turn(EDGE),
        "self_only",
        (
            "bytes go through the relay only to itself: nothing came in from outside; open the server's relay ports "
            "(coturn: min-port to max-port, UDP)"
        ),
    ),
    "somebody else's external-ip": (
        turn(FOREIGN, transport="tcp"),
        "self_only",
        (
            "bytes go through the relay only to itself: nothing came in from outside; open the server's relay ports "
            "(coturn: min-port to max-port, UDP), and see whether 198.51.100.99 is the server's address"
        ),
    ),
    "no external-ip": (turn(INSIDE), "relay_address", "it relays as 10.5.0.2:"),
    "STUN alone": (turn(NO_TURN), "timeout", "a STUN server answers there, but no TURN"),
    "TURN alone": (f"stun:{SERVER}:{TURN_ALONE}", "timeout", "a TURN server answers there, but no STUN"),
    "no STUN server": (turn(NO_STUN, transport="tcp"), "not_stun", "what came back is no STUN"),
}
"""What is broken: the server, the state, and how the reason begins."""


class Coturns:
    """The coturns of one node; a log each."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab = lab
        self._directory = directory
        self._running: list[Popen[str]] = []

    def start(self, port: int, *options: str, pair: Pair | None = None) -> None:
        command = [
            *("turnserver", "-n", "--lt-cred-mech", "--user=user:right", "--realm=lab.example", "--no-rfc5780", "-v"),
            *(f"--listening-ip={SERVER}", f"--listening-port={port}", f"--tls-listening-port={port + 1}", "--no-dtls"),
            *(
                f"--min-port={relay_ports(port)[0]}",
                f"--max-port={relay_ports(port)[-1]}",
                "--log-file=stdout",
                "--relay-threads=1",
            ),
            *(f"--pidfile={self._directory}/{port}.pid", f"--userdb={self._directory}/{port}.db", *options),
        ]
        if pair:
            certificate, key = pair.write(self._directory, str(port))
            command += [f"--cert={certificate}", f"--pkey={key}"]
        self._running.append(ready(self._lab.start("reflector", command), "stdout", "Total General servers"))

    def stop(self) -> None:
        for server in self._running:
            server.terminate()
        for server in self._running:
            server.communicate()


@pytest.fixture(scope="module")
def authority() -> Pair:
    return make("authority.example", authority=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, authority: Pair) -> Iterator[Lab]:
    """A lab of this module's own: its client behind a NAT of the worst kind, coturns on the internet."""
    if not shutil.which("turnserver", path="/usr/bin:/usr/local/bin:/usr/sbin"):
        not_here("coturn is not installed: apt install coturn")
    directory = tmp_path_factory.mktemp("coturn")
    with open_here() as lab:
        lab.apply("home", PRESETS["apdm-apdf"])
        servers = Coturns(lab, directory)
        try:
            servers.start(GOOD, pair=make(SERVER, signer=authority))
            servers.start(EXPIRED, pair=make(SERVER, signer=authority, until=RUN_OUT))
            servers.start(SELF_SIGNED, pair=make(SERVER))
            servers.start(OTHER_NAME, pair=make("turn.example", signer=authority))
            servers.start(UNTRUSTED, pair=make(SERVER, signer=make("nobody.example", authority=True)))
            servers.start(QUOTA, "--user-quota=1")
            servers.start(DENIED, "--denied-peer-ip=0.0.0.0-255.255.255.255")
            servers.start(MUTE)
            servers.start(SELFLESS, f"--denied-peer-ip={SERVER}")
            servers.start(EDGE)
            servers.start(FOREIGN, f"--external-ip=198.51.100.99/{SERVER}")
            servers.start(INSIDE, f"--external-ip=10.5.0.2/{SERVER}")
            servers.start(NO_TURN, "--stun-only")
            servers.start(TURN_ALONE, "--no-stun")
            servers.start(NO_STUN - 1, f"--cli-ip={SERVER}", f"--cli-port={NO_STUN}", "--cli-password=x")
            lab.must("reflector", ["nft", "-f", "-"], stdin=SWALLOWED)
            yield lab
        finally:
            servers.stop()


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory, authority: Pair) -> str:
    return str(authority.write(tmp_path_factory.mktemp("authority"), "authority")[0])


def check(lab: Lab, trusted: str, *servers: Any, held: int | None = None) -> list[list[dict[str, Any]]]:
    """Have all servers checked at once from the client's node; return each one's checks.

    aioice has an allocation at the port ``held`` meanwhile.
    """
    arguments = json.dumps([servers, trusted, held and [SERVER, held]])
    ended = lab.run("home-1", ["python", "-c", CHECK, arguments], timeout=20)
    assert ended.returncode == 0, ended.stderr
    found: list[list[dict[str, Any]]] = json.loads(ended.stdout)
    return found


def test_a_good_server_is_usable_over_udp_tcp_and_tls(lab: Lab, trusted: str) -> None:
    servers = [turn(GOOD), turn(GOOD, transport="tcp"), turn(GOOD, scheme="turns"), f"stun:{SERVER}:{GOOD}"]
    found = [one for checks in check(lab, trusted, *servers) for one in checks]
    assert [(one["state"], one["reason"]) for one in found] == [("ok", None)] * 4
    assert [one["transport"] for one in found] == ["udp", "tcp", "tls", "udp"]
    assert [one["depth"] for one in found] == ["echo", "echo", "echo", "bind"]
    for one in found:
        assert one["mapped"].startswith("198.51.100.1:")
        assert 0 < one["rtt_ms"] < 1000
        assert one["software"].startswith("Coturn")
    for one in found[:3]:
        assert one["relayed"].startswith(f"{SERVER}:400")
        assert (one["lifetime"], one["realm"]) == (600, "lab.example")
        assert one["allocate_ms"] >= one["rtt_ms"]
    assert [one["not_after"] is None for one in found] == [True, True, False, True]


def test_every_fault_is_told_by_its_own_reason_in_time(lab: Lab, trusted: str) -> None:
    found = check(lab, trusted, *(server for server, _, _ in BROKEN.values()), held=QUOTA)
    told = {name: [(one["state"], one["reason"]) for one in checks] for name, checks in zip(BROKEN, found, strict=True)}
    for name, (_, state, reason) in BROKEN.items():
        assert [(s, r[: len(reason)]) for s, r in told[name]] == [(state, reason)], name
    assert len({reason for checks in told.values() for _, reason in checks}) == len(BROKEN)
    assert max(one["seconds"] for checks in found for one in checks) <= LIMIT


def test_a_server_that_relays_to_itself_is_usable_where_udp_is_blocked(lab: Lab, trusted: str) -> None:
    lab.apply("home", PRESETS["udp-blocked"])
    try:
        udp, tcp = check(lab, trusted, turn(GOOD), turn(GOOD, transport="tcp"))
    finally:
        lab.apply("home", PRESETS["apdm-apdf"])
    assert (udp[0]["state"], tcp[0]["state"], tcp[0]["depth"]) == ("timeout", "ok", "echo")
    assert tcp[0]["reason"] == "bytes went through the relay to itself alone: UDP is not answered here"
    assert udp[0]["reason"].startswith("no answer over UDP, while the same server answers over TCP")


def test_where_nothing_can_be_tested_silence_is_no_fault(lab: Lab, trusted: str) -> None:
    """UDP is blocked here, and the server sends nothing to itself: no path is left that would show anything."""
    lab.apply("home", PRESETS["udp-blocked"])
    try:
        ((found,),) = check(lab, trusted, turn(MUTE, transport="tcp"))
    finally:
        lab.apply("home", PRESETS["apdm-apdf"])
    assert (found["state"], found["depth"]) == ("ok", "permission")
    assert found["reason"] == "permission is granted, and bytes could not be tested: UDP is not answered here"


def test_a_server_that_does_not_is_usable_where_udp_is_open(lab: Lab, trusted: str) -> None:
    (udp,), (tcp,) = check(lab, trusted, turn(SELFLESS), turn(SELFLESS, transport="tcp"))
    assert [(one["state"], one["depth"]) for one in (udp, tcp)] == [("ok", "echo")] * 2


def test_a_name_server_that_is_silent_costs_no_more_than_anything_else(lab: Lab, tmp_path: Path) -> None:
    """The system waits ten seconds for it, and a Python program, at its end, for the system."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(f"nameserver {SERVER}\n")  # nobody serves names there, and nothing says so
    lab.must("reflector", ["nft", "add", "rule", "ip", "swallowed", "received", "udp", "dport", "53", "drop"])
    words = ["natprobe", "turn", "-4", "stun:stun.example.org", "--json"]
    script = f'mount --bind {resolver} /etc/resolv.conf && exec "$@"'
    began = time.monotonic()
    ended = lab.run("home-1", ["unshare", "--mount", "sh", "-c", script, "-", sys.executable, "-m", *words])
    took = time.monotonic() - began
    (told,) = json.loads(ended.stdout)["checks"]
    assert (told["state"], told["reason"]) == ("dns", "no name server has answered for stun.example.org")
    assert took <= LIMIT + 0.5  # the start of a program is in it


def test_loss_is_not_taken_for_a_fault(tmp_path: Path, authority: Pair) -> None:
    """One packet in five is lost each way."""
    with open_here(delay=0.01, loss=0.2, seed=7) as lossy:
        servers = Coturns(lossy, tmp_path)
        try:
            servers.start(GOOD)
            trusted = str(authority.write(tmp_path, "authority")[0])
            found = check(lossy, trusted, *[turn(GOOD)] * 40)
        finally:
            servers.stop()
    assert sum(one["state"] == "ok" for checks in found for one in checks) >= 38


@pytest.mark.parametrize("address", ["255.255.255.255", "[2001:db8::1]"])
def test_an_address_that_this_host_cannot_send_to(lab: Lab, address: str) -> None:
    ended = command(lab, f"stun:{address}", "--json")
    (told,) = json.loads(ended.stdout)["checks"]
    assert (ended.returncode, told["state"]) == (3, "unreachable")
    assert told["reason"]


@pytest.mark.parametrize("depth", ["bind", "allocate", "permission"])
def test_a_check_goes_as_deep_as_it_is_told(lab: Lab, depth: str) -> None:
    """This server grants everything and relays nothing."""
    ended = command(lab, f"turn:{SERVER}:{MUTE}", "--depth", depth, "--json")
    (told,) = json.loads(ended.stdout)["checks"]
    assert (ended.returncode, told["state"], told["depth"]) == (0, "ok", depth)


def command(lab: Lab, *words: str) -> Any:
    return lab.run("home-1", ["natprobe", "turn", "--username", "user", "--password", "right", *words])


def test_ctrl_c_gives_the_allocation_back(lab: Lab) -> None:
    until(lambda: not relayed_ports(lab, MUTE))  # coturn takes up to a second for what was given back
    words = ["natprobe", "turn", "--username", "user", "--password", "right", f"turn:{SERVER}:{MUTE}"]
    with lab.start("home-1", words) as asking:
        until(lambda: relayed_ports(lab, MUTE))  # it waits for bytes that never come
        asking.send_signal(signal.SIGINT)
        assert asking.communicate(timeout=5) == ("", "")
    assert asking.returncode == 130
    until(lambda: not relayed_ports(lab, MUTE))  # or it would be there for ten minutes


def relayed_ports(lab: Lab, port: int) -> list[str]:
    """Return the relayed addresses that a server has open."""
    own = {f"{SERVER}:{relay}" for relay in relay_ports(port)}
    return [word for word in lab.must("reflector", ["ss", "-Huna"]).split() if word in own]


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
