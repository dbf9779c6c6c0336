"""The command line: one file per command. stdout is the result, stderr is progress, the exit status says which kind.

0 classified · 1 could not run · 2 usage · 3 finished, but a core verdict is not determined · 130 Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from natprobe.cli import lab
from natprobe.cli.classify import classify
from natprobe.cli.demo import demo
from natprobe.cli.explain import explain
from natprobe.cli.lean import Lean
from natprobe.cli.reflect import reflect
from natprobe.cli.running import failing_plainly


def _group(help_: str) -> typer.Typer:
    return typer.Typer(
        help=help_, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )


def _add(group: typer.Typer, name: str, command: Callable[..., None]) -> None:
    group.command(name, cls=Lean)(failing_plainly()(command))


app = _group("Tell what the NATs and firewalls on the way do to your packets.")
_add(app, "classify", classify)
_add(app, "explain", explain)
_add(app, "reflect", reflect)
_add(app, "demo", demo)
labs = _group("Build NATs of known behaviour on this machine, to test against.")
_add(labs, "up", lab.up)
_add(labs, "down", lab.down)
_add(labs, "list", lab.show_list)
_add(labs, "run", lab.run)
app.add_typer(labs, name="lab")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"natprobe {version('natprobe')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Tell what the NATs and firewalls on the way do to your packets."""


def main() -> None:
    """Run the command that the arguments name."""
    app()
