"""Files that a command reads, or will write: these are known to be writable before anything is measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any

from natprobe.errors import CannotRun, MalformedReport
from natprobe.report import Report


def read_report(path: str) -> Report:
    """Return the report in a file, or on stdin where ``path`` is "-". Raises MalformedReport, which names the file."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return Report.loads(data.decode())
    except OSError as wrong:
        raise MalformedReport(f"cannot read {path}: {(wrong.strerror or str(wrong)).lower()}") from None
    except (UnicodeDecodeError, MalformedReport) as wrong:
        raise MalformedReport(f"{path} is no report of natprobe: {wrong}") from None


def read_json(path: str) -> Any:
    """Return what the JSON in a file, or on stdin where ``path`` is "-", stands for.

    Raises CannotRun where it cannot be read, ValueError where it is no JSON; neither quotes it, for it may be secret.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return loads(data.decode("utf-8-sig"))
    except OSError as wrong:
        raise CannotRun(f"cannot read {path}: {(wrong.strerror or str(wrong)).lower()}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    except JSONDecodeError as wrong:
        raise ValueError(f"{path} is no JSON: {wrong.msg}, line {wrong.lineno}") from None


@contextmanager
def reserved(path: str | None) -> Iterator[Callable[[str], None]]:
    """Give a function that writes a text to ``path``, or nowhere where that is None. Raises CannotRun where it cannot.

    What stood in the file stays there until then; a file that was not there is not left behind empty.
    """
    if path is None:
        yield lambda _: None
        return
    file, written = Path(path), False

    def write(text: str) -> None:
        nonlocal written
        with _refused(path):
            file.write_text(text, encoding="utf-8")
        written = True

    existed = file.exists()
    with _refused(path):
        file.open("a").close()
    try:
        yield write
    finally:
        if not (existed or written):
            file.unlink(missing_ok=True)


@contextmanager
def _refused(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as wrong:
        raise CannotRun(f"cannot write {path}: {(wrong.strerror or str(wrong)).lower()}; choose another file") from None
