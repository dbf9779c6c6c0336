"""A prediction as text for a terminal: one sentence, then each path with its reason and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from natprobe.behaviour import Certainty
from natprobe.traversal import Order, PathPrediction, Prediction, Traversal
from natprobe.views.printable import printable

_HEDGES = {Certainty.CONFIRMED: "", Certainty.LIKELY: "probably ", Certainty.CONFLICTING: "perhaps "}
_COLOURS = {
    Traversal.DIRECT: 32,
    Traversal.SAME_NAT: 33,
    Traversal.TIMING: 33,
    Traversal.UNKNOWN: 33,
    Traversal.RELAY: 31,
}
_BOLD, _DIM = 1, 2


def sentence(prediction: Prediction) -> str:
    """Return what it comes to."""
    told = [(path.protocol.upper(), _comes_to(path)) for path in (prediction.udp, prediction.tcp) if path]
    if not told:
        return "Neither report tells of anything."
    if len({phrase for _, phrase in told}) == 1:
        names, phrase = " and ".join(name for name, _ in told), told[0][1]
        return f"Over {names} these two {phrase}."
    (name, phrase), (other, otherwise) = told
    return f"Over {name} these two {phrase}; over {other} they {otherwise}."


def _comes_to(path: PathPrediction) -> str:
    if path.outcome is Traversal.UNKNOWN:
        return "may or may not connect: something essential is not known"
    hedge = _HEDGES[path.certainty]
    match path.outcome:
        case Traversal.DIRECT:
            return f"{hedge}connect directly"
        case Traversal.TIMING:
            when = "both begin at once" if path.first is Order.TOGETHER else f"{str(path.first).upper()} sends first"
            return f"{hedge}connect directly if {when}"
        case Traversal.SAME_NAT:
            return "are seen as one address, and connect behind it if at all"
        case _:
            return f"{hedge}need a relay"


def render(prediction: Prediction, names: tuple[str, str], *, width: int = 80, colour: bool = False) -> str:
    """Return the prediction as lines of at most ``width`` columns; ``names`` tell where A and B were read from.

    Without ``colour`` there is not one escape sequence in it, whatever the reports hold.
    """

    def say(text: str, style: int, indent: str = "") -> Iterator[str]:
        lines = wrap(printable(text), width, initial_indent=indent, subsequent_indent=" " * len(indent))
        return (f"\x1b[{style}m{line}\x1b[0m" if colour else line for line in lines)

    lines = [*say(sentence(prediction), _BOLD), *say(f"A is {names[0]}, B is {names[1]}", _DIM)]
    for path in prediction.paths:
        lines += ["", *say(_title(path), _COLOURS[path.outcome])]
        lines += [*say(f"{path.reason[:1].upper()}{path.reason[1:]}.", 0, "  "), *say(path.advice, 0, "  → ")]
    return "\n".join(lines) + "\n"


def _title(path: PathPrediction) -> str:
    over = f"{path.protocol.upper()} over IPv{path.version}" if path.version else path.protocol.upper()
    if path.outcome is Traversal.UNKNOWN:
        return f"{over}: unknown"
    first = f", first {path.first.upper()}" if path.first in (Order.A, Order.B) else ""
    by = f", by {path.pair}" if path.pair and path.outcome is not Traversal.RELAY else ""
    return f"{over}: {path.outcome}{first}{by} ({path.certainty})"
