"""Hairpinning: what came back in, with which source, and what its absence is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from natprobe.behaviour import Certainty, Hairpinning, Protocol
from natprobe.endpoint import Endpoint
from natprobe.inference import Profile, conclude
from natprobe.observation import Exchange, Outcome, Purpose, Recognition

SERVERS = [Endpoint.of(f"198.51.100.{host}", port) for host in (10, 11) for port in (3480, 3481)]
LOCAL = Endpoint.parse("0.0.0.0:50000")
ONE, OTHER = Endpoint.parse("198.51.100.1:40001"), Endpoint.parse("198.51.100.1:40002")
INSIDE = Endpoint.parse("10.64.1.10:50001")


def mapping(*ports: int) -> list[Exchange]:
    asked = zip(SERVERS, ports, strict=True)
    return [
        Exchange(Purpose.MAPPING, Protocol.UDP, LOCAL, e, 0.0, 1, 0.1, Outcome.ANSWERED, mapped=ONE.with_port(port))
        for e, port in asked
    ]


def hairpin(outcome: Outcome, sent: int = 12, source: Endpoint | None = None) -> Exchange:
    return Exchange(Purpose.HAIRPIN, Protocol.UDP, LOCAL, OTHER, 0.5, sent, 0.7, outcome, mapped=source)


def profile(*facts: Exchange | Recognition) -> Profile:
    found = conclude(facts, Protocol.UDP, 4)
    assert found
    return found


@pytest.mark.parametrize(
    ("turned", "value", "certainty"),
    [
        (hairpin(Outcome.ANSWERED, 1, ONE), Hairpinning.EXTERNAL_SOURCE, Certainty.CONFIRMED),
        (hairpin(Outcome.ANSWERED, 1, INSIDE), Hairpinning.INTERNAL_SOURCE, Certainty.CONFIRMED),
        (hairpin(Outcome.ANSWERED, 1), None, Certainty.NOT_DETERMINED),
        (hairpin(Outcome.SILENT), Hairpinning.NONE, Certainty.LIKELY),
        (hairpin(Outcome.SILENT, 2), None, Certainty.NOT_DETERMINED),
    ],
)
def test_what_came_back_in(turned: Exchange, value: Hairpinning | None, certainty: Certainty) -> None:
    verdict = profile(*mapping(40001, 40001, 40001, 40001), turned).hairpinning
    assert verdict
    assert (verdict.value, verdict.certainty) == (value, certainty)


def test_where_the_mapping_depends_on_the_destination_silence_says_nothing() -> None:
    verdict = profile(*mapping(40001, 40002, 40003, 40004), hairpin(Outcome.SILENT)).hairpinning
    assert verdict
    assert not verdict.determined
    assert "a filter may have stopped them" in verdict.reason


def test_where_it_was_not_tried_there_is_no_verdict() -> None:
    assert profile(*mapping(40001, 40001, 40001, 40001)).hairpinning is None


def test_a_host_of_ones_own_is_no_server_that_answered() -> None:
    found = profile(*mapping(40001, 40001, 40001, 40001), hairpin(Outcome.ANSWERED, 1, ONE))
    assert str(OTHER) not in found.reachable.reason
    assert found.external.value == (ONE,)


# --- an address that the browser does not tell ------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "translated"), [(True, False), (False, True)])
def test_the_browser_knows_whether_it_is_seen_as_itself(own: bool, translated: bool) -> None:
    kept = mapping(50000, 50000, 50000, 50000)
    verdict = profile(*kept, Recognition(LOCAL, ONE.with_port(50000), own, 0.3)).translated
    assert (verdict.value, verdict.certainty) == (translated, Certainty.CONFIRMED)


def test_a_kept_port_alone_does_not_tell() -> None:
    assert not profile(*mapping(50000, 50000, 50000, 50000)).translated.determined


def test_a_changed_port_does() -> None:
    assert profile(*mapping(40001, 40001, 40001, 40001)).translated.value is True


def test_a_port_that_is_not_known_is_not_changed() -> None:
    unknown = [replace(exchange, local=LOCAL.with_port(0)) for exchange in mapping(40001, 40001, 40001, 40001)]
    assert not profile(*unknown).translated.determined
