"""Connection after connection between the same two endpoints: which facts make a mapping the connection's own."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from natprobe.behaviour import Certainty, Dependence, Protocol, Verdict
from natprobe.endpoint import Endpoint
from natprobe.inference import conclude
from natprobe.lab.clock import run
from natprobe.lab.internet import Internet
from natprobe.lab.mirror import Mirror
from natprobe.lab.policy import PRESETS
from natprobe.lab.simulation import CLIENT, REFLECTOR
from natprobe.network import Rejection
from natprobe.observation import Exchange, Outcome, Purpose

APD, CD = Dependence.ADDRESS_AND_PORT_DEPENDENT, Dependence.CONNECTION_DEPENDENT
CONFIRMED, LIKELY, NOT_DETERMINED = Certainty.CONFIRMED, Certainty.LIKELY, Certainty.NOT_DETERMINED
FOUR = [Endpoint.of(address, port) for address, port in product(REFLECTOR[:2], (3478, 3479))]
LOCAL = Endpoint.of(CLIENT, 50000)


def connection(purpose: Purpose, local: Endpoint, remote: Endpoint, port: int) -> Exchange:
    """A connection that was seen from this external port; port 0: that was not answered."""
    answered = Exchange(purpose, Protocol.TCP, local, remote, 0.1, 1, 0.04, Outcome.ANSWERED)
    seen = Endpoint.of("198.51.100.1", port)
    return replace(answered, mapped=seen) if port else replace(answered, outcome=Outcome.SILENT)


def judged(*series: list[int], spread: tuple[int, int, int, int] = (1, 2, 3, 4)) -> Verdict[Dependence]:
    """Return the verdict on four connections at once, and on series of them to one endpoint one after the other."""
    facts = [connection(Purpose.MAPPING, LOCAL, to, port) for to, port in zip(FOUR, spread, strict=True)]
    for number, ports in enumerate(series):
        local = LOCAL.with_port(50001 + number)
        facts += [connection(Purpose.RECONNECT, local, FOUR[0], port) for port in ports]
    profile = conclude(facts, Protocol.TCP, 4)
    assert profile
    return profile.mapping


@pytest.mark.parametrize(
    ("series", "value", "certainty"),
    [
        ([[7, 7]], APD, CONFIRMED),
        ([[7, 7], [8, 8]], APD, CONFIRMED),
        ([[7, 8, 9]], CD, CONFIRMED),
        ([[7, 8]], CD, LIKELY),
        ([[7, 8], [9, 10]], CD, LIKELY),  # a NAT that was restarted once does that
        # A NAT that was restarted in the middle of one series, before the other.
        ([[7, 8, 8], [9, 9]], APD, LIKELY),
        ([], APD, LIKELY),
        ([[7], [8]], APD, LIKELY),
        # Of what was lost nothing follows.
        ([[7, 0]], None, NOT_DETERMINED),
        ([[0], [7]], None, NOT_DETERMINED),
        ([[7, 0], [8, 8]], APD, CONFIRMED),
        ([[7, 8, 0]], CD, LIKELY),
    ],
)
def test_what_is_seen_again_is_not_the_connections(
    series: list[list[int]], value: Dependence | None, certainty: Certainty
) -> None:
    verdict = judged(*series)
    assert (verdict.value, verdict.certainty) == (value, certainty)


def test_what_was_not_seen_is_said_and_why() -> None:
    assert "was not seen (198.51.100.10:3478: silent)" in judged([7, 0]).reason


def test_a_system_that_does_not_connect_again_leaves_the_plain_reading() -> None:
    """Where no timestamps tell two connections apart, TIME-WAIT keeps the pair of endpoints for a minute."""
    facts = [connection(Purpose.MAPPING, LOCAL, to, port) for port, to in enumerate(FOUR, 1)]
    first = connection(Purpose.RECONNECT, LOCAL.with_port(50001), FOUR[0], 7)
    busy = replace(first, outcome=Outcome.REJECTED, mapped=None, detail="cannot assign requested address")
    profile = conclude([*facts, first, busy], Protocol.TCP, 4)
    assert profile
    assert (profile.mapping.value, profile.mapping.certainty) == (APD, LIKELY)
    assert "cannot assign requested address" in profile.mapping.reason
    reset = [connection(Purpose.RECONNECT, LOCAL.with_port(50002), FOUR[0], port) for port in (8, 9, 10)]
    profile = conclude([*facts, first, busy, *reset], Protocol.TCP, 4)
    assert profile
    assert (profile.mapping.value, profile.mapping.certainty) == (CD, LIKELY)


def test_the_evidence_are_all_the_connections() -> None:
    assert judged([7, 8, 9]).evidence == tuple(range(7))


def test_where_destinations_share_a_mapping_no_connection_has_its_own() -> None:
    assert judged([7, 8, 9], spread=(1, 1, 2, 2)).value is Dependence.ADDRESS_DEPENDENT


# --- on a network -----------------------------------------------------------------------------------------------------


def test_a_finished_connection_makes_room_for_the_next_in_memory() -> None:
    async def scene() -> None:
        internet = Internet()
        gateway = internet.gateway(PRESETS["apdm-apdf"], "198.51.100.1")
        client = internet.host(CLIENT, behind=gateway)
        Mirror(internet.host(*REFLECTOR))
        for _ in range(3):
            stream = await client.connect(LOCAL, FOUR[0])
            assert not isinstance(stream, Rejection)
            await stream.finish()
        for _ in range(3):
            stream = await client.connect(LOCAL, FOUR[0])
            assert not isinstance(stream, Rejection)
            await stream.reset()

    run(scene())
