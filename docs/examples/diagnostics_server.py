"""An aiortc server that says how its connections are, and why one does not connect.

    python diagnostics_server.py --host 198.51.100.10 --stun stun:stun.example.org

POST /offer takes an SDP offer and answers it. GET /diagnostics tells of every connection: its steps, its statistics,
an explanation. A peer may send its natprobe report along with the offer ("report"): the explanation then names its NAT.
"""

from __future__ import annotations

import argparse
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

from natprobe import Report
from natprobe.webrtc import Watch, explain, ice_stats, watch


@dataclass
class Peer:
    """A connection, the watch over it, and what its other end says about itself."""

    pc: RTCPeerConnection
    watched: Watch
    report: Report | None


class Server:
    def __init__(self, stun: str | None, mine: Report | None = None) -> None:
        # Not None: that is a public server to aiortc.
        self._config = RTCConfiguration(iceServers=[RTCIceServer(stun)] if stun else [])
        self._mine = mine
        self._peers: list[Peer] = []
        self._stack = AsyncExitStack()

    async def offer(self, request: web.Request) -> web.Response:
        told: dict[str, Any] = await request.json()
        report = Report.from_json(told["report"]) if "report" in told else None
        pc = RTCPeerConnection(self._config)
        self._stack.push_async_callback(pc.close)
        # From before the candidates are gathered: which server was slow, or refused, cannot be learned later.
        watched = watch(pc, mine=self._mine, theirs=report).start()
        self._stack.callback(watched.stop)
        self._peers.append(Peer(pc, watched, report))
        await pc.setRemoteDescription(RTCSessionDescription(told["sdp"], told["type"]))
        await pc.setLocalDescription(await pc.createAnswer())
        return web.json_response({"sdp": pc.localDescription.sdp, "type": pc.localDescription.type})

    async def diagnostics(self, _request: web.Request) -> web.Response:
        return web.json_response([self._tell(peer) for peer in self._peers])

    def _tell(self, peer: Peer) -> dict[str, Any]:
        return {
            "state": peer.pc.iceConnectionState,
            "explanation": explain(peer.pc, mine=self._mine, theirs=peer.report).to_json(),
            "events": peer.watched.to_json(),
            "stats": ice_stats(peer.pc),
        }

    async def close(self, _app: web.Application) -> None:
        await self._stack.aclose()


def application(server: Server) -> web.Application:
    app = web.Application()
    app.router.add_post("/offer", server.offer)
    app.router.add_get("/diagnostics", server.diagnostics)
    app.on_cleanup.append(server.close)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--stun", metavar="URL")
    options = parser.parse_args()
    web.run_app(application(Server(options.stun)), host=options.host, port=options.port)


if __name__ == "__main__":
    main()
