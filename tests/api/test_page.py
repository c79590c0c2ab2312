"""The page in a real browser: asked as a person would, watched, cancelled, and in every width."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.browsing import Opened, pages
from tests.api.server import (
    DIGITS,
    ENDLESS,
    Server,
    layer,
    network,
    npz,
    regression,
    until,
)

pytestmark = pytest.mark.backend_free

# A job ends within this on a loaded machine, in milliseconds.
PATIENCE = 180_000
WIDTHS = (360, 768, 1200)


@pytest.fixture
def opened(browser: Any, server: Server) -> Iterator[Opened]:
    with pages(browser, str(server.http.base_url)) as open_:
        yield open_


def state(page: Any) -> str:
    return str(page.locator("html").get_attribute("data-state"))


def answered(page: Any, text: str) -> None:
    """Wait until the instant answer's code, of which there is one for each backend, holds this."""
    page.locator("#answer .panel:visible").get_by_text(text).wait_for()


def wait_for(page: Any, wanted: str) -> None:
    # Not wait_for_function: it evaluates text in the page, which the security policy forbids.
    page.wait_for_selector(f"html[data-state={wanted}]", state="attached", timeout=PATIENCE)


@pytest.fixture(scope="module")
def finished(server: Server) -> Any:
    path = server.ask({**DIGITS, "label": "<i>finished</i> & so on"})
    return server.ended(path)


def test_the_instant_answer_follows_the_form(opened: Opened) -> None:
    page = opened()
    answer = page.locator("#answer")
    answered(page, "stable_steps=4620")
    page.get_by_label("Epochs").fill("20")
    answered(page, "stable_steps=660")
    page.get_by_label("Epochs").fill("nought")
    page.get_by_text(re.compile("whole number", re.IGNORECASE)).first.wait_for()
    assert answer.is_hidden(), "an answer to another form may not stand there"
    page.get_by_label("Epochs").fill("20")
    answered(page, "stable_steps=660")
    page.get_by_label("I describe it").check()
    page.get_by_label("Shape of one input").fill("30")
    page.get_by_label("Training examples").fill("3200")
    answered(page, "stable_steps=1500")


def test_an_answer_leaves_alone_what_one_is_doing(opened: Opened) -> None:
    page = opened()
    answer, epochs = page.locator("#answer"), page.get_by_label("Epochs")
    answered(page, "stable_steps=4620")
    answer.get_by_text("What else was considered").click()
    # Every form on the way has an answer: on a slow machine each of them is asked for.
    epochs.fill("200")
    epochs.press("Home")
    epochs.press("4")
    epochs.press("Delete")
    answered(page, "stable_steps=13200")
    assert page.evaluate("[document.activeElement.id, document.activeElement.selectionStart]") == [
        "epochs",
        1,
    ]
    assert answer.locator("details[open]").count() == 1, "what was opened stays open"


