"""Checks of servers that lie, stammer and fall silent, and what is left behind when a check is cancelled.

The servers are scripts, for coturn does none of this; what coturn does is in ``lab/test_turn.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

from natprobe.cli.application import application
from natprobe.endpoint import Endpoint
from natprobe.integrity import long_term_key, signed, verified
from natprobe.stun import (
    BINDING,
    Attribute,
    Class,
    Message,
    Type,
    address_attribute,
    decode,
    error_attribute,
    xor_mapped_attribute,
)
from natprobe.webrtc import Depth, IceServerCheck, IceServerState, check_ice_servers, choose_ice_servers
from natprobe.webrtc.schema import checks_schema
from natprobe.webrtc.turn import Method, TurnType

HOST = f"127.{os.getpid() >> 8 & 0x7F | 0x80}.{os.getpid() & 0xFF}.5"
KEY = long_term_key("user", b"lab.example", "right")
RELAYED = Endpoint.parse("198.51.100.10:50000")
MAPPED = Endpoint.parse("198.51.100.1:40000")
CHALLENGE = (Attribute(Type.REALM, b"lab.example"), Attribute(Type.NONCE, b"a nonce"))

NOWHERE = Endpoint.parse("224.0.0.1:3478")

SHORT, LONG = 0.4, 3.0
"""Limits in seconds: for what only the end of the time can tell, and for what is told long before."""
ENDED_BY_TIME = ("timeout", "not_stun")

Script = Callable[[Message, bytes], bytes | None]
"""Return the answer to a request, which is also given as it came; None for silence."""


def failure(request: Message, code: int, phrase: str, *more: Attribute) -> bytes:
    attributes = (error_attribute(code, phrase), *more)
    return Message(Class.ERROR, request.transaction_id, attributes, request.method).encode()


def success(request: Message, *attributes: Attribute) -> bytes:
    return signed(Message(Class.SUCCESS, request.transaction_id, attributes, request.method), KEY)


def relayed(request: Message) -> Attribute:
    return Attribute(TurnType.XOR_RELAYED_ADDRESS, xor_mapped_attribute(RELAYED, request.transaction_id).value)


def granting(request: Message, data: bytes) -> bytes | None:
    """A server that relays nothing, but grants everything to who knows the password."""
    if verified(data, KEY) is None:
        return failure(request, 401, "Unauthorized", *CHALLENGE)
    mapped = xor_mapped_attribute(MAPPED, request.transaction_id)
    return success(request, relayed(request), mapped, Attribute(TurnType.LIFETIME, b"\0\0\2\x58"))


class Scripted(asyncio.DatagramProtocol):
    """A server over UDP, and all the requests that it has had."""

    def __init__(self, script: Script, delay: float = 0.0) -> None:
        self._script = script
        self._delay = delay
        self.requests: list[Message] = []
        self.sources: set[tuple[str, int]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        message = decode(data)
        self.requests.append(message)
        self.sources.add(source)
        answer = self._script(message, data)
        if answer is not None and message.class_ is Class.REQUEST:
            asyncio.get_running_loop().call_later(self._delay, self.transport.sendto, answer, source)

    @property
    def url(self) -> str:
        return f"turn:{HOST}:{self.transport.get_extra_info('sockname')[1]}"


@contextlib.asynccontextmanager
async def serving(script: Script, delay: float = 0.0) -> AsyncIterator[Scripted]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Scripted(script, delay), (HOST, 0))
    try:
        yield server
    finally:
        transport.close()


async def check(
    url: str, limit: float = LONG, depth: Depth = Depth.ALLOCATE, password: str = "right"
) -> IceServerCheck:
    server = {"urls": url, "username": "user", "credential": password}
    (found,) = await check_ice_servers([server], timeout=limit, depth=depth)
    return found


async def told(script: Script, **how: Any) -> tuple[IceServerState, str | None]:
    async with serving(script) as server:
        found = await check(server.url, **how)
    return found.state, found.reason


# --- servers that answer strangely ------------------------------------------------------------------------------------


async def test_what_is_granted_is_told() -> None:
    async with serving(granting) as server:
        found = await check(server.url)
    assert (found.state, found.depth, found.relayed, found.mapped) == ("ok", Depth.ALLOCATE, RELAYED, MAPPED)
    assert (found.lifetime, found.realm, found.address and str(found.address.address)) == (600, "lab.example", HOST)


async def test_a_nonce_that_is_always_stale_is_tried_once_more() -> None:
    def script(request: Message, _data: bytes) -> bytes:
        code, phrase = (438, "Stale Nonce") if request.value(Type.NONCE) else (401, "Unauthorized")
        return failure(
            request, code, phrase, Attribute(Type.REALM, b"lab.example"), Attribute(Type.NONCE, os.urandom(8))
        )

    async with serving(script) as server:
        found = await check(server.url)
    assert (found.state, found.reason) == (
        IceServerState.STALE_NONCE,
        "438 Stale Nonce: usually several servers behind one address that do not share their nonces",
    )
    assert len(server.requests) == 3


async def test_a_nonce_that_is_stale_once_is_no_fault() -> None:
    fresh = Attribute(Type.NONCE, b"another")

    def script(request: Message, data: bytes) -> bytes | None:
        if request.value(Type.NONCE) == b"a nonce":
            return failure(request, 438, "Stale Nonce", CHALLENGE[0], fresh)
        return granting(request, data)

    assert (await told(script))[0] == IceServerState.OK


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("wrong", "401 No!: wrong username or credential"),
        (None, "a username and a credential are wanted, and the credential is missing"),
    ],
)
async def test_who_is_not_let_in(password: str | None, said: str) -> None:
    def script(request: Message, _data: bytes) -> bytes:
        return failure(request, 401, "No!", *CHALLENGE)

    async with serving(script) as server:
        (found,) = await check_ice_servers([{"urls": server.url, "username": "user", "credential": password}])
    assert found.state is IceServerState.UNAUTHORIZED
    assert said in (found.reason or "")
    assert len(server.requests) == (2 if password else 1)  # and nothing to give back


async def test_credentials_whose_time_is_over() -> None:
    def script(request: Message, _data: bytes) -> bytes:
        return failure(request, 401, "Unauthorized", *CHALLENGE)

    async with serving(script) as server:
        (found,) = await check_ice_servers([{"urls": server.url, "username": "1700000000:me", "credential": "x"}])
    assert found.reason == "401 Unauthorized: these credentials were valid until 2023-11-14 22:13 UTC"


@pytest.mark.slow
async def test_an_answer_that_another_has_signed_is_no_answer() -> None:
    def script(request: Message, data: bytes) -> bytes | None:
        answer = granting(request, data)
        return answer if request.value(Type.NONCE) is None else Message(Class.SUCCESS, request.transaction_id).encode()

    assert await told(script, limit=1.0) == ("error", "an answer came that is not signed with this password")


async def test_nor_does_it_keep_the_true_one_out() -> None:
    forged: list[bytes] = []

    def script(request: Message, data: bytes) -> bytes | None:
        if request.value(Type.NONCE) is None or request.transaction_id in forged:
            return granting(request, data)
        forged.append(request.transaction_id)
        return failure(request, 486, "forged on the way")

    assert (await told(script))[0] == IceServerState.OK
    assert forged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "state", "said"),
    [
        (lambda r: failure(r, 508, "Insufficient Capacity"), "error", "508 Insufficient Capacity"),
        (lambda r: failure(r, 403, "Forbidden"), "error", "403 Forbidden"),
        (lambda r: failure(r, 486, "Allocation Quota Reached"), "quota", "486 Allocation Quota Reached"),
        (
            lambda r: failure(r, 300, "Try Alternate\0\0", address_attribute(TurnType.ALTERNATE_SERVER, NOWHERE)),
            "error",
            f"300 Try Alternate: it sends its clients to {NOWHERE}, where clients do not follow",
        ),
        (lambda r: failure(r, 300, "Try", Attribute(TurnType.ALTERNATE_SERVER, b"?")), "error", "300 Try"),
        (
            lambda r: Message(Class.ERROR, r.transaction_id, (), r.method).encode(),
            "error",
            "Allocate refused without a code",
        ),
        (success, "error", "an answer to Allocate without a relayed address"),
        (
            lambda r: success(r, Attribute(TurnType.XOR_RELAYED_ADDRESS, b"\0\1")),
            "error",
            "no address of a known family",
        ),
        (
            lambda _: b"220 mail.example ESMTP\r\n",
            "not_stun",
            "what came back is no STUN (the length 12320 is not that",
        ),
        (lambda _: None, "timeout", "no answer: the packets are lost on the way, or nobody is there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_a_server_says_is_told(answer: Callable[[Message], bytes | None], state: str, said: str) -> None:
    found = await told(lambda request, _: answer(request), limit=SHORT if state in ENDED_BY_TIME else LONG)
    assert found[0] == state
    assert (found[1] or "").startswith(said)


@pytest.mark.slow
async def test_a_server_that_falls_silent_is_not_one_that_was_never_there() -> None:
    def script(request: Message, data: bytes) -> bytes | None:
        return granting(request, data) if request.value(Type.NONCE) is None else None

    assert await told(script, limit=1.0) == ("timeout", "it answered at first, and then no more")


@pytest.mark.slow
async def test_lost_requests_are_repeated_as_the_same_transaction() -> None:
    seen: list[bytes] = []

    def script(request: Message, data: bytes) -> bytes | None:
        seen.append(request.transaction_id)
        return granting(request, data) if seen.count(request.transaction_id) == 3 else None

    assert (await told(script))[0] == IceServerState.OK
    assert [seen.count(transaction) for transaction in dict.fromkeys(seen)] == [3, 3, 3]


async def test_a_peer_that_is_refused_is_told_from_a_client_that_is() -> None:
    def script(request: Message, data: bytes) -> bytes | None:
        if request.method == Method.CREATE_PERMISSION and verified(data, KEY):
            return signed(
                Message(Class.ERROR, request.transaction_id, (error_attribute(403, "No"),), request.method), KEY
            )
        return granting(request, data)

    state, reason = await told(script, depth=Depth.PERMISSION)
    said = "403 No: the server relays neither to itself nor to this host (coturn: allow-loopback-peers)"
    assert (state, reason) == ("forbidden_peer", said)


async def test_stun_that_does_not_say_what_it_saw() -> None:
    async with serving(lambda request, _: Message(Class.SUCCESS, request.transaction_id).encode()) as server:
        found = await check(server.url.replace("turn", "stun"))
    assert (found.state, found.reason) == ("error", "it answered without saying what it saw")


# --- who is to blame --------------------------------------------------------------------------------------------------


def signed_failure(request: Message, code: int) -> bytes:
    return signed(Message(Class.ERROR, request.transaction_id, (error_attribute(code, ""),), request.method), KEY)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "state", "said"),
    [
        (400, "unauthorized", "400 Bad Request, unsigned: wrong username or credential"),
        (403, "error", "403 Forbidden, unsigned: the server refuses this client"),
        (437, "error", "437 Allocation Mismatch, unsigned: the server has another allocation"),
        (440, "error", "440 Address Family not Supported, unsigned: the server relays in another IP version"),
        (442, "error", "442 Unsupported Transport Protocol, unsigned: the server does not relay UDP"),
        (486, "quota", "486 Allocation Quota Reached, unsigned: this user has all"),
        (508, "error", "508 Insufficient Capacity, unsigned: the server has no free relay port"),
    ],
)
async def test_an_unsigned_error_keeps_its_code(code: int, state: str, said: str) -> None:
    def script(request: Message, data: bytes) -> bytes | None:
        return failure(request, code, " \0") if request.value(Type.NONCE) else granting(request, data)

    found = await told(script)
    assert found[0] == state
    assert (found[1] or "").startswith(said)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (420, "420 Unknown Attribute: "),
        (437, "437 Allocation Mismatch: "),
        (441, "441 Wrong Credentials: "),
        (442, "442 Unsupported Transport Protocol: "),
        (500, "500 Server Error: "),
        (508, "508 Insufficient Capacity: "),
    ],
)
async def test_a_code_without_words_is_explained(code: int, said: str) -> None:
    def script(request: Message, data: bytes) -> bytes | None:
        return signed_failure(request, code) if request.value(Type.NONCE) else granting(request, data)

    assert ((await told(script))[1] or "").startswith(said)


async def test_an_empty_realm_is_a_realm() -> None:
    key = long_term_key("user", b"", "right")

    def script(request: Message, data: bytes) -> bytes | None:
        if verified(data, key) is None:
            return failure(request, 401, "", Attribute(Type.REALM, b""), CHALLENGE[1])
        return signed(Message(Class.SUCCESS, request.transaction_id, (relayed(request),), request.method), key)

    assert await told(script) == ("ok", None)
    state, reason = await told(script, password="wrong")
    assert state == "unauthorized"
    assert "the server's realm is missing" in (reason or "")


@pytest.mark.parametrize(("missing", "given"), [("REALM", CHALLENGE[1]), ("NONCE", CHALLENGE[0])])
async def test_a_challenge_that_cannot_be_answered(missing: str, given: Attribute) -> None:
    state, reason = await told(lambda request, _: failure(request, 401, "", given))
    assert state == "error"
    assert (reason or "").startswith(f"401 Unauthorized: the error comes without {missing}, so no credentials")


async def test_an_allocation_mismatch_is_tried_again_from_another_port() -> None:
    refused: list[bytes] = []

    def script(request: Message, data: bytes) -> bytes | None:
        if request.value(Type.NONCE) and request.transaction_id not in refused and not refused:
            refused.append(request.transaction_id)
            return signed_failure(request, 437)
        return granting(request, data)

    async with serving(script) as server:
        assert (await check(server.url)).state == "ok"
    assert len(server.sources) == 2


@pytest.mark.parametrize("code", [0, 403])
async def test_a_permission_refused_with_or_without_a_code(code: int) -> None:
    def script(request: Message, data: bytes) -> bytes | None:
        if request.method != Method.CREATE_PERMISSION:
            return granting(request, data)
        attributes = (error_attribute(403, ""),) if code else ()
        return signed(Message(Class.ERROR, request.transaction_id, attributes, request.method), KEY)

    state, reason = await told(script, depth=Depth.PERMISSION)
    assert state == "forbidden_peer"
    assert (reason or "").startswith("403 Forbidden: " if code else "CreatePermission refused without a code: ")


async def test_a_redirection_is_followed_once_and_said() -> None:
    async with serving(granting) as other:
        place = Endpoint.of(*other.transport.get_extra_info("sockname"))
        alternate = address_attribute(TurnType.ALTERNATE_SERVER, place)
        async with serving(lambda request, _: failure(request, 300, "", alternate)) as server:
            found = await check(server.url)
            given = {"urls": server.url, "username": "user", "credential": "right"}
            assert choose_ice_servers([given], [found]) == []
    assert (found.state, found.alternate, found.relayed) == ("ok", place, RELAYED)
    assert found.unsupported_by_aiortc == "aiortc does not follow 300 Try Alternate"


async def test_a_redirection_that_comes_back_ends() -> None:
    async with serving(lambda request, _: failure(request, 300, "", redirection[0])) as second:
        redirection = [address_attribute(TurnType.ALTERNATE_SERVER, NOWHERE)]
        place = Endpoint.of(*second.transport.get_extra_info("sockname"))
        first = address_attribute(TurnType.ALTERNATE_SERVER, place)
        async with serving(lambda request, _: failure(request, 300, "", first)) as server:
            found = await check(server.url)
    assert (found.state, len(second.requests)) == ("error", 1)
    assert "and that one does so again" in (found.reason or "")


async def test_a_quota_smaller_than_the_list_is_no_fault() -> None:
    """One allocation for the user: the checks of one run must not be what uses it up."""
    held: list[int] = []

    def script(request: Message, data: bytes) -> bytes | None:
        if verified(data, KEY) and request.method == Method.ALLOCATE:
            if held:
                return signed_failure(request, 486)
            held.append(1)
        if verified(data, KEY) and request.value(TurnType.LIFETIME) == bytes(4):
            held.clear()
        return granting(request, data)

    async with serving(script) as server:
        given = [{"urls": server.url, "username": "user", "credential": "right"}] * 3
        checks = await check_ice_servers(given, depth=Depth.ALLOCATE)
    assert [found.state for found in checks] == ["ok"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "answers", "said"),
    [
        ("turn", BINDING, "a STUN server answers there, but no TURN"),
        ("stun", Method.ALLOCATE, "a TURN server answers there, but no STUN (coturn: no-stun)"),
    ],
)
async def test_silence_has_a_control(scheme: str, answers: int, said: str) -> None:
    def script(request: Message, _data: bytes) -> bytes | None:
        if request.method != answers:
            return None
        if request.method == Method.ALLOCATE:
            return failure(request, 401, "", *CHALLENGE)
        return Message(
            Class.SUCCESS, request.transaction_id, (xor_mapped_attribute(MAPPED, request.transaction_id),)
        ).encode()

    async with serving(script) as server:
        found = await check(server.url.replace("turn", scheme), limit=1.0)
    assert (found.state, found.reason) == ("timeout", said)


@pytest.mark.parametrize(
    "mapped",
    ["10.99.0.7:1", f"{HOST}:0", "0.0.0.0:5", "[2001:db8::1]:5", "[::ffff:7f00:1]:5", "224.0.0.1:5"],
    ids=["private", "port 0", "unspecified", "IPv6", "IPv4-mapped", "multicast"],
)
async def test_an_impossible_mapped_address_is_not_ok(mapped: str) -> None:
    host, _, port = mapped.rpartition(":")
    seen = Endpoint(ip_address(host.strip("[]")), int(port))

    def script(request: Message, _data: bytes) -> bytes:
        attributes = (xor_mapped_attribute(seen, request.transaction_id),)
        return Message(Class.SUCCESS, request.transaction_id, attributes).encode()

    async with serving(script) as server:
        found = await check(server.url.replace("turn", "stun"))
    # A server on loopback may see a private address; nobody else's may be seen as port 0 or in the other IP version.
    assert found.state == ("ok" if mapped.startswith("10.") else "error")


async def test_an_unknown_required_attribute_spoils_a_success() -> None:
    def script(request: Message, _data: bytes) -> bytes:
        attributes = (xor_mapped_attribute(MAPPED, request.transaction_id), Attribute(0x7777, b"abcd"))
        return Message(Class.SUCCESS, request.transaction_id, attributes).encode()

    async with serving(script) as server:
        found = await check(server.url.replace("turn", "stun"))
    assert (found.state, "0x7777" in (found.reason or "")) == ("error", True)


@pytest.mark.slow
async def test_an_answer_from_elsewhere_is_an_answer() -> None:
    async with serving(lambda *_: None) as other:

        def script(request: Message, _data: bytes) -> None:
            answer = Message(Class.SUCCESS, request.transaction_id, (xor_mapped_attribute(MAPPED, b"\0" * 12),))
            for source in server.sources:
                other.transport.sendto(answer.encode(), source)

        async with serving(script) as server:
            found = await check(server.url.replace("turn", "stun"), limit=SHORT)
            place = Endpoint.of(*other.transport.get_extra_info("sockname"))
    assert (found.state, found.reason) == ("error", f"it answered from {place}, and clients take no answer from there")


@pytest.mark.slow
async def test_a_legal_answer_that_is_too_long_is_named() -> None:
    def script(request: Message, _data: bytes) -> bytes:
        return Message(Class.SUCCESS, request.transaction_id, (Attribute(Type.SOFTWARE, bytes(2040)),)).encode()

    assert await told(script, limit=SHORT) == ("error", "its answer has 2064 bytes, and natprobe reads 2048 at most")


@pytest.mark.slow
async def test_slow_is_not_dead() -> None:
    """Each answer takes as long as a third of the time given: four of them are more than all of it."""
    async with serving(granting, delay=0.3) as server:
        found = await check(server.url, limit=0.9)
    assert (found.state, found.reason) == ("ok", None)


@pytest.mark.parametrize(
    ("username", "said"),
    [
        ("me:1700000000", "looks like USER:TIME"),
        ("1700000000000:me", "these look like ms"),
        ("q8m1Z0rYc3pXo5n7d9b1f2h4j6k=", "the wrong way round"),
    ],
)
async def test_credentials_that_show_what_is_wrong_with_them(username: str, said: str) -> None:
    async with serving(lambda request, _: failure(request, 401, "", *CHALLENGE)) as server:
        (found,) = await check_ice_servers([{"urls": server.url, "username": username, "credential": "hidden"}])
    assert found.state == "unauthorized"
    assert said in (found.reason or "")
    assert "hidden" not in (found.reason or "")


# --- over TCP and TLS -------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def listening(said: bytes | None) -> AsyncIterator[int]:
    """Give a TCP port on which nothing is said (None), or something and then the connection is closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if said is None:
            await reader.read()
        else:
            await reader.read(20)
            writer.write(said)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "said", "state", "reason"),
    [
        ("turn", None, "timeout", "connected, but no answer"),
        ("turn", b"", "closed", "the connection was closed in place of an answer"),
        ("turn", b"HTTP/1.0 400 Bad Request\r\n\r\n", "not_stun", "what came back is no STUN (no STUN message begins"),
        ("turns", None, "timeout", "connected over TCP, but the TLS handshake is not answered"),
        ("turns", b"", "closed", "the connection was closed in the TLS handshake"),
        ("turns", b"HTTP/1.0 400 Bad Request\r\n\r\n", "tls", "what listens there does not speak TLS as it should ("),
    ],
)
async def test_what_happens_to_a_connection(scheme: str, said: bytes | None, state: str, reason: str) -> None:
    async with listening(said) as port:
        found = await check(f"{scheme}:{HOST}:{port}?transport=tcp", limit=SHORT if state in ENDED_BY_TIME else LONG)
    assert found.state == state
    assert (found.reason or "").startswith(reason)


