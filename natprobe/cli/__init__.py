"""The command line: one file per command. stdout is the result, stderr is progress, the exit status says which kind.

0 classified · 1 could not run · 2 usage · 3 finished, but a core verdict is not determined · 130 Ctrl-C.
"""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command that the arguments name."""
    try:
        from natprobe.cli.application import application  # here Ctrl-C is heard already
        from natprobe.cli.running import with_standard_streams

        with with_standard_streams():
            application(*sys.argv[1:2])()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.freeze()  # or the interpreter, at its end, looks through all that was imported: a tenth of the whole time
