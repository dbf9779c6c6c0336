"""Frames are delivered late, in order, and lost by the dice; what time it is is an argument."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from natprobe.lab.wire import Direction

HEADER, ADDRESSES = bytes(10), bytes(12)
IP, ARP = b"\x08\x00", b"\x08\x06"


def frame(number: int, kind: bytes = IP) -> bytes:
    return HEADER + ADDRESSES + kind + bytes([number])


class Ends:
    """The two ends of a wire, played by a pair of sockets each."""

    def __init__(self, stack: ExitStack) -> None:
        self.near, self.source = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.sink, self.far = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.far.setblocking(False)

    def carry(self, wire: Direction, frames: list[bytes]) -> list[bytes]:
        for number, one in enumerate(frames):
            self.near.send(one)
            wire.take(arrival=float(number))
            wire.deliver(now=float(number))
        return self.delivered()

    def delivered(self) -> list[bytes]:
        frames = []
        while True:
            try:
                frames.append(self.far.recv(100))
            except BlockingIOError:
                return frames


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


def test_a_frame_comes_out_when_it_arrives_and_not_before(ends: Ends) -> None:
    wire = Direction(ends.source, ends.sink, loss=0.0, seed="any")
    assert wire.due is None
    for arrival in (1.0, 1.5):
        ends.near.send(frame(int(arrival * 10)))
        wire.take(arrival)
    assert wire.due == 1.0
    wire.deliver(now=0.99)
    assert ends.delivered() == []
    wire.deliver(now=1.2)
    assert ends.delivered() == [frame(10)]
    assert wire.due == 1.5
    wire.deliver(now=2.0)
    assert ends.delivered() == [frame(15)]


def test_without_loss_every_frame_comes_out_in_order_and_whole(ends: Ends) -> None:
    frames = [frame(number) for number in range(50)]
    assert ends.carry(Direction(ends.source, ends.sink, loss=0.0, seed="any"), frames) == frames


def test_one_seed_is_one_run(ends: Ends) -> None:
    frames = [frame(number) for number in range(100)]
    runs = [ends.carry(Direction(ends.source, ends.sink, loss=0.3, seed=seed), frames) for seed in ("1", "1", "2")]
    assert runs[0] == runs[1] != runs[2]
    assert 55 <= len(runs[0]) <= 85


def test_address_resolution_is_never_lost(ends: Ends) -> None:
    frames = [frame(number, ARP) for number in range(20)]
    assert ends.carry(Direction(ends.source, ends.sink, loss=1.0, seed="any"), frames) == frames


def test_a_far_end_that_is_down_is_no_error(ends: Ends) -> None:
    wire = Direction(ends.source, ends.sink, loss=0.0, seed="any")
    ends.near.send(frame(1))
    wire.take(arrival=0.0)
    ends.far.close()
    wire.deliver(now=1.0)
    assert wire.due is None
