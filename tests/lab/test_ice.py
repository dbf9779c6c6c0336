"""Real ICE behind two NATs: it connects or fails as the NATs have it, and what is explained is the true reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import pytest

from natprobe.errors import LabUnavailable
from natprobe.lab.backend import Lab
from natprobe.lab.ice_pair import IcePair, Side, classify_pair
from natprobe.lab.turn import turn_server
from natprobe.report import Report

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.interop]

Connect = Callable[..., IcePair]
LIMIT_MS = 2500
"""What the failure of an impatient pair takes at most."""


@pytest.fixture(scope="module")
def classified(nat_lab: Lab) -> Callable[[str, str], tuple[Report, Report]]:
    """Return what natprobe finds on both sides, behind these NATs."""
    return cache(partial(classify_pair, nat_lab))


@pytest.fixture
def explained(classified: Callable[[str, str], tuple[Report, Report]], ice_pair: Connect) -> Connect:
    """Connect two peers that know both sides' reports."""

    def connect(home: str, office: str, **options: Any) -> IcePair:
        return ice_pair(home, office, reports=classified(home, office), **options)

    return connect


def reason(side: Side, cause: str, certainty: str = "confirmed") -> str:
    """Return the reason of the finding that names this cause, which must be as sure as that."""
    (finding,) = (finding for finding in side.explanation["findings"] if finding["cause"] == cause)
    assert finding["certainty"] == certainty
    return str(finding["reason"])


@pytest.mark.parametrize(
    ("home", "office"),
    [("eim-apdf", "eim-apdf"), ("eim-eif", "apdm-apdf"), ("eim-adf", "apdm-adf"), ("none", "firewall")],
)
def test_pairs_that_fit_connect_directly(ice_pair: Connect, home: str, office: str) -> None:
    pair = ice_pair(home, office)
    assert pair.connected
    assert pair.home.causes == pair.office.causes == ["direct"]
    assert set(pair.candidates) <= {"host", "srflx", "prflx"}
    assert pair.ms < 1000


def test_pairs_that_do_not_fit_fail_and_the_nats_are_named(explained: Connect) -> None:
    pair = explained("apdm-apdf", "eim-apdf")
    assert not pair.connected
    assert pair.ms < LIMIT_MS
    for side in (pair.home, pair.office):
        assert side.causes == ["nat-pair"]
        assert "cannot know" in reason(side, "nat-pair")


def test_blocked_udp_is_named_on_both_sides_and_a_relay_over_tcp_mends_it(
    explained: Connect, nat_lab_turn: Mapping[str, Any]
) -> None:
    pair = explained("udp-blocked", "eim-apdf")
    assert reason(pair.home, "udp-blocked", "likely").startswith("this side's network lets no UDP out")
    assert reason(pair.office, "udp-blocked", "likely").startswith("the peer's network lets no UDP out")
    over_tcp = {**nat_lab_turn, "urls": nat_lab_turn["urls"].replace("udp", "tcp")}
    mended = explained("udp-blocked", "eim-apdf", turn=over_tcp)
    assert mended.connected
    assert mended.candidates[0] == "relay"
    assert "UDP is blocked" in reason(mended.home, "relayed", "likely")


def test_a_relay_connects_what_nothing_else_does(explained: Connect, nat_lab_turn: Mapping[str, Any]) -> None:
    pair = explained("apdm-apdf", "apdm-apdf", turn=nat_lab_turn)
    assert pair.connected
    assert "relay" in pair.candidates
    assert "cannot know" in reason(pair.home, "relayed")


def test_a_turn_server_that_refuses_is_quoted(explained: Connect, nat_lab_turn: Mapping[str, Any]) -> None:
    pair = explained("apdm-apdf", "apdm-apdf", turn={**nat_lab_turn, "credential": "wrong"})
    assert not pair.connected
    for side in (pair.home, pair.office):
        assert side.causes == ["turn-failed", "nat-pair"]
        assert reason(side, "turn-failed").endswith("gave no relayed address: 401 Unauthorized")


def test_a_turn_server_that_relays_nothing_is_told_from_one_that_refuses(nat_lab: Lab, ice_pair: Connect) -> None:
    with turn_server(nat_lab, "--denied-peer-ip=0.0.0.0-255.255.255.255") as deaf:
        pair = ice_pair("apdm-apdf", "apdm-apdf", turn=deaf)
    assert not pair.connected
    for side in (pair.home, pair.office):
        assert "gave a relayed address but relayed nothing" in reason(side, "relay-silent")


def test_who_sends_first_decides_where_a_strangers_packet_moves_the_port(explained: Connect) -> None:
    """A packet for a router that accepts strangers' takes the place of the client's own flow towards that stranger."""
    nats = ("linux-masquerade-accept", "linux-masquerade")
    assert explained(*nats, skew=0.2).connected
    late = explained(*nats, skew=-0.2)
    assert not late.connected
    assert late.home.causes == late.office.causes == ["timing"]
    (finding,) = late.home.explanation["findings"]
    assert "A's NAT moves its own side's packets" in finding["reason"]
    assert "Let A send first" in finding["advice"]


def test_peers_without_servers_are_told_that_they_have_none(explained: Connect) -> None:
    pair = explained("eim-eif", "eim-eif", stun=False)
    assert not pair.connected
    assert "no STUN and no TURN server" in reason(pair.home, "no-server")


def test_where_coturn_is_missing_the_reason_is_told(nat_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(LabUnavailable, match="apt install coturn"):
        turn_server(nat_lab).__enter__()
