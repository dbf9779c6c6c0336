"""Debian's Chromium on a client of the lab, with the reflector's page open: a visitor, played by Playwright.

Playwright stays outside and talks to the browser through a pipe; every packet of the browser goes through the lab.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, Playwright

from natprobe.errors import LabUnavailable
from natprobe.lab.backend import READY, Lab

URL = "http://198.51.100.10:8080/"
_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
_PATIENCE_MS = 90_000


@dataclass(frozen=True, slots=True)
class Visit:
    """What a visitor got: the report, as the button downloads it, and how many seconds after the click it was there."""

    report: dict[str, Any]
    seconds: float


@contextmanager
def serving_page(lab: Lab) -> Iterator[None]:
    """Serve the page on the lab's reflector, beside what it serves anyway."""
    addresses = [word for address in lab.topology.reflector_addresses for word in ("--address", str(address))]
    argv = ["natprobe", "reflect", *addresses, "--port", "4478", "--port", "4479", "--web"]
    with lab.start(lab.topology.reflector.name, argv) as server:
        assert server.stderr
        try:
            said = [server.stderr.readline()]
            while said[-1] and not said[-1].startswith(READY):
                said.append(server.stderr.readline())
            if not said[-1]:
                raise LabUnavailable(f"the page cannot be served: {' '.join(said)}")
            yield
        finally:
            server.terminate()


def chromium(playwright: Playwright, lab: Lab, node: str = "home-1") -> AbstractContextManager[Browser]:
    """Return Chromium on a node, with a profile of its own. Raises LabUnavailable where it is not installed."""
    program = shutil.which("chromium")
    if program is None:
        raise LabUnavailable("Chromium is not installed: apt install chromium")
    return _running(playwright, lab, node, program)


@contextmanager
def _running(playwright: Playwright, lab: Lab, node: str, program: str) -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(prefix="natprobe-chromium-") as home:
        wrapper = Path(home, "chromium")
        environment = [f"HOME={home}", f"XDG_CONFIG_HOME={home}", f"XDG_CACHE_HOME={home}"]
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(lab.inside(node, ["env", *environment, program]))} "$@"\n')
        wrapper.chmod(0o755)
        browser = playwright.chromium.launch(
            executable_path=wrapper, headless=True, args=_FLAGS, env={**os.environ, "HOME": home}
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, **options: Any) -> Iterator[Page]:
    """Open the page in a context of its own, which remembers nothing."""
    context: BrowserContext = browser.new_context(**options)
    try:
        page = context.new_page()
        page.goto(URL)
        yield page
    finally:
        context.close()


def find_out(page: Page) -> Visit:
    """Do the test, and download the report. Raises LabUnavailable with what the page says where it cannot be done."""
    started = time.monotonic()
    page.click("#start")
    page.wait_for_selector("#result:visible, #failure:visible", timeout=_PATIENCE_MS)
    seconds = time.monotonic() - started
    if page.is_visible("#failure"):
        raise LabUnavailable(page.inner_text("#why"))
    with page.expect_download() as download:
        page.click("#download")
    return Visit(json.loads(download.value.path().read_text()), seconds)


def visit(browser: Browser) -> Visit:
    """Open the page, do the test, download the report."""
    with opened(browser) as page:
        return find_out(page)
