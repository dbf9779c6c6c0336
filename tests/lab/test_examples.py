"""The programs of docs/examples, run as their readers would run them: behind NATs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS

from .conftest import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.slow]
pytest_plugins = ["pytester"]

EXAMPLES = ROOT / "docs" / "examples"
STUN = "stun:198.51.100.10:3478"
SERVER = "http://198.51.100.10:8080"
CALLER = """
import asyncio, json, sys, aiohttp, natprobe
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

async def call(server, stun, report):
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[RTCIceServer(stun)]))
    opened = asyncio.Event()
    pc.createDataChannel("chat").on("open", opened.set)
    await pc.setLocalDescription(await pc.createOffer())
    offer = {"sdp": pc.localDescription.sdp, "type": pc.localDescription.type}
    if report:
        offer["report"] = (await natprobe.classify([report], tier=natprobe.Tier.QUICK)).to_json()
    async with aiohttp.ClientSession() as session:
        async with session.post(server + "/offer", json=offer) as answer:
            told = await answer.json()
        await pc.setRemoteDescription(RTCSessionDescription(told["sdp"], told["type"]))
        try:
            await asyncio.wait_for(opened.wait(), 2)
        except TimeoutError:
            pass
        async with session.get(server + "/diagnostics") as answer:
            print(json.dumps((await answer.json())[-1]))
    await pc.close()

asyncio.run(call(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def server(nat_lab: Lab) -> Iterator[None]:
    """The diagnostics server, out on the internet."""
    program = str(EXAMPLES / "diagnostics_server.py")
    with nat_lab.start("reflector", ["python", "-u", program, "--host", "198.51.100.10"]) as serving:
        assert serving.stdout
        assert "Running on" in serving.stdout.readline()
        yield
        serving.terminate()


def call(nat_lab: Lab, policy: str, report: str = "") -> dict[str, Any]:
    """Call the server from behind a NAT, and return what it says of that connection."""
    nat_lab.apply("home", PRESETS[policy])
    ended = nat_lab.run("home-1", ["python", "-c", CALLER, SERVER, STUN, report])
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


@pytest.mark.usefixtures("server")
def test_the_diagnostics_endpoint_tells_how_a_call_went(nat_lab: Lab) -> None:
    told = call(nat_lab, "apdm-apdf")
    assert told["state"] == "completed"
    assert told["explanation"]["cause"] == "direct"
    assert [event["step"] for event in told["events"]][:2] == ["gathering", "gathered"]
    assert {entry["type"] for entry in told["stats"].values()} >= {"transport", "candidate-pair"}


@pytest.mark.usefixtures("server")
def test_the_diagnostics_endpoint_tells_why_a_call_failed(nat_lab: Lab) -> None:
    told = call(nat_lab, "udp-blocked", report="198.51.100.10")
    assert told["state"] == "checking"  # for another minute
    causes = [finding["cause"] for finding in told["explanation"]["findings"]]
    assert causes == ["udp-blocked", "checking"]
    assert told["explanation"]["findings"][0]["reason"].startswith("the peer's network lets no UDP out")


@pytest.mark.parametrize(
    ("policy", "status", "said"),
    [
        ("apdm-apdf", 0, "ready: a relay works"),
        ("udp-blocked", 0, "ready: a relay may work"),  # where UDP is not answered, only to itself can be tried
        ("apdm-apdf", 3, "limited: "),
    ],
)
def test_the_check_before_a_call(
    nat_lab: Lab, nat_lab_turn: Mapping[str, Any], policy: str, status: int, said: str
) -> None:
    nat_lab.apply("home", PRESETS[policy])
    over_tcp = nat_lab_turn["urls"].replace("udp", "tcp")
    credentials = ["--username", nat_lab_turn["username"], "--password", nat_lab_turn["credential"]]
    urls = [STUN] if status else [STUN, over_tcp, *credentials]
    ended = nat_lab.run("home-1", ["python", str(EXAMPLES / "precall.py"), *urls])
    assert (ended.returncode, ended.stdout[: len(said)]) == (status, said), ended.stderr
    assert f"{STUN}: {'ok' if policy != 'udp-blocked' else 'no answer'}" in ended.stderr


def test_the_ci_test_passes_in_a_project_of_its_own(pytester: pytest.Pytester) -> None:
    shutil.copy(EXAMPLES / "test_two_peers.py", pytester.path)
    pytester.makeini("[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n")
    pytester.runpytest_subprocess().assert_outcomes(passed=5)
