"""The probe engine's interface: many short trainings that share model, data and batch order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from recommender.budget import FORWARD, GRADIENT, Budget
from recommender.errors import ProbeFailed, RecommenderError, reason_of
from recommender.examples import Examples, take
from recommender.memory import Memory, Point, key_of
from recommender.models import has_own_step
from recommender.problem import VALIDATION_ROWS, Problem
from recommender.progress import Progress
from recommender.settings import Setting
from recommender.trunk import Trunk

# Steps between two looks at the clock.
CHUNK = 64
# Validation is cut into this many equal blocks; comparisons are paired block by block.
BLOCKS = 8

# What an engine carries from step to step.
State = Any
Opens = Callable[..., "Population"]


class Population(ABC):
    """Trains one problem under many settings, from the same weights and on the same batches.

    A state is a value: training returns a new one and leaves the old one usable, so a branch is
    taken by simply going on twice from the same state. Callers hold it as a `Point`, which knows
    how to come there again; pieces of work that the memory holds already are not made twice.

    Args:
        problem: What is trained; its model is private to the probes.
        settings: Every setting whose rule may be asked for; rates are inputs.
        budget: Booked before any work is done.
        progress: Hears of every piece of work; None for nobody.
        memory: Keeps what was trained; None keeps nothing.
    """

    def __init__(
        self,
        problem: Problem,
        settings: Sequence[Setting],
        budget: Budget,
        progress: Progress | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.problem = problem
        self.budget = budget
        self.progress = progress or Progress()
        self.memory = memory or Memory()
        self._failed: dict[Setting, str] = {}
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
    def _start(self, setting: Setting) -> State:
        """The state before the first step: the model's present weights and fresh slots."""

    @abstractmethod
    def _trained(self, state: State) -> list[NDArray[Any]]:
        """The trainable weights in a state, in the order of the model's variables."""

    @abstractmethod
    def _model_at(self, state: State) -> keras.Model:
        """A model with the values of a state in it, good until the next piece of work."""

    @abstractmethod
    def _train(
        self, state: State, rates: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> tuple[State, NDArray[np.float32]]:
        """At most `CHUNK` steps at these rates on these rows; the loss before each step."""

    @abstractmethod
    def _validate(self, state: State, block: Examples) -> float:
        """Mean loss on one validation block, in inference mode."""

    @abstractmethod
    def _pack(self, state: State) -> list[NDArray[Any]]:
        """A state as arrays, always in the same order."""

    @abstractmethod
    def _unpack(self, setting: Setting, arrays: Sequence[NDArray[Any]]) -> State:
        """The state that these arrays were packed from."""

    def start(self, setting: Setting) -> Point:
        """Before the first step: the model's present weights and fresh slots."""
        return Point(setting, key_of(type(self).__name__, self.problem.seed, setting))

    def trained(self, point: Point) -> list[NDArray[Any]]:
        """The trainable weights there, in the order of the model's variables."""
        return self._trained(self._state(point))

    def model_at(self, point: Point) -> keras.Model:
        """A model with the values there in it, good until the next piece of work."""
        return self._model_at(self._state(point))

    def train(
        self,
        point: Point,
        rates: NDArray[np.float32],
        rows: NDArray[np.int32],
        purpose: str,
        heard: Callable[[int, NDArray[np.float32]], None] | None = None,
    ) -> tuple[Point, NDArray[np.float32]]:
        """Train on, paying for it.

        Args:
            point: Where to start; stays valid.
            rates: Learning rate of each step; shape (steps,).
            rows: Training examples of each step; shape (steps, batch_size).
            purpose: What the account says it was for.
            heard: Is called after each chunk with its first step and its losses.

        Returns:
            Where it ends, and the minibatch loss before each step. Training ends early where the
            loss stops being finite; the last loss is that value then.

        Raises:
            BudgetExhausted: When the next chunk would overrun.
            ProbeFailed: When the framework fails in it.
        """
        losses: list[NDArray[np.float32]] = []
        for first in range(0, len(rates), CHUNK):
            part = slice(first, first + CHUNK)
            self.budget.spend(purpose, GRADIENT * len(rates[part]))
            point, values = self._piece(point, rates[part], rows[part])
            bad = np.flatnonzero(~np.isfinite(values))
            losses.append(values[: bad[0] + 1] if len(bad) else values)
            if heard is not None:
                heard(first, losses[-1])
            if self.budget.limit:
                self.progress.spent(self.budget.spent / self.budget.limit)
            if len(bad):
                break
        return point, np.concatenate(losses) if losses else np.zeros(0, np.float32)

    def validate(self, point: Point, purpose: str) -> NDArray[np.float64]:
        """Mean validation loss on each block; shape (blocks,). Paid as forward passes."""
        self.budget.spend(purpose, self.validation_price)
        return np.asarray([self.validate_block(point, i) for i in range(self.blocks)], np.float64)

    def validate_block(self, point: Point, number: int) -> float:
        """Mean loss on one validation block; nothing is booked."""
        key = key_of(point.key, "block", number)
        value = self.memory.recall(key)
        if value is None:
            with self._working(point.setting):
                value = self._validate(self._state(point), self.validation_block(number))
            self.memory.record(key, value)
        return float(value)

    def _piece(
        self, point: Point, rates: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> tuple[Point, NDArray[np.float32]]:
        """One chunk: made, or read where the memory has it."""
        after = point.after(rates, rows)
        values = self.memory.recall(after.key)
        if values is not None:
            return after, np.asarray(values, np.float32)
        with self._working(point.setting):
            state, losses = self._train(self._state(point), rates, rows)
        after.reached(state)
        self.memory.record(after.key, [float(loss) for loss in losses])
        return after, losses

    def _state(self, point: Point) -> State:
        """The state at a point: at hand, kept, or trained again from the nearest that is."""
        ahead = []
        while point.state is None:
            kept = self.memory.state(point.key)
            if kept is not None:
                point.reached(self._unpack(point.setting, kept))
            elif point.before is None:
                assert point.key == self.start(point.setting).key, "a stopped training was asked on"
                point.reached(self._start(point.setting))
            else:
                ahead.append(point)
                point = point.before
        state = point.state
        for later in reversed(ahead):
            state, _ = self._train(state, later.rates, later.rows)
            later.reached(state)
        return state

    @contextmanager
    def _working(self, setting: Setting) -> Iterator[None]:
        """Turn whatever a framework raises into a result: this probe failed, and why."""
        key = failure_key(setting, keras.config.backend())
        known = self._failed.get(setting) or self.memory.recall(key)
        if known is not None:
            raise ProbeFailed(str(known))
        self.progress.working(setting)
        try:
            yield
        except RecommenderError:
            raise
        except Exception as error:  # a framework may fail in any way
            reason = reason_of(error)
            self._failed[setting] = reason
            self.memory.record(key, reason)
            raise ProbeFailed(reason) from error

    def validation_block(self, number: int) -> Examples:
        """The examples of one validation block."""
        rows = self._validation.reshape(self.blocks, self.block_rows)[number]
        return Examples(*take(self.problem.validation, rows))

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

        Raises:
            BudgetExhausted: When it does not fit.
            ProbeFailed: When the framework fails in it.
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
        self.stop(setting)
        self._trunks.pop((setting.rule, setting.learning_rate), None)

    def stop(self, setting: Setting) -> None:
        """Let go of the state of a trunk that goes no further; its losses stay."""
        trunk = self.trunk(setting)
        trunk.state = trunk.state.dropped()
        self.memory.drop(trunk.name)

    def holds(self, setting: Setting) -> bool:
        """Whether a trunk can go on: its state was not let go of."""
        point = self.trunk(setting).state
        reachable = point.state is not None or point.before is not None
        return reachable or point.key == self.start(setting).key

    def keep(self, trunk: Trunk) -> None:
        """Let the memory have where a trunk stands, in place of where it stood before."""
        state = trunk.state.state
        if state is not None:
            self.memory.keep(trunk.name, trunk.state.key, lambda: self._pack(state))

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


def failure_key(setting: Setting, backend: str) -> str:
    """Under which a memory holds why a setting cannot be trained on a backend."""
    return key_of("failed", setting, backend)


def open_population(
    problem: Problem,
    settings: Sequence[Setting],
    budget: Budget,
    progress: Progress | None = None,
    memory: Memory | None = None,
) -> Population:
    """The engine for the running backend: one compiled program on JAX, else Keras' own steps.

    A model with a train step of its own trains by that one, so by real Keras steps too.
    """
    if keras.config.backend() == "jax" and not has_own_step(problem.model):
        from recommender.population_jax import JaxPopulation

        return JaxPopulation(problem, settings, budget, progress, memory)
    if keras.config.backend() == "tensorflow":
        from recommender.population_tensorflow import TensorFlowPopulation

        return TensorFlowPopulation(problem, settings, budget, progress, memory)
    if keras.config.backend() == "torch":
        from recommender.population_torch import TorchPopulation

        return TorchPopulation(problem, settings, budget, progress, memory)
    from recommender.population_keras import KerasPopulation

    return KerasPopulation(problem, settings, budget, progress, memory)