def test_what_is_wrong_is_marked_and_what_is_missing_only_when_sent(opened: Opened) -> None:
    page = opened()
    shape = page.get_by_label("Shape of one input")
    page.get_by_label("I describe it").check()
    page.locator("#answer-state").get_by_text("shape of one input").wait_for()
    assert shape.get_attribute("aria-invalid") is None
    assert page.get_by_role("alert").is_hidden()
    page.get_by_role("button", name="Measure on my data").click()
    page.get_by_role("alert").get_by_text("shape of one input").first.wait_for()
    assert shape.get_attribute("aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == "problem"
    shape.fill("28 x 28")
    answered(page, "stable_steps")
    assert shape.get_attribute("aria-invalid") is None
    assert page.get_by_role("alert").is_hidden()
    page.get_by_text("More: budget").click()
    page.get_by_label("Optimizers to try as well").fill("adm")
    page.locator("#include-wrong").get_by_text("Did you mean adam").wait_for()


def test_a_sample_is_measured_before_one_s_eyes(opened: Opened, server: Server) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Measure on my data").click()
    page.wait_for_url("**/recommendations/rec_*")
    job = page.url.rpartition("/")[2]
    page.get_by_text("Instant answer, before measuring").wait_for()
    seen = set()

    def watched_to_the_end() -> bool:
        seen.add(page.evaluate("window.gradopt?.points() ?? 0"))
        return state(page) == "succeeded"

    until(watched_to_the_end, "the job succeeds", PATIENCE / 1000)
    result = server.get(f"/v1/recommendations/{job}")["result"]
    trials = server.get(f"/v1/recommendations/{job}/trials", params={"curve": True})["data"]
    held = sum(len(t["loss_curve"]) + len(t["val_curve"]) for t in trials)
    until(lambda: page.evaluate("window.gradopt.points()") == held, "every point is drawn")
    assert len(seen) > 1, "the curves grew while one looked"
    measured = page.locator("#measured")
    assert result["recommended"]["label"] in measured.inner_text()
    for reason in result["decision"]["reasons"]:
        assert reason in measured.inner_text()
    assert "What measuring changed" in measured.inner_text()
    measured.get_by_role("button", name=re.compile("copy", re.IGNORECASE)).click()
    until(
        lambda: (
            page.evaluate("navigator.clipboard.readText()")
            .strip()
            .endswith(result["recommended"]["code"].strip())
        ),
        "the code is on the clipboard",
    )
    rows = page.locator("#table tbody tr")
    assert rows.count() == len(trials)
    assert all(trial["seconds"] > 0 for trial in trials if trial["steps"])
    usage = server.get(f"/v1/recommendations/{job}")["usage"]
    assert sum(trial["seconds"] for trial in trials) < usage["wall_seconds"]
    assert page.locator("#chart .scatterlayer .trace").count() >= len(trials)


def test_the_page_of_an_ended_job_shows_the_same(opened: Opened, finished: Any) -> None:
    page = opened(f"/recommendations/{finished['id']}")
    wait_for(page, "succeeded")
    assert page.get_by_role("heading", level=1).inner_text() == "<i>finished</i> & so on"
    assert finished["result"]["recommended"]["label"] in page.locator("#measured").inner_text()
    until(lambda: page.locator("#chart .trace").count(), "the chart is drawn")
    page.get_by_text("Log", exact=True).click()
    page.get_by_text("reading model and data").wait_for()


def test_own_files_are_read_at_once_and_measured(
    opened: Opened, server: Server, tmp_path: Path
) -> None:
    import json

    page = opened()
    page.get_by_label("My files").check()
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(network(layer("Lambda", function="f"))))
    page.get_by_label("Model", exact=True).set_input_files(bad)
    page.get_by_text(re.compile("Lambda")).first.wait_for()
    good = tmp_path / "net.json"
    net = network(layer("Dense", units=8, activation="tanh"), layer("Dense", units=1))
    good.write_text(json.dumps(net))
    page.get_by_label("Model", exact=True).set_input_files(good)
    page.get_by_text(re.compile("Dense")).first.wait_for()
    data = tmp_path / "data.npz"
    data.write_bytes(npz(**regression()))
    page.get_by_label("Data", exact=True).set_input_files(data)
    page.get_by_text(re.compile("400 rows")).first.wait_for()
    page.get_by_label("Epochs").fill("30")
    answered(page, "stable_steps=225")
    page.get_by_role("button", name="Measure on my data").click()
    page.wait_for_url("**/recommendations/rec_*")
    wait_for(page, "succeeded")
    job = server.get(f"/v1/recommendations/{page.url.rpartition('/')[2]}")
    assert job["result"]["evidence"]["description"]["parameters"] == 4 * 8 + 8 + 9


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_measured(opened: Opened, server: Server, tmp_path: Path, kind: str) -> None:
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = regression()
    columns = {name: arrays["x"][:, place] for place, name in enumerate("abcd")}
    table = pa.table({**columns, "price": arrays["y"][:, 0]})
    if kind == "parquet":
        pq.write_table(table, tmp_path / "table.parquet")
    else:
        rows = [",".join(table.column_names)]
        rows += [",".join(map(str, row.values())) for row in table.to_pylist()]
        (tmp_path / "table.csv").write_text("\n".join(rows))
    net = network(layer("Dense", units=8, activation="tanh"), layer("Dense", units=1))
    (tmp_path / "net.json").write_text(json.dumps(net))
    page = opened()
    page.get_by_label("My files").check()
    page.get_by_label("Model", exact=True).set_input_files(tmp_path / "net.json")
    page.get_by_label("Target column").fill("price")
    page.get_by_label("Data", exact=True).set_input_files(tmp_path / f"table.{kind}")
    page.get_by_text("to predict “price”").wait_for()
    page.get_by_label("Epochs").fill("30")
    page.get_by_role("button", name="Measure on my data").click()
    page.wait_for_url("**/recommendations/rec_*")
    wait_for(page, "succeeded")
    job = server.get(f"/v1/recommendations/{page.url.rpartition('/')[2]}")
    described = job["result"]["evidence"]["description"]
    assert described["parameters"] == 4 * 8 + 8 + 9
    assert job["result"]["recommended"]["label"] in page.locator("#measured").inner_text()


