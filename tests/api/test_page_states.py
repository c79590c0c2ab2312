"""Pages of jobs in every state: what they hold, how they are used, and whether all can use them."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from api.leases import Leases
from api.settings import Settings
from tests.api.browsing import Opened, found_by_axe, pages
from tests.api.server import until
from tests.api.stage import STATES, TRIALS, staged
from tests.api.web import Web, web

pytestmark = pytest.mark.backend_free

ADVISED = "stable_steps=4620"


@pytest.fixture(scope="module")
def job(running: Web) -> dict[str, str]:
    """A job's path, by its state."""
    jobs = Leases(running.store)
    made = {"thorough": staged(running.http, jobs, "failed", tier="thorough")}
    # What waits is made last: a claim takes whatever waits.
    for state in sorted(STATES, key=lambda state: state == "queued"):
        made[state] = staged(running.http, jobs, state, label="<i>Digits</i> & so on")
    return {state: f"/recommendations/{name}" for state, name in made.items()}


def candidates(page: Any) -> list[str]:
    texts = page.locator("#table tbody th").all_inner_texts()
    return [next(label for label, *_ in TRIALS if text.startswith(label)) for text in texts]


# --- the answer ---


def test_each_reason_says_what_it_rests_on(opened: Opened, job: dict[str, str]) -> None:
    page = opened(job["succeeded"])
    verdict = page.locator("#result .verdict").inner_text()
    assert re.fullmatch(r"Train with .+: the odds of beating Keras' default are \d+% .+\.", verdict)
    marks = page.locator("#result .reasons .tag").all_inner_texts()
    assert marks == ["probe", "rule", "prior"]
    assert "closer than the noise" in page.locator("#result .reasons li").nth(1).inner_text()


@pytest.mark.parametrize("scripts", [True, False])
def test_code_is_there_for_each_backend(opened: Opened, job: dict[str, str], scripts: bool) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    page = opened(job["succeeded"], java_script_enabled=scripts, permissions=permissions)
    answer = page.locator("#result")
    for backend in ("torch", "tensorflow", "jax"):
        answer.get_by_role("radio", name=backend, exact=True).check()
        code = answer.locator("pre:visible")
        assert code.count() == 1
        text = code.inner_text()
        assert f'os.environ["KERAS_BACKEND"] = "{backend}"' in text
        assert text.index("KERAS_BACKEND") < text.index("import keras"), "Keras reads it once"
        if scripts:
            answer.get_by_role("button", name="Copy code").click()
            assert page.evaluate("navigator.clipboard.readText()").strip() == text.strip()


def test_the_drawing_follows_the_schedule(opened: Opened, job: dict[str, str]) -> None:
    page = opened(job["succeeded"])
    line = page.locator("#result .schedule polyline").get_attribute("points")
    points = [tuple(map(float, pair.split(","))) for pair in line.split()]
    across, down = 300, 90  # 6 160 steps, and a rate from 0.003 down to 0
    for x, y in points:
        step = x / across * 6159
        fallen = max(0.0, (step - 4620) / 1540)
        assert y == pytest.approx(down * fallen, abs=0.1), f"at step {step:.0f}"
    said = page.locator("#result .schedule").inner_text()
    assert "0.003" in said
    assert "6,160 steps" in said


# --- the table ---


@pytest.mark.parametrize("scripts", [True, False])
def test_the_table_is_sorted_by_any_column_and_the_best_stays_first(
    opened: Opened, job: dict[str, str], scripts: bool
) -> None:
    page = opened(job["succeeded"], java_script_enabled=scripts)
    adam, adamw, sgd, newton = (label for label, *_ in TRIALS)

    def press(name: str) -> str:
        button = page.get_by_role("button", name=name)
        button.focus()
        page.keyboard.press("Enter")
        header = page.get_by_role("columnheader", name=name)
        page.locator("th[aria-sort]", has_text=name).wait_for()
        return str(header.get_attribute("aria-sort"))

    assert candidates(page)[0] == adamw
    assert press("Training loss") == "ascending"
    assert candidates(page) == [adamw, adam, sgd, newton], "what has none comes last"
    assert press("Time") == "ascending"
    assert candidates(page) == [adamw, newton, sgd, adam]
    assert press("Steps") == "ascending"
    assert candidates(page) == [adamw, newton, sgd, adam]
    page.get_by_role("button", name="Steps").press("Enter")
    page.locator("th[aria-sort=descending]").wait_for()
    assert candidates(page) == [adamw, adam, sgd, newton]
    assert page.url.endswith("?sort=-steps"), "the link keeps the order"
    assert page.locator("th[aria-sort]").count() == 1
    if scripts:
        assert "Steps" in page.evaluate("document.activeElement.textContent")


