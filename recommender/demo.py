"""gradopt demo: advice on real data, then full trainings with and without it, side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import plotly.graph_objects as go
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from recommender import demo_tasks
from recommender.advise import recommend
from recommender.candidates import hurdle
from recommender.report import Advice, make_optimizer
from recommender.statistics import first_reach, time_ratio
from recommender.task import Data, Task

# A smaller improvement of the loss is none, if it was not reached sooner.
WORTHWHILE = 0.01


@dataclass(frozen=True)
class Run:
    """One full training.

    Attributes:
        steps: Steps at which the validation loss was measured.
        losses: The validation losses.
        seconds: Wall-clock seconds, compiling included.
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: float

    @property
    def best(self) -> float:
        """The lowest validation loss, which checkpointing would keep."""
        return min(self.losses)


def run(
    task_name: str, seeds: int, report: Path, console: Console, tier: str = "quick"
) -> tuple[Advice, list[Run], list[Run]]:
    """Ask for advice on a demo task, train with Keras' default and with the advice, and report.

    Args:
        task_name: One of `demo_tasks.TASKS`.
        seeds: Trainings of each side, at least 1.
        report: Where the page goes.
        console: Where to print.
        tier: How much the advice may cost.

    Returns:
        The advice, the default's runs, the advice's runs.
    """
    task = demo_tasks.find(task_name)
    console.print(f"[bold]{task.name}[/bold]: {task.summary}")
    x, y, x_val, y_val = task.load()
    steps = math.ceil(len(y) / task.batch_size) * task.epochs
    console.print(
        f"{len(y)} training and {len(y_val)} validation examples, {task.epochs} epochs, "
        f"{steps} steps, Keras {keras.__version__} on {keras.config.backend()}"
    )
    advice = recommend(
        task.model(0), x, y, (x_val, y_val), loss=task.loss(), epochs=task.epochs,
        batch_size=task.batch_size, tier=tier,
        progress=lambda text: console.print(f"  [dim]{text}[/dim]"),
    )  # fmt: skip
    console.print(advice.code.strip(), style="green")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    default: list[Run] = []
    advised: list[Run] = []
    with Progress(*columns, console=console) as bars:
        total = seeds * task.epochs
        sides: list[tuple[Callable[[], keras.optimizers.Optimizer], list[Run], TaskID]] = [
            (
                lambda: make_optimizer(hurdle(), steps),
                default,
                bars.add_task("Keras' default Adam", total=total),
            ),
            (
                advice.optimizer,
                advised,
                bars.add_task(advice.decision.candidate.label, total=total),
            ),
        ]
        try:
            # Seed by seed, so that both sides have as many runs whenever it is cut short.
            for seed in range(1, seeds + 1):
                for make, runs, bar in sides:
                    tick = keras.callbacks.LambdaCallback(
                        on_epoch_end=lambda epoch, logs, bar=bar: bars.advance(bar)
                    )
                    runs.append(train(task, make(), seed, (x, y, x_val, y_val), tick))
        except KeyboardInterrupt:
            _show_partly(advice, default, advised[: len(default)], report, console)
            raise
    console.print(comparison(advice, default, advised))
    console.print(verdict(advice, default, advised))
    figure = curves(default, advised, advice.decision.candidate.label)
    advice.save_report(report, [figure])
    console.print(f"Curves and evidence: {report}")
    return advice, default, advised


def _show_partly(
    advice: Advice, default: Sequence[Run], advised: Sequence[Run], report: Path, console: Console
) -> None:
    """What was finished before an interrupt: pairs of trainings, the advice in any case."""
    default = default[: len(advised)]
    if advised:
        console.print(comparison(advice, default, advised))
    figures = [curves(default, advised, advice.decision.candidate.label)] if advised else []
    advice.save_report(report, figures)
    console.print(f"Interrupted after {len(advised)} pairs of trainings; what there is: {report}")


