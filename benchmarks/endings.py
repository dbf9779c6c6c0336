"""Does the process ever die by a signal? Runs that end at once, and Ctrl-C at every moment of start-up and run.

    python benchmarks/endings.py [--runs N] [--moments N] [--span S] [--at-once N] [COMMAND...]

Each run is a process of its own, against a server on loopback that answers every request with an error. What is counted
are deaths by a signal, tracebacks, and exit statuses that are neither the command's own nor 130. Python itself is
interrupted too where Ctrl-C comes before natprobe is reached: those runs are counted apart.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from natprobe.stun import Attribute, Class, Message, decode

SERVER = "127.79.0.1"
COMMANDS: dict[str, Sequence[str]] = {
    "classify": ("classify", "-s", SERVER, "--quick", "-4"),
    "turn": ("turn", f"stun:{SERVER}"),
    "reuse": ("reuse", "-s", SERVER),
    "reflect": ("reflect", "--address", "192.0.2.77"),
    "explain": ("explain", "no-such-file"),
    "predict": ("predict", "no-such-file", "no-such-file"),
    "lab": ("lab", "list"),
}


@contextmanager
def refusing_server() -> Iterator[None]:
    """Answer what comes over UDP with an error, at once; nobody listens over TCP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((SERVER, 3478))

        def serve() -> None:
            while data := sock.recvfrom(2000):
                if data[0] == b"end":
                    return
                message = decode(data[0])
                error = Attribute(0x0009, b"\x00\x00\x05\x00no")  # ERROR-CODE 500
                sock.sendto(Message(Class.ERROR, message.transaction_id, (error,)).encode(), data[1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            sock.sendto(b"end", (SERVER, 3478))
            thread.join()


def ending(command: str, moment: float | None) -> str:
    """Run a command, interrupt it after ``moment`` seconds if it still runs, and say how it ended."""
    program = [sys.executable, "-m", "natprobe", *COMMANDS[command]]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        if moment is not None:
            time.sleep(moment)
            process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    if moment is not None and "KeyboardInterrupt" in told and "natprobe/cli" not in told:
        return "interrupted before natprobe"
    if process.returncode < 0:
        return f"died by {signal.Signals(-process.returncode).name}"
    if "Traceback" in told or "Exception ignored" in told or "never awaited" in told:
        return f"traceback: {told[-300:]}"
    return f"status {process.returncode}"


def main() -> None:
    """Count, and print a line for each command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="of each command, to their own end")
    parser.add_argument("--moments", type=int, default=200, help="at which each command is interrupted")
    parser.add_argument("--span", type=float, default=2.0, help="seconds over which the moments are spread")
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("command", nargs="*", default=list(COMMANDS))
    options = parser.parse_args()
    moments = [options.span * number / max(1, options.moments) for number in range(options.moments)]
    with refusing_server(), ThreadPoolExecutor(options.at_once) as pool:
        for command in options.command:
            ended = Counter(pool.map(partial(ending, command), [None] * options.runs))
            stopped = Counter(pool.map(partial(ending, command), moments))
            sys.stdout.write(f"{command}: {dict(ended)}; interrupted: {dict(stopped)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
