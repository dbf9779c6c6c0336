"""Natprobe's command line on a host in trouble: every call to a socket, refused with every errno.

``python failing_sockets.py`` reads a line of JSON for each run from stdin, ``[call, errno, arguments...]``, and prints
one for each: ``[call, errno, arguments, status, output]``. Each run is a process of its own, forked when all is
imported. The call fails for internet sockets alone, each time; the event loop's own pair of sockets works.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import natprobe.cli.application
import natprobe.reflector
import natprobe.reuse
import natprobe.run
import natprobe.webrtc
import natprobe.webrtc.checking

LONGEST = 9.0
"""Seconds after which Ctrl-C ends a run that serves for ever."""
AT_ONCE = 12

CALLS = (
    *("socket", "setblocking", "setsockopt", "getsockopt", "bind", "connect", "connect_ex", "listen", "accept"),
    *("sendto", "send", "sendmsg", "recv", "recv_into", "recvfrom", "recvmsg", "dup", "getsockname", "getpeername"),
    *("getaddrinfo", "if_nameindex", "register"),
)
ERRNOS = (
    *("EPERM", "ENOENT", "EINTR", "EIO", "ENXIO", "EBADF", "EAGAIN", "ENOMEM", "EACCES", "EFAULT", "EBUSY", "ENODEV"),
    *("EINVAL", "ENFILE", "EMFILE", "ENOSPC", "EPIPE", "ENOSYS", "EPROTO", "ENOTSOCK", "EDESTADDRREQ", "EMSGSIZE"),
    *("ENOPROTOOPT", "EPROTONOSUPPORT", "EOPNOTSUPP", "EAFNOSUPPORT", "EADDRINUSE", "EADDRNOTAVAIL", "ENETDOWN"),
    *("ENETUNREACH", "ENETRESET", "ECONNABORTED", "ECONNRESET", "ENOBUFS", "EISCONN", "ENOTCONN", "ETIMEDOUT"),
    *("ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH"),
)


def failing(call: str, code: int) -> None:
    """Have ``call`` fail from now on."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    if call in ("getaddrinfo", "if_nameindex"):
        setattr(socket, call, refuse)
    elif call == "register":
        _refuse_watching(refuse)
    else:
        socket.socket = _refusing(call, code, refuse)  # type: ignore[misc]


def _refusing(call: str, code: int, refuse: Any) -> type[socket.socket]:
    class Failing(socket.socket):
        def __init__(self, family: int = socket.AF_INET, *args: Any, **kwargs: Any) -> None:
            if call == "socket" and family in (socket.AF_INET, socket.AF_INET6):
                refuse()
            super().__init__(family, *args, **kwargs)

    def fail(self: socket.socket, *args: Any, **kwargs: Any) -> Any:
        if self.family not in (socket.AF_INET, socket.AF_INET6):
            return getattr(super(Failing, self), call)(*args, **kwargs)
        return code if call == "connect_ex" else refuse()

    if call != "socket":
        setattr(Failing, call, fail)
    return Failing


def _refuse_watching(refuse: Any) -> None:
    """Have the event loop refuse to watch internet sockets: epoll_ctl fails too."""
    watch = selectors.EpollSelector.register

    def register(self: Any, watched: Any, *args: Any) -> Any:
        descriptor = watched if isinstance(watched, int) else watched.fileno()
        family = socket.socket(fileno=os.dup(descriptor))
        with family:
            if family.family != socket.AF_UNIX:
                refuse()
        return watch(self, watched, *args)

    selectors.EpollSelector.register = register  # type: ignore[method-assign,assignment]


def run(call: str, name: str, arguments: Sequence[str], output: int) -> NoReturn:
    """Run a command to its end in this process, ``call`` failing with the errno of that name."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    failing(call, getattr(errno, name))
    sys.argv = ["natprobe", *arguments]
    natprobe.cli.main()
    os._exit(99)  # it does not return


def outcome(call: str, name: str, *arguments: str) -> list[Any]:
    """Fork a run, interrupt it where it lasts, and return what it printed and how it ended."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            run(call, name, arguments, output.fileno())
        deadline, status = time.monotonic() + LONGEST, 0
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.02)
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGINT)
                deadline += LONGEST
        status = os.waitstatus_to_exitcode(ended[1])
        output.seek(0)
        return [call, name, arguments, status, output.read().decode()]


def main() -> None:
    for command in ("classify", "turn", "reuse", "reflect", "lab"):
        natprobe.cli.application.application(command)
    jobs = [json.loads(line) for line in sys.stdin]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for result in pool.map(lambda job: outcome(*job), jobs):
            sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
