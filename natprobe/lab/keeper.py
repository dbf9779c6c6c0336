"""The process that keeps a lab: it brings it up, and takes it down when this process lets go, however that comes about.

A keeper is a shell that reads its script from a pipe and then waits on the same pipe. When this process ends, by
SIGKILL too, the kernel closes the pipe: there is no clean-up that could be forgotten.
"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress

_KEEP = "keep"
_TIMEOUT = 60.0


class KeeperFailed(Exception):
    """The lab did not come up; the text is what the script's programs wrote to stderr."""


class Keeper:
    """A shell that runs ``up``, waits, and runs ``down``: both are shell text that may be several lines.

    ``up`` writes one line to stdout for each thing that is ready, and ``failed`` or nothing more if one will not be.
    ``kept`` is what to do in place of waiting when the lab is to outlive this process. ``argv`` runs the shell.
    Whatever takes longer than ``timeout`` seconds has failed.
    """

    def __init__(
        self, argv: Sequence[str], up: str, *, kept: str, down: str, path: str | None = None, timeout: float = _TIMEOUT
    ) -> None:
        self._timeout = timeout
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 it is open as long as somebody may write to it
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for this process; the keeper hears of it by the pipe
            env=os.environ | ({"PATH": path} if path else {}),
        )
        # One command from `if` to `fi`: the shell has read it all before what it reads next is the word.
        self._write(f'{up}\nif read -r word && [ "$word" = {_KEEP} ]; then\n{kept}\nelse\n{down}\nfi\n')

    def await_ready(self, lines: int) -> list[str]:
        """Wait for so many lines and return them; raises KeeperFailed, and lets go, if they do not come."""
        try:
            said = self._read(lines)
        except BaseException:
            self.release()
            raise
        if said is None:
            raise KeeperFailed(self.release())
        return said

    def _read(self, lines: int) -> list[str] | None:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        said = b""
        while said.count(b"\n") < lines:
            readable, _, _ = select.select([output], [], [], self._timeout)
            chunk = os.read(output, 4096) if readable else b""
            said += chunk
            if not chunk or b"failed\n" in said:
                return None
        return said.decode().split("\n")

    def keep(self) -> None:
        """Let the lab live on without this process; how it then ends is not the keeper's business."""
        self._write(f"{_KEEP}\n")
        self._close_pipes()
        self._errors.close()

    def release(self) -> str:
        """Let go, return when the lab is down, and the first time return what was written to stderr."""
        self._close_pipes()
        try:
            self._process.wait(self._timeout)
        except subprocess.TimeoutExpired:  # something in it hangs
            self._process.kill()
            self._process.wait()
        if self._errors.closed:
            return ""
        with self._errors:
            self._errors.seek(0)
            return self._errors.read()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has failed already, and said why
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
