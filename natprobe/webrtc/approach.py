"""The way to a server: the connection, TLS; and on which step it ended."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import datetime

from natprobe.endpoint import Endpoint
from natprobe.errors import AddressBusy, CannotRun
from natprobe.network import Rejection, Stream
from natprobe.sockets import HostNetwork, start_tls
from natprobe.webrtc import certificate
from natprobe.webrtc.ice_servers import IceUrl
from natprobe.webrtc.link import DatagramLink, Link, StreamLink, refusal
from natprobe.webrtc.outcome import IceServerState, Unusable


class Approach:
    """The way to one server at one address, over the transport that its URL asks for."""

    def __init__(self, network: HostNetwork, url: IceUrl, remote: Endpoint, tls: ssl.SSLContext | None) -> None:
        self._network = network
        self._url = url
        self._remote = remote
        self._tls = tls
        self.silence = Unusable(IceServerState.TIMEOUT, "no TCP connection: the packets are lost on the way")
        """What it means that nothing more has happened yet."""
        self.not_after: datetime | None = None
        """Until when the server's certificate is valid."""

    async def open(self) -> Link:
        """Return the way, open. Raises Unusable with what is in the way, NoRoute where there is none."""
        try:
            return await self._open()
        except AddressBusy as here:  # says nothing of the server
            raise Unusable(IceServerState.NOT_CHECKED, str(here)) from None

    async def _open(self) -> Link:
        local = await self._local()
        if self._url.transport == "udp":
            return DatagramLink(await self._network.datagrams(local), self._remote)
        stream = await self._network.connect(local, self._remote)
        if isinstance(stream, Rejection):
            raise refusal(stream)
        try:
            if self._url.transport == "tls":
                await self._secure(stream)
        except BaseException:
            stream.close()
            raise
        return StreamLink(stream, self._remote, tls=self._url.transport == "tls")

    async def _secure(self, stream: Stream) -> None:
        """Speak TLS from now on. Raises Unusable with what is wrong, and with the certificate's last day."""
        self.silence = Unusable(IceServerState.TIMEOUT, "connected over TCP, but the TLS handshake is not answered")
        assert self._tls is not None
        try:
            self._note_certificate(await start_tls(stream, self._tls, self._url.server_name))
        except OSError as failure:
            raise await self._tls_failure(failure) from None

    async def _tls_failure(self, failure: OSError) -> Unusable:
        """Return what went wrong in the handshake."""
        if not isinstance(failure, ssl.SSLError) or isinstance(failure, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return Unusable(IceServerState.CLOSED, "the connection was closed in the TLS handshake")
        if isinstance(failure, ssl.SSLCertVerificationError):
            self.silence = Unusable(IceServerState.TLS, certificate.words(failure, None, self._url.server_name))
            await self._look_at_certificate()
        return Unusable(IceServerState.TLS, certificate.words(failure, self.not_after, self._url.server_name))

    async def _look_at_certificate(self) -> None:
        """Connect again, trusting everybody, and send nothing: what is refused cannot be read otherwise."""
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        with suppress(OSError, CannotRun):
            stream = await self._network.connect(await self._local(), self._remote)
            if isinstance(stream, Rejection):
                return
            try:
                self._note_certificate(await start_tls(stream, trusting, self._url.server_name))
            finally:
                stream.close()

    async def _local(self) -> Endpoint:
        return Endpoint(await self._network.source_for(self._remote), 0)

    def _note_certificate(self, der: bytes | None) -> None:
        self.not_after = certificate.not_after(der) if der else None
