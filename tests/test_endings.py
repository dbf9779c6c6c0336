"""How the process ends: by its own status, never by a signal. All moments: benchmarks/endings.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from natprobe.cli.classify import _meanwhile

PROGRAM = [sys.executable, "-m", "natprobe"]
REFUSED = ["classify", "-s", "127.77.0.97", "--quick", "-4"]
UNHEARD = """
import socket, sys, threading
waiting = threading.Event()
def silent(*_, **__):
    waiting.set()
    threading.Event().wait()
socket.getaddrinfo = silent
import signal, os
threading.Thread(target=lambda: (waiting.wait(), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()
sys.argv = ["natprobe", "classify", "-s", "silent.example"]
from natprobe.cli import main
main()
"""


def test_what_is_imported_beside_the_probes_is_waited_for() -> None:
    """A daemon thread that imports while the interpreter is finalized may crash it (CPython issue 110052)."""
    before = set(threading.enumerate())
    _meanwhile("natprobe.views.text", lambda _: None)("go")
    assert not any(thread.daemon for thread in set(threading.enumerate()) - before)


@pytest.mark.slow
def test_runs_that_end_at_once_end_by_their_own_status() -> None:
    for _ in range(10):
        done = subprocess.run([*PROGRAM, *REFUSED], capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


@pytest.mark.slow
def test_a_silent_name_server_delays_no_end() -> None:
    done = subprocess.run([sys.executable, "-c", UNHEARD], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("command", [REFUSED, ["reuse", "-s", "127.77.0.97"], ["lab", "list"]], ids=lambda c: c[0])
@pytest.mark.parametrize("calls", [1, 20, 100, 400, 1000, 3000, 8000])
def test_ctrl_c_at_any_moment_leaves_no_traceback(command: list[str], calls: int, tmp_path: Path) -> None:
    """Ctrl-C at a certain call of a Python function, from main on: the same moment on every machine."""
    program = tmp_path / "program.py"
    program.write_text(f"""
import signal, sys
from natprobe.cli import main
left = {calls}
def profile(*_):
    global left
    left -= 1
    if not left:
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)
sys.argv = ["natprobe", *{command!r}]
started = signal.signal
def begin(*arguments):
    result = started(*arguments)
    signal.signal = started
    sys.setprofile(profile)
    return result
signal.signal = begin  # main's first: from there on natprobe decides
main()
""")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.returncode in {0, 1, 3, 128 + signal.SIGINT}
