"""Every call to a socket, refused with every errno, under every command: does each run end in one line, and rightly?

    unshare -n sh -c 'ip link set lo up; python benchmarks/errnos.py [--call CALL]... [--errno NAME]... [COMMAND...]'

Runs are forked processes (tests/failing_sockets.py), a dozen at a time, against a reflector that this starts on
loopback. What is counted are exit statuses, and as faults: tracebacks, deaths by a signal, any other number of lines
than one where nothing could be measured, and "local port 0 is in use".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "tests" / "failing_sockets.py"
SERVER = "127.77.0.1"
COMMANDS: dict[str, Sequence[str]] = {
    "classify": ("classify", "-s", SERVER, "--quick"),
    "turn": ("turn", f"stun:{SERVER}", f"turn:{SERVER}?transport=tcp", "--timeout", "1"),
    "reuse": ("reuse", "-s", SERVER, "--connections", "2"),
    "reflect": ("reflect", "--address", "127.77.0.2", "--port"),  # each run has a port of its own
    "lab": ("lab", "list"),
}
STATUSES = {0, 1, 3, 130}


def faults(status: int, output: str) -> list[str]:
    """Return what is wrong with how a run ended."""
    wrong = {
        "traceback": any(word in output for word in ("Traceback", "Exception ignored", "Warning")),
        "status": status not in STATUSES,
        "lines": status == 1 and output.count("\n") != 1,
        "port 0": "port 0 is in use" in output,
    }
    return [name for name, is_so in wrong.items() if is_so]


def main() -> None:
    """Run them all, and print what was counted and each fault."""
    sys.path.insert(0, str(PROGRAM.parent))
    from failing_sockets import CALLS, ERRNOS

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--call", action="append", choices=CALLS)
    parser.add_argument("--errno", action="append", choices=ERRNOS)
    parser.add_argument("command", nargs="*", default=list(COMMANDS))
    options = parser.parse_args()
    jobs = [
        [call, name, *COMMANDS[command]]
        for command in options.command
        for call in options.call or CALLS
        for name in options.errno or ERRNOS
    ]
    jobs = [[*job, str(20_000 + n)] if job[2] == "reflect" else job for n, job in enumerate(jobs)]
    reflector = [sys.executable, "-m", "natprobe", "reflect", "--compat", "--address", SERVER]
    with subprocess.Popen(reflector, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stderr
        serving.stderr.readline()
        asked = "\n".join(map(json.dumps, jobs))
        done = subprocess.run(
            [sys.executable, str(PROGRAM)], input=asked, stdout=subprocess.PIPE, text=True, check=True
        )
        serving.terminate()
    counted: Counter[tuple[str, int]] = Counter()
    for call, name, arguments, status, output in map(json.loads, done.stdout.splitlines()):
        counted[arguments[0], status] += 1
        if wrong := faults(status, output):
            sys.stdout.write(f"{arguments[0]}, {call}: {name}: {', '.join(wrong)}\n{output}\n")
    sys.stdout.write(f"{counted.total()} runs: {dict(counted)}\n")


if __name__ == "__main__":
    main()
