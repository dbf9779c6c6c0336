"""Predicted and found: real ICE and real TCP between two gateways. All pairs are in benchmarks/traversal.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from pairs import DELAY, NODES, Pair, classify, peers, remaps, works

from natprobe.behaviour import Protocol
from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS
from natprobe.report import Report
from natprobe.traversal import Order, PathPrediction, predict

from .conftest import open_here

pytestmark = [pytest.mark.lab, pytest.mark.slow]

Reports = dict[tuple[str, str], Report]

NATS = {"home": ("linux-masquerade-accept", "apdm-adf"), "office": ("linux-masquerade-drop", "apdm-eif")}
SAMPLE = [
    ("linux-masquerade-accept", "linux-masquerade-drop", {Order.TOGETHER: True, Order.A: True, Order.B: False}),
    ("linux-masquerade-accept", "apdm-eif", {Order.B: True}),
    ("apdm-adf", "apdm-eif", {Order.TOGETHER: True}),
    ("apdm-adf", "linux-masquerade-drop", {Order.TOGETHER: False}),
]
"""Home, office, and whether they connect, by who begins: a pair for each outcome, over UDP and TCP alike."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with open_here(delay=DELAY) as lab:
        yield lab


@pytest.fixture(scope="module")
def reports(lab: Lab) -> Reports:
    """What ``natprobe classify`` finds behind either gateway; both are looked at together."""

    def classified(gateway: str) -> Reports:
        return {(gateway, name): classify(lab, gateway, PRESETS[name]) for name in NATS[gateway]}

    async def both() -> list[Reports]:
        return await asyncio.gather(*(asyncio.to_thread(classified, gateway) for gateway in NODES))

    home, office = asyncio.run(both())
    return home | office


def predicted(reports: Reports, home: str, office: str, protocol: Protocol) -> PathPrediction:
    prediction = predict(reports["home", home], reports["office", office])
    path = prediction.udp if protocol is Protocol.UDP else prediction.tcp
    assert path
    return path


async def connected(pair: Pair, home: str, office: str, order: Order) -> bool:
    await pair.behind(PRESETS[home], PRESETS[office])
    return (await pair.attempt(order)).connected


@pytest.mark.parametrize("protocol", Protocol)
async def test_they_connect_as_predicted(lab: Lab, reports: Reports, protocol: Protocol) -> None:
    async with peers(lab, protocol) as pair:
        for home, office, expected in SAMPLE:
            path = predicted(reports, home, office, protocol)
            assert {order: works(path, order) for order in expected} == expected, path.reason
            assert {order: await connected(pair, home, office, order) for order in expected} == expected, (home, office)


async def test_a_data_channel_needs_the_right_side_to_answer(lab: Lab, reports: Reports) -> None:
    """The answerer's checks leave first, and arrive before the offerer has the answer."""
    home, office = "linux-masquerade-accept", "linux-masquerade-drop"
    assert "B offers, A answers" in predicted(reports, home, office, Protocol.UDP).advice
    async with peers(lab, "rtc") as pair:
        for a_offers in (True, False):
            await pair.behind(PRESETS[home], PRESETS[office])
            assert (await pair.call(a_offers=a_offers)).connected is not a_offers


def test_which_policies_move_a_mapping() -> None:
    assert [name for name, policy in PRESETS.items() if remaps(policy)] == ["linux-masquerade-accept"]