def test_what_went_wrong_is_said_in_words(opened: Opened, job: dict[str, str]) -> None:
    rows = opened(job["succeeded"]).locator("#table tbody tr")
    assert "best" in rows.filter(has_text="AdamW").inner_text()
    assert "diverged" in rows.filter(has_text="SGD 30").inner_text()
    assert "not feasible" in rows.filter(has_text="Newton").inner_text()
    # Adam keeps two numbers of 4 bytes for each of the sample's 8 970 weights.
    assert f"{2 * 4 * 8970 / 1024:.3g} KiB" in rows.filter(has_text="Adam 0.001").inner_text()
    assert "2.5 s" in rows.filter(has_text="Adam 0.001").inner_text()


def test_the_trials_are_downloaded_as_csv_without_formulas(
    opened: Opened, job: dict[str, str], running: Web
) -> None:
    page = opened(job["succeeded"])
    with page.expect_download() as download:
        page.get_by_role("link", name="the short trainings, as CSV").click()
    text = download.value.path().read_text("utf-8")
    assert download.value.suggested_filename.endswith(".csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["candidate"] for row in rows] == [
        *(label for label, *_ in TRIALS[:3]),
        "'=Newton 1",
    ]
    assert [row["validation_loss"] for row in rows] == ["1.07", "0.36", "", ""]
    assert [row["seconds"] for row in rows] == ["2.5", "1.75", "0.5", "0.0"]
    with page.expect_download() as download:
        page.get_by_role("link", name="everything, as JSON").click()
    held = running.http.get(f"/v1{job['succeeded']}").text
    assert download.value.path().read_text("utf-8") == held


# --- what follows ---


def test_measuring_again_takes_the_next_budget(
    opened: Opened, job: dict[str, str], running: Web
) -> None:
    page = opened(job["succeeded"], java_script_enabled=False)
    page.get_by_role("button", name="Measure again with more budget").click()
    page.get_by_text("Waiting for a free worker").wait_for()
    assert job["succeeded"] not in page.url
    began = running.http.get(f"/v1/recommendations/{page.url.rpartition('/')[2]}").json()["request"]
    was = running.http.get(f"/v1{job['succeeded']}").json()["request"]
    # A standard budget is five times a quick one: 50 % of a training for 10 %.
    assert (began.pop("tier"), began.pop("max_seconds")) == ("standard", 5 * was["max_seconds"])
    assert began.items() <= was.items()
    assert page.get_by_role("button", name="Measure again").count() == 0, "it has not ended"


def test_nothing_is_larger_than_thorough(opened: Opened, job: dict[str, str]) -> None:
    page = opened(job["thorough"])
    page.get_by_role("link", name="Ask for something else").wait_for()
    assert page.get_by_role("button", name="Measure again").count() == 0


def test_a_failed_job_says_what_to_do(opened: Opened, job: dict[str, str]) -> None:
    said = opened(job["failed"]).locator("#reason").inner_text()
    assert "Column 'y' has 3 text values." in said
    assert "Change the data" in said


def test_a_cancelled_job_shows_what_was_known_by_then(opened: Opened, job: dict[str, str]) -> None:
    page = opened(job["cancelled"])
    page.get_by_text("Cancelled: this is what was known by then.").wait_for()
    assert ADVISED in page.locator("#result").inner_text()


# --- for everybody ---


@pytest.mark.parametrize("source", ["A sample", "My files", "I describe it"])
def test_the_form_shuts_nobody_out(opened: Opened, source: str) -> None:
    page = opened("/", bypass_csp=True)
    page.get_by_label(source).check()
    if source == "A sample":  # with an answer, else with what is missing
        page.locator("#answer .verdict").wait_for()
    else:
        page.get_by_role("button", name="Measure on my data").click()
        page.get_by_role("alert").wait_for()
    assert found_by_axe(page) == []


