"""What a TURN server's refusal means: the state that it puts a server into, and the reason in a line."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from natprobe.endpoint import Endpoint, Scope
from natprobe.webrtc.ice_servers import IceServer
from natprobe.webrtc.outcome import IceServerState
from natprobe.webrtc.phrases import error_words
from natprobe.webrtc.turn import Method, TurnRefusal

STATES = {
    401: IceServerState.UNAUTHORIZED,
    403: IceServerState.FORBIDDEN_PEER,
    438: IceServerState.STALE_NONCE,
    441: IceServerState.UNAUTHORIZED,
    486: IceServerState.QUOTA,
}
_HINTS = {
    420: "the server does not know an attribute that every TURN client sends",
    437: "the server has another allocation for this client's address and port, from another port too",
    438: "usually several servers behind one address that do not share their nonces",
    440: "the server relays in another IP version only",
    441: "the allocation belongs to another user",
    442: "the server does not relay UDP (coturn: no-udp-relay)",
    443: "the server relays in another IP version than the peer's",
    486: "this user has all the allocations that the server grants (coturn: user-quota, total-quota)",
    500: "the server has failed: read its log",
    508: "the server has no free relay port (coturn: min-port, max-port)",
}

_TIMED = re.compile(r"(\d{9,11})(?::|$)")
"""A username that ends by itself: see ``timed_credentials``."""
_TIMED_MS = re.compile(r"\d{12,14}(?::|$)")
_TIMED_BACKWARDS = re.compile(r".+:\d{9,11}$")
_DIGEST = re.compile(r"[A-Za-z0-9+/]{27}=|[A-Za-z0-9+/]{43}=")


def judge_refusal(refused: TurnRefusal, server: IceServer, remote: Endpoint) -> tuple[IceServerState, str]:
    """Return the state and the reason of a refusal by ``remote`` of what ``server``'s credentials asked for."""
    state = _state(refused)
    said = (
        error_words(refused.code, refused.phrase) if refused.code else f"{_name(refused.method)} refused without a code"
    )
    if not refused.signed:
        said += ", unsigned"
    hint = _hint(refused, state, server, remote)
    return state, f"{said}: {hint}" if hint else said


def _name(method: int) -> str:
    return Method(method).name.title().replace("_", "")


def _state(refused: TurnRefusal) -> IceServerState:
    if refused.lacks:
        return IceServerState.ERROR
    if refused.method == Method.CREATE_PERMISSION and refused.code in (0, 403):
        return IceServerState.FORBIDDEN_PEER
    if refused.code == 403:
        return IceServerState.ERROR  # it refuses this client, not a peer
    if refused.code == 400 and not refused.signed:
        return IceServerState.UNAUTHORIZED
    return STATES.get(refused.code, IceServerState.ERROR)


def _hint(refused: TurnRefusal, state: IceServerState, server: IceServer, remote: Endpoint) -> str:
    if refused.lacks:
        cure = " (coturn: set realm=)" if refused.lacks == "REALM" else ""
        return f"the error comes without {refused.lacks}, so no credentials can be sent{cure}"
    if refused.code == 300:
        return _redirection(refused)
    if state is IceServerState.FORBIDDEN_PEER:
        allow = " (coturn: allow-loopback-peers)" if remote.scope is Scope.LOOPBACK else ""
        return f"the server relays neither to itself nor to this host{allow}"
    if refused.code == 403:
        return "the server refuses this client: its address or its user may be denied"
    if state is IceServerState.UNAUTHORIZED and refused.code in (400, 401):
        return _credentials(refused, server)
    return _HINTS.get(refused.code, "")


def _redirection(refused: TurnRefusal) -> str:
    if refused.alternate is None:
        return "the server names no other one"
    named = f" ({refused.domain})" if refused.domain else ""
    return f"it sends its clients to {refused.alternate}{named}, {refused.not_followed or 'and that one does so again'}"


def _credentials(refused: TurnRefusal, server: IceServer) -> str:
    """Return what is wrong with the credentials, as far as they show it. No secret is in it."""
    username, credential = server.username, server.credential
    if refused.wants_token:
        return "the server wants an OAuth token (THIRD-PARTY-AUTHORIZATION, RFC 7635)"
    if username is None and credential is None:
        return "a username and a credential are wanted, and none are given"
    if username is None or credential is None:
        missing = "username" if username is None else "credential"
        return f"a username and a credential are wanted, and the {missing} is missing"
    return _timed(username, credential) or _unmatched(refused)


def _timed(username: str, credential: str) -> str | None:
    """Return what is wrong with credentials made from a shared secret."""
    expiry = _TIMED.match(username)
    if expiry and int(expiry[1]) < time.time():
        until = datetime.fromtimestamp(int(expiry[1]), UTC)
        return f"these credentials were valid until {until:%Y-%m-%d %H:%M} UTC"
    if _DIGEST.fullmatch(username) and not _DIGEST.fullmatch(credential):
        return "wrong username or credential; the two may be given the wrong way round"
    if _TIMED_MS.match(username):
        return "wrong username or credential; a timed username begins with seconds since 1970, and these look like ms"
    if _TIMED_BACKWARDS.match(username):
        return "wrong username or credential; a timed username is TIME:USER, and this looks like USER:TIME"
    return None


def _unmatched(refused: TurnRefusal) -> str:
    wrong = "wrong username or credential"
    if refused.code == 400:
        return f"{wrong} (pion/turn, and so LiveKit, answers these with 400)"
    if refused.realm == b"":
        return f"{wrong}, or the server's realm is missing (coturn: set realm=)"
    if refused.wants_sha256:
        return f"{wrong}, or the server insists on SHA-256 (PASSWORD-ALGORITHMS), which browsers do not use"
    return wrong
