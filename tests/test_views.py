"""One report, two looks: what is said, how wide, and that nothing a stranger wrote does anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from ipaddress import IPv4Address
from typing import Any

import pytest

from natprobe.behaviour import Certainty, Dependence, Protocol, Verdict, not_determined
from natprobe.endpoint import Endpoint
from natprobe.inference import Profile
from natprobe.inference.concurrency import Concurrent
from natprobe.observation import (
    Arrival,
    ConnectBack,
    Dialled,
    Draws,
    Exchange,
    Flow,
    Hold,
    Observation,
    Outcome,
    Purpose,
    Resolution,
    Sharing,
    Volley,
)
from natprobe.report import Family, Report, ServerReport, Vantage
from natprobe.server import Kind
from natprobe.traversal import Order, PathPrediction, Prediction, Traversal
from natprobe.views import html, prediction, text
from natprobe.views.evidence import in_words
from natprobe.views.printable import printable
from natprobe.views.summary import summary
from natprobe.views.wording import blocks, heading, ranges, value_in_words

EI, AD, PD, APD = (
    Dependence.ENDPOINT_INDEPENDENT,
    Dependence.ADDRESS_DEPENDENT,
    Dependence.PORT_DEPENDENT,
    Dependence.ADDRESS_AND_PORT_DEPENDENT,
)
LOCAL = Endpoint.parse("10.64.1.10:40000")
SERVER = Endpoint.parse("198.51.100.10:3478")
OTHER = Endpoint.parse("198.51.100.11:3479")
MAPPED = Endpoint.parse("198.51.100.1:1025")
ASKED = Exchange(Purpose.MAPPING, Protocol.UDP, LOCAL, SERVER, 0.0123, 1, 0.04, Outcome.ANSWERED, 0.04, MAPPED)
HOSTILE = "\x1b[31mred\x1b[0m [bold]b[/bold] <script>alert(1)</script>\r\nsecond line \u202egnp.exe\x07\x9b2J\ud800"


def sure(value: object, reason: str = "seen", evidence: tuple[int, ...] = ()) -> Verdict[Any]:
    return Verdict(value, Certainty.CONFIRMED, reason, evidence)


def likely(value: object, reason: str = "seen once") -> Verdict[Any]:
    return Verdict(value, Certainty.LIKELY, reason)


def profile(
    mapping: Any = EI, filtering: Any = APD, *, translated: Any = True, reachable: Any = True, **more: Any
) -> Profile:
    verdicts = {"reachable": reachable, "translated": translated, "mapping": mapping, "filtering": filtering}
    told: dict[str, Any] = {
        key: value if isinstance(value, Verdict) else not_determined("no answer") if value is None else sure(value)
        for key, value in verdicts.items()
    }
    return Profile(external=sure((MAPPED,)), **told, **more)


def report(
    udp: Profile | None = None,
    tcp: Profile | None = None,
    *,
    ipv6: Family | None = None,
    observations: Iterable[Observation] = (ASKED,),
    server: str = "stun.example.org",
    version: str = "0.1.0",
) -> Report:
    return Report(
        version=version,
        started=datetime(2026, 11, 22, 10, 51, tzinfo=UTC),
        duration_s=0.4,
        vantage=Vantage("Linux", IPv4Address("10.64.1.10")),
        servers=(ServerReport(server, SERVER, Kind.NATPROBE, None),),
        ipv4=Family(udp, tcp) if udp or tcp else None,
        ipv6=ipv6,
        observations=tuple(observations),
    )


def words(rendered: str) -> str:
    """Return a text without its line breaks and alignment."""
    return " ".join(rendered.split())


# --- the summary ------------------------------------------------------------------------------------------------------

NAT = "UDP gets through. For UDP, your NAT"
NO_NAT = "UDP gets through. For UDP, there is no NAT"
ONE_PORT = "all destinations one and the same port"
IN = "not written to first."


@pytest.mark.parametrize(
    ("udp", "told"),
    [
        (profile(EI, APD), f"{NAT} gives {ONE_PORT}, and lets nobody in who was {IN}"),
        (profile(EI, EI), f"{NAT} gives {ONE_PORT}, and lets anybody in."),
        (
            profile(AD, AD),
            f"{NAT} gives each destination address a port of its own, and lets nobody in from an address that was {IN}",
        ),
        (
            profile(PD, PD),
            (
                f"{NAT} gives each destination port number a port of its own, "
                f"and lets nobody in from a port number that was {IN}"
            ),
        ),
        (profile(APD, None), f"{NAT} gives each destination a port of its own, and whom it lets in is not known."),
        (profile(None, APD), f"{NAT} changes your address, in which way is not known, and lets nobody in who was {IN}"),
        (profile(likely(EI), likely(EI)), f"{NAT} probably gives {ONE_PORT}, and probably lets anybody in."),
        (profile(EI, EI, translated=False), f"{NO_NAT} and no firewall: anybody can reach you."),
        (profile(EI, APD, translated=False), f"{NO_NAT}, but a firewall lets nobody in who was {IN}"),
        (profile(EI, None, translated=False), f"{NO_NAT}, and whether there is a firewall is not known."),
        (profile(None, None, translated=None), "UDP gets through. For UDP, whether there is a NAT is not known."),
        (profile(None, None, reachable=False), "UDP is blocked."),
        (profile(None, None, reachable=None), "Whether UDP gets through is not known."),
    ],
)
def test_the_summary_is_a_sentence_for_everyone(udp: Profile, told: str) -> None:
    assert summary(report(udp)) == [told]


@pytest.mark.parametrize(("moves", "hedge"), [(sure(True), "It moves"), (likely(True), "It probably moves")])
def test_what_breaks_calls_is_told_with_its_cure(moves: Verdict[bool], hedge: str) -> None:
    (told,) = summary(report(profile(unsolicited_remap=moves), profile()))
    assert told.startswith(f"UDP and TCP get through. Your NAT gives {ONE_PORT}")
    assert told.endswith(
        f"{hedge} your UDP port for whoever sends to you before you send to them, which breaks calls: "
        "let it drop unsolicited packets from outside."
    )


@pytest.mark.parametrize("moves", [sure(False), not_determined("no answer")])
def test_what_breaks_nothing_is_not_told_in_the_summary(moves: Verdict[bool]) -> None:
    assert summary(report(profile(unsolicited_remap=moves))) == summary(report(profile()))


def test_both_protocols_are_told_together_where_they_are_alike() -> None:
    (told,) = summary(report(profile(EI, EI), profile(EI, EI)))
    assert told == f"UDP and TCP get through. Your NAT gives {ONE_PORT}, and lets anybody in."


def test_both_protocols_are_told_apart_where_they_differ() -> None:
    (told,) = summary(report(profile(EI, EI), profile(APD, APD)))
    assert told.startswith("UDP and TCP get through. For UDP, your NAT gives all destinations one and the same port")
    assert "For TCP, your NAT gives each destination a port of its own" in told


def test_a_blocked_protocol_is_told_beside_the_open_one() -> None:
    (told,) = summary(report(profile(None, None, reachable=False), profile(EI, EI)))
    assert told.startswith("TCP gets through, UDP is blocked. For TCP, your NAT")


OPEN = profile(EI, EI, translated=False)
PROFILES: dict[str, Profile | None] = {
    "untested": None,
    "blocked": profile(None, None, reachable=False),
    "unknown": profile(None, None, reachable=None),
    "open": OPEN,
    "firewall": profile(EI, APD, translated=False),
    "open to an unknown degree": profile(EI, None, translated=False),
    "NAT": profile(EI, APD),
    "symmetric NAT": profile(APD, APD),
    "NAT or none": profile(None, None, translated=None),
}


@pytest.mark.parametrize("tcp", PROFILES)
@pytest.mark.parametrize("udp", PROFILES)
def test_no_sentence_speaks_of_one_protocol_as_of_both(udp: str, tcp: str) -> None:
    """A claim about NAT or firewall without a protocol is one about both, and must be what each alone would be told."""
    of = {"UDP": PROFILES[udp], "TCP": PROFILES[tcp]}
    if udp == tcp == "untested":
        return
    (told,) = summary(report(of["UDP"], of["TCP"]))
    reached, *claims = told.removesuffix(".").split(". ")
    for name, one in of.items():
        alone = {"UDP": report(one), "TCP": report(None, one)}[name]
        own = summary(alone)[0].removesuffix(".").split(". ")[1:] if one else []
        bare = {claim.removeprefix(f"For {name}, ").lower() for claim in own}
        mine = {claim.removeprefix(f"For {name}, ").lower() for claim in claims if claim.startswith(f"For {name},")}
        general = {claim.lower() for claim in claims if not claim.startswith("For ")}
        assert mine | general == bare
        assert (name in reached) == (one is not None)


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (profile(None, None, reachable=likely(False)), "UDP and TCP are probably blocked."),
        (profile(EI, likely(EI), translated=False), "no NAT and probably no firewall: anybody can probably reach you."),
        (profile(EI, EI, translated=likely(False)), "There is probably no NAT and no firewall"),
        (profile(EI, EI, translated=likely(True)), "There is probably a NAT: it gives"),
    ],
)
def test_the_summary_is_no_surer_than_the_verdicts(one: Profile, told: str) -> None:
    assert told in summary(report(one, one))[0]


def test_both_blocked() -> None:
    blocked = profile(None, None, reachable=False)
    assert summary(report(blocked, blocked)) == ["UDP and TCP are blocked."]


def test_both_ip_versions_are_told_apart_unless_they_are_alike() -> None:
    open_path = Family(profile(EI, EI, translated=False), None)
    assert [line[:6] for line in summary(report(profile(), ipv6=open_path))] == ["IPv4: ", "IPv6: "]
    (told,) = summary(report(profile(), ipv6=Family(profile(), None)))
    assert told.startswith("IPv4 and IPv6 alike: UDP gets through. ")


def test_a_report_on_nothing_says_nothing() -> None:
    assert summary(report()) == []
    assert "Evidence" in text.render(report(), verbose=True)


# --- names and values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("udp", "name"),
    [
        (profile(EI, EI), "full cone"),
        (profile(EI, AD), "restricted cone"),
        (profile(EI, APD), "port-restricted cone"),
        (profile(EI, PD), None),
        (profile(AD, EI), "symmetric"),
        (profile(APD, APD), "symmetric"),
        (profile(EI, EI, translated=False), "open internet"),
        (profile(EI, APD, translated=False), "symmetric UDP firewall"),
        (profile(EI, None), None),
        (profile(None, EI), None),
        (profile(EI, EI, translated=None), None),
    ],
)
def test_old_names_are_there_for_those_who_search_for_them(udp: Profile, name: str | None) -> None:
    udp_block, tcp_block = blocks(report(udp, udp))
    assert udp_block.old_name == name
    assert tcp_block.old_name is None
    assert (f"IPv4 UDP  [{name}]\n" if name else "IPv4 UDP\n") in text.render(report(udp))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "not determined"),
        (True, "yes"),
        (False, "no"),
        (APD, "address-and-port-dependent"),
        ((MAPPED,), "198.51.100.1:1025"),
        ((MAPPED, MAPPED.with_port(1026), SERVER), "198.51.100.1:1025–1026; 198.51.100.10:3478"),
        ((Endpoint.parse("[2001:db8::1]:5"), Endpoint.parse("[2001:db8::1]:7")), "[2001:db8::1]:5, 7"),
        (Concurrent(4, 4, 40000, (1025, 1026)), "4 to 4 destinations"),
        (Concurrent(1, 1, 40000, (1025,)), "1 to 1 destination"),
        ((1, 2, 3, 7), "1–3, 7"),
    ],
)
def test_values_in_words(value: object, told: str) -> None:
    assert value_in_words(value) == told


def test_ranges_are_in_order_and_each_number_is_told_once() -> None:
    assert ranges([9, 1, 2, 2, 3, 5]) == "1–3, 5, 9"
    assert ranges([]) == ""


# --- the text ---------------------------------------------------------------------------------------------------------


def test_the_heading_names_each_server_once_and_few_of_many() -> None:
    def named(*servers: tuple[str, str, Kind | None]) -> str:
        found = tuple(ServerReport(name, Endpoint.parse(where), kind, None) for name, where, kind in servers)
        return heading(replace(report(profile()), servers=found)).partition(" to ")[2]

    both = ("both.test", "[2001:db8::1]:3478", None), ("both.test", "198.51.100.10:3478", Kind.NATPROBE)
    assert named(*both, ("::ffff:198.51.100.10", "198.51.100.10:3478", Kind.NATPROBE)) == "both.test (natprobe)"
    many = [
        (f"s{number}", f"198.51.100.10:{number}", Kind.NATPROBE if number == 200 else None) for number in range(1, 201)
    ]
    expected = "s200 (natprobe), s1 (no answer), s2 (no answer), s3 (no answer) and 196 more"
    assert named(*many) == expected


def test_every_verdict_has_its_value_its_certainty_and_its_reason() -> None:
    udp = profile(
        mapping=Verdict(EI, Certainty.LIKELY, "seen once"),
        filtering=not_determined("the server cannot test it"),
        translated=Verdict(True, Certainty.CONFLICTING, "but not by every server"),
    )
    rendered = words(text.render(report(udp)))
    assert "reachable yes confirmed seen" in rendered
    assert "translated yes conflicting but not by every server" in rendered
    assert "mapping endpoint-independent likely seen once" in rendered
    assert "filtering not determined the server cannot test it" in rendered


def test_the_verdict_comes_first() -> None:
    rendered = text.render(report(profile()))
    assert rendered.startswith("UDP gets through.")
    lines = rendered.splitlines()
    assert "  mapping     endpoint-independent        confirmed" in lines


@pytest.mark.parametrize("width", [40, 80, 100])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    long_name = "x" * 300
    rendered = text.render(report(profile(mapping=sure(EI, long_name)), server=long_name), verbose=True, width=width)
    assert max(map(len, rendered.splitlines())) <= width
    assert rendered.replace("\n", "").replace(" ", "").count("x") >= 600


def test_evidence_is_shown_to_those_who_ask() -> None:
    told = report(profile(mapping=sure(EI, evidence=(0,))), observations=(ASKED, replace(ASKED, at=9)))
    assert "vidence" not in text.render(told)
    rendered = words(text.render(told, verbose=True, width=200))
    assert "mapping endpoint-independent confirmed seen evidence 0" in rendered
    assert f"0 0.012 s UDP mapping {LOCAL} → {SERVER}: seen as {MAPPED} in 40.0 ms" in rendered
    assert "9.000 s" not in rendered  # no verdict rests on it


def test_evidence_that_is_not_there_is_no_reason_to_fail() -> None:
    assert "evidence 7" in text.render(report(profile(mapping=sure(EI, evidence=(7,)))), verbose=True)


@pytest.mark.parametrize(
    ("fact", "told"),
    [
        (Resolution("stun.example.org", (SERVER, OTHER)), "stun.example.org is 198.51.100.10:3478 and"),
        (Resolution("stun.example.org", (), "no address found"), "stun.example.org: no address found"),
        (replace(ASKED, outcome=Outcome.SILENT, waited=1.0, sent=6), "silent for 1.0 s, asked 6 times"),
        (replace(ASKED, outcome=Outcome.SILENT, waited=4.0), "silent for 4.0 s, asked once"),
        (replace(ASKED, outcome=Outcome.REJECTED, detail="port unreachable"), "rejected (port unreachable)"),
        (replace(ASKED, outcome=Outcome.ERROR, error=420), "error 420 in 40.0 ms"),
        (replace(ASKED, outcome=Outcome.MISPLACED, source=OTHER), "answered from 198.51.100.11:3479 in 40.0 ms"),
        (replace(ASKED, mapped=None), "answered in 40.0 ms"),
        (replace(ASKED, answer_from=OTHER), "(answer asked from 198.51.100.11:3479)"),
        (
            Volley(LOCAL, SERVER, 0.1, (SERVER, OTHER), 0.3, (Arrival(SERVER, SERVER, 0.02),)),
            "0.100 s UDP volley 198.51.100.10:3478 → 10.64.1.10:40000: control back in 20.0 ms, none came in, 1 silent",
        ),
        (
            Volley(LOCAL, SERVER, 0.1, (SERVER, OTHER), 0.3, (Arrival(OTHER, OTHER, 0.02),)),
            "control lost, 198.51.100.11:3479 came in",
        ),
        (
            Volley(LOCAL, SERVER, 0.1, (SERVER, OTHER), 0.3, purpose=Purpose.REMAP),
            "→ 10.64.1.10:40000, unsolicited from 198.51.100.11:3479: control lost, none came in, 1 silent",
        ),
        (ConnectBack(LOCAL, SERVER, OTHER, 0.1, 12, 0.3, Dialled.SILENT), "silent, tried 12 times"),
        (
            ConnectBack(LOCAL, SERVER, OTHER, 0.1, 12, 0.3, Dialled.SILENT, controls=11),
            "silent, tried 12 times, 11 controls answered",
        ),
        (
            ConnectBack(LOCAL, SERVER, OTHER.with_port(0), 0.1, 1, 0.3, Dialled.NOT_DIALLED),
            "198.51.100.11, any port, → 10.64.1.10:40000: not dialled",
        ),
        (
            Hold(LOCAL, (SERVER, OTHER), (MAPPED, MAPPED), 0.1, 2, 2),
            "2 answered, seen as 198.51.100.1:1025, 2 counted by the reflector",
        ),
        (Hold(LOCAL, (), (), 0.1, 0), "0 answered"),
    ],
)
def test_every_observation_is_told_on_one_line(fact: Observation, told: str) -> None:
    line = in_words(fact)
    assert told in line
    assert "\n" not in line


def test_an_observation_of_a_later_kind_is_told_as_it_is() -> None:
    later: Any = Arrival(SERVER, SERVER, 0.02)
    assert in_words(later) == "asked 198.51.100.10:3478, source 198.51.100.10:3478, after 0.02"


def test_colour_is_there_only_where_it_is_wanted() -> None:
    assert "\x1b" not in text.render(report(profile()), verbose=True)
    coloured = text.render(report(profile()), colour=True)
    assert "\x1b[32mconfirmed" in coloured


# --- strangers --------------------------------------------------------------------------------------------------------


def hostile() -> Report:
    udp = profile(
        mapping=sure(EI, HOSTILE, (0, 1)),
        filtering=not_determined(HOSTILE),
        concurrent=Verdict(None, Certainty.NOT_DETERMINED, HOSTILE),
    )
    facts = (Resolution(HOSTILE, (), HOSTILE), replace(ASKED, outcome=Outcome.REJECTED, detail=HOSTILE))
    return report(udp, observations=facts, server=HOSTILE, version=HOSTILE)


@pytest.mark.parametrize("colour", [False, True])
def test_what_strangers_wrote_does_nothing_to_the_terminal(colour: bool) -> None:
    rendered = text.render(hostile(), verbose=True, width=400, colour=colour)
    for character in "\x1b[31m", "\r", "\x07", "\x9b", "\u202e", "\ud800", "\nsecond":
        assert character not in rendered
    assert r"\x1b[31mred\x1b[0m [bold]b[/bold] <script>alert(1)</script>\r\nsecond line \u202egnp.exe" in rendered
    rendered.encode()


def test_what_strangers_wrote_is_no_markup_in_the_page() -> None:
    page = html.render(hostile())
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\ud800"} & set(page)


def test_ordinary_text_of_any_language_stays_as_it_is() -> None:
    assert printable("Zürich → 東京, 50 %") == "Zürich → 東京, 50 %"


# --- the page ---------------------------------------------------------------------------------------------------------


class Outline(HTMLParser):
    """Reads a page; keeps what is referred to and defined, and that every element is closed in its turn."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, name: str) -> set[str]:
        return {value for key, value in self.attributes if key == name and value}


