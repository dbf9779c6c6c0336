"""What a first answer says of its server, and what in it cannot be true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from natprobe.behaviour import Protocol
from natprobe.endpoint import Endpoint
from natprobe.extensions import Source
from natprobe.observation import Exchange, Outcome, Purpose
from natprobe.server import (
    NO_OTHER,
    SAME_ADDRESS,
    SAME_PORT,
    UNREACHABLE_OTHER,
    Kind,
    describe,
)
from natprobe.stun import Change

LOCAL = Endpoint.parse("10.64.1.10:40000")
SERVER = Endpoint.parse("198.51.100.10:3478")
OTHER = Endpoint.parse("198.51.100.11:3479")


def endpoint(text: str | None) -> Endpoint | None:
    """Read an endpoint whose port may be 0, as nobody but a broken server writes it."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    return Endpoint.of(host.strip("[]"), int(port))


def hello(remote: Endpoint = SERVER, other: Endpoint | None = OTHER, **fields: object) -> Exchange:
    fact = Exchange(Purpose.HELLO, Protocol.UDP, LOCAL, remote, 0.0, 1, 0.04, Outcome.ANSWERED, 0.04, other=other)
    return replace(fact, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("contacted", "other", "fault"),
    [
        ("198.51.100.10:3478", "198.51.100.11:3479", None),
        ("192.168.1.2:3478", "192.168.1.3:3479", None),
        ("192.168.1.2:3478", "198.51.100.11:3479", None),
        ("127.0.0.2:3478", "127.0.0.3:3479", None),
        ("[2001:db8::1]:3478", "[2001:db8::2]:3479", None),
        ("198.51.100.10:3478", None, NO_OTHER),
        ("198.51.100.10:3478", "0.0.0.0:0", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "0.0.0.0:3479", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "198.51.100.11:0", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "198.51.100.10:0", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "192.168.1.1:3479", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "10.0.0.1:3479", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "100.64.0.1:3479", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "127.0.0.1:3479", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "169.254.1.1:3479", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "224.0.0.1:3479", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "255.255.255.255:3479", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "240.0.0.1:3479", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "[2001:db8::1]:3479", UNREACHABLE_OTHER),
        ("[2001:db8::1]:3478", "[fd00::1]:3479", UNREACHABLE_OTHER),
        ("[2001:db8::1]:3478", "198.51.100.11:3479", UNREACHABLE_OTHER),
        ("198.51.100.10:3478", "198.51.100.10:3479", SAME_ADDRESS),
        ("198.51.100.10:3478", "198.51.100.10:3478", SAME_ADDRESS),
        ("198.51.100.10:3478", "198.51.100.11:3478", SAME_PORT),
    ],
)
def test_faults_of_an_other_address(contacted: str, other: str | None, fault: str | None) -> None:
    assert describe(hello(Endpoint.parse(contacted), endpoint(other))).fault == fault


def test_a_sound_rfc5780_server_has_four_endpoints_and_three_senders() -> None:
    server = describe(hello())
    assert (server.kind, server.fault) == (Kind.RFC5780, None)
    assert [str(endpoint) for endpoint in server.listens] == [
        "198.51.100.10:3478",
        "198.51.100.10:3479",
        "198.51.100.11:3478",
        "198.51.100.11:3479",
    ]
    assert [(str(endpoint), how) for endpoint, how in server.senders] == [
        ("198.51.100.10:3479", Change.PORT),
        ("198.51.100.11:3478", Change.ADDRESS),
        ("198.51.100.11:3479", Change.ADDRESS | Change.PORT),
    ]


def test_coturn_on_its_second_address_can_change_its_port_alone() -> None:
    server = describe(hello(other=Endpoint.parse("198.51.100.10:3479")))
    assert (server.kind, server.fault) == (Kind.RFC5780, SAME_ADDRESS)
    assert [str(endpoint) for endpoint in server.listens] == ["198.51.100.10:3478", "198.51.100.10:3479"]
    assert server.senders == ((Endpoint.parse("198.51.100.10:3479"), Change.PORT),)


def test_a_server_with_one_port_can_change_its_address_alone() -> None:
    server = describe(hello(other=Endpoint.parse("198.51.100.11:3478")))
    assert (server.kind, server.fault) == (Kind.RFC5780, SAME_PORT)
    assert {str(endpoint) for endpoint, _ in server.senders} == {"198.51.100.11:3478"}
    assert len(server.senders) == len(set(server.senders))


def test_a_server_that_names_itself_can_change_nothing() -> None:
    server = describe(hello(other=SERVER))
    assert (server.listens, server.senders) == ((SERVER,), ())
    assert server.fault == SAME_ADDRESS


@pytest.mark.parametrize("other", [None, "0.0.0.0:0", "192.168.1.1:3479", "[2001:db8::1]:3479"])
def test_an_alternate_that_cannot_be_reached_is_never_asked_anything(other: str | None) -> None:
    server = describe(hello(other=endpoint(other)))
    assert (server.kind, server.listens, server.senders) == (Kind.RFC8489, (SERVER,), ())
    assert server.fault in (NO_OTHER, UNREACHABLE_OTHER)


def test_a_reflector_is_believed_about_its_site_and_not_about_another_ip_version() -> None:
    site = (
        ("SAME_ADDRESS", SERVER.with_port(50001)),
        ("QUIET", Endpoint.parse("198.51.100.12:50003")),
        ("QUIET", Endpoint.parse("[2001:db8::12]:50003")),
        ("LISTENS", SERVER),
        ("LISTENS", OTHER),
        ("LISTENS", Endpoint.parse("[2001:db8::11]:3479")),
    )
    server = describe(hello(other=None, site=site))
    assert (server.kind, server.fault) == (Kind.NATPROBE, None)
    assert server.listens == (SERVER, OTHER)
    assert server.senders == (
        (SERVER.with_port(50001), Source.SAME_ADDRESS),
        (Endpoint.parse("198.51.100.12:50003"), Source.QUIET),
    )


def test_a_reflector_with_one_address_says_so() -> None:
    server = describe(hello(site=(("LISTENS", SERVER), ("LISTENS", SERVER.with_port(3479)))))
    assert server.fault == "it has only one address"
