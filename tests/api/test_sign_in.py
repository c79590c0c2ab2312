"""Signing in, as a person does it in a browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.keys import keys_of
from api.settings import Settings
from tests.api.server import until
from tests.api.web_process import web_process

pytestmark = pytest.mark.backend_free

FETCH = "(path) => fetch(path).then((answer) => answer.status)"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with web_process(tmp_path, KGO_KEYS="required") as (url, start), httpx.Client() as client:
        start()
        until(lambda: client.get(f"{url}/livez").status_code == 200, "it answers", 60)
        yield url


@pytest.mark.parametrize("width", [360, 1100])
def test_a_person_signs_in_with_a_key_and_out_again(
    width: int, address: str, tmp_path: Path, browser: Any
) -> None:
    with keys_of(Settings(data_dir=tmp_path)) as keys:
        _, key = keys.create("me", "test", ["advise", "read", "write"], None)
    context = browser.new_context(viewport={"width": width, "height": 740})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{address}/")
    assert page.url == f"{address}/session?next=/"
    assert page.evaluate(FETCH, "/v1/models") == 401
    said.clear()  # of the 401 that was meant
    show(page, f"sign_in_{width}")
    page.get_by_label("Key").fill("kgo_wrong")
    page.get_by_role("button", name="Sign in").click()
    assert "not known here" in page.get_by_role("alert").inner_text()
    assert all("401" in text for text in said), said
    said.clear()
    page.get_by_label("Key").fill(key)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{address}/")
    assert page.get_by_role("heading", level=1).inner_text() == (
        "Which optimizer should I train with?"
    )
    assert page.evaluate(FETCH, "/v1/models") == 200
    assert page.evaluate("document.cookie") == "", "scripts see the session"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    show(page, f"signed_in_{width}")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{address}/session")
    assert not said, said
    assert page.evaluate(FETCH, "/v1/models") == 401
    context.close()


def show(page: Any, name: str) -> None:
    """Keep a picture for people where `KGO_PICTURES` names a folder."""
    folder = os.environ.get("KGO_PICTURES")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png")
