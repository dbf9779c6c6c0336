"""The lab is what it claims to be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from natprobe.behaviour import Dependence
from natprobe.errors import LabUnavailable, PolicyNotPossible
from natprobe.lab import namespaces
from natprobe.lab.backend import Lab
from natprobe.lab.namespaces import NamespaceLab
from natprobe.lab.policy import PRESETS, NatPolicy, compose

from .conftest import ROOT, not_here, open_here

pytestmark = [pytest.mark.lab, pytest.mark.slow]

DEPENDENCES = [dependence for dependence in Dependence if dependence is not Dependence.CONNECTION_DEPENDENT]
KINDS: dict[str, dict[str, object]] = {
    "preserving": {"port_assignment": "preserving", "port_reuse": "per-protocol", "unsolicited": "icmp"},
    "random": {"port_assignment": "random", "unsolicited": "reset"},
    "firewall": {"translated": False, "unsolicited": "reset"},
}
"""What the presets leave out, with answers to strangers that must not open a filter."""


# --- it is what it claims to be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_on_the_wire_what_it_says(lab: Lab, name: str) -> None:
    lab.apply("home", PRESETS[name])
    assert lab.check(PRESETS[name]) == []


@pytest.mark.parametrize("filtering", DEPENDENCES)
@pytest.mark.parametrize("mapping", DEPENDENCES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_other_policy_is_too(lab: Lab, kind: str, mapping: Dependence, filtering: Dependence) -> None:
    policy = NatPolicy.from_json({"mapping": mapping, "filtering": filtering, **KINDS[kind]})
    lab.apply("home", policy)
    assert lab.check(policy) == []


def test_protocols_are_treated_apart(lab: Lab) -> None:
    policy = NatPolicy(PRESETS["eim-eif"].udp, PRESETS["linux-fully-random"].tcp)
    lab.apply("home", policy)
    assert lab.check(policy) == []


@pytest.mark.parametrize(
    ("inner", "outer"),
    [("eim-eif", "apdm-apdf"), ("apdm-adf", "eim-eif"), ("linux-masquerade", "linux-masquerade"), ("firewall", "none")],
)
def test_two_gateways_in_series_are_as_composed(lab: Lab, inner: str, outer: str) -> None:
    lab.apply("home", PRESETS[inner])
    lab.apply("cgn", PRESETS[outer])
    lab.put_behind("home", "cgn")
    try:
        assert lab.check(compose(PRESETS[inner], PRESETS[outer])) == []
    finally:
        lab.put_behind("home", None)
    assert lab.check(PRESETS[inner]) == []


def test_each_gateway_has_its_own_policy(lab: Lab) -> None:
    lab.apply("home", PRESETS["eim-eif"])
    lab.apply("office", PRESETS["apdm-adf"])
    assert lab.check(PRESETS["apdm-adf"], "office-1") == []
    assert lab.check(PRESETS["eim-eif"], "home-2") == []


def test_the_check_notices_a_nat_that_is_another(lab: Lab) -> None:
    lab.apply("home", PRESETS["adm-adf"])
    assert lab.check(PRESETS["eim-eif"]) == [
        f"the lab's NAT: {protocol} {axis} is address-dependent, and should be endpoint-independent"
        for protocol in ("udp", "tcp")
        for axis in ("mapping", "filtering")
    ]


def test_an_impossible_policy_leaves_the_gateway_as_it_was(lab: Lab) -> None:
    lab.apply("home", PRESETS["eim-adf"])
    with pytest.raises(PolicyNotPossible, match="port_reuse overloading"):
        lab.apply("home", NatPolicy.from_json({"port_reuse": "overloading"}))
    assert lab.check(PRESETS["eim-adf"]) == []


def test_nothing_leads_out_of_the_lab(lab: Lab) -> None:
    lab.apply("home", PRESETS["none"])
    for node in lab.topology.nodes:
        ended = lab.run(node, ["ip", "route", "get", "203.0.113.1"])
        assert ended.returncode or any(f"via {address}" in ended.stdout for address in ("10.64.", "100.64."))
    assert lab.run("home-1", ["ping", "-c", "1", "-W", "1", "203.0.113.1"]).returncode


# --- programs on its nodes --------------------------------------------------------------------------------------------


def test_a_program_is_run_with_its_stdin_to_its_end(lab: Lab) -> None:
    ended = lab.run("home-1", ["sh", "-c", "cat; echo no >&2; exit 3"], stdin="yes\n")
    assert (ended.stdout, ended.stderr, ended.returncode) == ("yes\n", "no\n", 3)


def test_a_started_program_ends_where_it_runs_when_it_is_terminated(lab: Lab) -> None:
    with lab.start("home-1", ["sh", "-c", "echo $$; exec sleep 1000"]) as started:
        assert started.stdout
        own_id = started.stdout.readline().strip()
        assert lab.run("home-1", ["kill", "-0", own_id]).returncode == 0
        started.terminate()
        assert started.stdout.read() == ""  # nobody is left who could write
    assert lab.run("home-1", ["sh", "-c", f"! grep -s State.*sleeping /proc/{own_id}/status"]).returncode == 0


def test_a_node_that_is_none_is_named(lab: Lab) -> None:
    with pytest.raises(KeyError, match="attic"):
        lab.run("attic", ["true"])
    with pytest.raises(ValueError, match=r"home-1 is no gateway: home, office, cgn are"):
        lab.apply("home-1", PRESETS["none"])


# --- without root, without what it needs ------------------------------------------------------------------------------

ROOTLESS = """
import os, sys
from natprobe.lab.namespaces import NamespaceLab
from natprobe.lab.policy import PRESETS
assert os.geteuid() != 0
with NamespaceLab(delay=0.001) as lab:
    for name in sys.argv[1:]:
        lab.apply("home", PRESETS[name])
        assert lab.check(PRESETS[name]) == [], name
    print(lab.run("home", ["id", "-u"]).stdout)
