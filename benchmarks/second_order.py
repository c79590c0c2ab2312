"""Whether looking at the curvature pays: loss against gradients evaluated, and against seconds.

    KERAS_BACKEND=jax python -m benchmarks.second_order [--problems logistic] [--json FILE]

Four problems (benchmarks/parts/smooth.py) are trained by Adam, the best of six rates, each constant
and with a cosine decay to zero, and by methods with their default arguments or the few given below;
K-FAC on the autoencoder is the best of twelve settings. Every method gets as many gradient
evaluations as Adam has steps, as its `evaluations` counts them: a value is a third of a gradient, a
product with the Hessian three. The loss is that of all data at the weights after a step. Seconds
per step are medians of rounds in which the methods take turns, on one core; the curves over seconds
are steps times that. Results go on where they were interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.parts import machine, results
from benchmarks.parts.terminal import print_table

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
BASELINE = "Adam (tuned)"
# Points of a curve that are kept.
POINTS = 120
PROBLEMS = ("logistic", "ill_conditioned", "physics", "autoencoder")
# Seconds per step: rounds of so many steps.
ROUNDS, STEPS = 7, 5


def contenders(problem: str) -> dict[str, Callable[[], Any]]:
    """The methods beside Adam, by name."""
    import keras_gradopt as kg

    found = {
        "L-BFGS": lambda: kg.LBFGS(iterations_per_step=10),
        "Newton-CG": lambda: kg.NewtonCG(damping=0.1),
        "K-FAC": lambda: kg.KFAC(diagonal=("bias",)) if problem == "physics" else kg.KFAC(),
        "Shampoo": lambda: kg.Shampoo(0.01),
        "SOAP": lambda: kg.SOAP(0.01),
    }
    if problem == "physics":
        # As usual for such networks: more pairs, and few gradients spent on beginning again.
        found["L-BFGS"] = lambda: kg.LBFGS(memory=50, iterations_per_step=20)
    if problem == "autoencoder":
        # Fewer iterations on each minibatch; K-FAC is the best of twelve settings, as Adam is.
        found["L-BFGS"] = lambda: kg.LBFGS(iterations_per_step=5)
        found["K-FAC"] = lambda: kg.KFAC(0.1, damping=3e-3, norm_constraint=1e-2, decay=0.99)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Trains, prints a table per problem, and keeps the curves."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the curves here")
    given = parser.parse_args(arguments)
    machine.hold_to_one_core()
    report: dict[str, Any] = {"script": "second_order", "backend": machine.backend()}
    if given.json and given.json.exists():
        report = json.loads(given.json.read_text())
    report["machine"] = machine.describe()
    cells = {cell["problem"]: cell for cell in report.get("cells", [])}
    try:
        for name in given.problems:
            cell = cells.setdefault(name, {"problem": name, "curves": {}})
            for _ in measured(cell):
                report["cells"] = list(cells.values())
                results.save(report, given.json)
            print_table(table(cell))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")


def measured(cell: dict[str, Any]) -> Iterator[None]:
    """Fills in what a cell lacks, and yields after each training."""
    from benchmarks.parts.smooth import problems

    problem = problems()[cell["problem"]]
    cell.update(title=problem.title, steps=problem.steps)
    curves = cell["curves"]
    tried = cell.setdefault("adam", {})
    for rate in RATES:
        for decays in (False, True):
            label = f"{rate:g}{', cosine' if decays else ''}"
            if label in tried:
                continue
            print(f"{cell['problem']}: Adam {label}", flush=True)
            curve = trained(problem, adam(rate, problem.steps, decays=decays))
            best = curves.get(BASELINE)
            if best is None or final(curve) < final(best):
                curves[BASELINE] = {**curve, "arguments": label}
            tried[label] = final(curve)
            yield
    for name, make in contenders(cell["problem"]).items():
        if name not in curves:
            print(f"{cell['problem']}: {name}", flush=True)
            curves[name] = trained(problem, make())
            yield
    if "seconds" not in cell:
        print(f"{cell['problem']}: seconds per step", flush=True)
        rate = float(curves[BASELINE]["arguments"].partition(",")[0])
        makers = {BASELINE: lambda: adam(rate, problem.steps, decays=False)}
        cell["seconds"] = seconds(problem, {**makers, **contenders(cell["problem"])})
        yield


def adam(rate: float, steps: int, *, decays: bool) -> Any:
    """Adam at a rate, constant or with a cosine to zero."""
    import keras_gradopt as kg

    return kg.Adam(kg.schedules.CosineDecay(rate, steps) if decays else rate)


def made(problem: Any, optimizer: Any) -> Any:
    """The problem's model, compiled with an optimizer."""
    import keras

    import keras_gradopt as kg

    # TensorFlow is seeded too where it is installed; the order of minibatches is NumPy's.
    keras.utils.set_random_seed(0)
    model = kg.bind(problem.model())
    compiled = keras.backend.backend() != "torch"
    model.compile(optimizer, loss=problem.loss, jit_compile=compiled)
    return model


