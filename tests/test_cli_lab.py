"""``natprobe lab`` and ``natprobe demo`` on real packets, in namespaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from natprobe.cli import comparing
from natprobe.cli.application import application
from natprobe.errors import LabUnavailable
from natprobe.lab import policy
from natprobe.lab.namespaces import NamespaceLab
from natprobe.lab.policy import PRESETS, NatPolicy, expected
from natprobe.lab.session import attach

pytestmark = [pytest.mark.lab, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    try:
        NamespaceLab().close()
    except LabUnavailable as reason:
        if os.environ.get("NATPROBE_LAB_COMPULSORY"):
            raise
        pytest.skip(str(reason))


@pytest.fixture(autouse=True)
def _own_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(application(), arguments)


@pytest.fixture
def kept() -> Iterator[str]:
    """A lab that is up; what ``natprobe lab up`` said."""
    command = [sys.executable, "-m", "natprobe", "lab", "up", "--policy", "adm-adf"]
    yield subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    run("lab", "down")


def test_found_stands_beside_expected() -> None:
    result = run("lab", "run", "apdm-adf")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["UDP", "mapping", *["address-and-port-dependent"] * 2, "right"] in lines
    assert ["TCP", "filtering", *["address-dependent"] * 2, "right"] in lines
    assert result.stdout.splitlines()[-1].startswith("all agree, ")


def test_a_policy_may_be_spelt_out() -> None:
    spelt = {"udp": {"mapping": "address-dependent"}, "tcp": {"outbound": "dropped"}}
    result = run("lab", "run", json.dumps(spelt))
    assert result.exit_code == 0, result.output
    assert "TCP  reachable    no " in result.stdout


def test_what_is_not_as_expected_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(nat: NatPolicy) -> dict[str, dict[str, bool | str]]:
        made = expected(nat)
        made["udp"]["mapping"] = "port-dependent"
        return made

    monkeypatch.setattr(comparing, "expected", other)
    monkeypatch.setattr(policy, "expected", other)
    result = run("lab", "run", "eim-eif")
    assert result.exit_code == 3
    assert "UDP  mapping      port-dependent              endpoint-independent        WRONG" in result.stdout
    assert "udp mapping: expected port-dependent, but the report says endpoint-independent: all 4" in result.stdout
    assert "1 of 8 do not agree" in result.stdout


def test_a_lab_stays_until_it_is_ended(kept: str) -> None:
    assert "natprobe lab run adm-adf --node home-1 -- bash" in kept
    lab = attach()
    assert isinstance(lab, NamespaceLab)
    assert lab.policies["home"] == PRESETS["adm-adf"]
    assert "a lab is up" in run("lab", "list").stderr
    assert run("lab", "up", "--policy", "firewall").exit_code == 0
    assert run("lab", "run", "firewall", "--node", "home-2").exit_code == 0
    again = attach()
    assert isinstance(again, NamespaceLab)
    assert (again.holder, again.policies["home"]) == (lab.holder, PRESETS["firewall"])
    assert run("lab", "down").exit_code == 0
    assert ended(lab.holder)
    assert "no lab is up" in run("lab", "down").stderr


def ended(process: int) -> bool:
    """Return whether a process has ended; whoever is to notice may not have done so yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_any_command_runs_on_any_node(kept: str) -> None:
    assert run("lab", "run", "none", "--", "sh", "-c", "exit 7").exit_code == 7
    assert run("lab", "run", "none", "--", "sh", "-c", "kill -TERM $$").exit_code == 128 + signal.SIGTERM
    assert run("lab", "run", "none", "--node", "office-1", "--", "ping", "-c1", "-W1", "198.51.100.10").exit_code in (
        0,
        127,
    )
    assert attach().policies["office"] == PRESETS["none"]
    assert run("lab", "run", "none", "--node", "nowhere").exit_code == 2


def test_the_demo_ends_with_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: PRESETS[name] for name in ("none", "eim-eif", "udp-rejected")}
    monkeypatch.setattr(policy, "PRESETS", some)
    result = run("demo")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["none", *["no", "NAT/EI"] * 4] in [row[:9] for row in rows]
    assert ["udp-rejected", "blocked", "blocked", "EI/APD", "EI/APD"] in [row[:5] for row in rows]
    assert result.stdout.splitlines()[-1].startswith("3 of 3 right in ")
    assert "\x1b" not in result.output


def test_ctrl_c_ends_the_lab_with_the_command() -> None:
    command = ["lab", "run", "none", "--", "sh", "-c", "echo begun; exec cat"]
    with subprocess.Popen(
        [sys.executable, "-m", "natprobe", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do() -> None:
    command = [sys.executable, "-m", "natprobe", "demo", "--backend", "bogus"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "'bogus' is no backend of the lab: choose namespaces, docker or memory" in ended.stderr
