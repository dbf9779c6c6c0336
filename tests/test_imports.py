"""What it costs to have natprobe inside another program: importing is cheap, and nobody gets what they do not use."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    """Run a program in an interpreter of its own, and return what it printed."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_is_quick_and_imports_nothing_of_others() -> None:
    code = """
import sys, time
began = time.process_time()
import natprobe, natprobe.webrtc
print(time.process_time() - began)
print({"aioice", "aiortc", "jinja2", "msgspec", "rich", "typer", "yaml"} & sys.modules.keys() or "nothing")
"""
    seconds, loaded = run(code).split()
    assert float(seconds) < 0.15
    assert loaded == "nothing"


@pytest.mark.slow
def test_what_classifies_and_explains_needs_no_command_line_and_no_aiortc() -> None:
    code = """
import sys
sys.modules["aiortc"] = None  # not installed
import natprobe, natprobe.webrtc
for module in (natprobe, natprobe.webrtc):
    for name in module.__all__:
        getattr(module, name)
print({"jinja2", "rich", "typer"} & sys.modules.keys() or "nothing")
"""
    assert run(code).strip() == "nothing"


def test_the_public_names_of_webrtc_are_all_there() -> None:
    import natprobe.webrtc as webrtc  # noqa: PLC0415, PLR0402

    assert sorted(webrtc.__all__) == webrtc.__all__
    assert all(getattr(webrtc, name).__doc__ for name in webrtc.__all__)


def test_the_lab_in_memory_needs_nothing_of_linux() -> None:
    code = """
import asyncio, json, platform, socket, ssl, subprocess, tempfile  # what Python itself takes of the system is its own
import sys
for module in ("fcntl", "grp", "pwd", "pty", "resource", "termios"):
    sys.modules[module] = None
from natprobe.cli.labs import Classifier
from natprobe.lab.policy import PRESETS
from natprobe.run import Tier
print(json.loads(Classifier(None).classify(PRESETS["adm-adf"], Tier.QUICK))["ipv4"]["udp"]["mapping"]["value"])
print({name for name in sys.modules if name.startswith("natprobe.lab.")} & {
    "natprobe.lab." + name for name in ("backend", "docker", "namespaces", "session")} or "nothing")
"""
    assert run(code).split() == ["address-dependent", "nothing"]
