"""A command of typer's that starts quickly: whoever diagnoses a call that does not connect should not wait for imports.

typer from 0.29 on turns the text of each option into its annotated type by pydantic, which takes longer to import than
natprobe and typer together (90 ms), even where the type is ``str``. A Lean command takes the text as it is.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand


class Lean(TyperCommand):
    """A command all of whose options are text or flags; what the text means is checked by the command itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for param in self.params:
            # An older typer does not ask for it, and has no pydantic either.
            vars(param)["get_runtime_param"] = _AsItIs


class _AsItIs:
    """Stands for typer's RuntimeParam."""

    def coerce(self, value: Any, **_: Any) -> Any:
        return value


def port_number(text: str) -> int:
    """Return the number of a port, 0 for any. Raises typer.BadParameter where it is none."""
    if not (text.isascii() and text.isdigit() and int(text) <= 0xFFFF):
        raise typer.BadParameter(f"{text!r} is no port number", param_hint="--port")
    return int(text)
