"""Is the lab what it claims to be? Asked with plain sockets, before a probe is blamed for a wrong answer.

`serve` runs at the reflector on ports of its own, `observe` on a client; neither uses natprobe's probes or its STUN.
Nothing waits where an order will do: a packet that the filter passes comes in before the control that is sent after it
over the same path, and the server itself says what became of its connections. Only silence takes time.

A request and its answer are one JSON object each. UDP: ``{"from": [endpoints]}``, answered from each of these. TCP:
``{"dial": {endpoint: port}}``: from each endpoint connect to that port of the address that the request came from.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import combinations, product
from typing import Any, cast

from natprobe.behaviour import Dependence, Protocol, Treatment
from natprobe.endpoint import Endpoint
from natprobe.lab.policy import NatPolicy, expected

PORTS = (5000, 5001)
UNMAPPED_PORT = 9
REPLY_TIMEOUT = 0.5
DIAL_TIMEOUT = 0.3

_ANY = Endpoint.of("0.0.0.0", 0)  # noqa: S104 binding to any address is what a client does

_ABORT = struct.pack("ii", 1, 0)
"""A linger of no time: closing sends RST and leaves no TIME_WAIT, which would keep the ports from the next check."""

_ANSWER_TO_SYN = {
    Treatment.ACCEPTED: "refused",
    Treatment.RESET: "refused",
    Treatment.DROPPED: "silence",
    Treatment.ICMP: "unreachable",
}


def faults(policy: NatPolicy, observed: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return one line for each thing in which what `observe` printed is not what the policy makes."""
    wanted = expected(policy)
    if wanted["tcp"]["reachable"]:
        wanted["tcp"]["unsolicited"] = _ANSWER_TO_SYN[policy.tcp.unsolicited]
    return [
        f"the lab's NAT: {protocol} {key} is {observed[protocol].get(key)}, and should be {value}"
        for protocol, behaviour in wanted.items()
        for key, value in behaviour.items()
        if observed[protocol].get(key) != value
    ]


# --- at the reflector -------------------------------------------------------------------------------------------------


class _Echo(asyncio.DatagramProtocol):
    def __init__(self, endpoint: Endpoint, transports: dict[Endpoint, asyncio.DatagramTransport]) -> None:
        self.endpoint = endpoint
        self.transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transports[self.endpoint] = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for text in json.loads(data)["from"]:
            answer = {"from": text, "seen": str(Endpoint.of(*addr))}
            self.transports[Endpoint.parse(text)].sendto(json.dumps(answer).encode(), addr)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    peer = Endpoint.of(*writer.get_extra_info("peername"))
    async for line in reader:
        dials = {Endpoint.parse(source): peer.with_port(port) for source, port in json.loads(line)["dial"].items()}
        outcomes = await asyncio.gather(*(_dial(source, target) for source, target in dials.items()))
        answer = {"seen": str(peer), "outcomes": dict(zip(map(str, dials), outcomes, strict=True))}
        writer.write(json.dumps(answer).encode() + b"\n")
    writer.close()


async def _dial(source: Endpoint, target: Endpoint) -> str:
    with _tcp(source) as sock:
        sock.setblocking(False)
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, target.sockaddr), DIAL_TIMEOUT)
        except TimeoutError:
            return "silence"
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return "unreachable"
    return "connected"


