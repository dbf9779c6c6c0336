"""The lab's topology, read from the docker-compose.yml that Docker reads: who is there, on which networks, where.

Reads a file and nothing else; knows no backend.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml


class Role(StrEnum):
    """What a node is there for."""

    REFLECTOR = "reflector"
    GATEWAY = "gateway"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Node:
    """One host of the lab."""

    name: str
    role: Role
    addresses: Mapping[str, IPv4Address]
    """By network: the node has one leg on each."""
    lan: str | None
    """Of a gateway: the network whose hosts it serves."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    sysctls: Mapping[str, str]

    @property
    def routes(self) -> tuple[tuple[str, IPv4Address], ...]:
        """The node's routes: destination and the neighbour that leads there."""
        lines = self.environment.get("NODE_ROUTES", "").splitlines()
        return tuple((words[0], IPv4Address(words[2])) for line in lines if (words := line.split()))


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole lab. Names are those of docker-compose.yml; a name that is not there is a KeyError."""

    networks: Mapping[str, IPv4Network]
    nodes: Mapping[str, Node]

    @classmethod
    def from_yaml(cls, text: str) -> Topology:
        """Read the text of a compose file; raises KeyError or ValueError where it is not one of ours."""
        data = yaml.safe_load(text)
        networks = {name: IPv4Network(net["ipam"]["config"][0]["subnet"]) for name, net in data["networks"].items()}
        return cls(networks, {name: _node(name, service) for name, service in data["services"].items()})

    def gateways(self) -> Iterator[Node]:
        return (node for node in self.nodes.values() if node.role is Role.GATEWAY)

    @property
    def reflector(self) -> Node:
        return next(node for node in self.nodes.values() if node.role is Role.REFLECTOR)

    @property
    def reflector_addresses(self) -> tuple[IPv4Address, ...]:
        """Primary, alternate, quiet: the order in which the reflector's command names them."""
        words = self.reflector.command
        return tuple(IPv4Address(value) for word, value in pairwise(words) if word == "--address")

    def gateway_of(self, client: str) -> Node:
        """Return the gateway that serves a client's network."""
        return next(gateway for gateway in self.gateways() if gateway.lan in self.nodes[client].addresses)


def _node(name: str, service: Mapping[str, Any]) -> Node:
    labels = service["labels"]
    return Node(
        name=name,
        role=Role(labels["natprobe.role"]),
        addresses={net: IPv4Address(leg["ipv4_address"]) for net, leg in service["networks"].items()},
        lan=labels.get("natprobe.lan"),
        command=tuple(shlex.split(service["command"])),
        environment=_strings(service.get("environment", {})),
        sysctls=_strings(service.get("sysctls", {})),
    )


def _strings(data: Mapping[str, Any]) -> Mapping[str, str]:
    return {key: str(value) for key, value in data.items()}


def compose_directory() -> Path:
    """Return the directory of docker-compose.yml: a checkout's root, or the copy that an installed natprobe carries."""
    package = Path(__file__).resolve().parent
    for directory in (package / "_compose", package.parents[1]):
        if (directory / "docker-compose.yml").is_file():
            return directory
    raise FileNotFoundError(
        f"natprobe's docker-compose.yml is neither in {package}/_compose nor in {package.parents[1]}"
    )


@cache
def read_topology() -> Topology:
    """Return the topology that this natprobe came with."""
    return Topology.from_yaml((compose_directory() / "docker-compose.yml").read_text())
