"""The command line: one file per command. stdout is the result, stderr is progress, the exit status says which kind.

0 classified · 1 could not run · 2 usage · 3 finished, but a core verdict is not determined · 130 Ctrl-C.
"""

from __future__ import annotations

import typer

from natprobe.cli.classify import classify
from natprobe.cli.explain import explain
from natprobe.cli.lean import Lean
from natprobe.cli.reflect import reflect
from natprobe.cli.running import failing_plainly

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(cls=Lean)(failing_plainly()(classify))
app.command(cls=Lean)(failing_plainly()(explain))
app.command()(failing_plainly()(reflect))


@app.callback()
def natprobe() -> None:
    """Tell what the NATs and firewalls on the way do to your packets."""


def main() -> None:
    """Run the command that the arguments name."""
    app()
