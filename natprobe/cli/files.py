"""Files that a command reads, or will write: these are known to be writable before anything is measured."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from natprobe.errors import CannotRun, MalformedReport
from natprobe.report import Report

STDIO = "-"
"""Stands for stdin where a file is read, and for stdout where one is written."""
_STDOUT = 1
_LARGEST = 64 << 20
"""Bytes that a report may have; the largest that natprobe writes have 1 MiB."""


def read_report(path: str) -> Report:
    """Return the report in a file, or on stdin where ``path`` is "-". Raises MalformedReport, which names the file.

    UTF-8, UTF-16 and UTF-32 are read, with a byte order mark or without: editors and shells of Windows write these.
    """
    name = "stdin" if path == STDIO else path
    try:
        data = _read(path)
    except (OSError, ValueError) as wrong:
        raise MalformedReport(f"cannot read {name}: {_why(wrong)}") from None
    try:
        return Report.loads(_decoded(data))
    except (UnicodeDecodeError, MalformedReport) as wrong:
        raise MalformedReport(f"{name} is no report of natprobe: {wrong}") from None


def _read(path: str) -> bytes:
    """Return what is in a file, which may be endless: not more than a report has. A FIFO without a writer is empty."""
    if path == STDIO:
        if sys.stdin is None:
            raise OSError("it is closed")
        data = sys.stdin.buffer.read(_LARGEST + 1)
    else:
        with open(path, "rb", opener=_reading) as file:
            os.set_blocking(file.fileno(), True)
            data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise OSError(f"it is larger than {_LARGEST >> 20} MiB, and no report is")
    return data


def _decoded(data: bytes) -> str:
    text = data.decode(json.detect_encoding(data))
    if not text.strip():
        raise MalformedReport("not JSON: there is nothing to decode")
    return text


def _reading(path: str, flags: int) -> int:
    """Open a file without waiting for the other end of a FIFO, or for anything else."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _writing(path: str, _: int) -> int:
    """Open a file that exists, likewise; it is neither made nor cut."""
    return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)


def is_stdout(path: str | None) -> bool:
    """Return whether ``path`` leads to where the result is written to anyhow."""
    if path in (STDIO, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        return True
    with suppress(OSError, ValueError):
        there, out = Path(path or "").stat(), os.fstat(_STDOUT)
        return os.path.samestat(there, out) and not stat.S_ISCHR(out.st_mode)
    return False


def same_file(one: str | None, other: str | None) -> bool:
    """Return whether two names lead to one file, which may not exist yet."""
    if one is None or other is None:
        return False
    with suppress(OSError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other) and not Path(one).is_char_device()
    return False


def read_json(path: str) -> Any:
    """Return what the JSON in a file, or on stdin where ``path`` is "-", stands for.

    Raises CannotRun where it cannot be read, ValueError where it is no JSON; neither quotes it, for it may be secret.
    """
    name = "stdin" if path == STDIO else path
    try:
        data = _read(path)
    except (OSError, ValueError) as wrong:
        raise CannotRun(f"cannot read {name}: {_why(wrong)}") from None
    try:
        return json.loads(data.decode(json.detect_encoding(data)))
    except UnicodeDecodeError:
        raise ValueError(f"{name} is neither UTF-8 nor UTF-16") from None
    except json.JSONDecodeError as wrong:
        raise ValueError(f"{name} is no JSON: {wrong.msg}, line {wrong.lineno}") from None
    except RecursionError:
        raise ValueError(f"{name} is no JSON that natprobe reads: it is nested too deeply") from None


@contextmanager
def reserved(path: str | None) -> Iterator[Callable[[str], None]]:
    """Give a function that writes a text to ``path``, or nowhere where that is None. Raises CannotRun where it cannot.

    What stood in a file stays there until all of the new text is on the disk, and a file that was not there is not left
    behind empty. A device, or a FIFO that somebody reads, is written to as it is.
    """
    if path is None:
        yield lambda _: None
        return
    with ExitStack() as stack:
        with _refused(path):
            write = _writer(Path(os.path.realpath(path)), stack)  # a link stays: what it leads to is written

        def write_text(text: str) -> None:
            with _refused(path):
                write(text.encode())

        yield write_text


def _writer(target: Path, stack: ExitStack) -> Callable[[bytes], object]:
    """Return the way to write to a file; raises OSError where there is none."""
    try:
        file = stack.enter_context(open(target, "wb", buffering=0, opener=_writing))  # noqa: SIM115 - the stack closes it
    except FileNotFoundError:
        _try_beside(target)
        return partial(_replace, target, None)
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        os.set_blocking(file.fileno(), True)
        return partial(_write_through, file)
    try:
        _try_beside(target)
    except OSError:  # the file may be written to, its directory may not
        return target.write_bytes
    return partial(_replace, target, status)


def _write_through(file: FileIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) or 0 :]


def _beside(target: Path) -> Path:
    return target.with_name(f".natprobe-{secrets.token_hex(4)}")


def _try_beside(target: Path) -> None:
    """Raise OSError where no file can be made in the directory of ``target``."""
    beside = _beside(target)
    beside.open("xb").close()
    beside.unlink()


def _replace(target: Path, old: os.stat_result | None, data: bytes) -> None:
    """Write a file beside ``target``, with the owner and mode of the old one, and rename it once it is complete."""
    beside = _beside(target)
    try:
        with beside.open("xb") as file:
            if old:
                with suppress(PermissionError):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            file.write(data)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _refused(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as wrong:
        raise CannotRun(f"cannot write {path}: {_why(wrong)}; choose another file") from None


def _why(wrong: OSError | ValueError) -> str:
    if isinstance(wrong, OSError) and wrong.errno == errno.ENXIO:  # a FIFO or a socket
        return "nothing reads from it"
    return ((isinstance(wrong, OSError) and wrong.strerror) or str(wrong)).lower()
