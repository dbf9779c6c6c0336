"""What the page shows of a report: the answer, the drawing, and that strangers' words stay words."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from browser import Visit

from natprobe.behaviour import Certainty, Verdict, not_determined
from natprobe.inference import Profile
from natprobe.lab.policy import PRESETS
from natprobe.report import Report
from natprobe.views.browser import answer, render
from natprobe.views.drawing import Drawing, Fate, Line, drawing


def reported(name: str) -> Report:
    return Visit(PRESETS[name]).run()


def udp(report: Report) -> Profile:
    assert report.ipv4
    assert report.ipv4.udp
    return report.ipv4.udp


def drawn(report: Report) -> Drawing:
    found = drawing(report, 4, udp(report))
    assert found
    return found


def fates(report: Report) -> list[Fate]:
    return [part.fate for part in drawn(report).parts if isinstance(part, Line)]


@pytest.mark.parametrize(
    ("name", "headline"),
    [
        ("none", "Anybody can reach this browser directly."),
        ("eim-eif", "Anybody can reach this browser directly."),
        ("firewall", "Direct connections work with most partners."),
        ("linux-masquerade", "Direct connections work with most partners."),
        ("adm-eif", "Direct connections work with some partners only."),
        ("apdm-apdf", "Direct connections work with some partners only."),
        ("udp-blocked", "Direct connections do not work here."),
    ],
)
def test_the_answer_for_everybody(name: str, headline: str) -> None:
    assert render(reported(name))[0] == headline


def test_what_is_not_known_is_not_promised() -> None:
    profile = replace(udp(reported("eim-apdf")), filtering=not_determined("the wind"))
    assert answer(profile).headline == "Not everything could be found out."


def test_a_router_that_moves_mappings_is_no_good_news() -> None:
    moved = Verdict(True, Certainty.CONFIRMED, "it moves")
    profile = replace(udp(reported("linux-masquerade")), unsolicited_remap=moved)
    assert answer(profile).headline == "Direct connections may depend on who sends first."


@pytest.mark.parametrize(
    ("name", "barrier", "inbound"),
    [
        ("none", "nothing", [Fate.IN] * 6),
        ("firewall", "firewall", [Fate.IN] + [Fate.STOPPED] * 5),
        ("eim-eif", "NAT", [Fate.IN] * 6),
        ("eim-adf", "NAT", [Fate.IN] * 2 + [Fate.STOPPED] * 4),
        ("apdm-apdf", "NAT", [Fate.IN] + [Fate.STOPPED] * 5),
    ],
)
def test_the_drawing_shows_who_came_in(name: str, barrier: str, inbound: list[Fate]) -> None:
    report = reported(name)
    assert drawn(report).barrier == barrier
    assert fates(report) == [Fate.OUT] * 4 + inbound


@pytest.mark.parametrize(("name", "ports"), [("eim-apdf", 1), ("adm-apdf", 2), ("apdm-apdf", 4)])
def test_the_drawing_shows_which_ports_were_seen(name: str, ports: int) -> None:
    lines = [part for part in drawn(reported(name)).parts if isinstance(part, Line)]
    assert len({line.label for line in lines if line.fate is Fate.OUT}) == ports


def test_silence_that_proves_nothing_is_drawn_as_unknown() -> None:
    report = reported("eim-apdf")
    unsure = replace(udp(report), filtering=not_determined("the wind"))
    found = drawing(report, 4, unsure)
    assert found
    assert Fate.STOPPED not in [part.fate for part in found.parts if isinstance(part, Line)]


def test_nothing_is_drawn_of_what_was_not_seen() -> None:
    assert drawing(reported("udp-blocked"), 4, udp(reported("udp-blocked"))) is None


def test_the_drawing_is_told_to_those_who_cannot_see_it() -> None:
    told = drawn(reported("eim-adf")).told
    assert "198.51.100.10:3480 sees port 40" in told
    assert "198.51.100.10:50010 comes in" in told
    assert "198.51.100.12:50012 is stopped" in told


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in ("path", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("path", "rect"):
            return
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["none", "eim-adf", "udp-blocked"])
def test_what_strangers_wrote_is_text(name: str) -> None:
    report = reported(name)
    hostile = replace(
        report, vantage=replace(report.vantage, platform="<script>alert(1)</script>"), version='"><b>\x1b[2J'
    )
    _, html = render(hostile)
    tags = _Tags()
    tags.feed(html)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "\x1b" not in html
