"""The last message to the page: the report, and how it looks. Pure; every word is the views'."""

from __future__ import annotations

from typing import Any

from natprobe.report import Report


def message(report: Report) -> dict[str, Any]:
    """Return what the page shows and lets be downloaded."""
    return {"report": report.to_json(), "html": ""}
