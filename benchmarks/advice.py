"""How good ways of choosing an optimizer, a rate and a schedule are, on recorded trainings.

    python -m benchmarks.advice [--json FILE]              rules on the development tasks
    python -m benchmarks.advice --release --json FILE      all tasks, and the test part, once
    KERAS_BACKEND=jax python -m benchmarks.advice --real NAME ... --json FILE

Every rule answers on every task as if it had never seen it: what it learns, it learns from other
families (architecture and data source). It is shown one seed's trainings, pays for what it looks
at, and is judged by another seed's. Three tasks in ten, drawn by family, are the test part: rules
are scored there once for each release, and the history is kept beside the figures. `--real` asks
the recommender itself on the named tasks, trains its answer with Keras, and sets that beside what
the replay said.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as RichTable

from benchmarks.parts import hypotheses, judge, machine, results, terminal
from benchmarks.parts.judge import Outcome, figures
from benchmarks.parts.rules import Recommender, Rule, Search, baselines
from keras_gradopt import __version__
from recommender.knowledge import grid
from recommender.knowledge.grid import Choice
from recommender.knowledge.score import excess, mean_best, oracle_loss, score, worthwhile
from recommender.knowledge.table import FILE, Record, Table, truth
from recommender.settings import Setting
from recommender.statistics import first_reach

HISTORY = Path(__file__).resolve().parent.parent / "docs/benchmarks/advice-history.json"
# Within this share of the best, an optimizer counts as one of the best on a task.
NEAR = 0.02
RATIOS = np.geomspace(0.05, 4.0, 60)
# The strongest single choice that needs no look at the task.
BLIND = Choice(Setting("adam", 3e-3), "late_cooldown")
BLIND_NAME = "Adam 0.003, late cooldown"


def report(table: Table, rules: Sequence[Rule], *, release: bool) -> dict[str, Any]:
    """Everything that is measured by replay.

    Args:
        table: The truth table.
        rules: Who is judged.
        release: Whether to judge on all tasks and on the test part, else on development tasks.
    """
    every = list(table.values())
    tasks = every if release else [record for record in every if not judge.is_test(record)]
    found: dict[str, Any] = {
        "script": "advice",
        "backend": machine.backend(),
        "machine": machine.describe(),
        "ratios": RATIOS.tolist(),
        "part": "all tasks" if release else "development tasks",
        "table": contents(table),
        "tasks": [described(record) for record in every],
        "cells": [],
        "fidelity": judge.fidelity(tasks),
        "winners": winners(tasks),
        "distances": distances(tasks),
    }
    found["hypotheses"] = hypotheses.all_of(tasks)
    cells: dict[str, list[dict[str, Any]]] = {}
    answered: dict[str, list[Sequence[Outcome]]] = {}
    for rule, tell in terminal.told(rules, lambda rule: rule.name):
        outcomes = judge.judged(rule, tasks, tasks, tell)
        cell = _cell(rule, outcomes)
        if release:
            cell["test"] = figures([o for o in outcomes if judge.is_test(o.record)])
        cells.setdefault(rule.name, []).append(cell)
        answered.setdefault(rule.name, []).append(outcomes)
    # A search that was run with several lengths of trials is shown with the best of them.
    best = {name: int(np.argmin([c["mean_regret"][0] for c in own])) for name, own in cells.items()}
    found["cells"] = [own[best[name]] for name, own in cells.items()]
    kept = {name: own[best[name]] for name, own in answered.items()}
    found["duels"] = duels(kept, rules)
    return found


def duels(answered: Mapping[str, Sequence[Outcome]], rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """The recommender against the blind choice, and against searches at the same cost."""
    found = []
    tiers = {rule.name: rule.tier for rule in rules if rule.name in answered}
    for rule in rules:
        if not isinstance(rule, Recommender) or rule.name not in answered:
            continue
        rivals = [
            name
            for name, tier in tiers.items()
            if name == BLIND_NAME or (tier == rule.tier and name != rule.name)
        ]
        for name in rivals:
            row = judge.duel(answered[rule.name], answered[name])
            found.append({"rule": rule.name, "rival": name, **row})
    return found


def _cell(rule: Rule, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    cell: dict[str, Any] = {"rule": rule.name, **figures(outcomes)}
    if isinstance(rule, Search):
        cell["trials"] = rule.trials
    cell["profile"] = [round(float(v), 4) for v in judge.profile(outcomes, RATIOS)]
    bins = judge.reliability(outcomes)
    if bins:
        cell["reliability"] = bins
    for name, part in (
        ("long", [o for o in outcomes if o.record.full_steps >= judge.QUICK_STEPS]),
        ("gainful_tasks", [o for o in outcomes if worthwhile(o.record)]),
    ):
        if part:
            cell[name] = figures(part)
    return cell


# ---------------------------------------------------------------------- what the table says


def contents(table: Table) -> dict[str, Any]:
    """How much was measured."""
    records = list(table.values())
    lengths = [record.full_steps for record in records]
    return {
        "tasks": len(records),
        "sources": len({record.facts["source"] for record in records}),
        "families": len({record.family for record in records}),
        "test_tasks": sum(judge.is_test(record) for record in records),
        "shortest": min(lengths),
        "longest": max(lengths),
        "at_least_6000": sum(length >= 6000 for length in lengths),
        "core_hours": sum(record.facts["core_seconds"] for record in records) / 3600,
        "million_gradients": sum(record.facts["gradients"] for record in records) / 1e6,
        "trainings": sum(
            len(r.grid.choices) * r.seeds + grid.DEFAULT_SEEDS - r.seeds for r in records
        ),
        "bytes": FILE.stat().st_size,
        "architectures": _counted(record.facts["architecture"] for record in records),
    }


def described(record: Record) -> dict[str, Any]:
    """One task in a line."""
    from recommender.knowledge import tasks

    facts = record.facts
    return {
        "name": record.name,
        "summary": facts["summary"],
        "architecture": facts["architecture"],
        "source": facts["source"],
        "steps": record.full_steps,
        "parameters": facts["description"]["parameters"],
        "licence": tasks.find(record.name).licence,
        "test": judge.is_test(record),
        "oracle": excess(record, oracle_loss(record)),
    }


def _counted(words: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in words:
        found[word] = found.get(word, 0) + 1
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def winners(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Per optimizer: on how many tasks its best configuration is the best, or close to it.

    Chosen on one seed and read off the other, like the oracle. "only" counts the tasks where no
    other optimizer comes close.
    """
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        best: dict[str, float] = {}
        methods = {choice.setting.method for choice in record.grid.choices}
        for method in methods:
            own = [c for c in record.grid.choices if c.setting.method == method]
            best[method] = float(
                np.mean([_transferred(record, own, s) for s in range(record.seeds)])
            )
        lowest = min(best.values())
        # As a share of the default's loss, so that losses of either sign compare.
        near = [m for m, v in best.items() if excess(record, v) - excess(record, lowest) <= NEAR]
        for method, loss in best.items():
            row = found.setdefault(
                method,
                {"method": method, "tasks": 0, "first": 0, "near": 0, "only": 0, "where": []},
            )
            row["tasks"] += 1
            row["first"] += loss == lowest
            row["near"] += method in near
            row["only"] += near == [method]
            if near == [method]:
                row["where"].append(record.facts["architecture"])
    for row in found.values():
        row["where"] = _counted(row["where"])
    return sorted(found.values(), key=lambda row: -row["near"] / row["tasks"])


