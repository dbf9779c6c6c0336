"""Labs by the name of their backend, for the length of a block, or noted in a file from one command to the next."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from natprobe.errors import LabUnavailable
from natprobe.lab.backend import Lab
from natprobe.lab.docker import DockerLab
from natprobe.lab.namespaces import NamespaceLab
from natprobe.lab.policy import NatPolicy

BACKENDS: dict[str, type[Lab]] = {"namespaces": NamespaceLab, "docker": DockerLab}


def open_lab(backend: str = "namespaces", **options: Any) -> Lab:
    """Bring a lab up; a context manager that takes it down. ``options`` are those of the backend's class.

    Raises LabUnavailable where this machine cannot have it and ValueError for a backend that does not exist.
    """
    if backend not in BACKENDS:
        raise ValueError(f"no lab of processes is made of {backend!r}: {', '.join(BACKENDS)}")
    return BACKENDS[backend](**options)


def remember(lab: Lab) -> None:
    """Note a ``kept`` lab and its gateways' policies, for `attach`. There is one note for each user."""
    policies = {gateway: policy.to_json() for gateway, policy in lab.policies.items()}
    note: dict[str, Any] = {"backend": "docker", "policies": policies}
    if isinstance(lab, NamespaceLab):
        note |= {"backend": "namespaces", "holder": lab.holder, "began": _began(lab.holder)}
    forget()
    # Not by any file or link that is there: in /tmp another user may have put it there.
    with os.fdopen(os.open(_note(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        json.dump(note, file)


def attach() -> Lab:
    """Return the lab that is noted, from whichever process. Its `close` takes it down; leaving its block does not.

    Raises LabUnavailable if none is noted, or if it has ended since.
    """
    try:
        with _note().open() as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                raise PermissionError
            note = json.load(file)
        lab = _attach(note)
        lab.policies = {gateway: NatPolicy.from_json(policy) for gateway, policy in note["policies"].items()}
    except (OSError, ValueError, KeyError):
        raise LabUnavailable("no lab is up: natprobe lab up") from None
    return lab


def _attach(note: dict[str, Any]) -> Lab:
    if note["backend"] == "docker":
        return DockerLab.attach()
    # A process id alone may by now be another's.
    if note["began"] != _began(note["holder"]):
        raise ProcessLookupError
    return NamespaceLab.attach(note["holder"])


def forget() -> None:
    """Remove the note; the lab itself is ended by its `close`."""
    with suppress(FileNotFoundError):
        _note().unlink()


def _note() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), f"natprobe-lab-{os.geteuid()}.json")


def _began(process: int) -> str:
    """Return when a process was started, in clock ticks since the boot (proc(5): field 22 of its stat)."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split(maxsplit=20)[19]
