"""Pictures of the pages for the documentation: `python -m tests.api.pictures docs`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.api.server import serving, until
from tests.conftest import ARGUMENTS, CHROMIUM

WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 360, "height": 800}
PATIENCE = 300_000


def main(folder: Path) -> None:
    """Ask for two jobs on a real server, and take pictures meanwhile."""
    with (
        tempfile.TemporaryDirectory() as data,
        serving(Path(data) / "data", KGO_SLOTS="1") as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        home = str(server.http.base_url)

        def page_of(path: str, viewport: Any = WIDE, scheme: Any = "light") -> Any:
            context = browser.new_context(base_url=home, viewport=viewport, color_scheme=scheme)
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(path)
            return page

        form = page_of("/")
        form.locator("#answer .verdict").wait_for()
        take(form, folder / "service-form.png")

        path = asked(form, "Handwritten digits")
        page_of(path).locator("html[data-state=succeeded]").wait_for(state="attached")
        for name, viewport, scheme in (
            ("result", WIDE, "light"),
            ("dark", WIDE, "dark"),
            ("narrow", NARROW, "light"),
        ):
            page = page_of(path, viewport, scheme)
            drawn(page)
            take(page, folder / f"service-{name}.png")

        form = page_of("/")
        form.get_by_label("Epochs").fill("2000")
        form.get_by_label("Batch size").fill("32")
        form.get_by_text("More: budget").click()
        form.get_by_label("Standard").check()
        form.get_by_label("Time limit").fill("300")
        live = page_of(asked(form, "Handwritten digits, for longer"))
        until(lambda: live.locator("#chart .trace").count() >= 9, "some candidates are judged", 300)
        take(live, folder / "service-live.png")
        live.get_by_role("button", name="Cancel").click()
        live.locator("html[data-state=cancelled]").wait_for(state="attached")
        browser.close()


def asked(form: Any, label: str) -> str:
    """Ask for a measured answer; returns the path of its page."""
    if not form.get_by_label("A name for this request").is_visible():
        form.get_by_text("More: budget").click()
    form.get_by_label("A name for this request").fill(label)
    form.get_by_role("button", name="Measure on my data").click()
    form.wait_for_url("**/recommendations/rec_*")
    return str(form.url).replace(form.evaluate("location.origin"), "")


def drawn(page: Any) -> None:
    """Wait until the chart holds all that the ledger holds."""
    page.wait_for_load_state("networkidle")
    until(lambda: page.locator("#chart .trace").count(), "the chart is drawn")
    page.wait_for_timeout(1000)


def take(page: Any, path: Path) -> None:
    """A picture of the whole page, in the exact colours that it has most of."""
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
