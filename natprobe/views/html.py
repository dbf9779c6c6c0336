"""The report as one page for a browser: no other file, no other host, no script."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from natprobe.behaviour import Certainty
from natprobe.report import Report
from natprobe.views.evidence import cited
from natprobe.views.printable import printable
from natprobe.views.summary import summary
from natprobe.views.wording import blocks, heading, ranges


def render(report: Report) -> str:
    """Return the page. Whatever strangers wrote into the report is text in it, not markup."""
    environment = Environment(
        loader=PackageLoader("natprobe", "views"),
        autoescape=True,
        finalize=_said,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2").render(
        summary=summary(report),
        heading=heading(report),
        blocks=blocks(report),
        evidence=cited(report),
        certainties=list(Certainty),
        ranges=ranges,
        version=report.version,
    )


def _said(value: object) -> str:
    """The one way of values into the page; jinja2 then escapes what would be markup."""
    return printable(value)
