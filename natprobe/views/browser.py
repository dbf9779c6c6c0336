"""The report as what the page for browsers shows: an answer for everybody, the drawing, the verdicts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jinja2 import Environment, PackageLoader, StrictUndefined

from natprobe.behaviour import Dependence, Protocol
from natprobe.inference import Profile
from natprobe.inference.facts import listing
from natprobe.observation import Exchange, Purpose
from natprobe.report import Report
from natprobe.views.drawing import drawing
from natprobe.views.evidence import cited
from natprobe.views.printable import printable
from natprobe.views.summary import summary
from natprobe.views.wording import Row, blocks, heading, ranges


@dataclass(frozen=True, slots=True)
class Answer:
    """What it comes to for someone who wants a call to connect."""

    mood: str
    headline: str
    meaning: str


_OPEN = Answer(
    "good",
    "Anybody can reach this browser directly.",
    "Direct connections work with every partner that gets packets out at all.",
)
_EASY = Answer(
    "good",
    "Direct connections work with most partners.",
    "Everybody sees this browser at one and the same port, so that partners can be told where to send to. "
    "Only with a partner whose network does not do that may a relay (TURN) be needed.",
)
_TIMED = Answer(
    "fair",
    "Direct connections may depend on who sends first.",
    "The router changes the port of this browser towards a partner whose packets come too early. It is the router's to "
    "mend: it should drop what nobody has asked for.",
)
_HARD = Answer(
    "fair",
    "Direct connections work with some partners only.",
    "This network shows each destination another port, so that partners cannot be told where to send to. "
    "With many of them a call needs a relay (TURN).",
)
_RELAYED = Answer(
    "bad",
    "Direct connections do not work here.",
    "UDP, over which calls are made, does not get through. A relay (TURN) over TCP or TLS is needed.",
)
_UNKNOWN = Answer(
    "fair",
    "Not everything could be found out.",
    "What was missing is said with each verdict. A second try may tell.",
)


def answer(profile: Profile) -> Answer:
    """Return what a UDP profile comes to."""
    if profile.reachable.value is False:
        return _RELAYED
    mapping, filtering = profile.mapping.value, profile.filtering.value
    if filtering is Dependence.ENDPOINT_INDEPENDENT and mapping is Dependence.ENDPOINT_INDEPENDENT:
        return _OPEN
    if mapping is None or filtering is None:
        return _UNKNOWN
    if mapping is not Dependence.ENDPOINT_INDEPENDENT:
        return _HARD
    return _TIMED if profile.unsolicited_remap and profile.unsolicited_remap.value else _EASY


def render(report: Report) -> tuple[str, str]:
    """Return the headline and the fragment of HTML. Whatever strangers wrote into the report is text in it."""
    environment = Environment(
        loader=PackageLoader("natprobe", "views"),
        autoescape=True,
        finalize=printable,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    version, profile = next((v, family.udp) for v, family in report.families if family.udp)
    told = answer(profile)
    fragment = environment.get_template("browser.html.j2").render(
        answer=told,
        summary=summary(report),
        heading=heading(report),
        blocks=[replace(block, rows=tuple(filter(_is_of_a_page, block.rows))) for block in blocks(report)],
        drawing=drawing(report, version, profile),
        streams=_streams(report),
        patience=bool(profile.reachable.value) and profile.lifetime is None,
        evidence=cited(report),
        ranges=ranges,
        version=report.version,
    )
    return told.headline, fragment


def _is_of_a_page(row: Row) -> bool:
    """Return whether a page can do anything about a verdict that is not determined: it has no second address."""
    return row.determined or row.name != "port reuse"


def _streams(report: Report) -> str:
    """Return to which TCP ports the browser could connect, in a sentence."""
    asked = [f for f in report.observations if isinstance(f, Exchange) and f.protocol is Protocol.TCP]
    tried = [exchange for exchange in asked if exchange.purpose is Purpose.CONTROL and not exchange.instance]
    opened = listing(exchange.remote.port for exchange in tried if exchange.answered)
    closed = listing(exchange.remote.port for exchange in tried if not exchange.answered)
    told = [f"gets through to port {opened}" if opened else "", f"got no answer from port {closed}" if closed else ""]
    return f"TCP {', but '.join(filter(None, told))}." if tried else ""
