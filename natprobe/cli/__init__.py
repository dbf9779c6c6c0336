"""The command line: one file per command. stdout is the result, stderr is progress, the exit status says which kind.

0 classified · 1 could not run · 2 usage · 3 finished, but a core verdict is not determined.
"""

from __future__ import annotations

import typer

from natprobe.cli.classify import classify
from natprobe.cli.explain import explain
from natprobe.cli.reflect import reflect

app = typer.Typer(
    help="Tell what the NATs and firewalls on the way do to your packets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(classify)
app.command()(reflect)
app.command()(explain)


def main() -> None:
    """Run the command that the arguments name."""
    app()