# --- what cannot be checked -------------------------------------------------------------------------------------------


async def test_what_natprobe_cannot_speak_is_said() -> None:
    (dtls, oauth) = await check_ice_servers(
        [f"turns:{HOST}?transport=udp", {"urls": f"turn:{HOST}", "credentialType": "oauth"}]
    )
    assert (dtls.state, dtls.reason) == ("not_checked", "natprobe cannot check TURN over DTLS")
    assert dtls.unsupported_by_aiortc
    assert (oauth.state, oauth.reason) == ("not_checked", "natprobe cannot check credentials of type oauth")


async def test_an_address_of_the_other_ip_version() -> None:
    (found,) = await check_ice_servers([f"stun:{HOST}"], versions=[6])
    assert (found.state, found.family, found.reason) == ("dns", None, f"{HOST} is an IPv4 address")


async def test_a_name_that_no_name_server_can_know() -> None:
    (found,) = await check_ice_servers([f"stun:{'a' * 64}.invalid"])
    assert found.state is IceServerState.DNS


async def test_misuse_is_told_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="'deep' is not a valid Depth"):
        await check_ice_servers([f"stun:{HOST}"], depth="deep")
    with pytest.raises(ValueError, match="is no STUN or TURN URL"):
        await check_ice_servers([f"stun:{HOST}", "nonsense"])


