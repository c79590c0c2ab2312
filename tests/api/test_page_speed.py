"""What pages weigh and when they are seen, and how often the form is sent while one types."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from api.leases import Leases
from tests.api.browsing import Opened
from tests.api.server import until
from tests.api.stage import staged
from tests.api.web import Web

pytestmark = pytest.mark.backend_free

# research/service.md, section 6: bytes without the charts' script, and milliseconds on loopback.
HEAVIEST, SLOWEST = 150_000, 1000
LOADS = 5
PAINTED = """() => new Promise((tell) => new PerformanceObserver((list) => {
    for (const one of list.getEntries()) tell(one.startTime);
  }).observe({ type: "%s", buffered: true }))"""


@pytest.fixture(scope="module")
def result(running: Web) -> str:
    return f"/recommendations/{staged(running.http, Leases(running.store), 'succeeded')}"


def tell(name: str, value: float) -> None:
    """Put a figure into the output (`-s`)."""
    print(f"{name}: {value:,.0f}")


def test_pages_are_light(opened: Opened, result: str) -> None:
    for path in ("/", result, "/catalog", "/docs"):
        ended: list[Any] = []
        page = opened("about:blank")
        page.on("requestfinished", lambda one, into=ended: into.append(one))
        page.goto(path)
        page.wait_for_load_state("networkidle")
        weights = {one.url: one.sizes()["responseBodySize"] for one in ended}
        plotly = [url for url in weights if "plotly" in url]
        assert len(plotly) == (path == result)
        total = sum(size for url, size in weights.items() if url not in plotly)
        tell(f"bytes of {path.partition('_')[0]}", total)
        assert 10_000 < total <= HEAVIEST, weights


def test_the_result_is_seen_within_a_second(opened: Opened, result: str) -> None:
    first, largest = [], []
    for _ in range(LOADS):
        page = opened(result)  # each with an empty cache
        assert page.locator("#result .verdict").is_visible()
        first.append(page.evaluate(PAINTED % "paint"))
        largest.append(page.evaluate(PAINTED % "largest-contentful-paint"))
    tell("first paint, ms", statistics.median(first))
    tell("largest paint, ms", statistics.median(largest))
    assert statistics.median(first) <= SLOWEST, first
    assert statistics.median(largest) <= SLOWEST, largest


def test_the_form_is_sent_once_for_what_is_typed_in_one_go(opened: Opened) -> None:
    page = opened("/")
    page.locator("#answer .verdict").wait_for()
    sent: list[str] = []
    page.on("request", lambda one: one.method == "POST" and sent.append(one.post_data or ""))
    page.get_by_label("Epochs").press_sequentially("12345", delay=20)
    page.locator("#answer .panel:visible").get_by_text("stable_steps=407385").wait_for()
    # 12,345 epochs of 44 batches of 32 from 1,400 examples, three quarters at the constant rate.
    assert 1 <= len(sent) <= 2, "one at the end; a slow machine may pause once between two keys"


def test_the_form_is_kept_and_sent_again_while_the_server_is_away(opened: Opened) -> None:
    page = opened("/")
    answer, banner = page.locator("#answer"), page.locator("#connection")
    answer.locator(".verdict").wait_for()
    page.route("**/*", lambda route: route.abort("connectionrefused"))
    page.get_by_label("Epochs").fill("20")
    banner.get_by_text("cannot be reached").wait_for()
    until(answer.is_hidden, "an answer to another form does not stand there")
    assert page.get_by_label("Epochs").input_value() == "20"
    page.unroute("**/*")
    answer.locator(".panel:visible").get_by_text("stable_steps=660").wait_for()
    assert banner.is_hidden()


@pytest.mark.parametrize("status", [429, 503])
def test_what_the_server_refuses_costs_nobody_the_form(opened: Opened, status: int) -> None:
    page = opened("/")
    page.locator("#answer .verdict").wait_for()
    problem = '{"code": "x", "detail": "Not at the moment. Ask again in a minute."}'
    page.route(
        "**/*",
        lambda route: route.fulfill(
            status=status, body=problem, headers={"Content-Type": "application/problem+json"}
        ),
    )
    page.get_by_label("I describe it").check()
    page.get_by_label("Shape of one input").fill("30")
    page.get_by_role("button", name="Measure on my data").click()
    page.locator("#connection").get_by_text("Ask again in a minute").wait_for()
    assert page.get_by_label("Shape of one input").input_value() == "30"
    page.unroute("**/*")
    page.locator("#answer .verdict").wait_for()


def test_pages_are_gzipped_only_for_who_takes_it(running: Web) -> None:
    plain = running.http.get("/catalog", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    packed = running.http.get("/catalog", headers={"Accept-Encoding": "br, gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.text == plain.text
    assert int(packed.headers["Content-Length"]) < len(plain.content) / 3
    for answer in (plain, packed):
        assert answer.headers["Vary"] == "Accept-Encoding"
    # The form repeats what was sent: gzipped, its length would tell of its token.
    assert "Content-Encoding" not in running.http.get("/").headers
