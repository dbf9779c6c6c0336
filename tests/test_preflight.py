"""A pre-call check on loopback: against a real reflector, a scripted TURN server, and holes that swallow everything."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from aiortc import RTCConfiguration, RTCIceServer
from ice_peers import silent_port
from jsonschema import Draft202012Validator
from nat_reports import home
from referencing import Registry
from test_checking import granting, serving
from test_run import _until, descriptors

import natprobe.schema
from natprobe.behaviour import Certainty
from natprobe.endpoint import Endpoint
from natprobe.reflector import Reflector
from natprobe.webrtc import IceServerCheck, IceServerState, Preflight, preflight, preflight_events, schema
from natprobe.webrtc.readiness import (
    Agent,
    Finished,
    Known,
    NatClassified,
    NatTested,
    Readiness,
    ServerChecked,
    advise,
    judge,
)

ADDRESSES, PORTS = ("127.0.7.2", "127.0.7.3", "127.0.7.4"), (34780, 34790)
STUN, TURN = f"stun:{ADDRESSES[0]}:{PORTS[0]}", "turn:127.0.7.9:3478"

_REGISTRY: Registry[Any] = Registry().with_contents([(schema.NAT_REPORT, natprobe.schema.schema())])
VALIDATOR = Draft202012Validator(schema.schema(), registry=_REGISTRY)


@pytest.fixture
async def reflector() -> AsyncIterator[Reflector]:
    async with Reflector(ADDRESSES, PORTS, compat=True) as serving:
        yield serving


def told(result: Preflight) -> dict[str, Any]:
    """Return a result as JSON, once it is what the schema says."""
    value: dict[str, Any] = json.loads(result.dumps())
    VALIDATOR.validate(value)
    return value


# --- runs -------------------------------------------------------------------------------------------------------------


async def test_a_configuration_is_tested_by_its_own_servers(reflector: Reflector) -> None:
    result = await preflight(RTCConfiguration(iceServers=[RTCIceServer([STUN])]))
    (check,) = result.servers
    assert (check.url, check.usable) == (STUN, True)
    assert result.nat
    assert result.missing == ()
    assert result.verdict.value is Readiness.READY  # on loopback there is no NAT
    value = told(result)
    assert value["nat"]["schema"] == "natprobe.report/1"
    assert value["duration_s"] < 4


async def test_events_come_as_they_happen_and_end_with_the_whole(reflector: Reflector) -> None:
    config = {"iceServers": [{"urls": STUN}]}
    events = [event async for event in preflight_events(config)]
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert {type(event) for event in events} == {ServerChecked, NatTested, NatClassified, Finished}
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, Finished) for event in events) == 1


@pytest.mark.slow
async def test_what_does_not_answer_is_told_within_the_budget() -> None:
    with silent_port() as port:
        result = await preflight([f"stun:127.0.0.1:{port}"], budget=0.5)
    assert result.duration_s < 0.8
    (check,) = result.servers
    assert check.state is IceServerState.TIMEOUT
    value = told(result)
    assert value["nat"] is None
    assert value["missing"] == {"nat": "not finished within 0.5 s"}
    assert value["verdict"]["value"] is None


async def test_without_any_stun_server_the_nat_is_not_determined() -> None:
    result = await preflight([])
    assert result.missing == (("nat", "the configuration has no STUN server over UDP, and no reflector was named"),)
    assert result.verdict.certainty is Certainty.NOT_DETERMINED
    assert "Add a TURN server" in result.advice[0]


async def test_what_aiortc_passes_over_is_told_of_the_whole_list(reflector: Reflector) -> None:
    second = f"stun:{ADDRESSES[1]}:{PORTS[0]}"
    result = await preflight([STUN, second])
    assert [check.unsupported_by_aiortc for check in result.servers] == [None, "aiortc uses the first STUN URL alone"]
    assert f"{second}: aiortc uses the first STUN URL alone" in result.advice


@pytest.mark.parametrize("config", [["http://example.org"], {"iceServers": [{"urls": "stun:host:port"}]}])
async def test_what_is_no_configuration_is_a_misuse(config: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each has its own text
        await preflight(config)


@pytest.mark.slow
async def test_cancelled_or_left_it_leaves_nothing_open(reflector: Reflector) -> None:
    before = descriptors()
    with silent_port() as port:
        config = [STUN, f"turn:127.0.0.1:{port}"]
        for steps in (0, 15, 40):
            run = asyncio.ensure_future(preflight(config))
            for _ in range(steps):
                await asyncio.sleep(0)
            run.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await run
        async with aclosing(preflight_events(config)) as events:
            async for _ in events:
                break
    assert len(asyncio.all_tasks()) == 1
    await asyncio.wait_for(_until(lambda: descriptors() <= before), 5)


# --- the verdict ------------------------------------------------------------------------------------------------------

WORKS = IceServerCheck(TURN, "udp", 4, IceServerState.OK, rtt_ms=20.0, relayed=Endpoint.parse("127.0.7.9:50000"))
WRONG = replace(WORKS, state=IceServerState.UNAUTHORIZED, reason="401 Unauthorized: wrong username or credential")
SEES = IceServerCheck(STUN, "udp", 4, IceServerState.OK, rtt_ms=5.0)


@pytest.mark.parametrize(
    ("nat", "readiness"),
    [
        ("eim-eif", "ready"),
        ("none", "ready"),
        ("eim-apdf", "limited"),
        ("apdm-apdf", "limited"),
        ("udp-blocked", "blocked"),
    ],
)
def test_without_a_relay_it_hangs_on_the_nat(nat: str, readiness: str) -> None:
    verdict = judge(Known([SEES, WRONG], home(nat)))
    assert verdict.value == readiness
    assert "no relay works" in verdict.reason


@pytest.mark.parametrize("nat", ["apdm-apdf", "udp-blocked"])
def test_a_relay_that_works_is_enough(nat: str) -> None:
    assert judge(Known([WORKS], home(nat))).value is Readiness.READY


def test_a_relay_that_was_not_tested_to_the_end_determines_nothing() -> None:
    verdict = judge(Known([SEES], home("apdm-apdf"), {TURN: "not finished within 4 s"}))
    assert (verdict.value, verdict.reason) == (None, f"{TURN}: not finished within 4 s")


SECOND = replace(WORKS, url="turn:127.0.7.10:3478", unsupported_by_aiortc="aiortc uses the first TURN URL alone")


@pytest.mark.parametrize(
    ("nat", "value"), [("eim-apdf", "limited"), ("udp-blocked", "blocked"), (None, None), ("eim-eif", "ready")]
)
def test_a_relay_that_aiortc_passes_over_makes_nothing_ready(nat: str | None, value: str | None) -> None:
    known = Known([WRONG, SECOND], home(nat) if nat else None, relay_to_choose=SECOND.url)
    verdict = judge(known)
    assert verdict.value == value
    assert verdict.certainty is not Certainty.CONFIRMED or value != "ready"
    assert f"ready with choose_ice_servers' list ({SECOND.url}), not with this one" in verdict.reason
    assert advice(known)[:2] == [
        f"Give aiortc what choose_ice_servers returns for this list: it begins with {SECOND.url}.",
        f"{TURN}: {WRONG.reason}",
    ]


def test_a_browser_uses_every_relay() -> None:
    known = Known([WRONG, SECOND], home("apdm-apdf"), agent=Agent.BROWSER)
    assert (judge(known).value, judge(known).reason) == ("ready", f"a relay works: {SECOND.url}")
    assert advice(known) == [f"{TURN}: {WRONG.reason}"]


def test_a_relay_that_can_be_given_in_no_form_is_of_no_use() -> None:
    known = Known([replace(SECOND, unsupported_by_aiortc="aiortc refuses it")], home("eim-apdf"))
    assert "aiortc can use none of the relays that work" in judge(known).reason


def test_what_aiortc_does_with_lists_is_said_once() -> None:
    third = replace(SECOND, url="turn:127.0.7.11:3478")
    said = advice(Known([WORKS, SECOND, third], home("eim-apdf")))
    assert said == [f"{SECOND.url}: aiortc uses the first TURN URL alone"]


async def test_the_list_as_a_whole_is_judged_by_what_aiortc_takes_of_it() -> None:
    """Both are real to the end of the run: the first refuses, the second grants but relays nothing."""
    async with serving(granting) as server:
        dead = "turn:127.0.7.9:9"
        config = [{"urls": [dead, server.url], "username": "user", "credential": "right"}]
        result = await preflight(config, budget=3, agent="browser")
        assert [check.url for check in result.servers] == [dead, server.url]
        assert result.servers[1].unsupported_by_aiortc == "aiortc uses the first TURN URL alone"


def advice(known: Known) -> list[str]:
    return list(advise(known, judge(known)))


def test_advice_names_each_server_and_what_is_missing() -> None:
    assert advice(Known([WRONG], home("eim-eif"))) == [f"{TURN}: {WRONG.reason}"]
    assert advice(Known([SEES], home("udp-blocked"))) == [
        "UDP does not get out: add a TURN server over TLS on port 443 (turns:HOST:443?transport=tcp)."
    ]
    assert advice(Known([WORKS], home("eim-apdf"))) == []


def test_the_shipped_schema_is_the_one_made_from_the_types() -> None:
    assert schema.PATH.read_text(encoding="utf-8") == schema.text(), "stale: python -m natprobe.webrtc.schema"
    Draft202012Validator.check_schema(schema.schema())
    checks = schema.checks_schema()
    assert schema.CHECKS_PATH.read_text(encoding="utf-8") == schema.text(checks)
    Draft202012Validator.check_schema(checks)