def train(
    task: Task,
    optimizer: keras.optimizers.Optimizer,
    seed: int,
    data: Data,
    tick: keras.callbacks.Callback | None = None,
) -> Run:
    """One full training by `fit`.

    Args:
        task: What is trained.
        optimizer: A fresh one.
        seed: Of the first weights and the order of batches.
        data: What `task.load` gave.
        tick: Hears how it goes.
    """
    x, y, x_val, y_val = data
    model = task.model(seed)
    model.compile(optimizer=optimizer, loss=task.loss())
    # Keras shuffles with NumPy's global generator.
    np.random.seed(seed)  # noqa: NPY002
    began = time.monotonic()
    history = model.fit(
        x, y, validation_data=(x_val, y_val), batch_size=task.batch_size, epochs=task.epochs,
        validation_batch_size=256, verbose=0, callbacks=[tick] if tick else [],
    ).history  # fmt: skip
    per_epoch = math.ceil(len(y) / task.batch_size)
    losses = [v if math.isfinite(v) else math.inf for v in history["val_loss"]]
    steps = tuple(per_epoch * (i + 1) for i in range(len(losses)))
    return Run(steps, tuple(losses), time.monotonic() - began)


def ratio(default: Sequence[Run], advised: Sequence[Run]) -> float:
    """Steps of the advice to the default's best level, per step of the default."""
    return time_ratio(
        [(r.steps, r.losses) for r in default], [(r.steps, r.losses) for r in advised]
    )


def comparison(advice: Advice, default: Sequence[Run], advised: Sequence[Run]) -> Table:
    """Both sides, row by row."""
    target = float(np.median([r.best for r in default]))
    table = Table(title=f"Full trainings, {len(default)} seeds each")
    for heading in ("", "Keras' default Adam", "the advice"):
        table.add_column(heading)

    def both(name: str, value: Callable[[Sequence[Run]], str]) -> None:
        table.add_row(name, value(default), value(advised))

    both("best validation loss (median)", lambda rs: f"{np.median([r.best for r in rs]):.4g}")
    both("each seed", lambda rs: ", ".join(f"{r.best:.4g}" for r in rs))
    both("last validation loss (median)", lambda rs: f"{np.median([r.losses[-1] for r in rs]):.4g}")
    both(
        "steps to the default's best",
        lambda rs: _steps(float(np.median([first_reach(r.steps, r.losses, target) for r in rs]))),
    )
    both("seconds per training (median)", lambda rs: f"{np.median([r.seconds for r in rs]):.1f}")
    time_to = ratio(default, advised)
    table.add_row("time ratio", "1", f"{time_to:.2f}" if math.isfinite(time_to) else "never")
    cost = advice.cost
    table.add_row(
        "cost of the advice",
        "-",
        f"{cost.fraction_of_full:.1%} of a training, {cost.seconds:.0f} s",
    )
    return table


def verdict(advice: Advice, default: Sequence[Run], advised: Sequence[Run]) -> str:
    """One sentence on who won, and by how much."""
    ours = float(np.median([r.best for r in advised]))
    theirs = float(np.median([r.best for r in default]))
    change, time_to = ours / theirs - 1, ratio(default, advised)
    if change > 0 and not math.isfinite(time_to):
        return (
            f"[bold red]The advice lost:[/bold red] its best validation loss is {change:.1%} above "
            "the default's, and it never reached the default's level."
        )
    if change > -WORTHWHILE and time_to >= 1:
        return (
            f"[bold yellow]The advice did not pay:[/bold yellow] its best validation loss is "
            f"{abs(change):.1%} {'above' if change > 0 else 'below'} the default's, and it needed "
            f"{time_to:.0%} of the default's steps to get to the default's best level."
        )
    level = (
        f"it reached the default's best level in {time_to:.0%} of the default's steps"
        if math.isfinite(time_to)
        else "its median run never reached the default's best level"
    )
    side = "below" if change <= 0 else "above"
    return (
        f"[bold]The advice ({advice.decision.candidate.label})[/bold] ended {abs(change):.1%} "
        f"{side} the default's best validation loss; {level}."
    )


def curves(default: Sequence[Run], advised: Sequence[Run], label: str) -> go.Figure:
    """Validation loss of every full training."""
    figure = go.Figure()
    for runs, name, colour in ((default, "Keras' default", "#888"), (advised, label, "#0a7")):
        for seed, one in enumerate(runs):
            figure.add_scatter(
                x=one.steps, y=one.losses, mode="lines", name=name, legendgroup=name,
                showlegend=seed == 0, line={"color": colour, "width": 1.5},
            )  # fmt: skip
    return figure.update_layout(
        title="Full trainings", xaxis_title="steps", yaxis_title="validation loss",
        yaxis_type="log", template="plotly_white", height=420,
    )  # fmt: skip


def _steps(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "never"
