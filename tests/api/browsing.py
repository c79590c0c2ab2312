"""Pages opened in a real browser, whose complaints count."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

Opened = Callable[..., Any]
SERIOUS = ("serious", "critical")
# The browser mentions refusals and broken connections, which are answers; nothing else may be.
FINE = re.compile(r"status of (401|404|413|415|422|429|503)|net::ERR_(INCOMPLETE|CONNECTION|EMPTY)")


@contextmanager
def pages(browser: Any, base_url: str) -> Iterator[Opened]:
    """Opens pages of a server, and at the end asks that none of them complained.

    Args:
        browser: Playwright's.
        base_url: Of the server.
    """
    contexts, complaints = [], []

    def open_(path: str = "/", **options: Any) -> Any:
        context = browser.new_context(base_url=base_url, **options)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"{path}: {error}"))
        page.on("console", lambda m: m.type == "error" and complaints.append(f"{path}: {m.text}"))
        page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    rest = [text for text in complaints if not FINE.search(text)]
    assert not rest, f"scripts failed, or the content security policy was broken: {rest}"


def found_by_axe(page: Any) -> list[str]:
    """Faults that shut somebody out; in dark, of what the colours change."""
    source = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.evaluate(source)
    found = []
    for scheme, run in (("light", "axe.run()"), ("dark", "axe.run({runOnly: ['color-contrast']})")):
        page.emulate_media(color_scheme=scheme)
        for fault in page.evaluate(run)["violations"]:
            if fault["impact"] in SERIOUS:
                places = [node["target"] for node in fault["nodes"]]
                found.append(f"{scheme}: {fault['id']}, {fault['help']}: {places[:5]}")
    return found
