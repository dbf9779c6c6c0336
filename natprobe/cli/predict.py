"""``natprobe predict``: will the hosts of two saved reports connect directly?"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from natprobe.cli.files import read_report
from natprobe.cli.lean import add
from natprobe.cli.running import NOT_DETERMINED
from natprobe.cli.terminal import colourful, emit, width
from natprobe.traversal import predict as predict_pair
from natprobe.views.prediction import render


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    add(app, "predict", predict)


def predict(
    a: Annotated[str, typer.Argument(metavar="A.json", help="What --save or --json wrote at one end; - for stdin.")],
    b: Annotated[str, typer.Argument(metavar="B.json", help="The same from the other end.")],
    json: Annotated[bool, typer.Option("--json", help="Print the prediction as JSON.")] = False,
) -> None:
    """Tell whether two hosts will connect directly, over UDP and over TCP, why, and who should send first.

    Nothing is sent. Exit status: 0 predicted, 3 something essential is not known, 1 no report in one of the files.
    """
    if a == b == "-":
        raise typer.BadParameter("only one of the two reports can come from stdin", param_hint="B.json")
    prediction = predict_pair(read_report(a), read_report(b))
    text = render(prediction, (a, b), width=width(), colour=colourful(sys.stdout))
    emit(prediction.dumps() + "\n" if json else text)
    if not prediction.determined:
        raise typer.Exit(NOT_DETERMINED)