def _tcp(local: Endpoint) -> socket.socket:
    """Return a TCP socket that shares its port with every other one made here."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    sock.bind(local.sockaddr)
    return sock


async def serve(addresses: Sequence[str]) -> None:
    """Answer on both ports of each address until cancelled; says ``serving`` on stderr when all are bound."""
    transports: dict[Endpoint, asyncio.DatagramTransport] = {}
    loop = asyncio.get_running_loop()
    for endpoint in _endpoints(addresses):
        await loop.create_datagram_endpoint(partial(_Echo, endpoint, transports), local_addr=endpoint.sockaddr)
        await asyncio.start_server(_answer, sock=_tcp(endpoint))
    sys.stderr.write("serving the self-check\n")
    sys.stderr.flush()
    await asyncio.Event().wait()


def _endpoints(addresses: Iterable[str]) -> list[Endpoint]:
    return [Endpoint.of(address, port) for address, port in product(addresses, PORTS)]


# --- at a client ------------------------------------------------------------------------------------------------------


def observe(addresses: Sequence[str]) -> dict[str, dict[str, object]]:
    """Return what the NATs between here and three addresses of `serve` do, by the keys of `expected`."""
    asked, quiet = _endpoints(addresses[:2]), Endpoint.of(addresses[2], PORTS[0])
    return {str(Protocol.UDP): _observe_udp(asked), str(Protocol.TCP): _observe_tcp(asked, quiet)}


def _observe_udp(asked: Sequence[Endpoint]) -> dict[str, object]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answers: list[dict[str, str]] = []
        for to in asked:
            answers += _ask(sock, to, [to])
            if not answers:
                return {"reachable": False}
        local = _local(sock, asked[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as fresh:
        first, *others = asked
        came_in = {Endpoint.parse(answer["from"]) for answer in _ask(fresh, first, [*others, first])}
    seen = {Endpoint.parse(answer["from"]): Endpoint.parse(answer["seen"]) for answer in answers}
    return _behaviour(seen, local, first, came_in)


def _ask(sock: socket.socket, to: Endpoint, sources: Sequence[Endpoint]) -> list[dict[str, str]]:
    """Ask for a datagram from each source; return what came in up to that of the last one, which is surely let in."""
    sock.settimeout(REPLY_TIMEOUT)
    sock.sendto(json.dumps({"from": [str(source) for source in sources]}).encode(), to.sockaddr)
    answers: list[dict[str, str]] = []
    try:
        while not answers or answers[-1]["from"] != str(sources[-1]):
            data, address = sock.recvfrom(2048)
            answers.append(json.loads(data) | {"from": str(Endpoint.of(*address))})
    except TimeoutError:
        return []
    return answers


def _local(sock: socket.socket, to: Endpoint) -> Endpoint:
    port = sock.getsockname()[1]
    sock.connect(to.sockaddr)  # sends nothing: it asks for the source address
    return Endpoint.of(sock.getsockname()[0], port)


def _observe_tcp(asked: Sequence[Endpoint], quiet: Endpoint) -> dict[str, object]:
    first, *others = asked
    try:
        with ExitStack() as stack:
            port = _free_port(stack)
            connections = {to: stack.enter_context(_connect(port, to)) for to in asked}
            seen = {to: Endpoint.parse(_call(sock, {})["seen"]) for to, sock in connections.items()}
            local = Endpoint.of(*connections[first].getsockname())
        with _connect(port, first) as again:  # the first one has ended
            renewed = Endpoint.parse(_call(again, {})["seen"]) != seen[first]
    except OSError:
        return {"reachable": False}
    with ExitStack() as stack:
        port = _free_port(stack, listening=True)
        sock = stack.enter_context(_connect(port, first))
        mapped = Endpoint.parse(_call(sock, {})["seen"]).port
        outcomes = _call(sock, dict.fromkeys(others, mapped) | {quiet: UNMAPPED_PORT})["outcomes"]
    came_in = {to for to in others if outcomes[str(to)] == "connected"}
    behaviour = _behaviour(seen, local, first, came_in) | {"unsolicited": outcomes[str(quiet)]}
    return behaviour | ({"mapping": str(Dependence.CONNECTION_DEPENDENT)} if renewed else {})


def _free_port(stack: ExitStack, *, listening: bool = False) -> int:
    sock = stack.enter_context(_tcp(_ANY))
    if listening:
        sock.listen()
    return Endpoint.of(*sock.getsockname()).port


def _connect(port: int, to: Endpoint) -> socket.socket:
    sock = _tcp(_ANY.with_port(port))
    sock.settimeout(REPLY_TIMEOUT)
    try:
        sock.connect(to.sockaddr)
    except OSError:
        sock.close()
        raise
    return sock


def _call(sock: socket.socket, dial: Mapping[Endpoint, int]) -> dict[str, Any]:
    sock.settimeout(REPLY_TIMEOUT + DIAL_TIMEOUT)
    sock.sendall(json.dumps({"dial": {str(source): port for source, port in dial.items()}}).encode() + b"\n")
    with sock.makefile() as lines:
        answer: dict[str, Any] = json.loads(lines.readline())
    return answer


def _behaviour(
    seen: Mapping[Endpoint, Endpoint], local: Endpoint, contacted: Endpoint, came_in: Iterable[Endpoint]
) -> dict[str, object]:
    others, came_in = set(seen) - {contacted}, set(came_in) - {contacted}
    mapping = (
        dependence
        for dependence in Dependence
        if all((dependence.key(a) == dependence.key(b)) == (seen[a] == seen[b]) for a, b in combinations(seen, 2))
    )
    filtering = (
        dependence
        for dependence in Dependence
        if {other for other in others if dependence.key(other) == dependence.key(contacted)}
        == set(came_in) - {contacted}
    )
    return {
        "reachable": True,
        "translated": set(seen.values()) != {local},
        "mapping": next(mapping, f"irregular: {sorted(map(str, seen.values()))}"),
        "filtering": next(filtering, f"irregular: {sorted(map(str, came_in))}"),
    }


def main(argv: Sequence[str]) -> None:
    """Run ``serve ADDRESS...`` or ``observe ADDRESS...``."""
    role, *addresses = argv
    if role == "serve":
        asyncio.run(serve(addresses))
    else:
        sys.stdout.write(json.dumps(observe(addresses)))


if __name__ == "__main__":
    main(sys.argv[1:])
