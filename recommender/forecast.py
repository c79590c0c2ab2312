"""forecast(...): what became of decisions on the same grounds on tasks measured before."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np

from recommender.candidates import WIDTH, Candidate, blind_choice, hurdle, safe_answer
from recommender.knowledge import portfolio
from recommender.settings import Setting

Basis = Literal["probe", "prior", "safe"]


@dataclass(frozen=True)
class Outcome:
    """One recorded task under the present rule.

    Attributes:
        task: Its name.
        basis: On which grounds the rule decided there.
        answer: What it answered.
        loss_ratio: Best validation loss over the default's; below 1 is better.
        time_ratio: Steps to the default's best loss over the default's own; infinite is never.
    """

    task: str
    basis: Basis
    answer: str
    loss_ratio: float
    time_ratio: float


@dataclass(frozen=True)
class Forecast:
    """What to expect, from recorded tasks on which the rule decided on the same grounds.

    Attributes:
        tasks: How many there were.
        p_beats_default: Share of them that ended below the default's best loss, with one success
            and one failure added.
        loss_ratio: 10 %, 50 % and 90 % quantile of the best loss over the default's.
        time_ratio: Median steps to the default's best loss over the default's own; infinite when
            more than half never got there.
        confidence: "high", "medium" or "low".
    """

    tasks: int
    p_beats_default: float
    loss_ratio: tuple[float, float, float]
    time_ratio: float
    confidence: Literal["high", "medium", "low"]

    def to_dict(self) -> dict[str, Any]:
        """The forecast as plain data, ready for JSON."""
        data = dataclasses.asdict(self)
        data["loss_ratio"] = list(self.loss_ratio)
        data["time_ratio"] = self.time_ratio if math.isfinite(self.time_ratio) else None
        data["basis"] = (
            "recorded tasks, one training each, on which the rule was chosen: not yet judged on "
            "tasks it has not seen"
        )
        return data


def forecast(basis: Basis, *, synthetic: bool = False) -> Forecast:
    """The record of decisions made on these grounds.

    Args:
        basis: Grounds of the decision at hand.
        synthetic: Whether probes ran on data drawn from a description; the odds are then pulled
            half-way to even, and the interval doubled.

    Returns:
        The forecast.
    """
    outcomes = [o for o in replay() if o.basis == basis]
    if basis == "prior":
        outcomes = blind_record()
    wins = sum(o.loss_ratio < 1 - 1e-9 for o in outcomes)
    p = (wins + 1) / (len(outcomes) + 2)
    ratios = [o.loss_ratio for o in outcomes] or [1.0]
    low, middle, high = (float(q) for q in np.quantile(ratios, [0.1, 0.5, 0.9]))
    if synthetic:
        p = (p + 0.5) / 2
        low, high = middle - 2 * (middle - low), middle + 2 * (high - middle)
    time = float(np.median([o.time_ratio for o in outcomes] or [1.0]))
    label: Literal["high", "medium", "low"] = (
        "high" if p >= 0.9 else "medium" if p >= 0.75 else "low"
    )
    return Forecast(len(outcomes), p, (low, middle, high), time, label)


@functools.cache
def replay() -> tuple[Outcome, ...]:
    """The present rule on every recorded task, judged by what each answer came to there."""
    from recommender.decision import decide
    from recommender.probes import ProbeResult, Rung

    listed = portfolio()["portfolio"]
    found = []
    for task, record in recorded().items():
        settings = {name: _setting(row) for name, row in record["settings"].items()}
        wanted = [hurdle(), safe_answer()]
        for entry in listed:
            setting = _setting(entry)
            if setting in settings.values():
                wanted.append(
                    Candidate(
                        setting, "late_cooldown", "portfolio", entry["prior"], entry["reason"]
                    )
                )
        # What the quick tier affords: its rule is the one whose record is quoted.
        wanted = wanted[: WIDTH["quick"] + 1]
        by_setting = {settings[name]: row for name, row in record["settings"].items()}
        results = [
            ProbeResult(
                setting,
                tuple(
                    Rung(round(float(share) * record["full_steps"]), tuple(blocks))
                    for share, blocks in by_setting[setting]["rungs"].items()
                ),
                (),
                None,
                "recorded",
            )
            for setting in dict.fromkeys(c.setting for c in wanted)
        ]
        decision = decide(wanted, results, record["initial_loss"])
        found.append(_outcome(task, by_setting, decision.candidate, decision.basis))
    return tuple(found)


def blind_record() -> list[Outcome]:
    """The choice without probes on every recorded task."""
    outcomes = []
    for task, record in recorded().items():
        by_setting = {_setting(row): row for row in record["settings"].values()}
        outcomes.append(_outcome(task, by_setting, blind_choice(), "prior"))
    return outcomes


@functools.cache
def recorded() -> dict[str, Any]:
    """The shipped table: per task and setting the probes' rungs and the best losses."""
    text = resources.files("recommender.knowledge").joinpath("table.json").read_text("utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def _setting(row: dict[str, Any]) -> Setting:
    return Setting(row["method"], float(row["learning_rate"]), tuple(sorted(row["config"].items())))


def _outcome(
    task: str,
    by_setting: dict[Setting, dict[str, Any]],
    answer: Candidate,
    basis: Basis,
) -> Outcome:
    base = by_setting[hurdle().setting]["constant"]
    shape = "cooldown" if answer.shape == "late_cooldown" else "constant"
    row = by_setting[answer.setting][shape]
    first = row["reaches_default"]
    time = first / base["reaches_default"] if first is not None else math.inf
    return Outcome(task, basis, answer.label, row["best"] / base["best"], time)