"""


def as_nobody(code: str, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Run code as a user without any privilege, by a Python that this user may run; None without one."""
    paths = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    for python in (sys.executable, "/usr/bin/python3"):
        command: Sequence[str] = [*user, "env", f"PYTHONPATH={os.pathsep.join(paths)}", python, "-c"]
        if subprocess.run(
            [*command, "import natprobe.lab.namespaces"], cwd="/", capture_output=True, check=False
        ).returncode:
            continue
        return subprocess.run([*command, code, *arguments], cwd="/", capture_output=True, text=True, check=False)
    return None


def test_no_privilege_is_needed() -> None:
    ended = as_nobody(ROOTLESS, "eim-adf", "apdm-eif", "linux-masquerade", "firewall", "udp-rejected")
    if ended is None:
        not_here("no Python that an ordinary user may run can import natprobe here")
    if "LabUnavailable" in ended.stderr:
        not_here(ended.stderr.splitlines()[-1])
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "0\n\n"


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(namespaces, "_PATH", str(tmp_path))
    with pytest.raises(LabUnavailable, match="conntrack: apt install conntrack iproute2 nftables util-linux"):
        NamespaceLab()


def test_a_reflector_that_does_not_start_is_told_by_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(LabUnavailable, match="/nonexistent/python"):
        NamespaceLab()


# --- a wire with a length ---------------------------------------------------------------------------------------------


def test_a_wire_delays_each_way() -> None:
    with open_here(delay=0.020) as lab:
        lab.run("home-1", ["ping", "-c", "1", "198.51.100.10"])  # addresses are resolved
        said = lab.run("home-1", ["ping", "-c", "10", "-i", "0.02", "198.51.100.10"]).stdout
        times = [float(time) for time in re.findall(r"time=([\d.]+)", said)]
        assert len(times) == 10
        assert 40 <= min(times) < 50
        assert float(re.findall(r"time=([\d.]+)", lab.run("office-1", ["ping", "-c1", "198.51.100.10"]).stdout)[0]) < 20


def test_a_wire_carries_whole_tcp_segments() -> None:
    receive = "import socket; s = socket.create_server(('', 7000)); print(flush=True); c, _ = s.accept(); n = 0\n"
    receive += "while data := c.recv(1 << 16): n += len(data)\nprint(n)"
    send = "import socket; socket.create_connection(('198.51.100.10', 7000)).sendall(bytes(20_000_000))"
    with open_here(delay=0.002) as lab:
        lab.apply("home", PRESETS["linux-masquerade"])
        with lab.start("reflector", ["python", "-c", receive]) as receiving:
            assert receiving.stdout
            receiving.stdout.readline()
            assert lab.run("home-1", ["python", "-c", send]).returncode == 0
            assert receiving.stdout.read() == "20000000\n"


def test_loss_is_as_asked_for_and_the_same_for_one_seed() -> None:
    def lost() -> list[int]:
        with open_here(loss=0.2, seed=7) as lab:
            said = lab.run("home-1", ["ping", "-c", "100", "-i", "0.002", "-W", "1", "198.51.100.10"]).stdout
            return sorted(set(range(1, 101)) - set(map(int, re.findall(r"icmp_seq=(\d+)", said))))

    first = lost()
    assert 20 <= len(first) <= 55  # 1 - 0.8² of 100 are lost, there or back
    assert lost() == first
