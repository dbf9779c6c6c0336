"""The Python in the docs on WebRTC is what a strict type checker lets pass: an application can copy it as it is."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "webrtc.md"
GIVEN = """\
from __future__ import annotations
from aiortc import RTCConfiguration, RTCPeerConnection
from natprobe import Report
from natprobe.webrtc import IceServerCheck

async def page(
    configuration: RTCConfiguration,
    pc: RTCPeerConnection,
    report: Report,
    their_report: Report,
    checks: tuple[IceServerCheck, ...],
) -> None:
"""
"""What a reader of the page has before its first line of Python."""


@pytest.mark.slow
def test_the_snippets_pass_a_strict_type_checker(tmp_path: Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) >= 3
    program = tmp_path / "page.py"
    program.write_text(GIVEN + "".join(textwrap.indent(snippet, "    ") for snippet in snippets), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", f"--cache-dir={tmp_path}", str(program)]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (checked.stdout, checked.returncode) == ("", 0)
