"""A report as JSON: it survives its own, it is what its schema says, and old facts still give the same verdicts.

The reports in recorded/ are named for the policy of the lab that they were made behind:

    natprobe lab run POLICY -- natprobe classify -4 -s 198.51.100.10 --save tests/recorded/POLICY.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from natprobe import schema
from natprobe.behaviour import Protocol
from natprobe.endpoint import Endpoint
from natprobe.errors import MalformedReport
from natprobe.lab.policy import differences, parse_policy
from natprobe.observation import ConnectBack, Dialled, Exchange, Hold, Observation, Outcome, Purpose, Resolution
from natprobe.report import Report, Vantage
from natprobe.views import html, text

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
LOCAL = Endpoint.parse("10.64.1.10:40000")
SERVER = Endpoint.parse("198.51.100.10:3478")
LOCAL6 = Endpoint.parse("[2001:db8::1]:40000")
SERVER6 = Endpoint.parse("[2001:db8::2]:3478")
VALIDATOR = Draft202012Validator(schema.schema(), format_checker=FormatChecker())


def report(*facts: Observation) -> Report:
    vantage = Vantage("Linux", IPv4Address("10.64.1.10"), IPv6Address("2001:db8::1"))
    return Report.of("0.1.0", datetime(2026, 11, 22, 10, 51, tzinfo=UTC), 0.4, vantage, facts)


def asked(outcome: Outcome = Outcome.ANSWERED, *, protocol: Protocol = Protocol.UDP, **more: Any) -> Exchange:
    return Exchange(Purpose.HELLO, protocol, LOCAL, SERVER, 0.01, 1, 0.1, outcome, **more)


MADE_BY_HAND = {
    "nothing": report(),
    "no name": report(Resolution("stun.example.org", (), "no address found"), asked()),
    "silent": report(Resolution("x", (SERVER,)), asked(Outcome.SILENT), asked(Outcome.SILENT, protocol=Protocol.TCP)),
    "rejected": report(asked(Outcome.REJECTED, detail="port unreachable"), asked(protocol=Protocol.TCP, mapped=LOCAL)),
    "refused": report(asked(Outcome.ERROR, error=420), asked(Outcome.MISPLACED, source=LOCAL, answer_from=SERVER)),
    "nothing held": report(asked(protocol=Protocol.TCP), Hold(LOCAL, (), (), 0.2, 0)),
    "not dialled": report(
        asked(protocol=Protocol.TCP), ConnectBack(LOCAL, SERVER, SERVER, 0, 0, 0, Dialled.NOT_DIALLED)
    ),
    "IPv6": report(replace(asked(), local=LOCAL6, remote=SERVER6, mapped=LOCAL6)),
}


@pytest.fixture(params=[*MADE_BY_HAND, *RECORDED], ids=lambda param: getattr(param, "stem", param))
def any_report(request: pytest.FixtureRequest) -> Report:
    if isinstance(request.param, Path):
        return Report.loads(request.param.read_text())
    return MADE_BY_HAND[request.param]


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_a_report_survives_its_own_json(any_report: Report) -> None:
    assert Report.loads(any_report.dumps()) == any_report


def test_a_report_is_what_its_schema_says(any_report: Report) -> None:
    VALIDATOR.validate(any_report.to_json())


def test_every_report_can_be_looked_at(any_report: Report) -> None:
    assert max(map(len, text.render(any_report, verbose=True).splitlines())) <= 80
    assert html.render(any_report).endswith("</html>\n")


def test_the_json_has_the_words_of_the_contract() -> None:
    told = json.loads(Report.loads((Path(__file__).parent / "recorded" / "eim-apdf.json").read_text()).dumps())
    assert list(told) == [
        *("schema", "version", "started", "duration_s", "vantage", "servers", "ipv4", "ipv6", "observations"),
    ]
    assert told["schema"] == "natprobe.report/1"
    assert datetime.fromisoformat(told["started"]).utcoffset() is not None
    assert told["ipv6"] is None
    udp, tcp = told["ipv4"]["udp"], told["ipv4"]["tcp"]
    assert list(udp["mapping"]) == ["value", "certainty", "reason", "evidence"]
    assert udp["reachable"]["value"] is True
    assert all(Endpoint.parse(endpoint) for endpoint in udp["external"]["value"])
    assert list(tcp["concurrent"]["value"]) == ["held", "destinations", "local_port", "external_ports"]
    assert "concurrent" not in udp


# --- the schema -------------------------------------------------------------------------------------------------------


def test_the_shipped_schema_is_the_one_made_from_the_types() -> None:
    assert schema.PATH.read_text(encoding="utf-8") == schema.text(), "stale: python -m natprobe.schema"


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema.schema())


def broken() -> Iterator[tuple[str, Any]]:
    """Yield changes to a report after which it is none."""
    verdict = ("ipv4", "udp", "mapping")
    yield "a value that is not determined", (*verdict, "certainty", "not-determined")
    yield "no value, and yet confirmed", (*verdict, "value", None)
    yield "a word that is none", (*verdict, "value", "symmetric")
    yield "a certainty that is none", (*verdict, "certainty", "perhaps")
    yield "evidence before the first observation", (*verdict, "evidence", [-1])
    yield "an external endpoint without a port", ("ipv4", "udp", "external", "value", ["198.51.100.1"])
    yield "a profile without a mapping", ("ipv4", "udp", "mapping", None)
    yield "no time", ("started", "yesterday")
    yield "another schema", ("schema", "natprobe.report/2")
    yield "a kind of observation that is none", ("observations", 1, "kind", "guess")
    yield "a field that an observation does not have", ("observations", 1, "colour", "red")


@pytest.mark.parametrize("change", [change for _, change in broken()], ids=[name for name, _ in broken()])
def test_the_schema_refuses_what_is_no_report(change: tuple[Any, ...]) -> None:
    told = json.loads(RECORDED[0].read_text())
    *path, key, value = change
    place = told
    for step in path:
        place = place[step]
    place[key] = value
    with pytest.raises(ValidationError):
        VALIDATOR.validate(told)


def test_later_versions_may_tell_more_of_a_protocol() -> None:
    told = json.loads(RECORDED[0].read_text())
    told["ipv4"]["udp"]["lifetime_stream"] = {"value": [30, 34]}
    told["ipv4"]["udp"]["mapping"]["delta"] = 1
    VALIDATOR.validate(told)
    Report.from_json(told)


# --- explained again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_facts_still_give_the_verdicts_of_their_policy(path: Path) -> None:
    told = Report.loads(path.read_text()).to_json()
    assert differences(parse_policy(path.stem), told) == []


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_verdicts_are_drawn_from_the_facts_and_not_from_the_file(path: Path) -> None:
    told = json.loads(path.read_text())
    expected = Report.from_json(told)
    told["ipv4"] = told["servers"] = None
    assert Report.from_json(told) == expected


# --- files that are no reports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("null", "natprobe.report/1"),
        ("[]", "natprobe.report/1"),
        ('{"schema": "natprobe.report/2"}', "natprobe.report/1"),
        ('{"schema": "natprobe.report/1"}', ""),
        ('{"schema": "natprobe.report/1", "observations": [{"kind": "guess"}]}', ""),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(document: str, why: str) -> None:
    with pytest.raises(MalformedReport) as refused:
        Report.loads(document)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


PLACES = ("kind", "purpose", "protocol", "local", "remote", "at", "mapped", "outcome", "site", "asked", "arrivals")
WORDS = ("198.51.100.1:0", "[::1]:5", "0.0.0.0:0", "hello", "remap", "udp", "tcp", "silent")
SITES = ([["LISTENS", "[::1]:5"]], [["a role of later days", "198.51.100.7:5"]])
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from((*WORDS, *SITES))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(RECORDED), st.integers(min_value=0), st.sampled_from(PLACES), VALUES)
@example(RECORDED[0], 1, "site", SITES[1])
@pytest.mark.slow
def test_whatever_a_file_holds_it_is_explained_or_refused(path: Path, index: int, place: str, value: object) -> None:
    told = json.loads(path.read_text())
    told["observations"][index % len(told["observations"])][place] = value
    try:
        explained = Report.loads(json.dumps(told))
    except MalformedReport:
        return
    text.render(explained, verbose=True)
    html.render(explained)
    assert Report.loads(explained.dumps()).dumps() == explained.dumps()
