"""The page in a real Chromium behind real kernel NATs: the verdicts, and that it can be used by everybody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from lab.chromium import URL, chromium, find_out, opened, serving_page, visit
from lab.test_classify import SERVER
from natprobe.errors import LabUnavailable
from natprobe.lab.backend import Lab
from natprobe.lab.policy import PRESETS, differences
from natprobe.report import Report
from natprobe.schema import schema

from .conftest import not_here, open_here

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.interop]

POLICIES = ["none", "udp-blocked", "eim-eif", "eim-adf", "adm-apdf", "apdm-apdf", "linux-masquerade-accept"]
CLASSIFY = ["natprobe", "classify", "--only", "udp", "--json", "-s"]
CORE = {"reachable", "translated", "mapping", "filtering"}


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


def browsing(playwright: Playwright, lab: Lab) -> Iterator[tuple[Lab, Browser]]:
    with lab, serving_page(lab):
        try:
            running = chromium(playwright, lab)
        except LabUnavailable as missing:
            not_here(missing)
        with running as browser:
            yield lab, browser


@pytest.fixture(scope="module")
def place(playwright: Playwright) -> Iterator[tuple[Lab, Browser]]:
    """A lab whose reflector serves the page, and a browser behind its gateway."""
    yield from browsing(playwright, open_here())


@pytest.fixture(scope="module")
def lossy(playwright: Playwright) -> Iterator[tuple[Lab, Browser]]:
    """The same, with a fifth of all packets lost in each direction."""
    yield from browsing(playwright, open_here(loss=0.2))


def wrong(name: str, report: dict[str, Any]) -> list[str]:
    """Return how a report differs from a policy; a page has no TCP sockets to test TCP with."""
    return differences(PRESETS[name], report)


def determined(report: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the verdicts on UDP that have one."""
    return {key: verdict["value"] for key, verdict in report["ipv4"]["udp"].items() if verdict["value"] is not None}


@pytest.mark.parametrize("name", POLICIES)
def test_the_page_gives_the_policy_back(place: tuple[Lab, Browser], name: str) -> None:
    lab, browser = place
    lab.apply("home", PRESETS[name])
    report = visit(browser).report
    assert wrong(name, report) == []
    assert list(Draft202012Validator(schema()).iter_errors(report)) == []
    # The verdicts that were downloaded are those that the observations in it give.
    assert Report.from_json(report).to_json()["ipv4"] == report["ipv4"]


@pytest.mark.parametrize("name", ["eim-apdf", "linux-masquerade-drop"])
def test_page_and_command_line_agree(place: tuple[Lab, Browser], name: str) -> None:
    lab, browser = place
    lab.apply("home", PRESETS[name])
    by_page = determined(visit(browser).report)
    lab.apply("home", PRESETS[name])
    by_command = determined(json.loads(lab.run("home-1", [*CLASSIFY, SERVER]).stdout))
    both = by_page.keys() & by_command.keys() - {"external"}
    assert both >= CORE
    assert {key: by_page[key] for key in both} == {key: by_command[key] for key in both}


TURNING = """
table ip turning {{
  chain enter {{ type nat hook prerouting priority dstnat;
    iifname "{lan}" ip daddr {external} meta l4proto udp dnat to 10.64.1.10
  }}
  chain leave {{ type nat hook postrouting priority srcnat - 5;
    iifname "{lan}" oifname "{lan}" snat to {external}
  }}
}}
"""


def test_a_router_that_turns_packets_around(place: tuple[Lab, Browser]) -> None:
    lab, browser = place
    lab.apply("home", PRESETS["linux-masquerade-drop"])
    legs = lab.legs("home")
    lab.must("home", ["nft", "-f", "-"], stdin=TURNING.format(lan=legs.lan, external=legs.external))
    try:
        found = visit(browser).report["ipv4"]["udp"]["hairpinning"]
    finally:
        lab.must("home", ["nft", "delete table ip turning"])
    assert (found["value"], found["certainty"]) == ("external-source", "confirmed")


def test_at_a_loss_of_a_fifth_no_class_is_wrong(lossy: tuple[Lab, Browser]) -> None:
    lab, browser = lossy
    lab.apply("home", PRESETS["eim-adf"])
    assert [line for line in wrong("eim-adf", visit(browser).report) if "not determined" not in line] == []


# --- the page itself --------------------------------------------------------------------------------------------------


def test_by_keyboard_and_out_loud(place: tuple[Lab, Browser]) -> None:
    """No mouse, no eyes: the button is found by Tab, progress is announced, the focus goes to the answer."""
    lab, browser = place
    lab.apply("home", PRESETS["eim-apdf"])
    with opened(browser) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Test this network"
        assert page.get_by_role("status").count() == 0  # hidden, until there is something to say
        page.keyboard.press("Enter")
        page.get_by_role("status").wait_for()
        page.get_by_role("heading", name="Direct connections work with most partners.").wait_for()
        assert page.evaluate("document.activeElement.tagName") == "H2"
        assert "198.51.100.12" in page.get_by_role("img", name="What goes out and what comes in").inner_html()
        assert page.get_by_role("rowheader", name="mapping").count() == 1
        assert page.get_by_role("link", name="Download the report").get_attribute("download")
        page.get_by_role("button", name="Test again").focus()
        page.keyboard.press("Enter")
        page.get_by_role("status").wait_for()
        page.get_by_role("link", name="Download the report").wait_for()


def test_a_phone_need_not_scroll_sideways(place: tuple[Lab, Browser]) -> None:
    _, browser = place
    width = 320
    with opened(browser, viewport={"width": width, "height": 700}) as page:
        find_out(page)
        page.get_by_text("Evidence: what was observed").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_asks_nobody_else_and_makes_no_complaint(place: tuple[Lab, Browser]) -> None:
    _, browser = place
    with opened(browser) as page:
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.reload()
        find_out(page)
        assert asked
        assert [url for url in asked if not url.startswith((URL, "data:", "blob:"))] == []
        assert complaints == []


def failure(page: Page) -> str:
    page.get_by_role("alert").wait_for()
    return page.inner_text("#why")


def test_a_browser_without_webrtc_says_so(place: tuple[Lab, Browser]) -> None:
    _, browser = place
    with opened(browser) as page:
        page.add_init_script("delete window.RTCPeerConnection")
        page.reload()
        assert "no WebRTC" in failure(page)
        assert not page.is_visible("#start")


def test_an_error_in_the_middle_says_so(place: tuple[Lab, Browser]) -> None:
    _, browser = place
    with opened(browser) as page:
        page.add_init_script("RTCPeerConnection.prototype.setLocalDescription = () => { throw new Error('no luck') }")
        page.reload()
        page.click("#start")
        assert "no luck" in failure(page)
        assert page.is_visible("#again")


def test_without_javascript_it_says_so(place: tuple[Lab, Browser]) -> None:
    _, browser = place
    with opened(browser, java_script_enabled=False) as page:
        assert "needs JavaScript" in page.inner_text("main")
