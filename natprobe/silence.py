"""When silence is evidence: how probable it is that an open path lost every test packet while its controls arrived.

Every test reply is paired with a control reply, sent in the same instant over a path known to be open. Were the test
path open too, test and control would be exchangeable: of the packets that arrived, any split between the two kinds
would be as likely as any other, whatever the loss. So the chance that all ``controls`` arrivals of ``rounds`` pairs are
controls is C(rounds, controls) / C(2 rounds, controls): Fisher's exact test, without a model of the loss. Stopping as
soon as it is small enough keeps the error below the bound for every loss rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb

from natprobe.endpoint import Endpoint
from natprobe.observation import ConnectBack, Dialled, Volley

CONVINCING = 1e-6
"""A test this improbable on an open path is closed: confirmed."""
SUGGESTIVE = 1e-3
"""A test this improbable on an open path is closed: likely."""
FEW = 0.05
"""Three pairs: what a source that has but one port to dial from can show in as many turns. Alone it is no evidence."""


def chance(rounds: int, controls: int) -> float:
    """Return the probability that, of so many pairs on open paths, so many controls arrive and no test does."""
    return comb(rounds, controls) / comb(2 * rounds, controls)


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a sender was asked, how often the control came back meanwhile, and how often the sender was heard."""

    rounds: int
    controls: int
    heard: int

    @property
    def chance(self) -> float:
        """The probability that an open path shows so many controls and no test reply."""
        return chance(self.rounds, self.controls)


def settling_time(volleys: Iterable[Volley]) -> float | None:
    """Return how many seconds after its request a reply may still come, judged by the controls; None without one.

    The slowest control, and as much again as the controls differ, and a quarter of a round trip for a longer path.
    """
    return _settling(volley.control_after for volley in volleys)


def _settling(controls: Iterable[float | None]) -> float | None:
    came = [after for after in controls if after is not None]
    return max(came) * 2 - min(came) + min(came) / 4 + 0.005 if came else None


def tally(volleys: Iterable[Volley], sender: Endpoint, takes: float = 0.0) -> Tally:
    """Count the volleys that asked ``sender`` and have had time to settle, and what came of them.

    ``takes`` is how many seconds a reply of the sender is known to take, where that may be longer than the control's.
    """
    asked = [(volley, volley.control_after) for volley in volleys if sender in volley.asked]
    settled = _settling(control for _, control in asked)
    heard = sum(volley.heard(sender) for volley, _ in asked)
    judged = [control for volley, control in asked if settled is not None and volley.waited >= max(settled, takes)]
    return Tally(len(judged), sum(control is not None for control in judged), heard)


def tally_dials(dials: Iterable[ConnectBack]) -> Tally:
    """Count the connect-backs from one source, and the connections of this host's that were answered beside them.

    In a report of a version that made none, all that there would have been count as answered, as they did then.
    """
    made = list(dials)
    controls = (dial.attempts if dial.controls is None else dial.controls for dial in made)
    heard = sum(dial.outcome is Dialled.ACCEPTED for dial in made)
    return Tally(sum(dial.attempts for dial in made), sum(controls), heard)
