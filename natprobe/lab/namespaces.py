"""The lab in plain network namespaces: no daemon, no image, no root, a fraction of a second.

All of it lives inside one *holder*: a keeper (see `keeper`) that is pid 1 of a PID namespace and owns the mount,
network and (without root) user namespaces. When it ends the kernel removes every process, interface and ruleset.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Self

from natprobe.errors import LabUnavailable
from natprobe.lab.backend import READY, Lab, gist
from natprobe.lab.keeper import Keeper, KeeperFailed
from natprobe.lab.topology import Node, Role, Topology, compose_directory

_PACKAGES = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ip": "iproute2",
    "nft": "nftables",
    "conntrack": "conntrack",
}
_FORBIDDEN_BY = {
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
    "kernel.unprivileged_userns_clone": ("0", "1"),
    **{f"user.max_{kind}_namespaces": ("0", "10000") for kind in ("user", "mnt", "net", "pid")},
}
"""Settings that forbid namespaces: the value that does, and one that does not."""
_CURES = {
    "unshare": "something forbids namespaces: run as root, outside of a container or in a privileged one",
    "mount": "a container forbids mounts: run outside of it, or in a privileged one (docker run --privileged)",
    "Read-only file system": "/proc or /sys is read-only: run outside of the container, or in a privileged one",
    "RTNETLINK": "the kernel lacks a device: as root, modprobe -a veth bridge",
}
"""What to do, by a word in what the failed program wrote; the first that is there."""
_CURE = "natprobe lab needs Linux 5.x or newer with iproute2, nftables and conntrack, and root or user namespaces"

_UP_TIMEOUT = 20.0
_END_TIMEOUT = 10.0
# Where ip, nft and conntrack are, which is not in every user's PATH.
_PATH = os.pathsep.join(dict.fromkeys([*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/sbin", "/sbin"]))
_PYTHONPATH = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]))

_WIRED = ("home.0", "wire.a")
"""Between these two the wire is laid: the outer end of home's internet leg, and one that leads on to the bridge."""