# --- cancelled --------------------------------------------------------------------------------------------------------


def sockets() -> set[str]:
    links = {link.name for link in Path("/proc/self/fd").iterdir()}
    with_targets = (os.path.realpath(f"/proc/self/fd/{name}") for name in links)
    return {target for target in with_targets if "socket:" in target}


async def test_whenever_it_is_cancelled_nothing_is_left_behind() -> None:
    """Cancelled after every number of the loop's rounds, until a check is through before it can be."""
    async with serving(granting) as server:
        before = sockets()
        through = False
        rounds = 0
        while not through:
            server.requests.clear()
            asking = asyncio.ensure_future(check(server.url))
            for _ in range(rounds):
                await asyncio.sleep(0)
            through = not asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            await asyncio.sleep(0)  # the loop closes transports in its next round
            assert allocations(server.requests) == 0, f"after {rounds} rounds"
            assert sockets() == before, f"after {rounds} rounds"
            rounds += 1
        assert rounds > 10


def allocations(requests: list[Message]) -> int:
    """Return how many allocations a granting server has left after these requests."""
    left = 0
    for request in requests:
        if request.value(Type.NONCE) and request.method == Method.ALLOCATE:
            left = 1
        elif request.value(Type.NONCE) and request.value(TurnType.LIFETIME) == bytes(4):
            left = 0
    return left


