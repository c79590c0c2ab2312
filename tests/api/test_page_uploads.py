"""Own tables on the page: chosen or dropped, refused with what to do, read, answered."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from api.leases import Leases
from tests.api.browsing import Opened, found_by_axe
from tests.api.server import layer, network, until
from tests.api.web import Web

pytestmark = pytest.mark.backend_free

ROWS = 320
COLUMNS: dict[str, list[Any]] = {
    "size": [row % 7 for row in range(ROWS)],
    "age": [row / 10 for row in range(ROWS)],
    "price": [row * 1.5 for row in range(ROWS)],
}
WORDS = {**COLUMNS, "age": ["old"] * 3 + COLUMNS["age"][3:]}
NET = network(layer("Dense", units=8), layer("Dense", units=1), inputs=2)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a model and tables."""
    (tmp_path / "net.json").write_text(json.dumps(NET))
    for name, columns in (("good", COLUMNS), ("words", WORDS)):
        (tmp_path / f"{name}.csv").write_bytes(csv_of(columns))
        (tmp_path / f"{name}.parquet").write_bytes(parquet_of(columns))
    return tmp_path


def csv_of(columns: dict[str, list[Any]]) -> bytes:
    lines = [columns, *zip(*columns.values(), strict=True)]
    return "\n".join(",".join(map(str, line)) for line in lines).encode()


def parquet_of(columns: dict[str, list[Any]]) -> bytes:
    buffer = io.BytesIO()
    texts = {name: list(map(str, c)) if "old" in c else c for name, c in columns.items()}
    pq.write_table(pa.table(texts), buffer)
    return buffer.getvalue()


def choose(page: Any, label: str, path: Path) -> None:
    page.get_by_label(label, exact=True).set_input_files(path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_refused_in_words_mended_and_answered(
    opened: Opened, running: Web, files: Path, kind: str
) -> None:
    page = opened("/", bypass_csp=True)
    page.get_by_label("My files").check()
    choose(page, "Model", files / "net.json")
    page.get_by_text("2 Dense").wait_for()
    page.get_by_label("Epochs").fill("30")

    said, field = page.locator("#data_file-read"), page.get_by_label("Data", exact=True)
    choose(page, "Data", files / f"words.{kind}")
    said.get_by_text("Column 'age'").wait_for()
    assert "encode" in said.inner_text(), "what to do"
    if kind == "csv":
        assert "3 cells of text, the first in row 2: 'old'" in said.inner_text()
    assert field.get_attribute("aria-invalid") == "true"
    assert found_by_axe(page) == []

    page.get_by_label("Target column").fill("cost")
    choose(page, "Data", files / f"good.{kind}")
    said.get_by_text("There is no column 'cost'; the file has").wait_for()
    assert page.get_by_label("Epochs").input_value() == "30", "the rest of the form stays"

    page.get_by_label("Target column").fill("price")
    page.get_by_label("Target column").press("Tab")
    said.get_by_text("to predict “price”").wait_for()
    assert "320 rows" in said.inner_text()
    assert field.get_attribute("aria-invalid") is None
    # 30 epochs of 8 batches of 32 examples, a fifth of the 320 kept for validation: 240 steps.
    page.locator("#answer .panel:visible").get_by_text("stable_steps=180").wait_for()

    page.get_by_role("button", name="Measure on my data").click()
    page.wait_for_url("**/recommendations/rec_*")
    row = Leases(running.store).get(page.url.rpartition("/")[2])
    assert row is not None
    assert row.spec["data"]["target"] == "price"


def test_left_to_itself_the_page_says_which_column_it_predicts(opened: Opened, files: Path) -> None:
    page = opened("/")
    page.get_by_label("My files").check()
    choose(page, "Data", files / "good.csv")
    page.locator("#data_file-read").get_by_text("to predict “price”").wait_for()


def test_a_table_is_dropped_on_its_field(opened: Opened, files: Path) -> None:
    page = opened("/")
    page.get_by_label("My files").check()
    field = page.get_by_label("Data", exact=True)
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(files / "good.csv")], "dragOperationsMask": 1}

    def drag(*kinds: str) -> None:
        # The place is looked up each time: an answer that arrives meanwhile may move the field.
        field.scroll_into_view_if_needed()
        box = field.bounding_box()
        place = {"x": box["x"] + box["width"] * 0.8, "y": box["y"] + box["height"] / 2}
        for kind in kinds:
            devtools.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})

    def taken() -> bool:
        drag("dragEnter", "dragOver")
        return "over" in (field.get_attribute("class") or "")

    until(taken, "it shows that it takes it")
    drag("dragOver", "drop")
    page.locator("#data_file-read").get_by_text("320 rows").wait_for()
    assert not field.get_attribute("class")


def test_a_table_dropped_beside_its_field_does_not_make_the_page_leave(
    opened: Opened, files: Path
) -> None:
    page = opened("/")
    page.get_by_label("Epochs").fill("77")
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(files / "good.csv")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": 600, "y": 120, "data": data}
        devtools.send("Input.dispatchDragEvent", event)
    assert page.get_by_label("Epochs").input_value() == "77"
    assert page.url.endswith("/")


def test_without_scripts_a_refused_table_leaves_the_rest_of_the_form(
    opened: Opened, files: Path
) -> None:
    page = opened("/", java_script_enabled=False)
    page.get_by_label("My files").check()
    choose(page, "Model", files / "net.json")
    choose(page, "Data", files / "words.csv")
    page.get_by_label("Epochs").fill("30")
    page.get_by_role("button", name="Instant answer").click()
    page.get_by_role("alert").get_by_text("Column 'age' has 3 cells of text").first.wait_for()
    assert page.get_by_label("Epochs").input_value() == "30"
    page.get_by_text("2 Dense").wait_for()  # the model need not be sent again
    choose(page, "Data", files / "good.csv")
    page.get_by_role("button", name="Instant answer").click()
    page.locator("#answer .panel:visible").get_by_text("stable_steps=180").wait_for()
