"""When silence is evidence: the arithmetic against a count of every case, and what may be counted at all."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import pytest

from natprobe.endpoint import Endpoint
from natprobe.observation import Arrival, ConnectBack, Dialled, Volley
from natprobe.silence import CONVINCING, SUGGESTIVE, Tally, settling_time, tally, tally_dials

HERE = Endpoint.parse("10.64.1.10:40000")
SERVER = Endpoint.parse("198.51.100.10:3478")
ALTERNATE = Endpoint.parse("198.51.100.11:3479")
ELSEWHERE = Endpoint.parse("203.0.113.9:3478")


def volley(*arrivals: Arrival, waited: float = 1.0, at: float = 0.0) -> Volley:
    return Volley(HERE, SERVER, at, (SERVER, ALTERNATE), waited, arrivals)


def control(after: float = 0.04) -> Arrival:
    return Arrival(SERVER, SERVER, after)


def heard(after: float = 0.04) -> Arrival:
    return Arrival(ALTERNATE, ALTERNATE, after)


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", range(1, 6))
def test_the_chance_is_that_of_drawing_only_controls(rounds: int) -> None:
    """Of ``rounds`` controls and as many tests, every choice of arrivals is as likely as any other."""
    packets = [("control", n) for n in range(rounds)] + [("test", n) for n in range(rounds)]
    for arrived in range(rounds + 1):
        drawn = list(combinations(packets, arrived))
        only_controls = sum(all(kind == "control" for kind, _ in choice) for choice in drawn)
        assert Tally(rounds, arrived, 0).chance == pytest.approx(float(Fraction(only_controls, len(drawn))))


def test_nothing_asked_and_nothing_back_say_nothing() -> None:
    assert Tally(0, 0, 0).chance == 1
    assert Tally(12, 0, 0).chance == 1


def test_twelve_pairs_without_a_loss_convince_and_eleven_do_not() -> None:
    assert Tally(12, 12, 0).chance <= CONVINCING < Tally(11, 11, 0).chance


def test_each_control_that_is_lost_must_be_made_up_for() -> None:
    assert Tally(12, 11, 0).chance > CONVINCING
    assert Tally(20, 16, 0).chance <= CONVINCING
    assert SUGGESTIVE >= Tally(12, 9, 0).chance > CONVINCING


def test_more_of_the_same_only_convinces_more() -> None:
    chances = [Tally(rounds, rounds, 0).chance for rounds in range(20)]
    assert chances == sorted(chances, reverse=True)
    chances = [Tally(12, controls, 0).chance for controls in range(13)]
    assert chances == sorted(chances, reverse=True)


# --- what counts ------------------------------------------------------------------------------------------------------


def test_a_sender_is_heard_from_its_own_endpoint_only() -> None:
    volleys = [
        volley(control(), Arrival(ALTERNATE, SERVER, 0.04)),  # the server ignores what it is asked
        volley(control(), Arrival(ALTERNATE, ELSEWHERE, 0.04)),
        volley(control(), Arrival(ALTERNATE, ALTERNATE, 0.04, error=420)),
        volley(control(), Arrival(SERVER, ALTERNATE, 0.04)),
    ]
    assert tally(volleys, ALTERNATE) == Tally(4, 4, 0)
    assert tally([*volleys, volley(control(), heard())], ALTERNATE) == Tally(5, 5, 1)


def test_a_control_is_the_server_answering_for_itself() -> None:
    volleys = [volley(Arrival(SERVER, ALTERNATE, 0.04)), volley(Arrival(SERVER, SERVER, 0.04, error=500))]
    assert [v.control_after for v in volleys] == [None, None]
    assert settling_time(volleys) is None
    assert tally(volleys, ALTERNATE) == Tally(0, 0, 0)


def test_duplicates_are_no_second_control() -> None:
    assert tally([volley(control(), control(0.05), control(0.06))], ALTERNATE) == Tally(1, 1, 0)


def test_a_volley_that_has_had_no_time_is_not_judged() -> None:
    old, young = volley(control(), waited=0.2), volley(waited=0.03)
    assert tally([old, young], ALTERNATE) == Tally(1, 1, 0)


def test_a_volley_that_has_had_no_time_may_still_be_heard() -> None:
    assert tally([volley(control(), waited=0.2), volley(heard(0.01), waited=0.02)], ALTERNATE).heard == 1


def test_only_volleys_that_asked_the_sender_count() -> None:
    assert tally([volley(control())], ELSEWHERE) == Tally(0, 0, 0)


def test_time_to_settle_grows_with_how_far_the_controls_differ() -> None:
    steady = settling_time([volley(control(0.04)), volley(control(0.04))])
    jumpy = settling_time([volley(control(0.04)), volley(control(0.14))])
    assert steady == pytest.approx(0.04 + 0.01 + 0.005)
    assert jumpy == pytest.approx(0.14 + 0.10 + 0.01 + 0.005)
    assert settling_time([]) is None


# --- connect-backs ----------------------------------------------------------------------------------------------------


def dialled(attempts: int, controls: int | None, outcome: Dialled = Dialled.SILENT) -> ConnectBack:
    return ConnectBack(HERE, SERVER, ALTERNATE, 0.0, attempts, 1.0, outcome, controls=controls)


def test_connect_backs_of_several_requests_count_together() -> None:
    first, second = dialled(12, 3), dialled(12, 12)
    assert tally_dials([first, second]) == Tally(24, 15, 0)
    assert tally_dials([first, dialled(1, 1, Dialled.ACCEPTED)]).heard == 1


def test_connect_backs_count_by_the_controls_that_were_answered_beside_them() -> None:
    assert tally_dials([dialled(12, 12)]).chance <= CONVINCING
    assert CONVINCING < tally_dials([dialled(12, 8)]).chance <= SUGGESTIVE
    assert tally_dials([dialled(12, 7)]).chance > SUGGESTIVE
    assert tally_dials([dialled(12, 0)]).chance == 1


def test_of_a_report_without_controls_the_attempts_count_as_they_did() -> None:
    assert tally_dials([dialled(12, None)]) == Tally(12, 12, 0)