async def test_a_server_without_passwords_is_given_its_allocation_back_too() -> None:
    def script(request: Message, _data: bytes) -> bytes:
        return Message(Class.SUCCESS, request.transaction_id, (relayed(request),), request.method).encode()

    async with serving(script) as server:
        assert (await check(server.url)).usable
    assert [r.method for r in server.requests] == [Method.ALLOCATE, Method.REFRESH]
    assert server.requests[-1].value(TurnType.LIFETIME) == bytes(4)


# --- the command line -------------------------------------------------------------------------------------------------


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(application(), ["turn", *words], env=environment)


@pytest.fixture
def closed() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, 0))
        port = taken.getsockname()[1]
    return f"turn:{HOST}:{port}"


def test_the_status_says_that_one_is_not_usable(closed: str) -> None:
    result = run(closed)
    assert result.exit_code == 3
    assert result.stdout == f"refused         udp  IPv4  {closed}\n{'':16}port unreachable\n"


def test_json_is_one_document(closed: str) -> None:
    result = run(closed, closed, "--json")
    told = json.loads(result.stdout)
    assert (told["schema"], [one["state"] for one in told["checks"]]) == ("natprobe.ice-servers/1", ["refused"] * 2)
    assert told["checks"][1]["unsupported_by_aiortc"] == "aiortc uses the first TURN URL alone"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "'nonsense' is no STUN or TURN URL"),
        (["stun:a", "--depth", "deep"], "'deep' is none of bind, allocate, permission, echo"),
        (["stun:a", "--timeout", "0"], "'0' is no number of seconds"),
        (["stun:a", "--timeout", "x"], "'x' is no number of seconds"),
        (["stun:a", "--secret", "s", "--password", "p"], "a secret makes the password"),
        ([], "Missing argument"),
    ],
)
def test_misuse_is_status_2(words: list[str], said: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.replace("│", "").split())