class NamespaceLab(Lab):
    """The lab in network namespaces, rootless if need be.

    With ``delay`` (seconds, each way) or ``loss`` (probability per packet, seeded) a wire is put into the internet leg
    of gateway ``home``. A ``kept`` lab has no pipe: it lives until some process calls `close`. Raises LabUnavailable
    where the machine cannot have the lab, with the package or the setting that is missing.
    """

    def __init__(self, *, delay: float = 0.0, loss: float = 0.0, seed: int = 1, kept: bool = False) -> None:
        super().__init__()
        _require_programs()
        self.kept = kept
        wire = ["--delay-ms", str(delay * 1000), "--loss", str(loss), "--seed", str(seed)] if delay or loss else None
        user = [] if _is_root() else ["--user", "--map-root-user"]
        try:
            self._keeper: Keeper | None = Keeper(
                ["unshare", *user, "--mount", "--net", "--pid", "--fork", "--kill-child", "sh"],
                "\n".join(_script(self.topology, wire)),
                kept="sleep infinity",
                down=":",
                path=_PATH,
                timeout=_UP_TIMEOUT,
            )
            # The holder itself, the reflector, the topology, the wire.
            self.holder = int(self._keeper.await_ready(4 if wire else 3)[0])
        except (KeeperFailed, OSError, ValueError) as error:
            raise LabUnavailable(_diagnosis(str(error))) from None
        if kept:
            self._keeper.keep()

    @classmethod
    def attach(cls, holder: int) -> Self:
        """Return the kept lab whose holder is the process with this id."""
        lab = cls.__new__(cls)
        Lab.__init__(lab)
        lab.kept, lab.holder, lab._keeper = True, holder, None  # noqa: SLF001 this very class
        return lab

    def inside(self, node: str, argv: Sequence[str]) -> list[str]:
        """Return the ``nsenter`` that does it."""
        namespace = f"/proc/{self.holder}/root/run/netns/{node}"
        user = [] if _is_root() else ["--user", "--preserve-credentials"]
        return [
            *("nsenter", f"--target={self.holder}", "--mount", "--pid", f"--net={namespace}", *user, "--"),
            # What nsenter starts would survive it; and the working directory belongs to the mounts outside.
            *("setpriv", "--pdeathsig", "TERM", "env", f"--chdir={Path.cwd()}"),
            *_environment(self.topology.nodes[node]),
            *_here(argv),
        ]

    def start(self, node: str, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a program that gets the signals that are sent to it, though it is a child of nsenter."""
        return _Entered(self.inside(node, argv), stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True)

    def close(self) -> None:
        """End the holder, and with it everything."""
        if self.kept:
            _kill(self.holder)
        if self._keeper:
            self._keeper.release()


class _Entered(subprocess.Popen[str]):
    """What nsenter runs. Signals go to it and not to nsenter, which ends as its child does.

    An orphan would be left to this machine's init, and the lab could not end before that takes notice of it.
    """

    def send_signal(self, sig: int) -> None:
        try:
            child = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().strip()
            os.kill(int(child), sig)
        except (OSError, ValueError):  # it has ended, or not begun
            super().send_signal(sig)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], _END_TIMEOUT)
        finally:
            os.close(process)


def _is_root() -> bool:
    return os.geteuid() == 0


def _require_programs() -> None:
    if sys.platform != "linux":
        raise LabUnavailable("the lab in namespaces needs Linux")
    missing = [name for name in _PACKAGES if not shutil.which(name, path=_PATH)]
    if missing:
        packages = " ".join(sorted({_PACKAGES[name] for name in missing}))
        raise LabUnavailable(f"the lab needs {', '.join(missing)}: apt install {packages}")


def _diagnosis(errors: str) -> str:
    """Return in one line why there is no lab, and what to do, from what the failed programs wrote."""
    said = gist(errors)
    if "unshare" in errors:
        for setting, (forbids, allows) in _FORBIDDEN_BY.items():
            if _setting(setting) == forbids:
                return f"the setting {setting}={forbids} forbids namespaces: as root, sysctl -w {setting}={allows}"
    return f"{said}: {next((cure for word, cure in _CURES.items() if word in errors), _CURE)}"


def _setting(name: str) -> str:
    with suppress(OSError):
        return Path("/proc/sys", *name.split(".")).read_text().strip()
    return ""


# --- what the holder runs ---------------------------------------------------------------------------------------------


def _here(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` with the programs of a lab node as this checkout or installation has them."""
    match argv:
        case ["natprobe", *rest]:
            return [sys.executable, "-m", "natprobe", *rest]
        case ["python", *rest]:
            return [sys.executable, *rest]
        case ["node", *rest]:
            return ["sh", str(compose_directory() / "servers" / "node"), *_here(rest)]
        case _:
            return [*argv]


def _environment(node: Node) -> list[str]:
    variables = {"PATH": _PATH, "PYTHONPATH": _PYTHONPATH, **node.environment}
    return [f"{name}={value}" for name, value in variables.items()]


def _script(topology: Topology, wire: Sequence[str] | None) -> Iterator[str]:
    """Yield the lines of the holder's shell script.

    It prints its process id, ``ready`` for itself and for each server, and ``failed`` for one that ends. The reflector
    takes longest to start: its part is built first, the rest meanwhile.
    """
    yield f"""set -e
        read -r holder rest </proc/self/stat  # still the /proc outside: the process id there
        echo $holder
        mount -t proc proc /proc
        [ -d /run/netns ] || {{ mount -t tmpfs lab /run; mkdir /run/netns; }}
        mount -t tmpfs lab /run/netns
        # Bridges would else speak up for themselves, on the wire too; multicast snooping is off for the same reason.
        ! [ -e /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
        serve() {{
            "$@" 2>&1 </dev/null | while read -r line; do
                echo "$line" >&2
                case $line in {READY}*) echo ready ;; esac
            done
            echo failed 2>/dev/null
        }}"""
    reflector, nodes = topology.reflector, [n for n in topology.nodes.values() if n.role is not Role.REFLECTOR]
    yield from _links([reflector], reflector.addresses, wired=False)
    yield _settle(reflector)
    yield f"serve {_in_namespace(reflector, ['node', *reflector.command])} &"
    networks = [network for network in topology.networks if network not in reflector.addresses]
    yield from _links(nodes, networks, wired=wire is not None)
    if wire:
        command = _here(["python", "-m", "natprobe.lab.wire", *wire, *_WIRED])
        yield f"serve {shlex.join(['env', f'PYTHONPATH={_PYTHONPATH}', *command])} &"
    # A namespace needs no process to stay: the command that keeps the container alive is left out.
    yield from (f'{{ {_settle(node)}\n{_in_namespace(node, ["node", "true"])}; }} & jobs="$jobs $!"' for node in nodes)
    yield "for job in $jobs; do wait $job; done\necho ready"


def _links(nodes: Iterable[Node], networks: Iterable[str], *, wired: bool) -> Iterator[str]:
    """Yield one run of ip(8) that makes bridges, namespaces, and a leg ``eth<n>`` for each network of a node."""
    yield "ip -batch - <<END"
    for network in networks:
        yield f"link add name {network} up type bridge mcast_snooping 0"
    for node in nodes:
        yield f"netns add {node.name}"
        for number, network in enumerate(node.addresses):
            outer = f"{node.name}.{number}"
            yield f"link add name {outer} type veth peer name eth{number} netns {node.name}"
            if wired and outer == _WIRED[0]:
                yield f"link set {outer} up\nlink add name {_WIRED[1]} up type veth peer name wire.b"
                outer = "wire.b"
            yield f"link set {outer} up master {network}"
    yield "END"


def _settle(node: Node) -> str:
    """Return the command that gives a node its settings and the addresses that Docker would give it."""
    lines = [f"echo {value} >/proc/sys/{key.replace('.', '/')}" for key, value in node.sysctls.items()]
    lines += ["ip -batch - <<END", "link set lo up"]
    for number, address in enumerate(node.addresses.values()):
        lines += [f"address add {address}/24 dev eth{number}", f"link set eth{number} up"]
    return f"nsenter --net=/run/netns/{node.name} sh -euc {shlex.quote(chr(10).join([*lines, 'END']))}"


def _in_namespace(node: Node, argv: Sequence[str]) -> str:
    return shlex.join(["nsenter", f"--net=/run/netns/{node.name}", "env", *_environment(node), *_here(argv)])
