"""The lab in containers: the same topology, brought up by docker-compose as a user would by hand.

Here the keeper (see `keeper`) runs docker-compose. The image is made beforehand, by servers/build.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Network
from subprocess import PIPE
from typing import Self

from natprobe.errors import LabUnavailable
from natprobe.lab.backend import READY, Lab
from natprobe.lab.keeper import Keeper, KeeperFailed
from natprobe.lab.topology import Topology, compose_directory

PROJECT = "natprobe-lab"
IMAGE = "natprobe-lab"

_TIMEOUT = 60.0

# The end of `docker exec` ends nothing in the container but the stdin there.
_SUPERVISE = """exec 3<&0
"$@" 3<&- & child=$!
{ cat <&3; kill $child; } >/dev/null 2>&1 &
wait $child"""

_DOWN = """compose down --timeout 1 --remove-orphans </dev/null >&2
for attempt in 1 2 3 4 5; do
    left=$(docker network ls --quiet --filter label=com.docker.compose.project=$project)
    [ -n "$left" ] || exit 0
    # "has active endpoints" though no container is left: moby/moby#42119
    for network in $left; do
        for name in $(docker network inspect --format '{{range .Containers}}{{.Name}} {{end}}' $network); do
            docker network disconnect --force $network $name
        done
        docker network rm $network >&2
    done
    sleep 0.2
done
exit 1"""


class DockerLab(Lab):
    """The lab in containers, about 4 s to bring up and 3 s to take down. One at a time: its subnets are fixed.

    A ``kept`` lab is not taken down with this process: it lives until some process calls `close`. Raises
    LabUnavailable, saying why, where Docker, the image or the address space is not to be had.
    """

    def __init__(self, *, kept: bool = False) -> None:
        super().__init__()
        self.kept = kept
        _require_docker()
        _require_room(self.topology)
        up = f"{_functions()}\ncompose up --detach --no-build </dev/null >&2 && echo up || echo failed"
        self._keeper: Keeper | None = Keeper(["sh"], up, kept="exit 0", down=_DOWN)
        try:
            self._keeper.await_ready(1)
            self._containers = _containers()
            self._await_reflector()
        except KeeperFailed as error:
            raise LabUnavailable(f"docker-compose cannot bring the lab up: {_last_line(str(error))}") from None
        except BaseException:
            self._keeper.release()
            raise
        if kept:
            self._keeper.keep()

    @classmethod
    def attach(cls) -> Self:
        """Return the lab that is up in Docker; raises LabUnavailable if none is."""
        lab = cls.__new__(cls)
        Lab.__init__(lab)
        lab.kept, lab._keeper, lab._containers = True, None, _containers()  # noqa: SLF001 this very class
        if not lab._containers:  # noqa: SLF001
            raise LabUnavailable("no lab is up in Docker")
        return lab

    def inside(self, node: str, argv: Sequence[str]) -> list[str]:
        """Return the ``docker exec`` that does it."""
        return ["docker", "exec", "--interactive", self._containers[node], *argv]

    def start(self, node: str, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a program under a shell that ends it when ``docker exec`` ends."""
        command = self.inside(node, ["sh", "-c", _SUPERVISE, "sh", *argv])
        return subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)

    def close(self) -> None:
        """Take down containers and networks; returns when they are gone."""
        if self._keeper:
            self._keeper.release()
        if self.kept:
            _take_down()

    def _await_reflector(self) -> None:
        container = self._containers[self.topology.reflector.name]
        command = ["timeout", str(_TIMEOUT), "docker", "logs", "--follow", container]
        with subprocess.Popen(command, stdout=PIPE, stderr=subprocess.STDOUT, text=True) as logs:
            assert logs.stdout is not None
            said = ""
            for line in logs.stdout:
                if line.startswith(READY):
                    logs.terminate()
                    return
                said += line
        raise LabUnavailable(f"the reflector does not serve: {_last_line(said)}")


def _functions() -> str:
    programs = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    file = compose_directory() / "docker-compose.yml"
    compose = shlex.join([*programs, "--project-name", PROJECT, "--file", str(file)])
    return f'project={PROJECT}\ncompose() {{ {compose} "$@"; }}'


def _take_down() -> None:
    subprocess.run(["sh", "-c", f"{_functions()}\n{_DOWN}"], capture_output=True, timeout=_TIMEOUT, check=False)


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=_TIMEOUT, check=False)


def _containers() -> dict[str, str]:
    """Return the ids of the project's containers by node: compose v1 and v2 name them differently."""
    template = '{{.Label "com.docker.compose.service"}} {{.ID}}'
    listed = _docker("ps", "--filter", f"label=com.docker.compose.project={PROJECT}", "--format", template)
    return dict(line.split() for line in listed.stdout.splitlines())


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]


# --- whether it can be ------------------------------------------------------------------------------------------------


def _require_docker() -> None:
    """Raise LabUnavailable unless there is a daemon, a compose, and the image."""
    if not shutil.which("docker"):
        raise LabUnavailable("the lab in containers needs Docker: apt install docker.io docker-compose")
    if not shutil.which("docker-compose") and _docker("compose", "version").returncode:
        raise LabUnavailable("the lab in containers needs docker-compose: apt install docker-compose")
    if (info := _docker("info")).returncode:
        raise LabUnavailable(f"the Docker daemon does not answer: {_last_line(info.stderr)}")
    if _docker("image", "inspect", IMAGE).returncode:
        raise LabUnavailable(f"the image {IMAGE} is not built: run servers/build in a checkout of natprobe")


def _require_room(topology: Topology) -> None:
    """Raise LabUnavailable if a subnet of the lab is in use on this host, which Docker would cut off from it."""
    if _containers():
        raise LabUnavailable("a lab is already up in Docker: natprobe lab down")
    if _docker("network", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").stdout:
        _take_down()  # what a killed daemon or machine left
    routes = subprocess.run(["ip", "-json", "-4", "route", "show"], capture_output=True, text=True, check=True).stdout
    for route in json.loads(routes):
        # Wider ones (a VPN's two halves of everything) are default routes by another name.
        taken = IPv4Network(route["dst"]) if route["dst"] != "default" else None
        for network in topology.networks.values():
            if taken and taken.prefixlen >= 8 and network.overlaps(taken):
                raise LabUnavailable(f"the lab's {network} meets this host's route to {taken} by {route.get('dev')}")
