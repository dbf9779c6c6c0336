"""The commands, put together."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from natprobe.cli.lean import group
from natprobe.cli.running import failing_plainly
from natprobe.cli.terminal import emit
from natprobe.version import VERSION

_COMMANDS = ("classify", "explain", "predict", "turn", "reuse", "reflect", "lab", "demo")


def application(chosen: str | None = None) -> typer.Typer:
    """Return the command line: all commands, or ``chosen`` alone if it is one, for each costs a millisecond or two."""
    app = group("Tell what the NATs and firewalls on the way do to your packets.")
    app.callback()(_options)
    for name in [chosen] if chosen in _COMMANDS else _COMMANDS:
        import_module(f"natprobe.cli.{name}").add_to(app)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        with failing_plainly():
            emit(f"natprobe {VERSION}\n")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Tell what the NATs and firewalls on the way do to your packets."""
