"""The page on ways of choosing, from the figures of `benchmarks.advice`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Report = dict[str, Any]
Cell = dict[str, Any]
MakeTable = Callable[[Sequence[str], Iterable[Sequence[str]]], str]

HEAD = """# Choosing an optimizer, a rate and a schedule

How good ways of choosing are, replayed on recorded trainings.
`python -m benchmarks.advice` judges, with a file for the raw figures; `python -m benchmarks.pages`
makes this page of them.
Every task was trained under a grid of 48 configurations (24 where convolutions or attention make
steps dear) with two seeds each, and under Keras' default with five.
A rule answers as if it had never seen the task: what it learns, it learns from other families
(architecture and data source).
It is shown one seed's trainings, pays for what it looks at, and is judged by the other seed's.
Figures in brackets are 95 % intervals from resampled tasks.

The target is the default's best validation loss, median over five seeds.
*regret* is 0 for the best configuration (chosen on one seed, read off the other) and 1 for the
default, cut off at -0.5 and 3, over the tasks where that gap is more than twice the noise of seeds.
*time ratio* is the step that first reaches the target over that of the default; never counts as 4
in the geometric mean, as infinite in the shares.
*stretched* asks for the shortest training with a late cooldown of its own, among ten lengths.
*net saving* is what of one full training is left after the choice was paid and the target reached.
*better* and *worse by > 1 %* compare the best validation loss with the default's on the same seed,
which shares first weights and batches.
*cost* is in full trainings.
"""


def sections(report: Report, table: MakeTable) -> Iterable[str]:
    """What was measured, the rules, the odds, and what the table says by itself."""
    yield _contents(report["table"])
    yield f"### Rules, {report['part']}"
    yield table(RULES, [_rule(cell) for cell in report["cells"]])
    yield "Searches cut their trials off at the length that turned out best for them."
    yield "![Share of tasks against the time ratio](advice_profile.png)"
    for name, title in PARTS.items():
        part = [{**cell[name], "rule": cell["rule"]} for cell in report["cells"] if name in cell]
        yield title
        yield table(RULES, [_rule(cell) for cell in part])
    test = [(cell, cell["test"]) for cell in report["cells"] if "test" in cell]
    if test:
        yield "### The test part"
        yield (
            "Three families in ten, scored once for each release; "
            "`docs/benchmarks/advice-history.json` keeps all scores."
        )
        yield table(RULES, [_rule({**figures, "rule": cell["rule"]}) for cell, figures in test])
    yield "### Lengths, savings, odds"
    yield table(MORE, [_more(cell) for cell in report["cells"]])
    yield "![Stated chance against what happened](advice_calibration.png)"
    if report.get("duels"):
        yield "### One against the other"
        yield DUELS
        yield table(DUELS_HEADINGS, [_duel(row) for row in report["duels"]])
    if report.get("hypotheses"):
        yield "### What advice may rest on"
        yield table(
            ["idea", "figures", "holds"],
            [
                [row["idea"], row["figures"], "yes" if row["holds"] else "no"]
                for row in report["hypotheses"]
            ],
        )
    yield "### What short trainings foretell"
    yield FIDELITY
    yield table(FIDELITY_HEADINGS, [_fidelity(row) for row in report["fidelity"]])
    yield "### Which optimizers are best, and where"
    yield WINNERS
    yield table(WINNERS_HEADINGS, [_winner(row) for row in report["winners"]])
    yield "### How much there is to gain"
    yield DISTANCES
    yield table(DISTANCES_HEADINGS, [_distance(row) for row in report["distances"]])
    yield "### The tasks"
    yield TASKS
    yield table(TASKS_HEADINGS, [_task(row) for row in report["tasks"]])
    if report.get("real"):
        yield "### The recommender itself"
        yield REAL
        yield table(REAL_HEADINGS, [_real(row) for row in report["real"]])


def _contents(table: dict[str, Any]) -> str:
    kinds = ", ".join(f"{name} {count}" for name, count in table["architectures"].items())
    return (
        f"The table holds {table['tasks']} tasks from {table['sources']} data sources "
        f"({table['families']} families, {table['test_tasks']} tasks in the test part): "
        f"{table['trainings']:,} trainings of {table['shortest']:,} to {table['longest']:,} steps, "
        f"{table['at_least_6000']} tasks of at least 6,000, "
        f"{table['million_gradients']:.0f} million gradients in {table['core_hours']:.1f} hours of "
        f"one core, {table['bytes'] / 1e6:.1f} MB.\n\n"
        f"Tasks by architecture: {kinds}."
    )


PARTS = {
    "gainful_tasks": "The same for tasks where the best configuration gains more than noise.",
    "long": "The same for tasks of at least 6 000 steps, where the quick tier can race.",
}
RULES = [
    "rule",
    "cost",
    "mean regret",
    "median regret",
    "time ratio",
    "≤ 0.5",
    "≤ 0.75",
    "better",
    "worse by > 1 %",
]


def _rule(cell: Cell) -> list[str]:
    return [
        cell["rule"],
        f"{cell['cost']:.2f}",
        *(_number(cell[name]) for name in ("mean_regret", "median_regret", "time_ratio")),
        *(_percent(cell[n]) for n in ("within_half", "within_three_quarters", "better", "harm")),
    ]


MORE = [
    "rule",
    "stretched time ratio",
    "stretched ≤ 0.5",
    "net saving",
    "worse by > 5 %",
    "80 % interval covers",
    "Brier score",
]


def _more(cell: Cell) -> list[str]:
    return [
        cell["rule"],
        _number(cell["stretched_ratio"]),
        _percent(cell["stretched_within_half"]),
        _percent(cell["net_saving"]),
        _percent(cell["catastrophe"]),
        _percent(cell["coverage"]) if "coverage" in cell else "",
        _number(cell["brier"]) if "brier" in cell else "",
    ]


FIDELITY = """\
Of the settings of a task with something to gain, short trainings on one seed against the best
loss of the full training (late cooldown) on the other: Spearman's correlation; the regret of taking
the leader, the best of the leading three, or the best of the leading quarter; and how often the
best of all is in that quarter. *annealed* trainings are cooled down at their end,
*truncated* ones are cut off from a constant rate after as many steps.
"""
FIDELITY_HEADINGS = [
    "length",
    "kind",
    "tasks",
    "correlation",
    "regret of the leader",
    "of three",
    "of a quarter",
    "best in that quarter",
]


def _fidelity(row: dict[str, Any]) -> list[str]:
    figures = (row[name] for name in ("spearman", "leader", "best_of_three", "best_of_quarter"))
    return [
        f"{row['share']:.0%}",
        row["kind"],
        f"{row['tasks']:.0f}",
        *(f"{value:.2f}" for value in figures),
        f"{row['recall']:.0%}",
    ]


DUELS = """\
On how many tasks the recommender's best validation loss, mean over seeds, is below that of a rival
who spent as much, or nothing. p is that of a two-sided sign test.
"""
DUELS_HEADINGS = [
    "rule",
    "rival",
    "lower",
    "higher",
    "share lower",
    "p",
    "share lower, tasks with a gain",
]


def _duel(row: dict[str, Any]) -> list[str]:
    return [
        row["rule"],
        row["rival"],
        str(row["lower"]),
        str(row["higher"]),
        f"{row['share']:.0%}" if "share" in row else "",
        f"{row['p']:.3f}" if "p" in row else "",
        f"{row['gainful_share']:.0%}" if "gainful_share" in row else "",
    ]


WINNERS = """The best configuration of each optimizer, chosen on one seed and read off the other.
*close* is within 2 % of the default's loss from the best; *alone* where no other optimizer is.
"""
WINNERS_HEADINGS = ["optimizer", "tasks", "best", "close", "alone", "alone on"]


def _winner(row: dict[str, Any]) -> list[str]:
    where = ", ".join(f"{name} {count}" for name, count in row["where"].items())
    return [
        row["method"],
        str(row["tasks"]),
        *(f"{row[n] / row['tasks']:.0%}" for n in ("first", "near")),
        f"{row['only'] / row['tasks']:.0%}",
        where,
    ]


DISTANCES = """\
Best validation loss against the default's, medians: of the best configuration (chosen on
one seed, read off the other) and of the blind choice, Adam at 0.003 with a late cooldown.
"""
DISTANCES_HEADINGS = [
    "tasks",
    "number",
    "with a gain beyond noise",
    "best configuration",
    "blind choice",
    "its time ratio",
    "worse by > 1 %",
]


def _distance(row: dict[str, Any]) -> list[str]:
    return [
        row["group"].replace("_", " "),
        str(row["tasks"]),
        str(row["gainful"]),
        f"{row['oracle']:+.1%}",
        f"{row['blind']:+.1%}",
        f"{row['blind_time']:.2f}",
        f"{row['blind_worse']:.0%}",
    ]


TASKS = """\
Nothing of the data is in this repository: `constraints/tasks.txt` pins the packages that ship them.
"""
TASKS_HEADINGS = [
    "task",
    "what",
    "kind",
    "source",
    "steps",
    "parameters",
    "best configuration",
    "part",
    "licence",
]


def _task(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        row["summary"],
        row["architecture"].replace("_", " "),
        row["source"].replace("_", " "),
        f"{row['steps']:,}",
        f"{row['parameters']:,}",
        f"{row['oracle']:+.0%}",
        "test" if row["test"] else "development",
        row["licence"],
    ]


REAL = """\
`recommend` itself was asked on these tasks, and its answer was trained by `fit` from
other first weights; beside it, what the replay of the same rule said. Losses are against
the default's recorded median.
"""
REAL_HEADINGS = [
    "task",
    "advised",
    "replayed",
    "loss",
    "replayed loss",
    "time ratio",
    "replayed time ratio",
    "cost",
]


def _real(row: dict[str, Any]) -> list[str]:
    return [
        row["task"],
        row["advised"],
        row["replayed"],
        f"{row['excess']:+.1%}",
        f"{row['replayed_excess']:+.1%}",
        _ratio(row["time_ratio"]),
        _ratio(row["replayed_time_ratio"]),
        f"{row['cost']:.2f}",
    ]


def _ratio(value: float | None) -> str:
    return "never" if value is None or math.isinf(value) else f"{value:.2f}"


def _number(value: Sequence[float]) -> str:
    middle, low, high = value
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _percent(value: Sequence[float]) -> str:
    middle, low, high = value
    return f"{middle:.0%} ({low:.0%} to {high:.0%})"
