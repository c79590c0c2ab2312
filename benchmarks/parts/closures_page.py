"""The page on trials beside the race, from the figures of `benchmarks.closures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Report = dict[str, Any]
Cell = dict[str, Any]
MakeTable = Callable[[Sequence[str], Iterable[Sequence[str]]], str]

HEAD = """# Optimizers that evaluate the loss again, beside the race

What L-BFGS, Levenberg-Marquardt and Newton-CG are worth on recorded tasks, trained on all examples
as one minibatch, against Keras' default and against what the recommender's race answers.
`python -m benchmarks.closures` measures, with a file for the raw figures; `python -m
benchmarks.pages` makes this page of them.
Tasks are those of the truth table with at most 2 600 parameters and 20 000 training examples whose
full training costs at least 40 passes; two seeds each, from the table's first weights.
A trial may cost one full training: all gradients, losses (a third) and products (two or three) that
it evaluates, times the examples over the caller's minibatch.

*excess* is the best validation loss over the default's, less 1, on the same seed: below 0 is
better.
*time ratio* is the cost at which the default's best loss is first reached, over the default's own.
*to the oracle's* is the share of a full training at which the loss of the best of 48 recorded
configurations is reached.
Figures are means over two seeds, and the worse of two times; *passes* is what a full training costs
in gradients over all examples.
"""
CONTEST = """The recommender's contest, replayed.
The trial gets 4, 15 or 60 % of a full training in the tiers quick, standard and thorough, the race
what is left of the tier.
It is advised where its best validation blocks are lower than those of the race's answer, of its
leader and of the default where the race ended: clearly so (twice the standard error of the paired
difference), or in the mean where the model has one layer of weights; and never where it was stopped
because its validation loss fell no more.
"""


def sections(report: Report, table: MakeTable) -> Iterable[str]:
    """Development tasks, what stopped, contests; then the test tasks."""
    tasks = report["tasks"]
    if report["left_out"]:
        yield f"Not measured, though small enough: {', '.join(report['left_out'])}."
    for test, title in ((False, "Development tasks"), (True, "Test tasks")):
        names = [name for name in tasks if tasks[name]["test"] == test]
        yield f"### {title}"
        yield table(HEADINGS, _rows(report, names))
        if not test:
            yield _stopped(report, names)
        chosen = [one for one in report["contests"] if one["test"] == test]
        yield f"### {title}: contests"
        yield CONTEST if not test else "The same on the test tasks, which nothing was chosen on."
        yield table(CONTESTS, _contests(chosen))
        yield _summary(chosen)


HEADINGS = (
    "task", "parameters", "passes", "method", "excess", "time ratio", "to the oracle's",
    "excess of the oracle", "seconds",
)  # fmt: skip


def _rows(report: Report, names: Sequence[str]) -> Iterable[Sequence[str]]:
    for name in names:
        facts = report["tasks"][name]
        by_method: dict[str, list[Cell]] = {}
        for cell in report["cells"]:
            if cell["task"] == name and "failed" not in cell:
                by_method.setdefault(cell["method"], []).append(cell)
        for method, cells in by_method.items():
            yield (
                name,
                str(facts["parameters"]),
                f"{facts['passes']:.0f}",
                method,
                f"{np.mean([c['excess'] for c in cells]):+.3f}",
                _worst([c["time_ratio"] for c in cells]),
                _worst([c["oracle_cost"] for c in cells]),
                f"{facts['oracle_excess']:+.3f}",
                f"{np.mean([c['seconds'] for c in cells]):.0f}",
            )


def _stopped(report: Report, names: Sequence[str]) -> str:
    """What trials came to whose validation loss fell no more."""
    ended = [
        cell
        for cell in report["cells"]
        if cell["task"] in names and "failed" not in cell and "falls no more" in cell["stopped"]
    ]
    worse = sum(cell["excess"] > 0 for cell in ended)
    return (
        f"Of {len(ended)} trials that were stopped because their validation loss fell no more, "
        f"{worse} had ended above the default's best loss: where all examples at once overfit, "
        "minibatches are the better way."
    )


CONTESTS = (
    "task", "tier", "seed", "answer", "excess of the trial", "of the race",
    "time ratio of the trial", "of the race",
)  # fmt: skip


def _contests(contests: Sequence[Cell]) -> Iterable[Sequence[str]]:
    order = {"quick": 0, "standard": 1, "thorough": 2}
    for one in sorted(contests, key=lambda c: (order[c["tier"]], c["task"], c["seed"])):
        yield (
            one["task"],
            one["tier"],
            str(one["seed"]),
            "the trial" if one["advised"] else "the race's",
            f"{one['trial_excess']:+.3f}",
            f"{one['race_excess']:+.3f}",
            _worst([one["trial_time_ratio"]]),
            _worst([one["race_time_ratio"]]),
        )


def _summary(contests: Sequence[Cell]) -> str:
    """What the contest changes: means where a trial was advised, and harm."""
    won = [one for one in contests if one["advised"]]
    if not won:
        return f"No trial was advised in {len(contests)} contests."
    mine, races = (float(np.mean([c[f"{who}_excess"] for c in won])) for who in ("trial", "race"))
    times = [
        math.exp(np.mean([math.log(min(c[f"{who}_time_ratio"] or 4.0, 4.0)) for c in won]))
        for who in ("trial", "race")
    ]
    harm = sum(c["trial_excess"] > 0.01 for c in won)
    races_harm = sum(c["race_excess"] > 0.01 for c in won)
    tasks = len({c["task"] for c in won})
    return (
        f"A trial was advised in {len(won)} of {len(contests)} contests, on {tasks} tasks: excess "
        f"{mine:+.3f} on average, where the race's answer came to {races:+.3f}; time ratio "
        f"{times[0]:.2f}, where it came to {times[1]:.2f} (geometric means, never counts as 4). "
        f"More than 1 % above the default were {harm}, of the race's answers {races_harm}."
    )


def _worst(values: Sequence[float | None]) -> str:
    if any(value is None for value in values):
        return "never"
    return f"{max(v for v in values if v is not None):.2f}"
