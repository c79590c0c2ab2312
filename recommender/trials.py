"""run(...): one training of a private copy with an optimizer that evaluates the loss again."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from recommender.errors import BudgetExhausted, reason_of
from recommender.examples import Examples, take
from recommender.population import Population
from recommender.problem import Problem
from recommender.settings import Setting, optimizer_class

PURPOSE = "trial"
# Validations cost at most this share of what they look at.
VALIDATION_SHARE = 0.1
# A trial ends where what it cost since its best validation is this many times what it had cost till
# then, and at least this share of what it may cost.
PATIENCE = 1.0
LEAST_PATIENCE = 0.2
RISES = "its validation loss falls no more"


@dataclass(frozen=True)
class Point:
    """What a trial showed at one validation.

    Attributes:
        steps: Steps made.
        cost: Their evaluations, in gradients of one training step of the caller's.
        blocks: Validation loss per validation block.
    """

    steps: int
    cost: float
    blocks: tuple[float, ...]

    @property
    def loss(self) -> float:
        """The mean over the blocks."""
        return float(np.mean(self.blocks))


@dataclass(frozen=True)
class Trial:
    """One training with an optimizer that evaluates the loss again.

    Attributes:
        setting: The optimizer.
        rows: Training examples of each of its steps.
        points: What it showed, in order, before the first step too; none where it failed at once.
        cost: All its evaluations, in gradients of one training step; validations apart.
        stopped: Why it went no further.
        converged: Whether its optimizer has come to an end by itself.
        seconds: Wall-clock seconds, compiling included.
    """

    setting: Setting
    rows: int
    points: tuple[Point, ...]
    cost: float
    stopped: str
    converged: bool
    seconds: float

    @property
    def best(self) -> Point | None:
        """The point of the lowest validation loss; None where none is a number."""
        finite = [p for p in self.points if math.isfinite(p.loss)]
        return min(finite, key=lambda p: p.loss, default=None)

    @property
    def overfits(self) -> bool:
        """Whether it was stopped because its validation loss had risen, or fell no more."""
        return self.stopped == RISES


def run(population: Population, setting: Setting, allowance: float) -> Trial:
    """Train as far as the allowance, the budget and the optimizer go.

    Before a step the dearest one there is is booked; what it did not evaluate is paid back.

    Args:
        population: Has problem, validation blocks, account and whoever listens.
        setting: The optimizer.
        allowance: What steps and validations may cost, in gradients of one training step; the
            last step may exceed it by what the budget has left.

    Returns:
        What it came to. An optimizer that refuses the model, or fails, is a result with the reason.
    """
    return _Run(population, setting, allowance).result()


class _Failed(Exception):
    """A framework or the optimizer gave up; the message says why."""


@contextmanager
def _framework() -> Iterator[None]:
    """Work of which a failure is a result."""
    try:
        yield
    except Exception as error:
        raise _Failed(f"it {reason_of(error)}") from error


class _Run:
    """A trial under way."""

    def __init__(self, population: Population, setting: Setting, allowance: float) -> None:
        self._began = time.monotonic()
        self._problem = population.problem
        self._budget = population.budget
        self._progress = population.progress
        self._blocks = [population.validation_block(i) for i in range(population.blocks)]
        self._validation_price = population.validation_price
        self._setting = setting
        self._allowance = allowance
        self._until = self._budget.spent + allowance
        self._rows = rows_of_step(setting, self._problem)
        self._points: list[Point] = []
        self._steps = 0
        self._evaluations = 0.0
        self._longest_step = 0.0
        self._model: Any = None
        self._optimizer: Any = None

    def result(self) -> Trial:
        """Train until something says stop."""
        converged = False
        try:
            with self._budget.compiling(), _framework():
                self._model = bound_copy(self._problem, self._setting)
                self._optimizer = self._model.optimizer
            stopped, converged = self._trained()
        except (_Failed, BudgetExhausted) as error:
            stopped = str(error)
        return Trial(
            self._setting,
            self._rows,
            tuple(self._points),
            self._cost,
            stopped,
            converged,
            time.monotonic() - self._began,
        )

    def _trained(self) -> tuple[str, bool]:
        """Why it ended, and whether more of it would bring nothing."""
        self._validate()
        if not math.isfinite(self._points[-1].loss):
            return "the loss before training is not finite", False
        while self._pays_a_step():
            self._step()
            verdict = self._verdict()
            due = (self._cost - self._points[-1].cost) * VALIDATION_SHARE >= self._validation_price
            if verdict is not None or due or not self._pays_a_step():
                self._validate()
            if verdict is not None:
                return verdict, True
            if not math.isfinite(self._points[-1].loss):
                return "its validation loss is not finite any more", False
            if self._is_idle():
                return RISES, False
        return "it went as far as the budget allows", False

    def _pays_a_step(self) -> bool:
        """Whether the dearest step and the validation after it can be paid."""
        budget, price = self._budget, self._price(self._optimizer.dearest_step())
        in_time = budget.max_seconds is None or (
            budget.seconds + self._longest_step <= budget.max_seconds
        )
        return (
            in_time
            and budget.spent < self._until
            and budget.affords(price + self._validation_price)
        )

    def _is_idle(self) -> bool:
        """Whether the last validation shows that nothing got better for long."""
        best = min(self._points, key=lambda p: p.loss)
        since = self._points[-1].cost - best.cost
        return since >= max(PATIENCE * best.cost, LEAST_PATIENCE * self._allowance)

    def _verdict(self) -> str | None:
        """Why the optimizer found no step this time; None if it did, or never says."""
        verdict = getattr(self._optimizer, "verdict", None)
        return None if verdict is None else verdict(1)[0]

    def _step(self) -> None:
        booked = self._price(self._optimizer.dearest_step())
        self._budget.spend(PURPOSE, booked)
        self._progress.working(self._setting)
        began = time.monotonic()
        compiling = contextlib.nullcontext() if self._steps else self._budget.compiling()
        with compiling, _framework():
            self._model.train_on_batch(*self._batch())
            evaluations = float(keras.ops.convert_to_numpy(self._optimizer.evaluations))
        self._budget.refund(PURPOSE, booked - self._price(evaluations - self._evaluations))
        self._evaluations = evaluations
        if self._steps:  # the first one compiles
            self._longest_step = max(self._longest_step, time.monotonic() - began)
        self._steps += 1
        self._progress.spent(self._budget.spent / self._budget.limit)

    def _batch(self) -> Examples:
        """All examples, or the caller's own minibatches in the race's order."""
        training = self._problem.training
        if self._rows == training.rows:
            return training
        return Examples(*take(training, self._problem.batch_indices(self._steps, 1)[0]))

    def _validate(self) -> None:
        self._budget.spend(PURPOSE, self._validation_price)
        with _framework():
            blocks = tuple(_loss_on(self._model, block) for block in self._blocks)
        self._points.append(Point(self._steps, self._cost, blocks))

    @property
    def _cost(self) -> float:
        return self._price(self._evaluations)

    def _price(self, evaluations: float) -> float:
        """Gradients of the batch of a step, in those of one training step of the caller's."""
        return evaluations * self._rows / self._problem.batch_size


def rows_of_step(setting: Setting, problem: Problem) -> int:
    """Examples of one step: all there are for methods made for that, else the caller's."""
    whole = optimizer_class(setting.method).wants_whole_data
    return problem.training.rows if whole else problem.batch_size


def bound_copy(problem: Problem, setting: Setting) -> keras.Model:
    """A private, compiled and bound copy of the model, its optimizer's state built."""
    import keras_gradopt

    model = keras_gradopt.bind(problem.compiled(setting.optimizer()))
    model.optimizer.build(model.trainable_variables)
    return model


def _loss_on(model: keras.Model, block: Examples) -> float:
    model.reset_metrics()
    return float(model.test_on_batch(*block, return_dict=True)["loss"])
