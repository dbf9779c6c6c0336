"""ICE servers as applications write them, what aiortc makes of them, which to give it: all without a packet."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aiortc import RTCConfiguration, RTCIceServer
from aiortc.rtcicetransport import connection_kwargs
from certificates import make
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checking import granting, serving

import natprobe.webrtc
from natprobe.endpoint import Endpoint
from natprobe.webrtc import IceServerCheck, IceServerState, choose_ice_servers, timed_credentials
from natprobe.webrtc.agent import passed_over_by_aiortc, refused_by_aiortc
from natprobe.webrtc.certificate import not_after, words
from natprobe.webrtc.configuration import read_ice_servers
from natprobe.webrtc.ice_servers import IceServer, IceUrl

# --- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "relay", "transport", "host", "port"),
    [
        ("stun:example.org", False, "udp", "example.org", 3478),
        ("stun:example.org:19302", False, "udp", "example.org", 19302),
        ("stuns:example.org", False, "tls", "example.org", 5349),
        ("turn:example.org", True, "udp", "example.org", 3478),
        ("turn:example.org?transport=udp", True, "udp", "example.org", 3478),
        ("turn:example.org:80?transport=tcp", True, "tcp", "example.org", 80),
        ("turns:example.org", True, "tls", "example.org", 5349),
        ("turns:example.org:443?transport=tcp", True, "tls", "example.org", 443),
        ("turns:example.org?transport=udp", True, "dtls", "example.org", 5349),
        ("turn:198.51.100.10:3478", True, "udp", "198.51.100.10", 3478),
        ("turn:[2001:db8::1]", True, "udp", "2001:db8::1", 3478),
        ("turns:[2001:db8::1]:443", True, "tls", "2001:db8::1", 443),
        ("TURN:Example.org?transport=TCP", True, "tcp", "Example.org", 3478),
        ("stun:example.org?transport=tcp", False, "tcp", "example.org", 3478),
    ],
)
def test_a_url_is_read(text: str, relay: bool, transport: str, host: str, port: int) -> None:
    url = IceUrl.parse(text)
    assert (url.relay, url.transport, url.host, url.port) == (relay, transport, host, port)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is no STUN or TURN URL"),
        ("example.org", "is no STUN or TURN URL"),
        ("http:example.org", "is no STUN or TURN URL"),
        ("turn:example.org?transport=sctp", "transport is udp or tcp"),
        ("turn:example.org?ttl=1", "is no STUN or TURN URL"),
        ("turn://example.org", "without //"),
        ("turn:me@example.org", "username"),
        ("turn:", "names no host"),
        ("turn::3478", "names no host"),
        ("turn:example.org:0", "no port number"),
        ("turn:example.org:99999", "no port number"),
        ("turn:example.org:", "no port number"),
        (" stun:example.org", "take them away"),
        ("stun:example.org\n", "take them away"),
        ("stun:a.example,stun:b.example", "are a list"),
        ("turn:{example.org}:3478", "leave them out"),
        ("turns:example.org?transport=tls", "TLS is asked for by turns:"),
        ("turn:2001:db8::1", "in brackets (RFC 3986 §3.2.2): turn:[2001:db8::1]"),
        ("turn:2001:db8::5:443?transport=udp", "turn:[2001:db8::5:443] or turn:[2001:db8::5]:443"),
        ("stun:1:2:3", "'1:2:3' is no host name"),
        ("stun:[example.org]", "no IPv6 address"),
        ("stun:[192.0.2.1]", "no IPv6 address"),
        ("stun:[fe80::1%25eth0]", "without a zone"),
        ("stun:a%20b", "no host name"),
        ("turn:[2001:db8::1", "is not [address]"),
        ("turn:exam ple.org", "no host name"),
        ("turn:example.org/path", "no host name"),
    ],
)
def test_what_is_no_url_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        IceUrl.parse(text)


@given(st.text(max_size=60) | st.text(st.sampled_from("stunr:?=[].0123tcpdp@/"), max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    for prefix in ("", "turn:", "stuns:"):
        try:
            url = IceUrl.parse(prefix + text)
        except ValueError:
            continue
        assert url.host
        assert 1 <= url.port <= 65535
        assert url.transport in ("udp", "tcp", "tls", "dtls")


# --- what they come in ------------------------------------------------------------------------------------------------

TURN_URLS = ["turn:example.org", "turn:example.org?transport=tcp"]


@pytest.mark.parametrize(
    "given_as",
    [
        [RTCIceServer(TURN_URLS, "me", "secret")],
        [{"urls": TURN_URLS, "username": "me", "credential": "secret"}],
        {"urls": TURN_URLS, "username": "me", "credential": "secret"},
        ({"urls": url, "username": "me", "credential": "secret"} for url in TURN_URLS),
    ],
    ids=["aiortc", "W3C", "one alone", "one each"],
)
def test_credentials_go_with_each_url(given_as: Any) -> None:
    servers = read_ice_servers(given_as)
    assert [server.url.text for server in servers] == TURN_URLS
    assert {(server.username, server.credential) for server in servers} == {("me", "secret")}


def test_a_url_alone_is_a_server() -> None:
    assert [server.url.text for server in read_ice_servers("stun:example.org")] == ["stun:example.org"]
    assert [server.url.text for server in read_ice_servers(["stun:a.example", RTCIceServer("stun:b.example")])] == [
        "stun:a.example",
        "stun:b.example",
    ]


STUN, TURN = "stun:a.example", "turn:b.example:80?transport=tcp"
ME = {"username": "me", "credential": "topsecret"}
SERVERS: list[dict[str, Any]] = [{"urls": STUN}, {"urls": [TURN], **ME}]
TWILIO = {
    "account_sid": "AC1",
    "password": "topsecret",
    "username": "me",
    "ttl": "86400",
    "ice_servers": [
        {"url": STUN, "urls": STUN},
        {"url": TURN, "urls": TURN, "username": "me", "credential": "topsecret"},
    ],
}
XIRSYS_2 = [{"url": STUN}, {"url": TURN, "username": "me", "credential": "topsecret"}]
XIRSYS_3 = {"username": "me", "credential": "topsecret", "urls": [STUN, TURN]}
XEP_0215 = [
    {"type": "stun", "host": "a.example", "port": 3478, "transport": "udp"},
    {"type": "turn", "host": "b.example", "port": "80", "transport": "tcp", "username": "me", "password": "topsecret"},
]


class Livekit:
    """As a protocol buffer: every member is there, and a list cannot be set."""

    def __init__(self, urls: list[str], username: str = "", credential: str = "") -> None:
        self._urls, self.username, self.credential = urls, username, credential

    @property
    def urls(self) -> list[str]:
        return self._urls


FORMS: dict[str, Callable[[], Any]] = {
    "list": lambda: SERVERS,
    "tuple": lambda: tuple(SERVERS),
    "generator": lambda: (server for server in SERVERS),
    "configuration": lambda: {"iceServers": SERVERS, "iceTransportPolicy": "all"},
    "RTCConfiguration": lambda: RTCConfiguration([RTCIceServer(STUN), RTCIceServer([TURN], "me", "topsecret")]),
    "urls in a tuple": lambda: [{"urls": (STUN,)}, {"urls": (TURN,), **ME}],
    "urls in a generator": lambda: [{"urls": (url for url in [STUN])}, {"urls": (url for url in [TURN]), **ME}],
    "urls in a set": lambda: [{"urls": {STUN}}, {"urls": frozenset({TURN}), **ME}],
    "password": lambda: [STUN, {"urls": TURN, "username": "me", "password": "topsecret"}],
    "Twilio": lambda: TWILIO,
    "Twilio's object": lambda: SimpleNamespace(**TWILIO),
    "Xirsys 2": lambda: XIRSYS_2,
    "Xirsys 2 whole": lambda: {"s": "ok", "v": {"iceServers": XIRSYS_2}},
    "Xirsys 3 whole": lambda: {"s": "ok", "v": {"iceServers": XIRSYS_3}},
    "Cloudflare": lambda: {"iceServers": XIRSYS_3},
    "LiveKit": lambda: [Livekit([STUN]), Livekit([TURN], "me", "topsecret")],
    "LiveKit's answer": lambda: SimpleNamespace(ice_servers=[Livekit([STUN]), Livekit([TURN], "me", "topsecret")]),
    "XEP-0215": lambda: XEP_0215,
    "XEP-0215 whole": lambda: {"services": XEP_0215},
    "JSON": lambda: json.dumps({"iceServers": SERVERS}),
    "JSON with a BOM": lambda: "\ufeff" + json.dumps(SERVERS),
    "bytes": lambda: json.dumps(TWILIO).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_which_servers_are_handed_over_is_read(form: str) -> None:
    stun, turn = read_ice_servers(FORMS[form]())
    assert (stun.url.host, stun.url.port, stun.url.transport) == ("a.example", 3478, "udp")
    assert (turn.url.host, turn.url.port, turn.url.transport) == ("b.example", 80, "tcp")
    assert (turn.username, turn.credential, turn.credential_type) == ("me", "topsecret", "password")


def aiortc_server(entry: dict[str, str]) -> RTCIceServer:
    return RTCIceServer(entry["urls"], entry.get("username"), entry.get("credential"))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_chosen_of_every_form_aiortc_takes(form: str) -> None:
    checks = [found(url) for url in (STUN, "stun:a.example:3478")] + [replace(found(TURN), username="me")]
    checks += [replace(checks[0], username=name) for name in ("", "me")]  # as LiveKit and Cloudflare have it
    chosen = choose_ice_servers(FORMS[form](), checks)
    as_aiortc_has_it = [
        RTCIceServer(one) if isinstance(one, str) else one if isinstance(one, RTCIceServer) else aiortc_server(one)
        for one in chosen
    ]
    taken = connection_kwargs(as_aiortc_has_it)
    assert (taken["stun_server"], taken["turn_server"]) == (("a.example", 3478), ("b.example", 80))
    assert (taken["turn_username"], taken["turn_password"]) == ("me", "topsecret")


@pytest.mark.parametrize("nothing", [None, [], {"iceServers": None}, {"iceServers": []}, RTCConfiguration(), "[]"])
def test_no_servers_are_none(nothing: Any) -> None:
    assert read_ice_servers(nothing) == []


@pytest.mark.parametrize(
    "credential", [{"macKey": "topsecret", "accessToken": "topsecret"}, SimpleNamespace(macKey="x")]
)
async def test_what_is_no_password_is_not_checked(credential: Any) -> None:
    for kind in ({}, {"credentialType": "oauth"}):
        entry = {"urls": "turn:127.0.0.1", "username": "u", "credential": credential, **kind}
        (check,) = await natprobe.webrtc.check_ice_servers(entry)
        assert (check.state, check.reason) == ("not_checked", "natprobe cannot check credentials of type oauth")


WRONG = [
    ({"x": "topsecret", "iceservers": []}, "mapping with the keys x, iceservers"),
    ({}, "an empty mapping"),
    ({"v": "unauthorized", "s": "topsecret"}, "mapping with the keys v, s"),
    (7, "of type int"),
    (7.5, "of type float"),
    ([7], "ICE server 0 (counted from 0) has no urls: it is a value of type int"),
    ([STUN, None], "ICE server 1 (counted from 0) has no urls: it is None"),
    ([{"credential": "topsecret", "uri": STUN}], "mapping with the keys credential, uri"),
    ([{"urls": []}], "urls of ICE server 0 (counted from 0) is empty"),
    ([{"urls": None}], "urls of ICE server 0 (counted from 0) is a text or a list of texts, not None"),
    ([{"urls": [STUN, 7]}], "urls of ICE server 0 (counted from 0) is a text, not a value of type int"),
    ([{"urls": {"a": "topsecret"}}], "is a text or a list of texts"),
    ([{"urls": TURN, "username": 7}], "username of ICE server 0 (counted from 0) is a text, not a value of type int"),
    ([{"urls": TURN, "username": "u", "credential": 31337}], "credential of ICE server 0"),
    ([{"type": "ftp", "host": "a.example", "password": "topsecret"}], "is no STUN or TURN URL"),
    ("{topsecret", "the ICE servers are no JSON"),
    (b"\xfftopsecret", "a configuration is not UTF-8"),
    ("turn:me:topsecret@b.example", "a username does not stand in the URL"),
    ("turn:b.example?credential=topsecret", "is no STUN or TURN URL"),
]


READERS: list[Callable[[Any], Any]] = [
    natprobe.webrtc.check_ice_servers,
    natprobe.webrtc.preflight,
    lambda wrong: asyncio.to_thread(choose_ice_servers, wrong, ()),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG, ids=[said for _, said in WRONG])
@pytest.mark.parametrize("reader", READERS, ids=["check", "preflight", "choose"])
async def test_what_is_no_configuration_is_refused_by_its_keys_and_without_its_secrets(
    wrong: Any, said: str, reader: Callable[[Any], Any]
) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        await reader(wrong)
    assert said in str(refused.value)
    assert "31337" not in str(refused.value)
    assert "topsecret" not in str(refused.value)


def test_timed_credentials() -> None:
    # printf 1700000000:me | openssl dgst -sha1 -hmac north -binary | base64
    assert timed_credentials("north", 1700000000, "me") == ("1700000000:me", "DZAmFJD+yRbyG0+e8cpTCwLxbuo=")
    assert timed_credentials("north", 1700000000)[0] == "1700000000"


# --- aiortc -----------------------------------------------------------------------------------------------------------

urls = st.sampled_from(
    [
        *("stun:a.example", "stun:b.example:19302", "stuns:a.example", "stuns:a.example:443"),
        *("turn:a.example", "turn:b.example:80", "turn:a.example?transport=udp", "turn:a.example?transport=tcp"),
        *("turn:a.example?transport=TCP", "turns:a.example", "turns:a.example:443?transport=tcp"),
        *("turns:a.example?transport=udp", "turns:a.example?transport=TCP"),
    ]
)
refused = st.sampled_from(
    [
        *("stun:[2001:db8::1]", "turn:[2001:db8::1]:80", "stun:a.example?transport=udp", "TURN:a.example"),
        *("Stun:a.example", "turn:a.example?Transport=tcp", "turns:a.example?TRANSPORT=tcp"),
    ]
)
servers = st.builds(
    RTCIceServer,
    st.lists(urls, min_size=1, max_size=4),
    st.just("me"),
    st.just("secret"),
    st.sampled_from(["password", "password", "oauth"]),
)


@given(st.lists(servers, max_size=5))
@settings(max_examples=300, deadline=None)
def test_aiortc_uses_those_that_it_is_said_to_use(given_to: list[RTCIceServer]) -> None:
    read = read_ice_servers(given_to)
    used = [server.url for server, why in zip(read, passed_over_by_aiortc(read), strict=True) if why is None]
    theirs = connection_kwargs(given_to)
    expected: dict[str, Any] = {}
    for url in used:
        expected["turn_server" if url.relay else "stun_server"] = (url.host, url.port)
        if url.relay:
            expected |= {"turn_ssl": url.secure, "turn_transport": "tcp" if url.secure else url.transport}
            expected |= {"turn_username": "me", "turn_password": "secret"}
    assert theirs == expected


@given(refused)
def test_aiortc_refuses_what_it_is_said_to_refuse(url: str) -> None:
    assert refused_by_aiortc(IceUrl.parse(url))
    with pytest.raises(ValueError, match="malformed uri"):
        connection_kwargs([RTCIceServer(url)])


hosts = st.sampled_from(
    ["a.example", "a.example.", "192.0.2.1", "[2001:db8::1]", "2001:db8::1", "{a.example}", "a b", "a..b", "A-1_b", ""]
)
ports = st.sampled_from(["", ":", ":80", ":00080", ":0", ":65536", ":-1", ":8O", ":80:81"])
queries = st.sampled_from(
    [
        *("", "?", "?transport=", "?transport=udp", "?transport=tcp", "?transport=TCP", "?Transport=tcp"),
        *("?TRANSPORT=udp", "?transport=tls", "?transport=tcp&a=b", "?ttl=1", "?transport=tcp ", "?transport=udp\n"),
    ]
)
schemes = st.sampled_from(
    [*("stun:", "stuns:", "turn:", "turns:", "Turn:", "TURNS:"), *("turn", "turn://", " turn:", "turnx:")]
)


@given(schemes, hosts, ports, queries)
@settings(max_examples=800, deadline=None)
def test_what_natprobe_takes_as_supported_aiortc_takes_too(scheme: str, host: str, port: str, query: str) -> None:
    text = scheme + host + port + query
    try:
        url = IceUrl.parse(text)
    except ValueError:
        return
    if refused_by_aiortc(url):
        with pytest.raises(ValueError, match="malformed uri"):
            connection_kwargs([RTCIceServer(text)])
        return
    taken = connection_kwargs([RTCIceServer(text, "me", "secret")])
    (why,) = passed_over_by_aiortc([IceServer(url, "me", "secret")])
    # What it takes and then cannot use, is passed over all the same.
    expected = [(url.host, url.port)] if why is None or "final dot" in why else []
    assert [taken[name] for name in ("stun_server", "turn_server") if name in taken] == expected


@given(urls)
def test_and_nothing_else(url: str) -> None:
    assert not refused_by_aiortc(IceUrl.parse(url))


# --- choosing ---------------------------------------------------------------------------------------------------------


def found(url: str, rtt_ms: float = 10.0, state: IceServerState = IceServerState.OK, family: int = 4) -> IceServerCheck:
    return IceServerCheck(url, IceUrl.parse(url).transport, family, state, rtt_ms=rtt_ms)


def chosen(*checks: IceServerCheck) -> list[Any]:
    return choose_ice_servers([check.url for check in checks], checks)


def test_the_best_of_each_kind_comes_first() -> None:
    assert chosen(
        found("stun:far.example", 80),
        found("stun:near.example", 8),
        found("turn:far.example", 80),
        found("turn:near.example", 8),
    ) == ["stun:near.example", "turn:near.example", "stun:far.example", "turn:far.example"]


def test_udp_goes_before_tcp_and_tcp_before_tls() -> None:
    assert chosen(
        found("turns:a.example", 1), found("turn:a.example?transport=tcp", 2), found("turn:a.example", 3)
    ) == ["turn:a.example", "turn:a.example?transport=tcp", "turns:a.example"]


@pytest.mark.parametrize("state", [state for state in IceServerState if state is not IceServerState.OK])
def test_what_is_not_usable_would_only_cost_time(state: IceServerState) -> None:
    assert chosen(found("stun:dead.example", 1, state), found("stun:alive.example", 90)) == ["stun:alive.example"]


def test_what_aiortc_cannot_use_or_refuses_is_left_out() -> None:
    useless = ["stuns:a.example", "stun:[2001:db8::1]", "turns:a.example?transport=udp", "stun:a.example?transport=udp"]
    assert chosen(*map(found, useless), found("turn:b.example")) == ["turn:b.example"]


def test_stun_over_ipv6_alone_is_of_no_use_to_aiortc() -> None:
    assert chosen(found("stun:a.example", family=6), found("turn:a.example", family=6)) == ["turn:a.example"]


def test_the_better_of_two_ip_versions_counts() -> None:
    checks = [
        found("turn:a.example", 50),
        found("turn:a.example", 5, family=6),
        found("turn:b.example", 20),
        found("turn:b.example", 1, IceServerState.TIMEOUT, family=6),
    ]
    assert choose_ice_servers(["turn:b.example", "turn:a.example"], checks) == ["turn:a.example", "turn:b.example"]


def test_each_comes_back_as_it_was_given() -> None:
    with_aiortc = RTCIceServer(["turn:b.example", "turn:a.example"], "me", "secret")
    turns = [replace(found(f"turn:{name}.example", rtt_ms), username="me") for name, rtt_ms in (("a", 1), ("b", 2))]
    checks = [*turns, found("stun:a.example")]
    assert choose_ice_servers([with_aiortc, {"urls": ["stun:a.example"], "x": 1}], checks) == [
        {"urls": "stun:a.example", "x": 1},
        RTCIceServer("turn:a.example", "me", "secret"),
        RTCIceServer("turn:b.example", "me", "secret"),
    ]
    assert with_aiortc.urls == ["turn:b.example", "turn:a.example"]


def test_who_was_let_in_is_told_from_who_was_not() -> None:
    servers = [RTCIceServer("turn:a.example", name, "secret") for name in ("you", "me")]
    found_by = {"you": IceServerState.UNAUTHORIZED, "me": IceServerState.OK}
    checks = [replace(found("turn:a.example", state=state), username=name) for name, state in found_by.items()]
    assert choose_ice_servers(servers, checks) == servers[1:]


async def test_the_old_password_is_told_from_the_new_one() -> None:
    """The same URL and user, before and after a rotation: only the credentials tell the two apart."""
    async with serving(granting) as server:
        old, new = (RTCIceServer(server.url, "user", password) for password in ("wrong", "right"))
        for servers in ([old, new], [new, old]):
            checks = await natprobe.webrtc.check_ice_servers(servers, depth="allocate")
            assert [check.state for check in checks] == ["ok" if one is new else "unauthorized" for one in servers]
            assert choose_ice_servers(servers, checks) == [new]
            assert choose_ice_servers(servers[::-1], checks) == [new]
    assert "right" not in repr(checks)
    assert "right" not in json.dumps([check.to_json() for check in checks])


def test_aiortc_takes_the_first_two_of_them() -> None:
    checks = [found("turns:a.example"), found("stun:[2001:db8::1]"), found("stun:b.example"), found("stuns:a.example")]
    servers = [RTCIceServer(check.url) for check in checks]
    taken = connection_kwargs(choose_ice_servers(servers, checks))
    assert (taken["stun_server"], taken["turn_server"]) == (("b.example", 3478), ("a.example", 5349))


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_a_check_is_json() -> None:
    until = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
    relayed = Endpoint.parse("198.51.100.10:50000")
    check = IceServerCheck("turns:a.example", "tls", 4, IceServerState.OK, relayed=relayed, not_after=until)
    told = json.loads(json.dumps(check.to_json()))
    assert (told["state"], told["relayed"], told["not_after"]) == ("ok", "198.51.100.10:50000", "2027-01-02T03:04:05Z")
    assert set(told) == set(IceServerCheck.__slots__)


def test_the_public_names_are_there() -> None:
    assert sorted(natprobe.webrtc.__all__) == natprobe.webrtc.__all__
    for name in natprobe.webrtc.__all__:
        assert getattr(natprobe.webrtc, name).__doc__
    with pytest.raises(AttributeError, match="nonsense"):
        _ = natprobe.webrtc.nonsense


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1995, 2001, 2026, 2049, 2050, 2120], ids=str)
def test_the_end_of_a_certificate_is_found_where_cryptography_finds_it(year: int) -> None:
    pair = make("a.example", "198.51.100.10", until=datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC))
    assert not_after(pair.der) == pair.certificate.not_valid_after_utc


def test_bytes_that_are_no_certificate_have_no_end() -> None:
    der = make("a.example").der
    assert all(not_after(der[:length]) is None for length in range(len(der)))


@given(st.data())
def test_no_bytes_break_the_reader_of_certificates(data: st.DataObject) -> None:
    der = bytearray(CERTIFICATE)
    for place in data.draw(st.lists(st.integers(0, len(der) - 1), max_size=8)):
        der[place] = data.draw(st.integers(0, 255))
    not_after(bytes(der))
    not_after(data.draw(st.binary(max_size=80)))


CERTIFICATE = make("a.example").der


def failure(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "CRL has expired"
    return error


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (10, "the certificate has expired, on 2026-11-25 12:00 UTC"),
        (18, "the certificate is self-signed (valid until 2026-11-25)"),
        (62, "the certificate is not for a.example (valid until 2026-11-25)"),
        (12, "the certificate is not valid: CRL has expired (valid until 2026-11-25)"),
    ],
)
def test_what_is_wrong_with_a_certificate_in_words(code: int, said: str) -> None:
    assert words(failure(code), datetime(2026, 11, 25, 12, tzinfo=UTC), "a.example") == said


def test_without_a_date_none_is_told() -> None:
    assert words(failure(18), None, "a.example") == "the certificate is self-signed"
