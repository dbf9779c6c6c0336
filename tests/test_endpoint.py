"""Endpoints as text, in order, and in scope."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natprobe.endpoint import Endpoint, Scope, parse_address, scope_of, split_host_port

endpoints = st.builds(Endpoint, st.ip_addresses(), st.integers(0, 0xFFFF))


@given(endpoints)
def test_what_is_written_is_read_back(endpoint: Endpoint) -> None:
    mapped = endpoint.version == 6 and endpoint.address.ipv4_mapped  # type: ignore[union-attr]  # version 6 has it
    if not mapped:
        assert Endpoint.parse(str(endpoint)) == endpoint
        assert hash(Endpoint.parse(str(endpoint))) == hash(endpoint)


@given(endpoints, endpoints)
def test_the_order_is_total(one: Endpoint, other: Endpoint) -> None:
    assert (one < other) + (other < one) + (one == other) == 1


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("stun.example.org", "stun.example.org", None),
        ("stun.example.org:19302", "stun.example.org", 19302),
        ("198.51.100.1:3478", "198.51.100.1", 3478),
        ("2001:db8::1", "2001:db8::1", None),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("[2001:db8::1]:3478", "2001:db8::1", 3478),
    ],
)
def test_a_server_is_named_in_any_usual_way(text: str, host: str, port: int | None) -> None:
    assert split_host_port(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", ":3478", "[::1", "[::1]3478", "host:", "host:0", "host:65536", "host:٣", "host:-1"]
)
def test_what_is_no_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|port|address"):
        split_host_port(text)


def test_a_mapped_address_is_the_ipv4_address_it_stands_for() -> None:
    assert parse_address("::ffff:198.51.100.1") == parse_address("198.51.100.1")


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("0.0.0.0", Scope.UNSPECIFIED),
        ("127.0.0.1", Scope.LOOPBACK),
        ("169.254.1.1", Scope.LINK_LOCAL),
        ("224.0.0.1", Scope.MULTICAST),
        ("10.1.2.3", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("100.64.0.1", Scope.SHARED),
        ("198.51.100.1", Scope.GLOBAL),  # a documentation range stands for the internet
        ("2001:db8::1", Scope.GLOBAL),
    ],
)
def test_every_address_has_its_scope(address: str, scope: Scope) -> None:
    assert scope_of(parse_address(address)) is scope


def test_a_port_is_a_port() -> None:
    with pytest.raises(ValueError, match="65536"):
        Endpoint.of("198.51.100.1", 65536)


def test_a_zone_is_kept_where_it_means_something_and_makes_no_difference() -> None:
    link_local = Endpoint.of("fe80::1%eth0", 3478)
    assert str(link_local) == "[fe80::1%eth0]:3478"
    assert Endpoint.parse(str(link_local)).zone == link_local.with_port(1).zone == "eth0"
    assert link_local == Endpoint.of("fe80::1", 3478)  # as a server sees it, and says
    assert hash(link_local) == hash(Endpoint.of("fe80::1", 3478))
    assert Endpoint.of("2001:db8::1%eth0", 3478).zone is None
