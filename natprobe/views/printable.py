"""What strangers wrote, made harmless: the one place that decides what may reach a terminal, a page or a log."""

from __future__ import annotations

import re

# Whatever moves a terminal's cursor, hides text or turns its direction: controls, format characters, lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]"
)


def printable(text: object) -> str:
    """Return text on one line that shows what it holds and does nothing."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))
