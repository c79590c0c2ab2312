"""The probe engine's interface: many short trainings that share model, data and batch order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from recommender.budget import FORWARD, GRADIENT, Budget
from recommender.examples import Examples, take
from recommender.models import has_own_step
from recommender.problem import VALIDATION_ROWS, Problem
from recommender.progress import Progress
from recommender.settings import Setting

# Steps between two looks at the clock.
CHUNK = 64
# Validation is cut into this many equal blocks; comparisons are paired block by block.
BLOCKS = 8

State = Any


class Population(ABC):
    """Trains one problem under many settings, from the same weights and on the same batches.

    A state is a value: training returns a new one and leaves the old one usable, so a branch is
    taken by simply going on twice from the same state.

    Args:
        problem: What is trained; its model is private to the probes.
        settings: Every setting whose rule may be asked for; rates are inputs.
        budget: Booked before any work is done.
        progress: Hears of every piece of work; None for nobody.
    """

    def __init__(
        self,
        problem: Problem,
        settings: Sequence[Setting],
        budget: Budget,
        progress: Progress | None = None,
    ) -> None:
        self.problem = problem
        self.budget = budget
        self.progress = progress or Progress()
        self.settings = list({setting.rule: setting for setting in settings}.values())
        held = problem.validation.rows
        rows = min(held, VALIDATION_ROWS)
        self.blocks = min(BLOCKS, rows)
        self.block_rows = rows // self.blocks
        # Spread over the validation set: it may be sorted.
        order = np.random.default_rng([problem.seed, 29]).permutation(held)
        self._validation = np.sort(order[: self.blocks * self.block_rows])
        self._trunks: dict[tuple[str, float], Trunk] = {}

    @abstractmethod
    def start(self, setting: Setting) -> State:
        """The state before the first step: the model's present weights and fresh slots."""

    @abstractmethod
    def trained(self, state: State) -> list[NDArray[Any]]:
        """The trainable weights in a state, in the order of the model's variables."""

    @abstractmethod
    def model_at(self, state: State) -> keras.Model:
        """A model with the values of a state in it, good until the next piece of work."""

    @abstractmethod
    def _train(
        self, state: State, rates: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> tuple[State, NDArray[np.float32]]:
        """At most `CHUNK` steps at these rates on these rows; the loss before each step."""

    @abstractmethod
    def _validate(self, state: State, block: Examples) -> float:
        """Mean loss on one validation block, in inference mode."""

    def train(
        self,
        state: State,
        rates: NDArray[np.float32],
        rows: NDArray[np.int32],
        purpose: str,
        heard: Callable[[int, NDArray[np.float32]], None] | None = None,
    ) -> tuple[State, NDArray[np.float32]]:
        """Train on, paying for it.

        Args:
            state: Where to start; stays valid.
            rates: Learning rate of each step; shape (steps,).
            rows: Training examples of each step; shape (steps, batch_size).
            purpose: What the account says it was for.
            heard: Is called after each chunk with its first step and its losses.

        Returns:
            The new state, and the minibatch loss before each step. Training ends early where the
            loss stops being finite; the last loss is that value then.

        Raises:
            BudgetExhausted: When the next chunk would overrun.
        """
        losses: list[NDArray[np.float32]] = []
        for first in range(0, len(rates), CHUNK):
            part = slice(first, first + CHUNK)
            self.budget.spend(purpose, GRADIENT * len(rates[part]))
            state, values = self._train(state, rates[part], rows[part])
            bad = np.flatnonzero(~np.isfinite(values))
            losses.append(values[: bad[0] + 1] if len(bad) else values)
            if heard is not None:
                heard(first, losses[-1])
            if self.budget.limit:
                self.progress.spent(self.budget.spent / self.budget.limit)
            if len(bad):
                break
        return state, np.concatenate(losses) if losses else np.zeros(0, np.float32)

    def validate(self, state: State, purpose: str) -> NDArray[np.float64]:
        """Mean validation loss on each block; shape (blocks,). Paid as forward passes."""
        self.budget.spend(purpose, self.validation_price)
        blocks = self._validation.reshape(self.blocks, self.block_rows)
        values = [self._validate(state, take(self.problem.validation, block)) for block in blocks]
        return np.asarray(values, np.float64)

    @property
    def validation_price(self) -> float:
        """One validation, in gradient evaluations of a training step."""
        return FORWARD * self.blocks * self.block_rows / self.problem.batch_size

    def rung_price(self, setting: Setting, length: int, start: int) -> float:
        """What `rung` would cost now, in gradient evaluations."""
        ahead = max(0, start - self.trunk(setting).step)
        return GRADIENT * (ahead + length - start) + self.validation_price

    def rung(self, setting: Setting, length: int, start: int) -> tuple[float, ...]:
        """A short training with a late cooldown.

        Args:
            setting: What is trained; its trunk is left at `start`.
            length: Steps in all.
            start: The first cooled step.

        Returns:
            The validation loss per block; one infinite value if it diverged.
        """
        purpose = f"rung_{length}"
        trunk = self.trunk(setting)
        trunk.advance(start, purpose)
        state = trunk.cooled(length - start, purpose)
        if state is None:
            return (math.inf,)
        return tuple(float(b) for b in self.validate(state, purpose))

    def trunk(self, setting: Setting) -> Trunk:
        """The constant-rate run of this setting; the same one each time it is asked for."""
        key = (setting.rule, setting.learning_rate)
        if key not in self._trunks:
            self._trunks[key] = Trunk(self, setting)
        return self._trunks[key]

    def forget(self, setting: Setting) -> None:
        """Let go of a trunk that nobody will ask for again."""
        self._trunks.pop((setting.rule, setting.learning_rate), None)

    def restart(self, problem: Problem) -> None:
        """Go on from other first weights and in another batch order; nothing is compiled again.

        Args:
            problem: The same model and shapes of data under another seed.
        """
        self.problem = problem
        self._trunks.clear()
        self._restarted()

    @abstractmethod
    def _restarted(self) -> None:
        """Take the first weights from the model of the present problem."""


class Trunk:
    """One setting trained at its constant rate, as far as anybody has paid for.

    Attributes:
        setting: What is trained.
        step: Steps taken.
        losses: Minibatch loss before each step.
        diverged_at: The step at which the loss stopped being finite, or None.
    """

    def __init__(self, population: Population, setting: Setting) -> None:
        self._population = population
        self.setting = setting
        self.state = population.start(setting)
        self.step = 0
        self.losses: list[float] = []
        self.diverged_at: int | None = None

    def advance(self, to_step: int, purpose: str) -> None:
        """Go on to this step; free when it is already there, nothing to do after divergence."""
        count = to_step - self.step
        if count <= 0 or self.diverged_at is not None:
            return
        rates = np.full(count, self.setting.learning_rate, np.float32)
        rows = self._population.problem.batch_indices(self.step, count)
        begin, progress = self.step, self._population.progress
        self.state, losses = self._population.train(
            self.state,
            rates,
            rows,
            purpose,
            lambda first, values: progress.trained(
                self.setting, begin + first, values, self.setting.learning_rate
            ),
        )
        self.losses.extend(float(value) for value in losses)
        if len(losses) and not np.isfinite(losses[-1]):
            self.diverged_at = self.step + len(losses) - 1
        self.step += len(losses)

    def cooled(self, steps: int, purpose: str) -> State | None:
        """A branch: a copy cooled linearly to 0 over `steps` more steps; None if it diverges."""
        if self.diverged_at is not None:
            return None
        rates = (self.setting.learning_rate * (1 - np.arange(steps) / steps)).astype(np.float32)
        rows = self._population.problem.batch_indices(self.step, steps)
        state, losses = self._population.train(self.state, rates, rows, purpose)
        return state if np.isfinite(losses).all() else None


def open_population(
    problem: Problem,
    settings: Sequence[Setting],
    budget: Budget,
    progress: Progress | None = None,
) -> Population:
    """The engine for the running backend: one compiled program on JAX, else real Keras steps.

    A model with a train step of its own trains by that one, so by real Keras steps too.
    """
    if keras.config.backend() == "jax" and not has_own_step(problem.model):
        from recommender.population_jax import JaxPopulation

        return JaxPopulation(problem, settings, budget, progress)
    from recommender.population_keras import KerasPopulation

    return KerasPopulation(problem, settings, budget, progress)
