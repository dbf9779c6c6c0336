"""The command line: one file per command. stdout is the result, stderr is progress, the exit status says which kind.

0 classified · 1 could not run · 2 usage · 3 finished, but a core verdict is not determined · 130 Ctrl-C.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import Any

INTERRUPTED = 130


def main() -> None:
    """Run the command that the arguments name, and end the process.

    Ctrl-C ends it at once while modules are still loaded: an exception there would reach finalizers and import locks,
    which can only complain. From a command's beginning on, ``running`` decides what Ctrl-C does.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    sys.unraisablehook = _unraisable
    _end(_status())


def _status() -> int:
    """Run the command and return its exit status."""
    try:
        from natprobe.cli.application import application

        application(*sys.argv[1:2])()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:  # a fault of natprobe's own
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _unraisable(what: Any) -> None:
    """End at once where Ctrl-C strikes in a finalizer, from which no exception gets out."""
    if isinstance(what.exc_value, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    sys.__unraisablehook__(what)


def _end(status: int) -> None:
    """End the process without finalizing the interpreter.

    A thread that still waits for a name server, or imports, would find an interpreter in pieces (CPython issue 110052:
    it may crash), and looking through all that was imported takes a tenth of the whole time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._run_exitfuncs()  # noqa: SLF001 the interpreter calls them in its finalization alone
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it may have been closed by whoever started this
                stream.flush()
        except (OSError, ValueError):
            status = status or 1
    os._exit(status)