def test_the_page_stands_alone() -> None:
    page = html.render(report(profile(mapping=sure(EI, evidence=(0,))), profile()))
    outline = Outline(page)
    assert outline.open == []
    assert "://" not in page
    assert not outline.values("src")
    assert outline.values("href") == {"#o0"}
    assert "o0" in outline.values("id")


def test_the_page_is_for_phones_for_readers_aloud_and_for_the_dark() -> None:
    page = html.render(report(profile()))
    outline = Outline(page)
    assert outline.values("lang") == {"en-GB"}
    assert "width=device-width, initial-scale=1" in outline.values("content")
    assert "prefers-color-scheme: dark" in page
    assert outline.values("aria-labelledby") <= outline.values("id")


def test_the_page_says_what_the_text_says() -> None:
    told = report(profile(filtering=not_determined("the server cannot test it")), profile(APD, APD))
    page = html.render(told)
    for block in blocks(told):
        assert block.title in page
        for row in block.rows:
            assert row.name in page
            assert row.value in page
            assert row.reason in page
            assert str(row.certainty) in page
    for line in summary(told):
        assert line in page


# --- predictions ------------------------------------------------------------------------------------------------------


def path(protocol: Protocol, outcome: Traversal, first: Order | None = None, reason: str = "why") -> PathPrediction:
    unknown = outcome is Traversal.UNKNOWN
    certainty = Certainty.NOT_DETERMINED if unknown else Certainty.CONFIRMED
    return PathPrediction(protocol, 4, outcome, certainty, reason, "Do.", None if unknown else "host-host", first)


