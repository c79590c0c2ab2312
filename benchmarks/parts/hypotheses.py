"""Ideas that a recommender may rest on, each asked of the truth table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.parts.rules import grown
from recommender.candidates import best_unprobed, propose
from recommender.knowledge import grid
from recommender.knowledge.grid import Choice
from recommender.knowledge.prior import Outlook, Prior
from recommender.knowledge.score import excess, mean_best, penalty, score, worthwhile
from recommender.knowledge.table import Record
from recommender.settings import Setting

Row = dict[str, Any]
# The rates of one rule that every task was trained at.
RATES = tuple(s for s in grid.SMALL.trunks if s.rule == grid.DEFAULT.rule)
# Where the range test breaks: its loss is this many times the first, or not finite.
BROKEN = 2.0


def all_of(records: Sequence[Record]) -> list[Row]:
    """One row for each idea: what was asked, the figures, and the verdict."""
    return [ask(records) for ask in (edge, drift, cooling, linear, warm, alike, seeds)]


def edge(records: Sequence[Record]) -> Row:
    """Whether the best rate is steadier as a multiple of the rate at which training breaks."""
    raw, relative = [], []
    for record in records:
        for seed in range(record.seeds):
            losses = record.arrays["range_test"][seed]
            broken = ~(losses < BROKEN * losses[0] + 1e-9)
            if losses[0] > 0 and broken.any():
                best = math.log10(_best_rate(record, seed, 1.0))
                raw.append(best)
                relative.append(best - math.log10(grid.RANGE_TEST[int(np.argmax(broken))]))
    a, b = float(np.std(raw)), float(np.std(relative))
    return _row(
        "the best rate over the rate at which a range test breaks is steadier than the rate",
        f"standard deviations over {len(raw)} trainings, in decades: rate {a:.2f}, ratio {b:.2f}",
        holds=b < 0.9 * a,
    )


def drift(records: Sequence[Record]) -> Row:
    """Whether the best rate of a short training is that of the full one."""
    parts = []
    nearer = 0.0
    for share in (0.02, 0.04, 0.16, 0.5):
        shifts = [
            math.log10(_best_rate(r, s, 1.0) / _best_rate(r, s, share))
            for r in records
            if share in grid.horizons(r.full_steps)
            for s in range(r.seeds)
        ]
        down, up = float(np.mean(np.array(shifts) < 0)), float(np.mean(np.array(shifts) > 0))
        nearer = 1 - down - up
        parts.append(f"{share:.0%}: lower later {down:.0%}, the same {nearer:.0%}, higher {up:.0%}")
    return _row(
        "the best rate moves with the length of the training, in either direction",
        "best of four rates of Adam, short against full length; " + "; ".join(parts),
        holds=nearer < 0.9,
    )


def cooling(records: Sequence[Record]) -> Row:
    """Whether a cooldown at the end pays at the same rate."""
    found = [
        _gap(r, Choice(s, "late_cooldown"), Choice(s, "constant"))
        for r in records
        for s in RATES[1:]
    ]
    return _pair("a late cooldown is better than a constant rate (Adam 0.001 to 0.01)", found)


def linear(records: Sequence[Record]) -> Row:
    """Whether decaying from the start is better than cooling down late."""
    found = [
        _gap(
            r,
            Choice(Setting("adam", rate), "linear"),
            Choice(Setting("adam", rate), "late_cooldown"),
        )
        for r in records
        for rate in (3e-3, 1e-2)
    ]
    return _pair("a linear decay to 0 is better than a late cooldown (Adam 0.003, 0.01)", found)


def warm(records: Sequence[Record]) -> Row:
    """Whether AdamW with warmup and cosine is better than with a late cooldown."""
    setting = next(s for s in grid.SMALL.trunks if s.method == "adamw")
    high = next(c for c in grid.SMALL.shaped if c.shape == "warmup_cosine" and c.setting.config)
    found = [_gap(r, high, Choice(setting, "late_cooldown")) for r in records]
    return _pair(f"{high.label} is better than {setting.label} with a late cooldown", found)


def alike(records: Sequence[Record]) -> Row:
    """Whether recorded tasks like the one at hand foretell better than all of them alike."""
    near = _unprobed(records, lambda known, r: known.about(r.facts["description"]))
    every = _unprobed(
        records, lambda known, r: Outlook(known, np.full(len(known.tasks), 1 / len(known.tasks)))
    )
    test = stats.wilcoxon(near, every)
    return _row(
        "weighing recorded tasks by likeness chooses better, untrained, than weighing all alike",
        f"mean penalty {near.mean():.2f} against {every.mean():.2f} "
        f"(p = {test.pvalue:.2f}, Wilcoxon, {len(near)} tasks)",
        holds=bool(near.mean() < every.mean() and test.pvalue < 0.05),
    )


def seeds(records: Sequence[Record]) -> Row:
    """Whether seeds change the order of configurations."""
    found = []
    for record in records:
        if worthwhile(record):
            losses = [[mean_best(record, c, [s]) for c in record.grid.choices] for s in range(2)]
            finite = np.isfinite(losses).all(axis=0)
            a, b = np.array(losses)[:, finite]
            found.append(stats.spearmanr(a, b).statistic)
    middle = float(np.median(found))
    return _row(
        "with the same first weights and batches for all, a second seed gives the same order",
        f"Spearman between two seeds at full length: median {middle:.2f}, "
        f"lowest tenth {np.quantile(found, 0.1):.2f}",
        holds=middle > 0.9,
    )


def _best_rate(record: Record, seed: int, share: float) -> float:
    column = grid.HORIZONS.index(share)
    rows = [record.grid.trunks.index(setting) for setting in RATES]
    losses = record.arrays["branches"][seed, rows, column].mean(axis=-1)
    return RATES[int(np.argmin(losses))].learning_rate


def _gap(record: Record, one: Choice, other: Choice) -> float:
    """Best loss of one choice less that of the other, as a share of the default's."""
    every = range(record.seeds)
    a, b = mean_best(record, one, every), mean_best(record, other, every)
    if not (math.isfinite(a) and math.isfinite(b)):
        return float(np.sign(a - b)) if a != b else 0.0
    return excess(record, a) - excess(record, b)


def _pair(idea: str, found: Sequence[float]) -> Row:
    better = float(np.mean(np.array(found) < -0.01))
    worse = float(np.mean(np.array(found) > 0.01))
    return _row(
        idea,
        f"better by more than 1 % on {better:.0%}, worse on {worse:.0%}, median difference "
        f"{np.median(found):+.1%}",
        holds=better > 1.5 * worse,
    )


def _unprobed(records: Sequence[Record], view: Callable[[Prior, Record], Outlook]) -> Any:
    """Penalty of the answer without probes on each task, its family left out."""
    found = []
    for record in records:
        known = grown(tuple(r for r in records if r.family != record.family))
        measured = [c for c in propose(view(known, record)) if c.choice in record.grid.places]
        choice = best_unprobed(measured).choice
        found.append(penalty(record, score(record, choice, range(record.seeds))))
    return np.array(found)


def _row(idea: str, figures: str, *, holds: bool) -> Row:
    return {"idea": idea, "figures": figures, "holds": holds}