@pytest.mark.parametrize("state", STATES)
def test_a_job_shuts_nobody_out(opened: Opened, job: dict[str, str], state: str) -> None:
    page = opened(job[state], bypass_csp=True)
    page.locator(f"html[data-state={state}]").wait_for(state="attached")
    if state != "queued":
        until(lambda: page.locator("#chart .trace").count(), "the chart is drawn")
    assert found_by_axe(page) == []


@pytest.mark.parametrize("path", ["/catalog", "/docs", "/recommendations/none"])
def test_other_pages_shut_nobody_out(opened: Opened, path: str) -> None:
    page = opened(path, bypass_csp=True)
    # Entries and routes are made by one template each: some of them are enough.
    for kind in (".entry", ".route"):
        page.evaluate(
            "kind => [...document.querySelectorAll(kind)].slice(5).forEach(e => e.remove())", kind
        )
    assert found_by_axe(page) == []


@pytest.mark.parametrize("scripts", [True, False])
def test_a_fault_says_what_to_give_and_leads_to_its_field(opened: Opened, scripts: bool) -> None:
    page = opened("/", java_script_enabled=scripts)
    page.get_by_label("Epochs").fill("0")
    page.get_by_text("More: budget").click()
    page.get_by_label("Time limit").fill("4000")
    page.get_by_role("button", name="Measure on my data").click()
    told = page.get_by_role("alert")
    told.get_by_text("Epochs: Give at least 1.").wait_for()
    told.get_by_text("Max seconds: Give at most 3600.").wait_for()
    assert told.locator("li").count() == 2
    told.get_by_role("link", name="Max seconds").press("Enter")
    page.locator("#max_seconds:focus").wait_for()
    assert page.get_by_label("Epochs").input_value() == "0"


@pytest.mark.parametrize("path", ["/", "succeeded"])
def test_a_narrow_screen_shuts_nobody_out(opened: Opened, job: dict[str, str], path: str) -> None:
    size = {"width": 360, "height": 800}
    page = opened(job.get(path, path), bypass_csp=True, viewport=size)
    page.wait_for_load_state("networkidle")
    assert found_by_axe(page) == []


@pytest.mark.parametrize("refused", [False, True])
def test_the_sign_in_shuts_nobody_out(browser: Any, tmp_path: Path, refused: bool) -> None:
    with (
        web(Settings(data_dir=tmp_path, keys="required")) as closed,
        pages(browser, str(closed.http.base_url)) as open_,
    ):
        page = open_("/", bypass_csp=True)
        page.get_by_role("heading", name="Sign in").wait_for()
        if refused:
            page.get_by_label("Key").fill("kgo_6FT15822_nothing")
            page.keyboard.press("Enter")
            page.get_by_role("alert").wait_for()
        assert found_by_axe(page) == []


def test_a_job_s_link_is_copied_whole(opened: Opened, job: dict[str, str]) -> None:
    page = opened(job["failed"], permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.evaluate("location.origin") + job["failed"]


def test_nothing_moves_for_who_wants_no_motion(opened: Opened) -> None:
    look = "getComputedStyle(document.documentElement).scrollBehavior"
    assert opened("/", reduced_motion="reduce").evaluate(look) == "auto"
    assert opened("/", reduced_motion="no-preference").evaluate(look) == "smooth"


# --- the catalogue ---


def test_the_catalogue_is_filtered_by_family_and_opened_by_its_links(opened: Opened) -> None:
    page = opened("/catalog#lbfgs")
    named = page.locator("#lbfgs")
    assert named.get_attribute("open") is not None
    for part in ("When to use it", "Rule, in LaTeX", "Arguments", "Cost", "Paper", "References"):
        assert part in named.inner_text()
    against = named.locator("h3", has_text="When not to use it")
    assert "it keeps 20 numbers for each weight" in named.inner_text(), "ten pairs of vectors"
    assert against.count() == 1
    adam = page.locator("#adam")
    adam.locator("summary").click()
    assert "When not" not in adam.inner_text()
    page.get_by_label("Family").select_option(label="Schedules")
    assert page.get_by_role("heading", name="Optimizers").is_hidden()
    page.locator("#warmup_stable_decay").wait_for()
    assert named.is_hidden()
    page.get_by_label("Family").select_option(label="The loss again at each step")
    page.get_by_role("searchbox").fill("nocedal")
    until(lambda: "of" in page.locator("#found").inner_text(), "they are counted")
    assert named.is_visible()
