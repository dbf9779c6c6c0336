"""What a lab can do, whatever it is made of: run a program on a node, swap a gateway's NAT, pull a cable.

A backend only says how a program is run on a node and how the lab ends. All else is done by the programs that every
node has: ip, nft, conntrack, natprobe.
"""

from __future__ import annotations

import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from natprobe.errors import LabUnavailable
from natprobe.lab.nftables import ruleset
from natprobe.lab.policy import NatPolicy
from natprobe.lab.selfcheck import faults
from natprobe.lab.topology import Topology, read_topology

READY = "serving"
"""With this word begins the line that a server of the lab writes to stderr when all its sockets are bound."""


_SHUT = "ip natprobe_shut"
_DROPPING_ALL = "{ chain enter { type filter hook prerouting priority raw; drop; }; }"
"""Stands before a gateway from the swap of its rules until all is forgotten: what passed between would teach the new
rules the mappings of the old ones."""


def gist(errors: str, longest: int = 200) -> str:
    """Return what a failed program wrote, in one line: of a traceback the last line."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()] or ["no reason is given"]
    text = lines[-1] if any(line.startswith("Traceback") for line in lines) else " ".join(lines)
    return text if len(text) <= longest else text[: longest - 1] + "…"


@contextmanager
def sound() -> Iterator[None]:
    """Raise LabUnavailable where a program of the lab cannot be started, hangs, or prints what it should not."""
    try:
        yield
    except (OSError, subprocess.SubprocessError, json.JSONDecodeError, LookupError, StopIteration) as wrong:
        raise LabUnavailable(f"the lab does not work: {gist(str(wrong) or type(wrong).__name__)}") from None


_KERNEL_NAT = "the lab needs a kernel with NAT: as root, modprobe -a nf_tables nft_chain_nat nf_conntrack_netlink"


@dataclass(frozen=True, slots=True)
class Legs:
    """Where a gateway stands: its interface to the internet and the address there, and its interface to the LAN."""

    uplink: str
    external: str
    lan: str


class Lab(ABC):
    """A lab that is up, its reflector serving. A context manager: it ends with the block unless it is ``kept``.

    Every method raises LabUnavailable, with what the failed program said, where the lab itself does not work.
    """

    topology: Topology
    kept = False
    """Whether the lab outlives its context manager and this process."""

    def __init__(self) -> None:
        self.topology = read_topology()
        self.policies: dict[str, NatPolicy] = {}
        self._legs: dict[str, Legs] = {}

    @abstractmethod
    def inside(self, node: str, argv: Sequence[str]) -> list[str]:
        """Return the command that runs ``argv`` on a node; ``natprobe`` and ``python`` are this very natprobe's."""

    @abstractmethod
    def start(self, node: str, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a program on a node, its stdout and stderr piped; the caller terminates it, or the lab's end does.

        It is given no stdin of its own.
        """

    @abstractmethod
    def close(self) -> None:
        """End the lab and everything in it. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.kept:
            self.close()

    # --- programs -----------------------------------------------------------------------------------------------------

    def run(
        self, node: str, argv: Sequence[str], *, stdin: str = "", timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on a node to its end and return its exit status and all that it wrote.

        Raises subprocess.TimeoutExpired after ``timeout`` seconds; a failing program raises nothing.
        """
        return subprocess.run(
            self.inside(node, argv), input=stdin, timeout=timeout, capture_output=True, text=True, check=False
        )

    def must(self, node: str, argv: Sequence[str], *, stdin: str = "") -> str:
        """Run a program that cannot fail in a sound lab and return its stdout."""
        with sound():
            done = self.run(node, argv, stdin=stdin)
        if done.returncode:
            said = gist(done.stderr or f"status {done.returncode}")
            raise LabUnavailable(f"{argv[0]} failed on {node}: {said}")
        return done.stdout

    # --- gateways -----------------------------------------------------------------------------------------------------

    def apply(self, gateway: str, policy: NatPolicy) -> None:
        """Make a gateway behave so from now on, and forget every mapping that it had.

        Raises PolicyNotPossible, and leaves the gateway as it was, if the kernel cannot be such a NAT.
        """
        with sound():
            legs = self.legs(gateway)
        text = ruleset(policy, uplink=legs.uplink, lan=legs.lan, external=legs.external)
        swap = f"nft -f - && conntrack -F && nft delete table {_SHUT}"
        try:
            self.must(gateway, ["sh", "-c", swap], stdin=f"{text}table {_SHUT} {_DROPPING_ALL}\n")
        except LabUnavailable as refused:
            raise LabUnavailable(f"{refused}: {_KERNEL_NAT}") from None
        self.policies[gateway] = policy

    def legs(self, gateway: str) -> Legs:
        """Return by which interfaces the gateway reaches the reflector and its LAN."""
        if gateway not in self._legs:
            node = self.topology.nodes[gateway]
            if node.lan is None:
                raise ValueError(f"{gateway} is no gateway: {', '.join(n.name for n in self.topology.gateways())} are")
            target = self.topology.reflector_addresses[0]
            route = json.loads(self.must(gateway, ["ip", "-json", "route", "get", str(target)]))[0]
            self._legs[gateway] = Legs(route["dev"], route["prefsrc"], self._interface(gateway, node.lan))
        return self._legs[gateway]

    def _interface(self, node: str, network: str) -> str:
        address = self.topology.nodes[node].addresses[network]
        found = json.loads(self.must(node, ["ip", "-json", "-4", "address", "show", "to", str(address)]))
        return next(str(link["ifname"]) for link in found if link)

    def put_behind(self, gateway: str, outer: str | None) -> None:
        """Pull the gateway's cable to the internet, so that it goes through ``outer``; None plugs it in again.

        The gateway's policy moves to the leg that is now its uplink.
        """
        internet = next(iter(self.topology.reflector.addresses))
        own = self.topology.nodes[gateway].addresses[internet]
        if outer and self.topology.nodes[outer].lan not in self.topology.nodes[gateway].addresses:
            raise ValueError(f"{gateway} has no leg on the LAN of {outer}")
        state = "down" if outer else "up"
        self.must(gateway, ["ip", "link", "set", self._interface(gateway, internet), state])
        if not outer:
            self.must(gateway, ["node", "true"])  # the routes went with the link
        via = self.topology.nodes[outer].addresses[internet] if outer else own
        for node in self.topology.nodes.values():
            for destination, neighbour in node.routes:
                if neighbour == own:
                    self.must(node.name, ["ip", "route", "replace", destination, "via", str(via)])
        self._legs.pop(gateway, None)
        if policy := self.policies.get(gateway):
            self.apply(gateway, policy)

    def check(self, policy: NatPolicy, client: str = "home-1") -> list[str]:
        """Return in what the NATs before a client are not what ``policy`` says, by plain sockets; none if all is well.

        Takes 0.2 to 1 s. Behind two gateways ``policy`` is `compose` of theirs.
        """
        words = [str(address) for address in self.topology.reflector_addresses]
        module = ["python", "-m", "natprobe.lab.selfcheck"]
        with self.start(self.topology.reflector.name, [*module, "serve", *words]) as server:
            assert server.stderr is not None
            try:
                said = server.stderr.readline()
                if not said.startswith(READY):
                    server.terminate()
                    raise LabUnavailable(f"the self-check cannot serve: {said}{server.stderr.read()}")
                return faults(policy, json.loads(self.must(client, [*module, "observe", *words])))
            finally:
                server.terminate()