def _transferred(record: Record, choices: Sequence[Choice], seed: int) -> float:
    """The loss, on the other seeds, of what is best on this one."""
    best = min(choices, key=lambda c: mean_best(record, c, [seed]))
    return mean_best(record, best, [s for s in range(record.seeds) if s != seed])


def distances(records: Sequence[Record]) -> list[dict[str, Any]]:
    """How far the blind choice and the oracle are below the default, by kind of model."""
    groups: dict[str, list[Record]] = {"all": list(records)}
    for record in records:
        groups.setdefault(record.facts["architecture"], []).append(record)
    rows = []
    for name, group in groups.items():
        seeds = range(grid.SEEDS)
        best = [excess(r, oracle_loss(r)) for r in group]
        blind = [score(r, BLIND, seeds) for r in group]
        rows.append(
            {
                "group": name,
                "tasks": len(group),
                "gainful": sum(worthwhile(r) for r in group),
                "oracle": float(np.median(best)),
                "blind": float(np.median([s.excess for s in blind])),
                "blind_time": float(np.median([min(s.time_ratio, judge.CAP) for s in blind])),
                "blind_worse": float(np.mean([s.excess > judge.HARM for s in blind])),
            }
        )
    return rows


# ---------------------------------------------------------------------- the release's history


def history_of(file: Path = HISTORY) -> list[dict[str, Any]]:
    """Scores of earlier releases, if this one may be scored.

    Raises:
        SystemExit: This version has been scored on this table already.
    """
    history: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.exists() else []
    if any(entry["version"] == __version__ and entry["table"] == _digest() for entry in history):
        sys.exit(
            f"version {__version__} was scored on this table already, see {file.name}: the test "
            "part is scored once for each release. Leave --release out to judge by replay on the "
            "development tasks."
        )
    return history


def _digest() -> str:
    return hashlib.sha256(FILE.read_bytes()).hexdigest()[:12]