@pytest.mark.parametrize(
    ("udp", "tcp", "said"),
    [
        ((Traversal.DIRECT,), (Traversal.DIRECT,), "Over UDP and TCP these two connect directly."),
        ((Traversal.DIRECT,), (Traversal.RELAY,), "Over UDP these two connect directly; over TCP they need a relay."),
        ((Traversal.TIMING, Order.B), None, "Over UDP these two connect directly if B sends first."),
        ((Traversal.TIMING, Order.TOGETHER), None, "Over UDP these two connect directly if both begin at once."),
        ((Traversal.SAME_NAT,), None, "Over UDP these two are seen as one address, and connect behind it if at all."),
        (None, (Traversal.UNKNOWN,), "Over TCP these two may or may not connect: something essential is not known."),
        (None, None, "Neither report tells of anything."),
    ],
)
def test_a_prediction_in_a_sentence(udp: Any, tcp: Any, said: str) -> None:
    told = [path(protocol, *given) for protocol, given in zip(Protocol, (udp, tcp), strict=True) if given]
    assert prediction.sentence(Prediction(tuple(told))) == said


def test_a_hostile_prediction_does_nothing_to_the_terminal() -> None:
    hostile = Prediction((path(Protocol.UDP, Traversal.RELAY, reason=HOSTILE),))
    shown = prediction.render(hostile, (HOSTILE, "b.json"), width=40)
    assert printable(shown.replace("\n", "")) == shown.replace("\n", "")
    assert "\x1b[31m" in prediction.render(hostile, ("a.json", "b.json"), colour=True)


def test_what_was_drawn_and_what_was_shared_is_told_on_a_line_each() -> None:
    server, outside = Endpoint.of("198.51.100.10", 3478), Endpoint.of("198.51.100.1", 7)
    flows = tuple(Flow(Endpoint.of("10.0.0.2", 1000 + n), server, outside.with_port(7 + n)) for n in range(3))
    assert in_words(Draws(Protocol.UDP, 0.5, 0.1, 4, flows)) == (
        "0.500 s UDP flows from fresh local ports: 3 of 4 answered, seen on ports 7–9"
    )
    second = Flow(Endpoint.of("10.0.0.3", 7), Endpoint.of("198.51.100.11", 3478), flows[0].mapped)
    told = in_words(Sharing(Protocol.UDP, 0.6, flows[0], second, flows[0], other=Protocol.TCP))
    assert told.startswith(
        "0.600 s UDP one port for two, shared: 10.0.0.2:1000 → 198.51.100.10:3478: seen as 198.51.100.1:7;"
    )
    assert "over TCP" in told