def test_files_are_still_there_for_who_comes_back(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(npz(**regression()))
    page = opened()
    page.get_by_label("My files").check()
    page.get_by_label("Data", exact=True).set_input_files(tmp_path / "data.npz")
    page.get_by_text("400 rows").wait_for()
    page.get_by_role("link", name="Catalogue").click()
    page.wait_for_url("**/catalog")
    page.go_back()
    page.get_by_text("400 rows").wait_for()


def test_a_running_job_is_cancelled_from_its_page(opened: Opened, server: Server) -> None:
    path = server.ask(ENDLESS)
    page = opened(path.removeprefix("/v1"))
    until(lambda: page.evaluate("window.gradopt?.points()"), "curves", PATIENCE / 1000)
    page.get_by_text("Log", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    wait_for(page, "cancelled")
    assert server.get(path)["status"] == "cancelled"
    assert page.evaluate("document.activeElement.id") == "status", "the button took its focus along"
    assert page.get_by_text("reading model and data").is_visible(), "what was opened stays open"
    assert page.get_by_role("button", name="Cancel").is_hidden()
    assert page.evaluate("window.gradopt.points()") > 0, "what was measured stays"


def test_a_web_process_killed_under_the_page_leaves_no_hole_in_the_curves(
    opened: Opened, server: Server
) -> None:
    path = server.ask(DIGITS)
    page = opened(path.removeprefix("/v1"))
    wait_for(page, "running")
    server.kill("web")
    wait_for(page, "succeeded")
    trials = server.get(f"{path}/trials", params={"curve": True})["data"]
    held = sum(len(t["loss_curve"]) + len(t["val_curve"]) for t in trials)
    until(lambda: page.evaluate("window.gradopt.points()") == held, "every point is drawn")
    assert page.locator("#connection").is_hidden(), "the banner goes when the stream is back"


def test_a_job_that_fails_says_what_to_do(opened: Opened, server: Server) -> None:
    arrays = regression()
    arrays["x"][0, 0] = float("inf")
    data = server.post("/v1/datasets", files={"file": ("d.npz", npz(**arrays))}).json()["id"]
    model = {"kind": "keras_config", "config": network(layer("Dense", units=1))}
    path = server.ask({"model": model, "data": {"kind": "ref", "id": data}})
    page = opened(path.removeprefix("/v1"))
    wait_for(page, "failed")
    said = page.locator("#reason").inner_text()
    assert "infinite" in said
    assert "Fill them" in said


# --- without scripts ---


def test_without_scripts_the_form_leads_to_the_result(opened: Opened, server: Server) -> None:
    page = opened(java_script_enabled=False)
    page.get_by_role("button", name="Instant answer").click()
    answered(page, "stable_steps=4620")
    page.get_by_label("Epochs").fill("many")
    page.get_by_role("button", name="Measure on my data").click()
    page.get_by_text(re.compile("whole number is expected")).first.wait_for()
    assert page.get_by_label("Epochs").input_value() == "many", "the form is not lost"
    page.get_by_label("Epochs").fill("140")
    page.get_by_role("button", name="Measure on my data").click()
    page.wait_for_url("**/recommendations/rec_*")
    # The page loads itself again every few seconds until the job has ended.
    page.get_by_role("heading", name="Measured answer").wait_for(timeout=PATIENCE)
    job = server.get(f"/v1/recommendations/{page.url.rpartition('/')[2]}")
    assert job["result"]["recommended"]["label"] in page.locator("#measured").inner_text()


def test_without_scripts_files_are_uploaded_with_the_form(
    opened: Opened, server: Server, tmp_path: Path
) -> None:
    import json

    (tmp_path / "net.json").write_text(json.dumps(network(layer("Dense", units=1))))
    (tmp_path / "data.npz").write_bytes(npz(**regression()))
    page = opened(java_script_enabled=False)
    page.get_by_label("My files").check()
    page.get_by_label("Model", exact=True).set_input_files(tmp_path / "net.json")
    page.get_by_label("Data", exact=True).set_input_files(tmp_path / "data.npz")
    page.get_by_role("button", name="Measure on my data").click()
    page.wait_for_url("**/recommendations/rec_*")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text(re.compile("cancel", re.IGNORECASE)).first.wait_for()
    until(
        lambda: (
            server.get(f"/v1/recommendations/{page.url.rpartition('/')[2]}")["status"]
            in ("cancelled", "succeeded")
        ),
        "it ends",
    )


def test_numbers_are_read_as_people_write_them(server: Server) -> None:
    form = {"source": "describe", "shape": "28\N{MULTIPLICATION SIGN}28", "samples_count": "3,200"}
    assert "stable_steps=1500" in server.post("/", data=form).text


# --- how it looks ---


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_its_window(
    width: int, scheme: str, opened: Opened, finished: Any
) -> None:
    size = {"width": width, "height": 800}
    for path in (
        "/",
        "/catalog",
        "/docs",
        f"/recommendations/{finished['id']}",
        "/recommendations/x",
    ):
        page = opened(path, viewport=size, color_scheme=scheme)
        page.wait_for_load_state("networkidle")
        wider = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wider <= 0, f"{path} is {wider} px wider than {width} px"
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        level = sum(int(n) for n in re.findall(r"\d+", ground)[:3]) / 3
        assert (level < 128) == (scheme == "dark"), ground


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(opened: Opened) -> None:
    page = opened()
    answered(page, "stable_steps")
    unnamed = page.evaluate(
        """[...document.querySelectorAll('input:not([type=hidden]), select, button, textarea')]
        .filter(e => e.checkVisibility() && !(e.labels?.length || e.textContent.trim()
          || e.getAttribute('aria-label'))).map(e => e.outerHTML)"""
    )
    assert unnamed == []
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == "Measure on my data":
            break
    else:
        pytest.fail("the button is not reached with the Tab key")
    page.keyboard.press("Enter")
    page.wait_for_url("**/recommendations/rec_*")


def test_the_catalogue_is_searched(opened: Opened) -> None:
    page = opened("/catalog")
    every = page.locator("details:visible").count()
    page.get_by_role("searchbox").fill("kingma")
    until(lambda: 0 < page.locator("details:visible").count() < every, "the list gets shorter")


def test_the_page_loads_nothing_from_elsewhere(opened: Opened, finished: Any) -> None:
    asked: list[str] = []
    page = opened("/")
    page.on("request", lambda request: asked.append(request.url))
    for path in ("/", "/catalog", "/docs", f"/recommendations/{finished['id']}"):
        page.goto(path)
        page.wait_for_load_state("networkidle")
    own = page.evaluate("location.origin")
    assert len(asked) > 10
    assert not [url for url in asked if not url.startswith((own, "data:", "blob:"))]
