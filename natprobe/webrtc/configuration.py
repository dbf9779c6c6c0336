"""The forms in which applications and vendors hand over ICE servers, read into `IceServer` values. Pure.

Whatever `check_ice_servers`, `choose_ice_servers` and `preflight` are given is read here. What is not understood is
refused by naming its keys, and never its values: there are passwords among them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from natprobe.webrtc.ice_servers import IceServer, IceUrl

_LISTS = ("iceServers", "ice_servers", "services")
"""Members with ICE servers in them: the W3C's (Cloudflare, Xirsys), Twilio's, XEP-0215's."""
_ENVELOPE = "v"
"""Where Xirsys has all that it answers."""


class Given(NamedTuple):
    """One URL's server, and the entry that it was given in."""

    server: IceServer
    entry: Any


def read_ice_servers(given: Any) -> list[IceServer]:
    """Return a server for each URL of what an application has, in its order.

    Raises ValueError for a malformed URL or JSON text, TypeError for what is no configuration and no ICE server.
    """
    return [server for server, _ in split_ice_servers(given)]


def split_ice_servers(given: Any) -> Iterator[Given]:
    """Yield each URL's server beside the entry that it was given in. Raises as `read_ice_servers` does."""
    for number, entry in enumerate(_entries(given)):
        if isinstance(entry, IceServer):
            yield Given(entry, entry)
        else:
            where = f"ICE server {number} (counted from 0)"
            for url in _urls(entry, where):
                yield Given(IceServer(IceUrl.parse(url), *_credentials(entry, where)), entry)


def _entries(given: Any) -> Iterable[Any]:
    """Return the ICE servers in whatever they came in; aiortc's default, None, is none that anybody named."""
    given = _decoded(given)
    if given is None:
        return []
    if isinstance(given, (str, IceServer)) or _is_server(given):
        return [given]
    for name in _LISTS:
        if _has(given, name):
            return _entries(_get(given, name))
    if isinstance(given, Mapping) and isinstance(given.get(_ENVELOPE), Mapping):
        return _entries(given[_ENVELOPE])
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise TypeError(
            f"no ICE servers in {_described(given)}: a configuration has iceServers, an ICE server has urls"
        )
    return given


def _decoded(given: Any) -> Any:
    """Return what a JSON text stands for, and everything else as it is."""
    if isinstance(given, bytes):
        given = _text(given, "a configuration")
    if not isinstance(given, str) or not given.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
        return given
    try:
        return json.loads(given.removeprefix("\ufeff"))
    except json.JSONDecodeError as wrong:
        raise ValueError(f"the ICE servers are no JSON: {wrong.msg} in line {wrong.lineno}") from None


def _is_server(entry: Any) -> bool:
    return _has(entry, "urls") or _has(entry, "url") or (_has(entry, "host") and _has(entry, "type"))


def _urls(entry: Any, where: str) -> Iterable[str]:
    """Return the URLs of one entry; there is one at least."""
    if isinstance(entry, (str, bytes)):
        return [_text(entry, where)]
    if not _is_server(entry):
        raise TypeError(f"{where} has no urls: it is {_described(entry)}")
    if not (_has(entry, "urls") or _has(entry, "url")):
        return [_service_url(entry, where)]
    name = "urls" if _has(entry, "urls") else "url"
    urls = _get(entry, name)
    if isinstance(urls, (str, bytes)):
        return [_text(urls, f"{name} of {where}")]
    if isinstance(urls, Mapping) or not isinstance(urls, Iterable):
        raise TypeError(f"{name} of {where} is a text or a list of texts, not {_described(urls)}")
    found = [_text(url, f"{name} of {where}") for url in urls]
    if not found:
        raise TypeError(f"{name} of {where} is empty (a generator can be read once only)")
    return found


def _service_url(entry: Any, where: str) -> str:
    """Return the URL of a service of XMPP's External Service Discovery (XEP-0215)."""
    scheme, host = (_text(_get(entry, name), f"{name} of {where}") for name in ("type", "host"))
    port, transport = _get(entry, "port"), _get(entry, "transport")
    place = f"[{host}]" if ":" in host and not host.startswith("[") else host
    # A STUN URL has no transport (RFC 7064), and a service of XEP-0215 names it all the same.
    is_default = transport is None or (transport == "udp" and scheme == "stun")
    return f"{scheme}:{place}{f':{port}' if port else ''}{'' if is_default else f'?transport={transport}'}"


def _credentials(entry: Any, where: str) -> tuple[str | None, str | None, str]:
    """Return the username, the credential and its type."""
    if isinstance(entry, (str, bytes)):
        return None, None, "password"
    username, credential = _get(entry, "username"), _get(entry, "credential")
    kind = _get(entry, "credentialType")
    if credential is None:
        credential = _get(entry, "password")
    if credential is not None and not isinstance(credential, (str, bytes, int, float)):
        credential, kind = None, kind if kind not in (None, "password") else "oauth"  # the W3C's RTCOAuthCredential
    texts = [
        value if value is None else _text(value, f"{name} of {where}")
        for name, value in (("username", username), ("credential", credential), ("credentialType", kind))
    ]
    return texts[0], texts[1], texts[2] or "password"


def _text(value: Any, what: str) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{what} is not UTF-8") from None
    if not isinstance(value, str):
        raise TypeError(f"{what} is a text, not {_described(value)}")
    return value


def _has(entry: Any, name: str) -> bool:
    if isinstance(entry, Mapping):
        return name in entry
    return not isinstance(entry, (str, bytes, type)) and hasattr(entry, name)


def _get(entry: Any, name: str) -> Any:
    return entry.get(name) if isinstance(entry, Mapping) else getattr(entry, name, None)


def _described(value: Any) -> str:
    """Return what a value is, by its keys and its type: its values may be secret."""
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(str, value))}" if value else "an empty mapping"
    return "None" if value is None else f"a value of type {type(value).__name__}"