# --- a configuration in a file ----------------------------------------------------------------------------------------


def configuration(*urls: str) -> dict[str, Any]:
    return {"ice_servers": [{"urls": url, "username": "u", "credential": "topsecret"} for url in urls]}


def test_a_configuration_is_read_from_a_file_or_from_stdin(tmp_path: Path) -> None:
    file = tmp_path / "token.json"
    file.write_text(json.dumps(configuration(f"turn:{HOST}:9", f"stun:{HOST}:9")), encoding="utf-8-sig")
    from_file = run("--config", str(file), "--json")
    from_stdin = CliRunner().invoke(application(), ["turn", "--config", "-", "--json"], input=file.read_bytes())
    for result in (from_file, from_stdin):
        assert result.exit_code == 3
        told = json.loads(result.stdout)
        Draft202012Validator(checks_schema()).validate(told)
        assert [check["url"] for check in told["checks"]] == [f"turn:{HOST}:9", f"stun:{HOST}:9"]
        assert "topsecret" not in result.output


def test_urls_may_stand_beside_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "token.json"
    file.write_text(json.dumps(configuration(f"turn:{HOST}:9")))
    result = run("--config", str(file), f"stun:{HOST}:9")
    assert (result.exit_code, result.stdout.count("refused  ")) == (3, 2)


@pytest.mark.parametrize(
    ("content", "said", "status"),
    [
        ('{"x": "topsecret"}', "mapping with the keys x", 2),
        ('{"topsecret', "is no JSON", 2),
        ('"turn:a.example"', "", 3),
        ('[{"urls": "http://a.example"}]', "is no STUN or TURN URL", 2),
        (None, "cannot read", 1),
    ],
)
def test_what_is_no_configuration_is_named_without_its_secrets(
    tmp_path: Path, content: str | None, said: str, status: int
) -> None:
    file = tmp_path / "token.json"
    if content is not None:
        file.write_text(content.replace("a.example", f"{HOST}:9"))
    result = run("--config", str(file))
    assert result.exit_code == status
    assert said in " ".join(result.stderr.split())
    assert "topsecret" not in result.output


def test_what_aiortc_does_with_lists_is_said_once() -> None:
    result = run(*(f"turn:{HOST}:{port}" for port in (9, 10, 11)))
    assert result.stdout.count("aiortc uses the first TURN URL alone") == 1


async def test_the_code_of_an_error_is_a_number() -> None:
    async with serving(granting) as server:
        found = await check(server.url, password="wrong")
    assert (found.state, found.code, found.to_json()["code"]) == ("unauthorized", 401, 401)
