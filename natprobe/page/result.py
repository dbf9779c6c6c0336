"""The last message to the page: the report, and how it looks. Every word is the views'."""

from __future__ import annotations

from typing import Any

from natprobe.report import Report
from natprobe.views.browser import render


def message(report: Report) -> dict[str, Any]:
    """Return what the page shows and lets be downloaded."""
    headline, html = render(report)
    return {"report": report.to_json(), "headline": headline, "html": html}
