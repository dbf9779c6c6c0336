"""A lab leaves nothing behind, however its owner ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from natprobe.errors import LabUnavailable
from natprobe.lab import session
from natprobe.lab.docker import PROJECT
from natprobe.lab.policy import PRESETS
from natprobe.lab.session import open_lab

from .conftest import BACKENDS, ROOT, not_here, open_here, prepare

pytestmark = [pytest.mark.lab, pytest.mark.slow]

HOLD = """
import sys
from natprobe.lab.session import open_lab
with open_lab(sys.argv[1]) as lab:
    print(lab._keeper._process.pid, flush=True)
    if sys.stdin.readline() == "raise\\n":
        raise RuntimeError("on purpose")
"""

ENDS: dict[str, Callable[[subprocess.Popen[str]], object]] = {
    "its end": lambda holding: holding.communicate("\n"),
    "an exception": lambda holding: holding.communicate("raise\n"),
    "SIGINT": lambda holding: holding.send_signal(signal.SIGINT),
    "SIGTERM": lambda holding: holding.terminate(),
    "SIGKILL": lambda holding: holding.kill(),
}


@cache
def clear(kind: str) -> None:
    """Leave nothing of others: the lab of a daemon that was killed is still there, and goes when the next one comes."""
    if prepare(kind) == "docker":
        try:
            open_lab(kind).close()
        except LabUnavailable as missing:
            not_here(missing)


def traces() -> list[str]:
    """Return what a lab could leave on this machine: interfaces, namespaces, routes, containers, Docker networks."""
    own = f"label=com.docker.compose.project={PROJECT}"
    commands = [["ip", "-brief", "link"], ["ip", "netns"], ["ip", "-4", "route"]]
    if subprocess.run(["sh", "-c", "docker info"], capture_output=True, check=False).returncode == 0:
        commands += [["docker", "ps", "-aq", "--filter", own], ["docker", "network", "ls", "-q", "--filter", own]]
    # First words only: whether a link is up is Docker's own affair.
    return [
        line.split()[0] for command in commands for line in subprocess.check_output(command, text=True).splitlines()
    ]


def processes_below(ancestor: int) -> list[int]:
    """Return the ids of a process's descendants, itself among them."""
    children = Path(f"/proc/{ancestor}/task/{ancestor}/children").read_text().split()
    return [ancestor, *(process for child in children for process in processes_below(int(child)))]


def wait_for_end(process: int) -> None:
    """Return when a process that need not be a child has ended."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([descriptor], [], [], 30)
    os.close(descriptor)
    assert ended


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", BACKENDS)
def test_nothing_is_left_however_its_owner_ends(kind: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    clear(kind)
    before = traces()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, kind], stdin=-1, stdout=-1, stderr=-1, text=True, start_new_session=True
    ) as holding:
        assert holding.stdout
        assert holding.stderr
        first = holding.stdout.readline()
        if not first:
            not_here(holding.stderr.read().splitlines()[-1])
        processes = processes_below(int(first))
        assert kind == "docker" or len(processes) > len(["unshare", "the holder", "the reflector"])
        ENDS[end](holding)
    for process in processes:
        wait_for_end(process)
    assert traces() == before


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place of its own for the note of a kept lab."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield
    session.forget()


@pytest.mark.usefixtures("note")
def test_a_kept_lab_is_found_again_by_another_process_and_ended_there() -> None:
    before = traces()
    with open_here(kept=True) as lab:
        lab.apply("home", PRESETS["eim-adf"])
        session.remember(lab)
    found = session.attach()
    assert found.policies == {"home": PRESETS["eim-adf"]}
    assert found.check(PRESETS["eim-adf"]) == []
    other = "from natprobe.lab.session import attach; attach().close()"
    subprocess.run([sys.executable, "-c", other], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    lab.close()
    with pytest.raises(LabUnavailable, match="no lab is up"):
        session.attach()
    assert traces() == before