def trained(problem: Any, optimizer: Any) -> dict[str, Any]:
    """Steps, evaluations and losses of one training until Adam's evaluations are spent."""
    model = made(problem, optimizer)
    per_epoch = -(-len(problem.x) // problem.batch_size)
    epochs = max(1, problem.steps // per_epoch // POINTS)
    curve: dict[str, Any] = {
        "steps": [0],
        "evaluations": [0.0],
        "losses": [loss_of(model, problem)],
    }
    while curve["evaluations"][-1] < problem.steps:
        if counts(model.optimizer):
            # Methods that take many gradients to a step are looked at after each of them.
            epochs = 1
        model.fit(problem.x, problem.y, batch_size=problem.batch_size, epochs=epochs, verbose=0)
        steps = int(model.optimizer.iterations)
        if steps == curve["steps"][-1]:
            break
        spent = float(model.optimizer.evaluations) if counts(model.optimizer) else float(steps)
        for key, value in zip(curve, (steps, spent, loss_of(model, problem)), strict=True):
            curve[key].append(value)
        if model.stop_training:
            break
    return thinned(curve)


def thinned(curve: dict[str, Any]) -> dict[str, Any]:
    """A curve of no more points than a picture shows, in five digits."""
    places = range(0, len(curve["losses"]), max(1, len(curve["losses"]) // (2 * POINTS)))
    places = sorted({*places, len(curve["losses"]) - 1})
    return {key: [float(f"{values[i]:.5g}") for i in places] for key, values in curve.items()}


def counts(optimizer: Any) -> bool:
    """Whether an optimizer counts its own evaluations."""
    return hasattr(optimizer, "evaluations")


def loss_of(model: Any, problem: Any) -> float:
    """The loss over all data."""
    return float(model.evaluate(problem.x, problem.y, batch_size=len(problem.x), verbose=0))


def final(curve: dict[str, Any]) -> float:
    """The last loss; infinite for one that is no number."""
    last = float(curve["losses"][-1])
    return last if math.isfinite(last) else math.inf


def seconds(problem: Any, makers: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of some steps of each method, round by round, in turns."""
    models = {name: made(problem, make()) for name, make in makers.items()}
    x, y = problem.x[: problem.batch_size], problem.y[: problem.batch_size]
    found: dict[str, list[float]] = {name: [] for name in models}
    for number in range(ROUNDS + 1):
        for name, model in models.items():
            start = time.process_time()
            model.fit(x, y, batch_size=len(x), epochs=STEPS, verbose=0)
            # The first round compiles.
            if number:
                found[name].append((time.process_time() - start) / STEPS)
    return found


def reached(curve: dict[str, Any], target: float, what: str) -> float | None:
    """Steps or evaluations after which a curve first is at or below a loss; None is never."""
    for spent, loss in zip(curve[what], curve["losses"], strict=True):
        if loss <= target:
            return float(spent)
    return None


def table(cell: dict[str, Any]) -> Table:
    """One problem as a table."""
    found = Table(title=cell["title"], title_justify="left")
    for heading in HEADINGS:
        found.add_column(heading, justify="right" if heading != HEADINGS[0] else "left")
    for row in rows(cell):
        found.add_row(*row)
    return found


HEADINGS = (
    "method",
    "final loss",
    "evaluations to Adam's loss",
    "steps to it",
    "evaluations per step",
    "seconds per step, of Adam's",
    "seconds to it, of Adam's",
)


def rows(cell: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A line per method: what it reached, and what it spent as shares of what Adam did."""
    baseline = cell["curves"][BASELINE]
    target = final(baseline)
    of_adam = {what: reached(baseline, target, what) or 1.0 for what in ("evaluations", "steps")}
    base = statistics.median(cell["seconds"][BASELINE])
    for name, curve in cell["curves"].items():
        spent, steps = (reached(curve, target, what) for what in ("evaluations", "steps"))
        per_step = curve["evaluations"][-1] / max(curve["steps"][-1], 1)
        slower = statistics.median(cell["seconds"][name]) / base
        title = f"{name}, {curve['arguments']}" if "arguments" in curve else name
        time_share = None if steps is None else slower * steps / of_adam["steps"]
        yield (
            title,
            f"{final(curve):.3g}",
            share(None if spent is None else spent / of_adam["evaluations"]),
            share(None if steps is None else steps / of_adam["steps"]),
            f"{per_step:.1f}",
            f"{slower:.1f}",
            "never" if time_share is None else f"{time_share:.2f}",
        )


def share(value: float | None) -> str:
    """A share in percent."""
    return "never" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    main()
