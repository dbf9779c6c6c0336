"""The plan of the house, enforced: which room may know which (docs/design.md), and what decides never waits."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import natprobe

PACKAGE = Path(natprobe.__file__).parent

GROUND = {"endpoint", "errors"}
VOCABULARY = GROUND | {"behaviour"}
WIRE = GROUND | {"stun", "extensions"}
FACTS = VOCABULARY | WIRE | {"observation", "server", "silence", "draws"}
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "endpoint": set(),
    "errors": set(),
    "behaviour": {"endpoint"},
    "descriptors": set(),
    "stun": GROUND,
    "extensions": GROUND | {"stun"},
    "integrity": GROUND | {"stun"},
    "observation": VOCABULARY,
    "server": GROUND | {"stun", "extensions", "observation"},
    "silence": GROUND | {"observation"},
    "draws": VOCABULARY | {"observation"},
    "network": GROUND,
    "system_errors": GROUND | {"network"},
    "socket_setup": GROUND | {"network", "system_errors"},
    "udp_socket": GROUND | {"network", "system_errors", "socket_setup"},
    "tcp_socket": GROUND | {"network", "system_errors", "socket_setup"},
    "sockets": GROUND | {"network", "system_errors", "socket_setup", "udp_socket", "tcp_socket"},
    "exchange": FACTS | {"network"},
    "conversation": FACTS | {"network", "exchange"},
    "probes": FACTS | {"network", "exchange", "conversation"},
    "inference": FACTS,
    "report": FACTS | {"inference"},
    "traversal": FACTS | {"inference", "report"},
    "public": GROUND,
    "run": FACTS | {"network", "system_errors", "sockets", "probes", "report", "version"},
    "schema": FACTS | {"inference", "report"},
    "reflector": WIRE | {"descriptors", "system_errors"},
    "reuse": FACTS
    | {"network", "sockets", "socket_setup", "system_errors", "conversation", "descriptors", "inference"},
    "lab": FACTS | {"network", "probes", "inference", "report", "run", "reflector", "webrtc"},
    "webrtc": FACTS
    | {"integrity", "network", "sockets", "exchange", "inference", "report", "run", "schema", "traversal", "version"},
    "views": FACTS | {"inference", "report", "traversal"},
    "page": FACTS | {"version", "inference", "report", "reflector", "views", "system_errors"},
    "cli": FACTS
    | {
        "system_errors",
        "version",
        "descriptors",
        "inference",
        "report",
        "run",
        "public",
        "reflector",
        "reuse",
        "lab",
        "traversal",
        "views",
        "webrtc",
        "page",
    },
    "__init__": FACTS | {"inference", "report", "run", "traversal"},
    "__main__": {"cli"},
}
"""Arrows run downward only; probes and inference meet in ``run`` alone; nothing but the command line uses the lab."""

PURE = [
    *("behaviour", "endpoint", "errors", "stun", "extensions", "observation", "server", "silence", "draws", "report"),
    *("reuse/facts", "reuse/conclusions", "reuse/capacity"),
    *("inference", "traversal", "reflector/rules", "reflector/layout", "reflector/budget"),
    *("integrity", "webrtc/outcome", "webrtc/ice_servers", "webrtc/choosing", "webrtc/certificate"),
    *("webrtc/agent", "webrtc/connected", "webrtc/configuration", "webrtc/readiness"),
    *("webrtc/ice", "webrtc/stats", "webrtc/findings", "webrtc/knowledge", "webrtc/explanation"),
    *("lab/policy", "lab/nftables"),
    *("page/ice", "page/peer", "page/trials", "page/volleys", "page/hairpin", "page/session", "page/result"),
    *("lab/details", "lab/nat", "lab/ports", "lab/flows", "lab/packet", "lab/link"),
]
WAITING = {"asyncio", "socket", "time", "select", "threading", "subprocess", "asyncio_dgram"}
ONLY_IN = {
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli", "views"},
    "jinja2": {"views"},
    "aiortc": {"webrtc"},
    "aiohttp": {"page"},
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_run_downward(path: Path) -> None:
    used = {name.split(".")[1] for name in imports(path) if name.startswith("natprobe.")}
    rooms = {entry for entry in used if (PACKAGE / entry).is_dir() or (PACKAGE / f"{entry}.py").exists()}
    assert rooms - {room(path)} <= MAY_IMPORT[room(path)]


@pytest.mark.parametrize("name", PURE)
def test_what_decides_never_waits(name: str) -> None:
    place = PACKAGE / name
    for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        assert not {module.split(".")[0] for module in imports(path)} & WAITING, path


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_in_its_room(library: str) -> None:
    users = {room(path) for path in modules() if library in {name.split(".")[0] for name in imports(path)}}
    assert users <= ONLY_IN[library]


def test_the_public_names_are_few_and_all_there() -> None:
    assert sorted(natprobe.__all__) == natprobe.__all__
    assert len(natprobe.__all__) <= 14
    for name in natprobe.__all__:
        assert getattr(natprobe, name).__doc__
