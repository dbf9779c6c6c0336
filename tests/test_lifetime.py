"""How long a mapping lives: what the packets to silent sockets say, and what they do not."""

from __future__ import annotations

import pytest

from natprobe.behaviour import Certainty, Protocol, Verdict
from natprobe.endpoint import Endpoint
from natprobe.inference.facts import Facts
from natprobe.inference.lifetime import Lifetime, judge_lifetime
from natprobe.observation import Idle

SERVER = Endpoint.parse("198.51.100.10:3480")


def idle(seconds: float, sent: int, heard: int, controls: int) -> Idle:
    local = Endpoint.of("10.64.1.10", 50_000 + int(seconds))
    return Idle(local, SERVER, seconds, seconds, sent, heard, controls)


def judged(*idles: Idle) -> Verdict[Lifetime]:
    verdict = judge_lifetime(Facts(idles, Protocol.UDP, 4))
    assert verdict
    return verdict


@pytest.mark.parametrize(
    ("idles", "value", "certainty"),
    [
        ([idle(10, 1, 1, 1), idle(25, 12, 0, 12)], (10, 25), Certainty.CONFIRMED),
        ([idle(10, 1, 1, 1), idle(25, 6, 0, 6), idle(50, 12, 0, 12)], (10, 50), Certainty.CONFIRMED),
        ([idle(10, 1, 1, 1), idle(25, 8, 0, 8)], (10, 25), Certainty.LIKELY),
        ([idle(10, 1, 1, 1), idle(25, 3, 1, 0)], (25, None), Certainty.CONFIRMED),
        ([idle(10, 12, 0, 12)], (0, 10), Certainty.CONFIRMED),
        ([idle(10, 12, 0, 12), idle(25, 1, 1, 1)], (25, None), Certainty.CONFLICTING),
        ([idle(10, 20, 0, 2)], None, Certainty.NOT_DETERMINED),
    ],
    ids=["between", "too few are left aside", "likely", "no end", "at once", "contradiction", "all was lost"],
)
def test_the_interval(idles: list[Idle], value: tuple[float, float | None] | None, certainty: Certainty) -> None:
    verdict = judged(*idles)
    assert (verdict.value, verdict.certainty) == (value, certainty)


def test_where_it_was_not_tested_there_is_no_verdict() -> None:
    assert judge_lifetime(Facts((), Protocol.UDP, 4)) is None
    assert judge_lifetime(Facts([idle(10, 1, 1, 1)], Protocol.TCP, 4)) is None


def test_the_interval_in_words() -> None:
    assert str(Lifetime(10, 25)) == "10 to 25 s"
    assert str(Lifetime(110, None)) == "over 110 s"
