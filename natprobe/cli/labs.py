"""The labs that a command can use: one that is up already, or a new one.

A lab in namespaces that outlives the command is noted in a file: the process that holds it, and when that was started,
for a process id alone may by now be another's.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from natprobe.errors import LabUnavailable
from natprobe.lab.backend import Lab
from natprobe.lab.namespaces import NamespaceLab
from natprobe.lab.policy import NatPolicy

NAMESPACES, DOCKER, MEMORY = BACKENDS = ("namespaces", "docker", "memory")


def running(backend: str | None) -> Lab | None:
    """Return the lab that an earlier command left running, its gateways' policies known; None without one."""
    _check(backend)
    return _noted() if backend in (None, NAMESPACES) else None


def build(backend: str | None, *, kept: bool) -> Lab:
    """Build a lab. Raises LabUnavailable where that cannot be done here, with the reason."""
    _check(backend)
    return NamespaceLab(kept=kept)


def _check(backend: str | None) -> None:
    if backend not in (None, *BACKENDS):
        raise ValueError(f"{backend!r} is no backend: {', '.join(BACKENDS)} are")
    if backend == MEMORY:
        raise LabUnavailable("the lab in memory has no nodes to enter yet: choose --backend namespaces or docker")


def remember(lab: Lab) -> None:
    """Note that this lab runs on, and with which policies."""
    if not isinstance(lab, NamespaceLab):
        return
    policies = {gateway: policy.to_json() for gateway, policy in lab.policies.items()}
    note = {"holder": lab.holder, "started": _started(lab.holder), "policies": policies}
    forget()
    with os.fdopen(os.open(_note(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        json.dump(note, file)


def forget() -> None:
    """Remove the note."""
    with suppress(FileNotFoundError):
        _note().unlink()


def _noted() -> NamespaceLab | None:
    try:
        note = _read()
        if note["started"] != _started(note["holder"]):
            return None
        lab = NamespaceLab.attach(note["holder"])
        lab.policies = {gateway: NatPolicy.from_json(policy) for gateway, policy in note["policies"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or what is there was not written by `remember`
    return lab


def _read() -> dict[str, Any]:
    with _note().open() as file:
        if os.fstat(file.fileno()).st_uid != os.geteuid():
            raise PermissionError(f"{_note()} is another user's")
        note: dict[str, Any] = json.load(file)
        return note


def _note() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), f"natprobe-lab-{os.geteuid()}.json")


def _started(process: int) -> str:
    """Return when a process was started, in clock ticks since the boot (proc(5): field 22 of its stat)."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
