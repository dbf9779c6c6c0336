"""Endpoints as text, in order, and in scope."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natprobe.endpoint import Endpoint, Scope, parse_address, scope_of, split_host_port, split_server

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


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("stun:stun.example.org:19302", "stun.example.org", 19302),
        ("STUN://stun.example.org", "stun.example.org", None),
        ("stun:127.0.0.1", "127.0.0.1", None),
        ("stun:[2001:db8::1]:3478", "2001:db8::1", 3478),
        ("stun:2001:db8::1", "2001:db8::1", None),
        (" 127.0.0.1 ", "127.0.0.1", None),
        ("stun:3478", "stun", 3478),  # a host of that name, as containers have them
        ("turn:3478", "turn", 3478),
        ("bücher.example", "bücher.example", None),
        ("stun.example.org.", "stun.example.org.", None),
        ("my_stun-1", "my_stun-1", None),
        ("::ffff:198.51.100.10", "::ffff:198.51.100.10", None),
    ],
)
def test_a_server_may_be_pasted_from_a_browsers_configuration(text: str, host: str, port: int | None) -> None:
    assert split_server(text) == (host, port)


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("stuns:stun.example.org", "without `stuns:`"),
        ("turn:turn.example.org:3478", "natprobe turn"),
        ("turns:turn.example.org", "natprobe turn"),
        ("https://stun.example.org", "without `https://`"),
        ("stun.example.org/path", "a path"),
        ("stun:stun.example.org?transport=udp", "a query"),
        ("user@stun.example.org", "a user"),
        ("a..b", "nothing between two dots"),
        (".", "nothing between two dots"),
        ("x" * 70, "longer than 63"),
        ("ü" * 70 + ".example", "cannot be written in DNS"),
        (".".join(["x" * 60] * 5), "longer than 253"),
        ("one.example two.example", "no host name"),
        ("us\udcff.example", "no host name"),
        ("-x.example", "no host name"),
        ("256.1.1.1", "no IPv4 address"),
        ("2001:db8::g", "no IPv6 address"),
        ("", "names no host"),
        ("stun:", "names no host"),
        ("a\0b", "no host name"),
    ],
)
def test_what_names_no_server_is_refused_with_the_cure(text: str, cure: str) -> None:
    with pytest.raises(ValueError, match=r"(?s).") as refused:
        split_server(text)
    assert cure in str(refused.value)


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
