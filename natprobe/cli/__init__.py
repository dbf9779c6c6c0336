"""The command line: one file per command. stdout is the result, stderr is progress, the exit status says which kind.

0 classified · 1 could not run · 2 usage · 3 finished, but a core verdict is not determined · 130 Ctrl-C.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal imports enum: till `main` runs Ctrl-C is a traceback
import gc
import os
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command that the arguments name."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as it is for the background jobs of a script
        signal.signal(signal.SIGINT, end_at_once)
    try:
        from natprobe.cli.application import application

        application(*sys.argv[1:2])()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done, and Python could only complain now
        gc.freeze()  # or the interpreter, at its end, looks through all that was imported: a tenth of the whole time


def end_at_once(*_: object) -> None:
    """End the process (a handler of SIGINT). What is open, a lab too, the kernel closes."""
    os._exit(INTERRUPTED)
