"""A reflector knows when its own UDP is at fault, and says so over TCP to clients that ask."""

from __future__ import annotations

import asyncio

from natprobe import stun
from natprobe.endpoint import Endpoint, parse_address
from natprobe.extensions import (
    Extension,
    UdpService,
    filler_attribute,
    read_udp_service,
    udp_service_attribute,
)
from natprobe.lab.clock import run
from natprobe.reflector import Reflector
from natprobe.reflector.budget import Rate, Rates
from natprobe.reflector.layout import Layout
from natprobe.reflector.self_test import PATIENCE, SelfTest
from natprobe.sockets import HostNetwork

PORT = 34990
LAYOUT = Layout((parse_address("127.0.29.2"), parse_address("127.0.29.3")), (3478, 3479), (50001, 50002))


def test_one_endpoint_that_hears_nothing_is_a_service_that_does_not_work() -> None:
    async def scene() -> tuple[bool, bool, bool]:
        deaf: set[Endpoint] = set()

        def deliver(data: bytes, source: Endpoint, target: Endpoint) -> None:
            assert target in deaf or test.recognise(data, source, target)

        test = SelfTest(LAYOUT, deliver)
        await asyncio.sleep(10)
        before = test.works
        deaf.add(LAYOUT.listening[3])
        await asyncio.sleep(PATIENCE + 1.5)
        meanwhile = test.works
        deaf.clear()
        await asyncio.sleep(1.5)
        test.close()
        return before, meanwhile, test.works

    assert run(scene()) == (True, False, True)


def test_nobody_else_can_send_what_it_sends() -> None:
    async def scene() -> bool:
        sent: list[tuple[bytes, Endpoint, Endpoint]] = []
        test = SelfTest(LAYOUT, lambda *datagram: sent.append(datagram))
        await asyncio.sleep(0.5)
        test.close()
        (data, source, target), *_ = sent
        stranger = source.with_port(source.port + 1)
        return test.recognise(data, stranger, target) or test.recognise(bytes(16), source, target)

    assert run(scene()) is False


async def asked_over_tcp(remote: Endpoint) -> UdpService:
    stream = await HostNetwork().connect(Endpoint.of("127.0.0.1", 0), remote)
    message = stun.request(udp_service_attribute(), filler_attribute(64))
    try:
        await stream.send(message.encode())  # type: ignore[union-attr]
        head = await stream.receive(4)  # type: ignore[union-attr]
        rest = await stream.receive(stun.message_length(head) - 4)  # type: ignore[union-attr]
    finally:
        stream.close()  # type: ignore[union-attr]
    value = stun.decode(head + rest).value(Extension.UDP_SERVICE)
    assert value is not None
    return read_udp_service(value)


async def test_a_reflector_that_works_says_that_it_serves() -> None:
    async with Reflector(["127.0.29.4"], (PORT, PORT + 1)) as reflector:
        assert await asked_over_tcp(reflector.site.listening[0]) is UdpService.SERVES


async def test_a_spent_budget_is_told_over_tcp() -> None:
    once = Rates(plain=Rate(0.001, 1))
    async with Reflector(["127.0.29.4"], (PORT, PORT + 1), rates=once) as reflector:
        remote = reflector.site.listening[0]
        assert await asked_over_tcp(remote) is UdpService.SERVES
        socket = await HostNetwork().datagrams(Endpoint.of("127.0.0.1", 0))
        await socket.send(stun.request(filler_attribute(64)).encode(), remote)
        await socket.receive()
        socket.close()
        assert await asked_over_tcp(remote) is UdpService.EXHAUSTED
