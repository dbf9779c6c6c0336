"""docker-compose.yml is read as what it is: the one description of the lab."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from itertools import combinations
from pathlib import Path

import pytest

from natprobe.lab.topology import Role, Topology, compose_directory, read_topology

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lab() -> Topology:
    return read_topology()


def test_it_is_read_from_the_file_that_docker_reads() -> None:
    assert compose_directory() == ROOT
    assert (compose_directory() / "servers" / "node").is_file()


def test_roles_are_as_drawn(lab: Topology) -> None:
    assert lab.reflector.name == "reflector"
    assert [gateway.name for gateway in lab.gateways()] == ["home", "office", "cgn"]
    assert [node.name for node in lab.nodes.values() if node.role is Role.CLIENT] == ["home-1", "home-2", "office-1"]


def test_the_reflector_has_three_addresses_and_serves_them_in_order(lab: Topology) -> None:
    assert list(map(str, lab.reflector_addresses)) == ["198.51.100.10", "198.51.100.11", "198.51.100.12"]
    first, *others = lab.reflector_addresses
    assert lab.reflector.addresses == {"internet": first}
    assert lab.reflector.environment["NODE_ADDRESSES"].split() == [f"{address}/24" for address in others]


def test_a_clients_gateway_is_the_one_on_its_lan(lab: Topology) -> None:
    for client, gateway in {"home-1": "home", "home-2": "home", "office-1": "office"}.items():
        assert lab.gateway_of(client).name == gateway


def test_routes_lead_to_neighbours(lab: Topology) -> None:
    assert lab.nodes["home-1"].routes == (("default", IPv4Address("10.64.1.1")),)
    for node in lab.nodes.values():
        for _, neighbour in node.routes:
            assert any(neighbour in lab.networks[network] for network in node.addresses)
            assert neighbour not in node.addresses.values()
            assert any(neighbour in other.addresses.values() for other in lab.nodes.values())


def test_addresses_are_of_their_networks_and_of_one_node(lab: Topology) -> None:
    for node in lab.nodes.values():
        assert all(address in lab.networks[network] for network, address in node.addresses.items())
    taken = [address for node in lab.nodes.values() for address in node.addresses.values()]
    assert len(taken) == len(set(taken))


def test_networks_are_apart_and_never_one_that_docker_must_not_be_given(lab: Topology) -> None:
    forbidden = [IPv4Network("192.0.2.0/24"), IPv4Network("203.0.113.0/24")]
    for one, other in combinations([*lab.networks.values(), *forbidden], 2):
        assert not one.overlaps(other)


def test_gateways_forward_and_nobody_else_does(lab: Topology) -> None:
    forwarding = [node.name for node in lab.nodes.values() if node.sysctls.get("net.ipv4.ip_forward") == "1"]
    assert forwarding == [gateway.name for gateway in lab.gateways()]


def test_what_a_compose_file_must_say_is_asked_for() -> None:
    with pytest.raises(KeyError, match="labels"):
        Topology.from_yaml("networks: {}\nservices: {one: {command: sleep infinity, networks: {}}}")
