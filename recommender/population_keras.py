"""The probe engine for every backend: real Keras train steps, state copied in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gradopt import backend
from recommender.budget import Budget
from recommender.errors import RequestError
from recommender.examples import Examples, take
from recommender.memory import Memory
from recommender.population import Population
from recommender.problem import Problem
from recommender.progress import Progress
from recommender.settings import Setting

Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True, eq=False)
class KerasState:
    """Copies of all variables of a model and of its optimizer."""

    setting: Setting
    model: Arrays
    optimizer: Arrays


class KerasPopulation(Population):
    """Trains through `train_on_batch`, one compiled model per rule, reused by its candidates."""

    def __init__(
        self,
        problem: Problem,
        settings: Sequence[Setting],
        budget: Budget,
        progress: Progress | None = None,
        memory: Memory | None = None,
    ) -> None:
        super().__init__(problem, settings, budget, progress, memory)
        self._initial = _read(problem.model.variables)
        self._models: dict[str, keras.Model] = {}
        # Whose variables hold which state now; saves the copy while one probe runs on.
        self._resident: dict[str, KerasState] = {}

    def _restarted(self) -> None:
        self._initial = _read(self.problem.model.variables)
        self._resident.clear()

    def _start(self, setting: Setting) -> KerasState:
        model = self._model(setting)
        # Some slots start from the weights, and an earlier probe may have left its own in there.
        _write(model.variables, self._initial)
        self._resident.pop(setting.rule, None)
        fresh = setting.optimizer()
        fresh.build(model.trainable_variables)
        return KerasState(setting, self._initial, _read(fresh.variables))

    def _trained(self, state: KerasState) -> list[NDArray[Any]]:
        model = self._model(state.setting)
        trainable = {id(v) for v in model.trainable_variables}
        pairs = zip(model.variables, state.model, strict=True)
        return [value for variable, value in pairs if id(variable) in trainable]

    def _model_at(self, state: KerasState) -> keras.Model:
        return self._restored(state)

    def _pack(self, state: KerasState) -> list[NDArray[Any]]:
        return [*state.model, *state.optimizer]

    def _unpack(self, setting: Setting, arrays: Sequence[NDArray[Any]]) -> KerasState:
        fresh = self._start(setting)
        # A file does not know the small floats' names, only their bits.
        templates = [*fresh.model, *fresh.optimizer]
        kept = tuple(a.view(t.dtype) for a, t in zip(arrays, templates, strict=True))
        return KerasState(setting, kept[: len(fresh.model)], kept[len(fresh.model) :])

    def _train(
        self, state: KerasState, rates: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> tuple[KerasState, NDArray[np.float32]]:
        model = self._restored(state)
        # The draws of a step are the same whoever trains on, in whichever process.
        at = [self.problem.seed, 31, int(model.optimizer.iterations)]
        with backend.seeded(int(np.random.default_rng(at).integers(2**31))):
            losses = self._steps(model, rates, rows)
        new = KerasState(state.setting, _read(model.variables), _read(model.optimizer.variables))
        self._resident[state.setting.rule] = new
        return new, np.asarray(losses, np.float32)

    def _steps(
        self, model: keras.Model, rates: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> list[float]:
        """Train on these rows; the loss before each step."""
        losses = []
        for rate, batch in zip(rates, rows, strict=True):
            model.optimizer.learning_rate = float(rate)
            model.reset_metrics()
            x, y, weight = take(self.problem.training, batch)
            losses.append(_loss_of(model.train_on_batch(x, y, weight, return_dict=True)))
        return losses

    def _validate(self, state: KerasState, block: Examples) -> float:
        model = self._restored(state)
        model.reset_metrics()
        loss = _loss_of(model.test_on_batch(*block, return_dict=True))
        # A model that draws at random when it is evaluated has moved its seeds on.
        for variable, value in zip(model.variables, state.model, strict=True):
            if not variable.trainable:
                variable.assign(value)
        return loss

    def _model(self, setting: Setting) -> keras.Model:
        if setting.rule not in self._models:
            with self.budget.compiling():
                model = self.problem.compiled(setting.optimizer())
                model.optimizer.build(model.trainable_variables)
            self._models[setting.rule] = model
        return self._models[setting.rule]

    def _restored(self, state: KerasState) -> keras.Model:
        model = self._model(state.setting)
        if self._resident.get(state.setting.rule) is not state:
            _write(model.variables, state.model)
            _write(model.optimizer.variables, state.optimizer)
            self._resident[state.setting.rule] = state
        return model


def _read(variables: Sequence[Any]) -> Arrays:
    # np.array copies: on torch the plain conversion shares memory with the variable.
    return tuple(np.array(keras.ops.convert_to_numpy(v)) for v in variables)


def _write(variables: Sequence[Any], values: Arrays) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _loss_of(logs: Mapping[str, Any]) -> float:
    """The total loss among what a step reports.

    Raises:
        RequestError: A step of the model's own does not report it.
    """
    if "loss" not in logs:
        raise RequestError(
            f"the model's own step reports {', '.join(logs) or 'nothing'}; probes compare 'loss'. "
            "Return it from train_step and test_step.",
            code="unsupported_model",
        )
    return float(logs["loss"])