def released(found: dict[str, Any], *, file: Path = HISTORY) -> None:
    """Add the test part's scores to the history; one entry for each version and table.

    Raises:
        SystemExit: This version has been scored on this table already.
    """
    history = history_of(file)
    history.append(
        {
            "version": __version__,
            "table": _digest(),
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "rules": {cell["rule"]: cell["test"] for cell in found["cells"]},
        }
    )
    file.write_text(json.dumps(history, indent=1) + "\n", "utf-8")


# ---------------------------------------------------------------------- the real thing


def real(names: Sequence[str], tier: str, told: Any) -> list[dict[str, Any]]:
    """Ask the recommender itself on recorded tasks, and train what it says with Keras.

    Args:
        names: Tasks of the table.
        tier: What the advice may cost.
        told: Is called with a line of text after each task.
    """
    import keras

    from recommender import demo, recommend
    from recommender.knowledge import prior, tasks
    from recommender.knowledge.replay import Bench
    from recommender.rehearsal import replayed

    rows = []
    for name in names:
        record, task = truth()[name], tasks.find(name)
        data = task.load()
        advice = recommend(
            task.model(0), data[0], data[1], data[2:], loss=task.loss(), epochs=task.epochs,
            batch_size=task.batch_size, tier=tier, progress=False,
        )  # fmt: skip
        run = demo.train(task, advice.optimizer(), 1, data)
        first = first_reach(run.steps, run.losses, record.target)
        decision = replayed(Bench(record, 0, tier), prior.shipped(), tier)
        told_by_replay = score(record, decision.candidate.choice, [1])
        rows.append(
            {
                "task": name,
                "advised": advice.decision.candidate.label,
                "replayed": decision.candidate.label,
                "excess": excess(record, run.best),
                "replayed_excess": told_by_replay.excess,
                "time_ratio": first / record.default_steps if math.isfinite(first) else None,
                "replayed_time_ratio": told_by_replay.time_ratio
                if math.isfinite(told_by_replay.time_ratio)
                else None,
                "cost": advice.cost.fraction_of_full,
                "seconds": advice.cost.seconds,
                "backend": keras.config.backend(),
            }
        )
        told(f"{name}: {rows[-1]['advised']}, {rows[-1]['excess']:+.1%}")
    return rows


def main() -> None:
    """Judge, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="where the figures go, kept for the pages")
    parser.add_argument("--release", action="store_true", help="score the test part, once")
    parser.add_argument("--rules", metavar="TEXT", help="only rules with this in their name")
    parser.add_argument("--real", nargs="+", metavar="NAME", help="tasks to ask the recommender on")
    parser.add_argument("--tier", default="quick", help="what its advice may cost")
    given = parser.parse_args()
    old = json.loads(given.json.read_text("utf-8")) if given.json and given.json.exists() else {}
    unknown = [name for name in given.real or () if name not in truth()]
    if unknown:
        parser.error(f"not in the table: {', '.join(unknown)}. It holds {', '.join(truth())}.")
    if given.release:
        history_of()  # refuses before the work, not after it
    if given.real:
        os.environ.setdefault("KERAS_BACKEND", "jax")
        asked = real(given.real, given.tier, lambda line: sys.stderr.write(line + "\n"))
        kept = [row for row in old.get("real", []) if row["task"] not in given.real]
        results.save({**old, "real": [*kept, *asked]}, given.json)
        return
    wanted = [rule for rule in baselines() if not given.rules or given.rules in rule.name]
    found = report(truth(), wanted, release=given.release)
    if given.release:
        released(found)
    results.save({**{k: old[k] for k in ("real",) if k in old}, **found}, given.json)
    table = RichTable(*HEADINGS, title=f"Rules on recorded trainings, {found['part']}")
    for cells in rows(found["cells"]):
        table.add_row(*cells)
    terminal.print_table(table)


HEADINGS = [
    "rule", "cost", "mean regret", "time ratio", "≤ 0.5", "≤ 0.75", "better", "worse by > 1 %",
]  # fmt: skip


def rows(cells: Iterable[dict[str, Any]]) -> list[list[str]]:
    """The table of rules."""
    return [
        [
            cell["rule"],
            f"{cell['cost']:.3g}",
            _figure(cell["mean_regret"]),
            _figure(cell["time_ratio"]),
            *(
                _percent(cell[name])
                for name in ("within_half", "within_three_quarters", "better", "harm")
            ),
        ]
        for cell in cells
    ]


def _figure(value: Sequence[float]) -> str:
    middle, low, high = value
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _percent(value: Sequence[float]) -> str:
    middle, low, high = value
    return f"{middle:.0%} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main()
