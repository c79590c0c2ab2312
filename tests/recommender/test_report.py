"""The report: what it says of real advices, and of every odd kind, as a page and on a terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import numpy as np
import plotly.graph_objects as go
import pytest
from rich.console import Console

from recommender import Advice, recommend, words
from recommender.budget import SHARE, TIERS, Cost
from recommender.candidates import Candidate
from recommender.decision import Basis, Code, by_prior
from recommender.diagnostics import Diagnostics, Finding
from recommender.knowledge import odds
from recommender.presentation import race, spending, terminal
from recommender.presentation.content import document
from recommender.presentation.curves import MOST_POINTS, SMOOTHING, smoothed
from recommender.presentation.document import Curves, Interval, Table
from recommender.presentation.figures import figure
from recommender.presentation.terminal import HEIGHTS, sparkline
from recommender.probes import ProbeResult, Rung
from recommender.rehearsal import Rehearsed, outcomes
from recommender.settings import Setting
from tests.recommender.problems import data, model

WIDTH = 80
HOSTILE = "<script>alert('$title')</script> & \"more\" </p>"


@pytest.fixture(scope="module")
def raced() -> Advice:
    arguments: dict[str, Any] = {"epochs": 250, "loss": "mse", "batch_size": 32}
    return recommend(
        model(batch_norm=True), *data(), tier="standard", include=["adagrad"], progress=False,
        **arguments,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tried() -> Advice:
    """One with a trial on all examples beside the race."""
    arguments: dict[str, Any] = {"epochs": 250, "loss": "mse", "batch_size": 32}
    return recommend(model(), *data(), tier="standard", progress=False, **arguments)


@pytest.fixture(scope="module")
def instant() -> Advice:
    summary = {"shape": [6], "task": "regression", "samples": 2000}
    return recommend({"family": "linear"}, summary, tier="instant", loss="mse", progress=False)


def changed(advice: Advice, **changes: Any) -> Advice:
    """The same advice but for some fields; those it has more than this file knows stay."""
    return dataclasses.replace(advice, **changes)


def blocked(advice: Advice) -> Advice:
    findings = (
        Finding("squashed_twice", f"Mend this: {HOSTILE}", True),
        Finding("label_noise", "Labels look noisy."),
    )
    decision = by_prior(advice.candidates, "blocking_finding", "Nothing was raced.")
    seen = Diagnostics(math.nan, findings, (), None)
    return changed(advice, results=(), diagnostics=seen, decision=decision, evidence="prior")


def all_diverged(advice: Advice) -> Advice:
    broken = tuple(
        ProbeResult(r.setting, (Rung(100, (math.inf,) * 8),), (1.0, 1e30, math.nan), 3, "diverged")
        for r in advice.results
    )
    decision = by_prior(advice.candidates, "budget_exhausted", "Nobody held.")
    return changed(advice, results=broken, decision=decision)


def without_a_rung(advice: Advice) -> Advice:
    stopped = "the budget ended before its first rung"
    few = tuple(ProbeResult(r.setting, (), r.losses[:3], None, stopped) for r in advice.results)
    none = ProbeResult(advice.results[0].setting, (), (), None, stopped)
    decision = by_prior(advice.candidates, "budget_exhausted", "The budget did not last.")
    return changed(advice, results=(none, *few[1:]), decision=decision)


def below_zero(advice: Advice) -> Advice:
    results = tuple(
        dataclasses.replace(
            r,
            losses=tuple(v - 3 for v in r.losses),
            rungs=tuple(Rung(one.step, tuple(b - 3 for b in one.blocks)) for one in r.rungs),
        )
        for r in advice.results
    )
    return changed(advice, results=results)


def boundless(advice: Advice) -> Advice:
    expected = dataclasses.replace(
        advice.expected, loss_ratio=(0.02, 0.9, math.inf), time_ratio=math.inf
    )
    huge = dataclasses.replace(advice.results[0], losses=(1e37,) * 200)
    return changed(advice, expected=expected, results=(huge, *advice.results[1:]))


def of_long_names(advice: Advice) -> Advice:
    long = Setting("adam", 2e-3, (("x" * 300, 0.5),))
    one = Candidate(long, "late_cooldown", "requested", 1.0, "the caller asked for it")
    probe = ProbeResult(long, (Rung(100, (0.5,) * 8),), (1.0,) * 50, None, "place 5 of 5")
    return changed(
        advice,
        candidates=(*advice.candidates, one),
        results=(*advice.results, probe),
        notes=(HOSTILE, "y" * 400),
        nearest=((HOSTILE, HOSTILE, 0.3),),
    )


def of_the_default(advice: Advice) -> Advice:
    (default,) = [c for c in advice.candidates if c.role == "default"]
    decision = dataclasses.replace(advice.decision, candidate=default, code="default_leads")
    return changed(advice, decision=decision)


def of_a_requested_one(advice: Advice) -> Advice:
    (one,) = [c for c in advice.candidates if c.role == "requested"]
    return changed(advice, decision=dataclasses.replace(advice.decision, candidate=one))


def alone(advice: Advice) -> Advice:
    cost = Cost(0.0, 0.0, 0.1, 0.4, 0.0, {})
    only = (advice.decision.candidate,)
    return changed(advice, candidates=only, results=(), nearest=(), notes=(), cost=cost)


ODD: dict[str, Callable[[Advice], Advice]] = {
    "as it is": lambda advice: advice,
    "blocked": blocked,
    "all diverged": all_diverged,
    "without a rung": without_a_rung,
    "synthetic": lambda advice: changed(advice, evidence="synthetic"),
    "below zero": below_zero,
    "boundless": boundless,
    "of long names": of_long_names,
    "of the default": of_the_default,
    "of a requested one": of_a_requested_one,
    "alone": alone,
    "unchecked": lambda advice: changed(advice, diagnostics=None),
    **{f"tier {t}": lambda advice, t=t: changed(advice, tier=t) for t in TIERS},
}


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest, raced: Advice) -> Advice:
    return ODD[request.param](raced)


class Page(HTMLParser):
    """Reads a page: text per element, tables, attributes; complains of tags that do not match."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.captions = self.scopes = 0
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag in self.VOID:
            return
        self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.captions += tag == "caption"
        self.scopes += tag == "th" and any(name == "scope" for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts[-1] += data
            return
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def saved(advice: Advice, folder: Path) -> str:
    return advice.save_report(folder / "report.html").read_text(encoding="utf-8")


def printed(advice: Advice, width: int = WIDTH) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    advice.show(console)
    return console.export_text()


def plots(page: Page) -> list[Any]:
    return [json.loads(text) for text in page.scripts if text.startswith('{"data"')]


# --- any advice ---


def test_every_kind_makes_a_sound_page(odd: Advice, tmp_path: Path) -> None:
    source = saved(odd, tmp_path)
    page = Page(source)
    assert page.captions == len(page.tables), "every table says what it shows"
    assert page.scopes == sum(
        cell is not None for t in page.tables for r in t for cell in r[:1]
    ) + sum(len(table[0]) - 1 for table in page.tables), "rows and columns are named"
    for table in page.tables:
        assert len({len(row) for row in table}) == 1
    assert odd.decision.candidate.label in page.text
    assert not re.search(r"\bnan\b", page.text.partition("All of it as JSON")[0])
    assert not [a for a in page.attributes if a[1] in ("src", "href", "srcset", "action", "data")]
    style = source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in source


def test_every_kind_fits_a_terminal(odd: Advice) -> None:
    shown = printed(odd)
    code = odd.code.splitlines()
    wide = [one for one in shown.splitlines() if len(one.rstrip()) > WIDTH and one not in code]
    assert not wide
    assert odd.decision.candidate.label in shown.replace("\n", " ")
    for line in code:
        assert line in shown
    assert "\x1b" not in shown
    assert not re.search(r"\bnan\b", shown)


def test_a_terminal_cuts_nothing_off(odd: Advice) -> None:
    """Whatever a cell says is there, however it was folded."""
    for section in document(odd).sections:
        for table in section.of(Table):
            shown = Console(file=io.StringIO(), width=WIDTH, record=True)
            shown.print(terminal.shown(table))
            seen = Counter("".join(shown.export_text().split()))
            cells = [*table.columns, *(cell for row in table.rows for cell in row.cells)]
            wanted = Counter("".join("".join(cells).split()))
            assert not wanted - seen, table.caption


def test_every_kind_has_a_short_text_and_a_fragment(odd: Advice) -> None:
    text = str(odd)
    assert odd.code in text
    assert len(text.splitlines()) < 20
    assert repr(odd).startswith("<Advice: ")
    assert "\n" not in repr(odd)
    fragment = Page(odd._repr_html_())
    assert odd.decision.candidate.label in fragment.text
    assert not fragment.scripts


def test_every_plot_has_finite_axes(odd: Advice) -> None:
    for section in document(odd).sections:
        for block in section.blocks:
            if isinstance(block, (Curves, Interval)):
                drawn = figure(block)
                for axis in (drawn.layout.xaxis, drawn.layout.yaxis):
                    assert np.isfinite(axis.range or (0, 1)).all()
                json.loads(drawn.to_json())


@pytest.mark.parametrize("make", [blocked, of_long_names], ids=["findings", "notes and tasks"])
def test_what_a_caller_names_is_never_markup(
    make: Callable[[Advice], Advice], raced: Advice, tmp_path: Path
) -> None:
    plain, hostile = Page(saved(raced, tmp_path)), Page(saved(make(raced), tmp_path))
    assert HOSTILE in hostile.text
    assert not any("alert('$title')" in s and not s.startswith("{") for s in hostile.scripts[1:-1])
    assert hostile.scripts[0] == plain.scripts[0]
    assert hostile.scripts[-1] == plain.scripts[-1]


def test_a_plot_takes_names_for_text() -> None:
    name = "</script><b>bold</b>"
    probe = ProbeResult(Setting("adam", 1e-3, ((name, 1.0),)), (), (2.0, 1.0), None, "")
    (trace,) = figure(Curves((probe,))).data
    assert "&lt;b&gt;bold" in trace.name
    assert "<b>" not in trace.hovertemplate


# --- a race ---


def test_trials_stand_apart_from_the_race(tried: Advice, tmp_path: Path) -> None:
    page = Page(saved(tried, tmp_path))
    trials = {c.setting.label for c in tried.candidates if c.role == "trial"}
    assert trials
    (table,) = [t for t in page.tables if t[0][0] == "Optimizer" and "cost" in t[0][2]]
    assert {row[0] for row in table[1:]} == trials
    (race,) = [t for t in page.tables if t[0][0] == "Candidate" and "Place" in t[0]]
    assert not trials & {row[0] for row in race[1:]}
    for result in tried.results:
        if result.setting.label in trials:
            assert f"{result.rungs[-1].loss:.4g}" in printed(tried)


def test_every_probe_is_there_with_every_loss(raced: Advice, tmp_path: Path) -> None:
    page = Page(saved(raced, tmp_path))
    (table,) = [t for t in page.tables if t[0][0] == "Candidate" and "Place" in t[0]]
    rows = {row[0]: row for row in table[1:]}
    steps = sorted({rung.step for r in raced.results for rung in r.rungs})
    assert len(rows) == len(raced.results)
    for result in raced.results:
        row = rows[result.setting.label]
        losses = {rung.step: rung.loss for rung in result.rungs}
        shown = [f"{losses[step]:.4g}" if step in losses else "-" for step in steps]
        assert row[1 : 1 + len(steps)] == shown
        assert result.stopped.lower() in row[-1].lower()
    (drawn,) = [
        p for p in plots(page) if "loss" in p["layout"]["yaxis"].get("title", {}).get("text", "")
    ]
    assert {trace["name"] for trace in drawn["data"]} == {r.setting.label for r in raced.results}
    shown = printed(raced)
    for result in raced.results:
        assert result.setting.label in shown
        for rung in result.rungs:
            assert f"{rung.loss:.4g}" in shown


def test_places_follow_the_decision(raced: Advice) -> None:
    first = race.ranked(raced)[0]
    assert first.setting == raced.decision.candidate.setting
    lengths = [r.rungs[-1].step if r.rungs else 0 for r in race.ranked(raced)]
    assert lengths == sorted(lengths, reverse=True), "who got further stands higher"


def test_the_order_of_a_report_is_that_of_the_questions(raced: Advice, tmp_path: Path) -> None:
    headings = re.findall(r"<h2>(.+?)</h2>", saved(raced, tmp_path))
    assert headings == [section.heading for section in document(raced).sections]
    assert [section.name for section in document(raced).sections] == [
        "expect", "certainty", "mend", "race", "schedule", "alternatives", "nearest", "cost",
        "budget",
    ]  # fmt: skip


def test_an_alternative_says_what_was_measured_between_the_two(raced: Advice) -> None:
    chosen = raced.decision.candidate
    by = {r.setting: {rung.step: rung.loss for rung in r.rungs} for r in raced.results}
    (table,) = [b for b in race.alternatives(raced) if isinstance(b, Table)]
    for row in table.rows:
        (one,) = [c for c in raced.candidates if c.label == row.cells[0]]
        assert one != chosen
        both = set(by.get(one.setting, {})) & set(by[chosen.setting])
        if both:
            assert f"t step {max(both):,} its validation loss was" in " ".join(row.cells)


def test_more_figures_come_first(raced: Advice, tmp_path: Path) -> None:
    extra = go.Figure(go.Scatter(x=[1], y=[2])).update_layout(title="Full trainings")
    path = raced.save_report(tmp_path / "report.html", [extra])
    page = Page(path.read_text(encoding="utf-8"))
    assert plots(page)[0]["layout"]["title"]["text"] == "Full trainings"
    assert len(plots(page)) == 4


# --- kinds of advice ---


def said(advice: Advice) -> str:
    return " ".join(printed(advice, 2000).split())


def test_an_instant_answer_says_that_nothing_was_trained(instant: Advice) -> None:
    text = said(instant)
    assert "No short training was made." in text
    assert "Nothing was trained." in text
    assert "Place" not in text


def test_a_fault_stands_first(raced: Advice) -> None:
    found = document(blocked(raced))
    assert found.title.startswith("Mend this first")
    assert found.lead[0].text.startswith("Mend this: ")
    (mend,) = [s for s in found.sections if s.name == "mend"]
    assert mend.heading == "First mend"
    assert mend.blocks[0].urgent
    assert words.CODES["blocking_finding"] in said(blocked(raced))


def test_losses_below_zero_are_explained_and_drawn(raced: Advice) -> None:
    advice = below_zero(raced)
    assert "fall below 0" in said(advice)
    assert "fall below 0" not in said(raced)
    assert figure(Curves(advice.results)).layout.yaxis.type is None
    assert figure(Curves(raced.results)).layout.yaxis.type == "log"


def test_a_broken_training_does_not_stretch_the_plot() -> None:
    calm = ProbeResult(Setting("adam", 1e-3), (), tuple(np.linspace(1, 0.9, 50)), None, "")
    wild = ProbeResult(Setting("adam", 1.0), (), (1.0,) * 10 + (1e30,) * 40, 50, "diverged")
    drawn = figure(Curves((calm, calm, wild)))
    assert drawn.layout.yaxis.range[1] < 10


def test_the_default_is_not_compared_with_itself(raced: Advice) -> None:
    found = document(of_the_default(raced))
    (expect,) = [s for s in found.sections if s.name == "expect"]
    assert not any(isinstance(block, Interval) for block in expect.blocks)
    assert words.CODES["default_leads"] in said(of_the_default(raced))


def test_an_optimizer_without_a_record_says_so(raced: Advice) -> None:
    assert "No recorded task was trained with" in said(of_a_requested_one(raced))
    assert "No recorded task was trained with" not in said(raced)


def test_changes_come_with_what_they_did(raced: Advice, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        {"change": "Change B", "reason": "a_code", "measured_effect": "not tested"},
        {"change": "Change C", "reason": "Seen.", "measured_effect": 0.1, "recommended": False},
        {"change": "Change D", "reason": "Seen.", "measured_effect": None, "recommended": False},
        {"change": "Change A", "reason": "Seen.", "measured_effect": -0.23},
    ]
    plain = raced.to_dict() | {"architecture_advice": entries}
    monkeypatch.setattr(Advice, "to_dict", lambda self: plain)
    (mend,) = [s for s in document(raced).sections if s.name == "mend"]
    (table,) = [b for b in mend.blocks if isinstance(b, Table)]
    assert [row.cells[:2] for row in table.rows] == [
        ("Change A", "validation loss 23% lower"),
        ("Change B", "not tested"),
        ("Change C", "validation loss 10% higher"),
        ("Change D", "worse: training broke"),
    ]
    assert [row.marked for row in table.rows] == [True, False, False, False]


# --- money ---


def test_the_bill_adds_up(raced: Advice) -> None:
    (table,) = [b for b in spending.bill(raced) if isinstance(b, Table)]
    *parts, total = [float(row.cells[1].replace(",", "")) for row in table.rows]
    assert sum(parts) == pytest.approx(total, abs=len(parts))
    assert total == pytest.approx(raced.cost.gradients, abs=0.5)


def test_other_tiers_are_priced_at_the_speed_of_this_run(raced: Advice) -> None:
    cost = Cost(1000.0, 0.4, 0.5, 30.0, 10.0, {"sanity": 1000.0})
    advice = changed(raced, cost=cost, full_steps=10_000)
    # 20 seconds for 1 000 gradients.
    assert spending.seconds_per_gradient(advice) == pytest.approx(0.02)
    share = odds()["thorough"]["record"]["long"]["cost"]
    (table,) = [b for b in spending.more(advice) if isinstance(b, Table)]
    assert table.rows[-1].cells[-1] == f"about {words.duration(share * 10_000 * 0.02)}"
    few = changed(raced, cost=dataclasses.replace(cost, gradients=20.0))
    assert spending.seconds_per_gradient(few) is None


def test_every_tier_has_a_record_within_its_limit() -> None:
    for tier in TIERS:
        for kind in ("long", "short"):
            record = odds()[tier]["record"][kind]
            assert record["tasks"] >= 10
            assert 0 <= record["cost"] <= SHARE[tier]
            assert 0 <= record["worse"] <= 1 - record["better"] <= 1


def test_a_record_counts_answers_of_either_length() -> None:
    @dataclasses.dataclass(frozen=True)
    class Task:
        name: str
        full_steps: int

    @dataclasses.dataclass(frozen=True)
    class Judged:
        excess: float

    def answers(steps: int, *excesses: float) -> list[Any]:
        tasks = [Task(f"task {steps} {i}", steps) for i in range(len(excesses))]
        # Where nothing can be gained, the penalty follows from the excess alone.
        return [
            Rehearsed(task, None, None, Judged(excess), 0.25)  # type: ignore[arg-type]
            for task, excess in zip(tasks, excesses, strict=True)
        ]

    seen = answers(9000, -0.3, -0.1, 0.02, 0.005) + answers(500, -0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recommender.rehearsal.penalty", lambda record, score: 1 + score.excess)
        found = outcomes(seen)
    assert found["long"] == {
        "tasks": 4, "loss_ratio": 0.9525, "better": 0.5, "worse": 0.25, "penalty": 0.9062,
        "cost": 0.25,
    }  # fmt: skip
    assert found["short"]["loss_ratio"] == 0.5


# --- pieces ---


def test_smoothing_is_a_running_mean_that_ends_where_the_loss_breaks() -> None:
    losses = np.random.default_rng(0).normal(size=100)
    steps, means = smoothed([*losses, math.nan, 5.0])
    expected = [losses[i : i + SMOOTHING].mean() for i in range(100 - SMOOTHING + 1)]
    np.testing.assert_allclose(means, expected, rtol=1e-12)
    assert steps[0] == SMOOTHING
    assert steps[-1] == 100
    assert len(smoothed(np.ones(100_000))[0]) == MOST_POINTS
    assert [len(part) for part in smoothed([math.nan])] == [0, 0]


def test_a_sparkline_falls_with_its_curve() -> None:
    steps = np.arange(1.0, 101.0)
    drawn = sparkline(steps, 1 / steps, 100, (0.01, 1.0))
    heights = [HEIGHTS.index(sign) for sign in drawn]
    assert heights == sorted(heights, reverse=True)
    assert {drawn[0], drawn[-1]} == {HEIGHTS[-1], HEIGHTS[0]}
    assert len(sparkline(steps[:10], steps[:10], 100, (0.0, 1.0))) == len(drawn) // 2
    assert set(sparkline(steps, 0 * steps, 100, (0.0, 0.0))) == {HEIGHTS[0]}


def test_every_code_has_words(raced: Advice) -> None:
    assert set(words.CODES) == set(get_args(Code))
    assert set(words.BASIS) == set(get_args(Basis))
    for name in raced.cost.by_purpose:
        assert name in words.PURPOSES or name.startswith(words.RUNG)


def test_figures_are_said_in_words() -> None:
    expected = {
        "loss_ratio": [0.71, 0.854, 12.0], "time_ratio": None, "p_beats_default": 0.912,
        "tasks": 99, "confidence": "high",
    }  # fmt: skip
    assert "between 0.71 and 10 or more times" in words.interval(expected)
    assert "(15% lower)" in words.interval(expected)
    assert "never got" in words.pace(expected)
    assert "after 41% of" in words.pace(expected | {"time_ratio": 0.41})
    assert "1.50 times the default's steps" in words.pace(expected | {"time_ratio": 1.5})
    assert "are 91%" in words.headline(expected)
    assert words.distance(1.0) == "the same"
    assert words.distance(0.98) == "2.0% lower"
    assert words.distance(2.4) == "2.4 times as high"
    assert words.distance(math.inf) == "diverged"
    assert [words.duration(s) for s in (0.04, 42, 600, 7200)] == [
        "0.0 s",
        "42 s",
        "10 min",
        "2.0 h",
    ]


def test_a_terminal_that_writes_ascii_gets_ascii(raced: Advice) -> None:
    for encoding in ("ascii", "cp1252"):
        file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        advice = changed(raced, notes=("Layer 'größe ∂'",))
        advice.show(Console(file=file, width=WIDTH))
        file.flush()
        assert raced.decision.candidate.label in file.buffer.getvalue().decode(encoding)


def test_colours_are_for_terminals_that_want_them(
    raced: Advice, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    Console(file=file, width=WIDTH, force_terminal=True, color_system="standard").print(raced)
    assert "\x1b[" in file.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    Console(file=file, width=WIDTH, force_terminal=True, color_system="standard").print(raced)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", file.getvalue())


# --- in a browser ---


@pytest.mark.backend_free
@pytest.mark.parametrize("make", [ODD["as it is"], of_long_names, boundless])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_draws_in_every_width_and_light(
    browser: Any,
    raced: Advice,
    tmp_path: Path,
    make: Callable[[Advice], Advice],
    scheme: str,
    width: int,
) -> None:
    path = make(raced).save_report(tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    page.on("request", lambda r: r.url.startswith("http") and complaints.append(r.url))
    page.goto(path.as_uri())
    page.locator(".plot .main-svg").first.wait_for()
    assert page.locator(".plot:not(:has(.main-svg))").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    text = page.locator(".plot .xtitle").first.evaluate("e => getComputedStyle(e).fill")
    bright = sum(int(part) for part in re.findall(r"\d+", text)[:3]) > 3 * 128
    assert bright == (scheme == "dark"), "the plots are painted as the page is"
    page.close()
    assert not complaints
