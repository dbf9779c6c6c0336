"""A TURN server for the lab: Debian's coturn on the reflector's node, for tests that need a relay."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from subprocess import Popen
from threading import Thread
from typing import Any

from natprobe.errors import LabUnavailable
from natprobe.lab.backend import Lab

_PORTS = count(3500, 10)
"""To each server a port of its own: a NAT that has been swapped gives old ports anew, and an allocation of an earlier
client at the same 5-tuple would be in the way (437, RFC 8656 §7.2)."""
_READY = "Total General servers"


@contextmanager
def turn_server(lab: Lab, *options: str) -> Iterator[dict[str, Any]]:
    """Run a TURN server for the length of a block; it is the ICE server with ``urls``, ``username`` and ``credential``.

    It listens on the reflector's second address, over UDP, which the URL names, and over TCP. ``options`` are more of
    turnserver(1). Raises LabUnavailable where coturn is not installed or does not start.
    """
    if not shutil.which("turnserver", path="/usr/bin:/usr/local/bin:/usr/sbin"):
        raise LabUnavailable("the TURN server of the lab is coturn: apt install coturn")
    address, port = str(lab.topology.reflector_addresses[1]), next(_PORTS)
    with tempfile.TemporaryDirectory(prefix="natprobe-") as directory:
        command = [
            *("turnserver", "-n", "--lt-cred-mech", "--user=natprobe:natprobe", "--realm=lab", "--no-cli", "--no-tls"),
            *("--no-dtls", f"--listening-ip={address}", f"--relay-ip={address}", f"--listening-port={port}"),
            *(f"--pidfile={directory}/pid", f"--userdb={directory}/db", "--log-file=stdout", *options),
        ]
        server = lab.start(lab.topology.reflector.name, command)
        try:
            _await_ready(server)
            yield {"urls": f"turn:{address}:{port}?transport=udp", "username": "natprobe", "credential": "natprobe"}
        finally:
            server.terminate()
            server.wait()
            for pipe in (server.stdout, server.stderr):
                if pipe:
                    pipe.close()


def _await_ready(server: Popen[str]) -> None:
    """Wait until the server serves, and let it say more to nobody."""
    assert server.stdout is not None
    said = [server.stdout.readline()]
    while said[-1] and _READY not in said[-1]:
        said.append(server.stdout.readline())
    if not said[-1]:
        raise LabUnavailable(f"coturn did not start: {''.join(said).strip()}")
    Thread(target=deque, args=(server.stdout, 0), daemon=True).start()
