"""A host whose own routes, firewall or ports are in the way: each command says so, and never blames the server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from .conftest import not_here

pytestmark = [pytest.mark.lab, pytest.mark.slow]

NETWORK = """
set -e
ip link set lo up
ip link add wire type veth peer name other
ip addr add 198.51.100.100/24 dev wire
ip -6 addr add 2001:db8::100/64 dev wire nodad
ip link set wire up
ip link set other up
natprobe() { timeout 40 "$PYTHON" -m natprobe "$@" 2>&1 || echo "status $?"; }
"""
SERVE = """
"$PYTHON" -m natprobe reflect --address 127.80.0.1 2>/tmp/serving.$$ & reflector=$!
trap 'kill $reflector $holder 2>/dev/null; rm -f /tmp/serving.$$' EXIT
until grep -q serving /tmp/serving.$$; do sleep 0.05; done
"""
NO_PORTS = """
echo 40000 40007 > /proc/sys/net/ipv4/ip_local_port_range
mkfifo /tmp/ready.$$
"$PYTHON" -c '
import socket, sys, time
held = []
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for port in range(40000, 40008):
        held.append(socket.socket(socket.AF_INET, kind))
        held[-1].bind(("127.0.0.1", port))
print(flush=True)
time.sleep(60)
' > /tmp/ready.$$ & holder=$!
read ready < /tmp/ready.$$; rm /tmp/ready.$$
"""


def told(script: str) -> str:
    """Run a script in a network namespace of its own; return what natprobe printed."""
    if not shutil.which("unshare") or not shutil.which("nft"):
        not_here("unshare and nft are needed")
    inside = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-r", "-n"]
    done = subprocess.run(
        [*inside, "bash", "-c", NETWORK + script],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        not_here(done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "words"), [("blackhole", "a blackhole route"), ("prohibit", "a route or rule prohibits it")]
)
@pytest.mark.parametrize(
    ("command", "status"),
    [("classify --quick -s 203.0.113.5", 1), ("reuse -s 203.0.113.5", 1), ("turn stun:203.0.113.5", 3)],
)
def test_a_route_that_refuses_is_named(kind: str, words: str, command: str, status: int) -> None:
    output = told(f"ip route add {kind} 203.0.113.0/24; natprobe {command}")
    assert f"no route to 203.0.113.5: {words}" in output
    assert "ip route get 203.0.113.5" in output
    assert f"status {status}" in output


def test_one_ip_version_does_not_take_the_other_along() -> None:
    output = told(SERVE + "ip -6 route add prohibit 2001:db8:1::/64; natprobe classify -s 127.80.0.1 -s 2001:db8:1::10")
    assert "status 3" in output  # one address tells no mapping: that it was measured is the point
    assert "IPv4" in output
    assert "prohibit" not in output


@pytest.mark.parametrize("verdict", ["drop", "reject"])
@pytest.mark.parametrize("server", ["198.51.100.10", "[2001:db8::10]"])
def test_the_hosts_own_firewall_is_named(verdict: str, server: str) -> None:
    rules = f"table inet f {{ chain o {{ type filter hook output priority 0; udp dport 3478 {verdict}; }}; }}"
    output = told(f"nft '{rules}'; natprobe turn 'stun:{server}'; natprobe classify --only udp --quick -s '{server}'")
    assert "unreachable     udp" in output
    assert output.count("this host's own firewall rejects it") >= 2
    assert "nft list ruleset" in output
    assert "silent" not in output.partition("over UDP")[2]


def test_a_port_that_nobody_serves_on_this_host_is_no_firewall() -> None:
    assert "port unreachable" in told("natprobe turn stun:198.51.100.100")


def test_a_link_local_server_needs_its_zone() -> None:
    address = "address=$(ip -6 -o addr show dev wire scope link | sed 's,.*inet6 \\([^/]*\\)/.*,\\1,')\n"
    without = told(address + "natprobe classify --quick -s $address")
    assert "a link-local address needs its zone" in without
    with_zone = told(
        "sleep 2\n" + address + "natprobe turn -6 stun:$address; natprobe classify --quick -s $address%wire"
    )
    assert "connection refused" in with_zone
    assert "port unreachable" in with_zone


@pytest.mark.parametrize(
    "command",
    [
        "classify --quick -s 127.80.0.1 --source 127.0.0.1",
        "classify --quick -s 127.80.0.1 --source 127.0.0.1 --port 41000",
        "reuse -s 127.80.0.1 --source 127.0.0.1",
        "turn 'stun:127.80.0.1?transport=tcp'",
    ],
)
def test_no_free_port_is_no_fault_of_the_servers(command: str) -> None:
    output = told(SERVE + NO_PORTS + f"natprobe {command}")
    assert "no free local port (ip_local_port_range 40000–40007)" in output
    assert "port 0" not in output
    assert "unreachable" not in output


def test_ports_that_connections_use_serve_other_destinations_too() -> None:
    """Eight ports, each with a connection of another program to another server: TCP needs no free one."""
    busy = """
echo 40000 40007 > /proc/sys/net/ipv4/ip_local_port_range
"$PYTHON" -c '
import socket, time
server = socket.create_server(("127.80.0.2", 9))
held = []
for _ in range(8):
    held.append(socket.socket())
    held[-1].setsockopt(socket.IPPROTO_IP, 24, 1)
    held[-1].bind(("127.0.0.1", 0))
    held[-1].connect(("127.80.0.2", 9))
print(flush=True)
time.sleep(60)
' > /tmp/ready.$$ & holder=$!
"""
    busy = busy.replace('"$PYTHON" -c', 'mkfifo /tmp/ready.$$\n"$PYTHON" -c', 1)
    output = told(
        SERVE + busy + "read ready < /tmp/ready.$$; rm /tmp/ready.$$\nnatprobe reuse -s 127.80.0.1 --port 41000"
    )
    assert "TCP connections from 127.0.0.1:41000" in output
