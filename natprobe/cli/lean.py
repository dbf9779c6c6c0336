"""Commands of typer's that start quickly: whoever diagnoses a call that does not connect should not wait for imports.

From typer 0.29 on the text of each option, of --help even, is turned into its annotated type by pydantic, which takes
as long to import as all of natprobe without asyncio (90 ms). Lean commands take the text as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from natprobe.cli.running import failing_plainly


class _Lean:
    """Of a command all of whose options are text or flags; what a text means is checked by the command itself."""

    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            # An older typer never asks for it, and has no pydantic either.
            vars(param)["get_runtime_param"] = _AsItIs
        return params


class _Command(_Lean, TyperCommand):
    """A command. ``implied`` has what an option means that stands without its value."""

    implied: Mapping[str, str] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(self._completed(args)))

    def _completed(self, args: Sequence[str]) -> Iterator[str]:
        for arg, after in zip_longest(args, args[1:], fillvalue="-"):
            yield arg
            if arg in self.implied and after.startswith("-"):
                yield self.implied[arg]


class _Group(_Lean, TyperGroup):
    """A command that has commands."""


class _AsItIs:
    """Stands for typer's RuntimeParam."""

    def coerce(self, value: Any, **_: Any) -> Any:
        return value


def group(help_: str) -> typer.Typer:
    """Return a group without commands."""
    return typer.Typer(
        help=help_,
        cls=_Group,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def add(app: typer.Typer, name: str, command: Callable[..., None], implied: Mapping[str, str] | None = None) -> None:
    """Add a command to a group; what stops it ends in one line and a status.

    The options in ``implied`` may stand without a value, and mean that one then.
    """
    kind = type("_Command", (_Command,), {"implied": implied or {}})
    app.command(name, cls=kind)(failing_plainly()(command))


def port_number(text: str, option: str = "--port") -> int:
    """Return the number of a port, 0 for any. Raises typer.BadParameter where it is none."""
    if not (text.isascii() and text.isdigit() and int(text) <= 0xFFFF):
        raise typer.BadParameter(f"{text!r} is no port number", param_hint=option)
    return int(text)
