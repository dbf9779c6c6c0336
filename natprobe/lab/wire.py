"""A wire with a length: frames from one interface come out of another later, and some not at all.

A kernel without netem has no other delay. Frames are carried with their virtio-net header (PACKET_VNET_HDR) untouched,
so that what is left to the hardware, checksums and segmentation, stays left to it, and a TCP segment of 64 KiB stays
one frame. Runs as ``python -m natprobe.lab.wire``; needs CAP_NET_RAW, as root of a user namespace has it.
"""

from __future__ import annotations

import argparse
import random
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence

# <linux/if_packet.h>, <linux/if_ether.h>: what Python's socket module does not name.
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_MR_PROMISC = 1
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_ETH_P_ALL = 3

_VNET_HEADER = 10
_ARP = b"\x08\x06"
_LARGEST_FRAME = 1 << 17
_BUFFER = 1 << 23


class Direction:
    """Frames on their way from one socket to the other. Each direction has dice of its own, so that a seed is a run."""

    def __init__(self, source: socket.socket, sink: socket.socket, loss: float, seed: str) -> None:
        self.source = source
        self.sink = sink
        self._loss = loss
        self._dice = random.Random(seed)
        self._under_way: deque[tuple[float, bytes]] = deque()

    @property
    def due(self) -> float | None:
        """When the next frame arrives, by the monotonic clock."""
        return self._under_way[0][0] if self._under_way else None

    def take(self, arrival: float) -> None:
        """Accept one frame, to arrive then."""
        frame = self.source.recv(_LARGEST_FRAME)
        if not self._lost(frame):
            self._under_way.append((arrival, frame))

    def _lost(self, frame: bytes) -> bool:
        # A lost ARP request costs a second, which no loss on a path through the internet does.
        ethertype = frame[_VNET_HEADER + 12 : _VNET_HEADER + 14]
        return self._loss > 0 and ethertype != _ARP and self._dice.random() < self._loss

    def deliver(self, now: float) -> None:
        """Put out every frame that has arrived."""
        while self._under_way and self._under_way[0][0] <= now:
            try:
                self.sink.send(self._under_way.popleft()[1])
            except OSError:
                continue  # the far interface is down, or its queue is full: a wire has nobody to tell


def open_interface(name: str) -> socket.socket:
    """Return a socket that gets every frame that comes in at an interface, and sends frames out of it."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # no frame before all is set
    for option in (_PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING):
        sock.setsockopt(_SOL_PACKET, option, 1)
    membership = struct.pack("iHH8s", socket.if_nametoindex(name), _PACKET_MR_PROMISC, 0, b"")
    sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    sock.bind((name, _ETH_P_ALL))
    return sock


def carry(directions: Sequence[Direction], delay: float) -> None:
    """Carry frames for ever, each for ``delay`` seconds."""
    sockets = {direction.source: direction for direction in directions}
    while True:
        due = [direction.due for direction in directions if direction.due is not None]
        # select, for it alone of its kin takes a timeout in microseconds.
        ready, _, _ = select.select(sockets, [], [], max(0.0, min(due) - time.monotonic()) if due else None)
        now = time.monotonic()
        for sock in ready:
            sockets[sock].take(now + delay)
        for direction in directions:
            direction.deliver(now)


def main(argv: Sequence[str]) -> None:
    """Connect two interfaces; says ``serving`` on stderr when frames are carried."""
    parser = argparse.ArgumentParser(prog="python -m natprobe.lab.wire", description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="each way")
    parser.add_argument("--loss", type=float, default=0.0, help="probability for each frame but ARP")
    parser.add_argument("--seed", type=int, default=1, help="of the dice that lose frames")
    parser.add_argument("interfaces", nargs=2)
    options = parser.parse_args(argv)
    one, other = map(open_interface, options.interfaces)
    directions = [
        Direction(one, other, options.loss, f"{options.seed} out"),
        Direction(other, one, options.loss, f"{options.seed} back"),
    ]
    sys.stderr.write("serving a wire\n")
    sys.stderr.flush()
    carry(directions, options.delay_ms / 1000)


if __name__ == "__main__":
    main(sys.argv[1:])
