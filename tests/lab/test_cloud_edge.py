"""Servers on a cloud machine: one private address, a 1:1 NAT and a firewall before it that is not on its host.

A client at 198.51.100.100, an edge that is 198.51.100.20 outside, a server at 10.5.0.2 inside: real packets through
real NATs. What the server says of itself, and what it can send to itself, prove nothing about the outside.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from .conftest import not_here

pytestmark = [pytest.mark.lab, pytest.mark.interop, pytest.mark.slow]

NETWORK = """
set -e
mount -t tmpfs none /run; mkdir /run/netns
for node in cli edge in; do ip netns add $node; ip -n $node link set lo up; done
ip link add c0 type veth peer name s0; ip link set c0 netns cli; ip link set s0 netns edge
ip link add r1 type veth peer name i0; ip link set r1 netns edge; ip link set i0 netns in
ip -n cli addr add 198.51.100.100/24 dev c0; ip -n cli link set c0 up
ip -n cli route add default via 198.51.100.20
ip -n edge addr add 198.51.100.20/24 dev s0; ip -n edge link set s0 up
ip -n edge addr add 10.5.0.1/24 dev r1; ip -n edge link set r1 up
ip -n in addr add 10.5.0.2/24 dev i0; ip -n in link set i0 up; ip -n in route add default via 10.5.0.1
cli() { ip netns exec cli "$@"; }
edge() { ip netns exec edge "$@"; }
inside() { ip netns exec in "$@"; }
edge sysctl -qw net.ipv4.ip_forward=1
edge nft -f - <<'END'
table ip nat {
    chain pre { type nat hook prerouting priority dstnat; ip daddr 198.51.100.20 dnat to 10.5.0.2; }
    chain post { type nat hook postrouting priority srcnat; ip saddr 10.5.0.2 oif "s0" snat to 198.51.100.20; }
}
END
served() { until inside ss -Hlun "sport = :3478" | grep -q 3478; do sleep 0.05; done; }
"""
COTURN = """
inside turnserver -n --log-file stdout --no-cli --no-tls --no-dtls --listening-ip 10.5.0.2 --relay-ip 10.5.0.2 \
    --realm r.example --lt-cred-mech --user user:pass --min-port 50000 --max-port 50100 \
    --pidfile /run/turn.pid --userdb /run/turn.db $OPTIONS >/run/turn.log 2>&1 &
served
cli "$PYTHON" -m natprobe turn -4 --json --username user --password pass "turn:198.51.100.20$TRANSPORT" || true
"""
REFLECTOR = """
inside "$PYTHON" -m natprobe reflect --address $ADDRESS >/run/reflect.log 2>&1 &
served
cli "$PYTHON" -m natprobe classify -4 --quick --json -s 198.51.100.20 || true
"""
OUTWARD = "--external-ip=198.51.100.20/10.5.0.2"
CLOSED_INWARDS = (
    'edge nft "table inet f { chain x { type filter hook forward priority 0; iif s0 udp dport 50000-50100 drop; }; }"'
)
CLOSED = (
    'edge nft "table inet f { chain x { type filter hook forward priority 0; '
    'iif s0 udp dport 50000-50100 drop; oif s0 udp sport 50000-50100 drop; }; }"'
)
NO_UDP_HERE = 'cli nft "table inet f { chain o { type filter hook output priority 0; meta l4proto udp drop; }; }"'
ADDRESS_DEPENDENT = """cli nft -f - <<'END'
table inet f {
    set seen { type ipv4_addr; flags dynamic; timeout 60s; }
    chain o { type filter hook output priority 0; update @seen { ip daddr }; }
    chain i { type filter hook input priority 0; iif lo accept; ip saddr @seen accept; drop; }
}
END"""


def printed(script: str, **variables: str) -> Any:
    """Run a script in namespaces of its own and return the JSON that natprobe printed."""
    for program in ("unshare", "nft", "ip", "ss", "turnserver"):
        if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            not_here(f"{program} is needed")
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    inside = ["unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child"]  # with it all ends
    done = subprocess.run(
        [*inside, "bash", "-c", NETWORK + script],
        env=os.environ | {"PYTHON": sys.executable} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare failed" in done.stderr:
        not_here(done.stderr)
    assert done.stdout.startswith("{"), done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("before", "options", "transport", "state", "words"),
    [
        ("", OUTWARD, "", "ok", None),
        ("", OUTWARD, "?transport=tcp", "ok", None),
        (CLOSED_INWARDS, OUTWARD, "", "self_only", "relay ports"),
        (CLOSED_INWARDS, OUTWARD, "?transport=tcp", "self_only", "relay ports"),
        (CLOSED, OUTWARD, "", "self_only", "relay ports"),
        ("", "", "", "relay_address", "external-ip"),
        ("", "--external-ip=203.0.113.99/10.5.0.2", "", "self_only", "external-ip"),
        (NO_UDP_HERE, OUTWARD, "?transport=tcp", "ok", "UDP is not answered here"),
    ],
    ids=[
        "good",
        "good over TCP",
        "closed",
        "closed, TCP",
        "closed both ways",
        "no external-ip",
        "another's",
        "no UDP here",
    ],
)
def test_a_relay_is_judged_by_what_comes_from_outside(
    before: str, options: str, transport: str, state: str, words: str | None
) -> None:
    (check,) = printed(f"{before}\n{COTURN}", OPTIONS=options, TRANSPORT=transport)["checks"]
    assert check["state"] == state, check["reason"]
    assert check["reason"] is None if words is None else words in check["reason"]


@pytest.mark.parametrize("address", ["10.5.0.2", "10.5.0.2 --compat"])
def test_a_reflector_that_knows_itself_by_a_private_address_makes_no_wrong_class(address: str) -> None:
    """Of one address only another port is tried: endpoint-independent and address-dependent look alike."""
    report = printed(f"{ADDRESS_DEPENDENT}\n{REFLECTOR}", ADDRESS=address)["ipv4"]
    for profile in (report["udp"], report["tcp"]):
        assert profile["filtering"]["value"] is None
        assert "cannot tell endpoint-independent and address-dependent apart" in profile["filtering"]["reason"]
