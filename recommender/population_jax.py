"""The probe engine on JAX: one compiled step per task, hyper-parameters and rules as inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax import lax
from numpy.typing import NDArray

from recommender.budget import Budget
from recommender.cache import compile_cache
from recommender.copies import private_copy
from recommender.examples import Examples, take
from recommender.memory import Memory
from recommender.models import every_layer
from recommender.population import CHUNK, Population
from recommender.problem import Problem
from recommender.progress import Progress
from recommender.settings import Setting

Tensor = Any


@dataclass(frozen=True, eq=False)
class JaxState:
    """Everything that one probe carries from step to step."""

    setting: Setting
    weights: list[Tensor]
    extras: list[Tensor]
    slots: list[tuple[Tensor, ...]]
    shared: dict[str, Tensor]
    count: int


class JaxPopulation(Population):
    """Compiles the training step once per task and feeds every candidate through it.

    The rate of each step, the other hyper-parameters and the number of the rule are inputs, so
    no schedule and no candidate compiles anything. `lax.switch` picks the rule's own
    `transition`. Rules whose slots all have their weight's shape share one program, the slots
    padded to the largest count; any other rule gets a program of its own.
    """

    def __init__(
        self,
        problem: Problem,
        settings: Sequence[Setting],
        budget: Budget,
        progress: Progress | None = None,
        memory: Memory | None = None,
    ) -> None:
        super().__init__(problem, settings, budget, progress, memory)
        self._model = problem.compiled()
        self.weights, self._extras = _values(problem.model)
        self._take_data()
        self._evaluate: Any = None
        self._programs: dict[str, _Program] = {}
        together: dict[bool, list[Setting]] = {}
        for setting in self.settings:
            # A rule that cannot even be made fails when it is asked for, and alone.
            with contextlib.suppress(Exception):
                if _weight_shaped(setting, self.weights):
                    together.setdefault(_packs(setting), []).append(setting)
        for group in together.values():
            common = _Program(self, group)
            self._programs.update({setting.rule: common for setting in group})

    def _program(self, setting: Setting) -> _Program:
        if setting.rule not in self._programs:
            self._programs[setting.rule] = _Program(self, [setting])
        return self._programs[setting.rule]

    def _restarted(self) -> None:
        self.weights, self._extras = _values(self.problem.model)
        self._take_data()
        for program in set(self._programs.values()):
            program.restart()

    def _take_data(self) -> None:
        self.examples = _on_device(self.problem.training)

    def _start(self, setting: Setting) -> JaxState:
        slots, shared = self._program(setting).fresh(setting)
        return JaxState(setting, self.weights, self._extras, slots, shared, 0)

    def _trained(self, state: JaxState) -> list[NDArray[Any]]:
        return [np.asarray(w) for w in state.weights]

    def _model_at(self, state: JaxState) -> keras.Model:
        model = private_copy(self._model, self.problem.x)
        for variables, values in (
            (model.trainable_variables, state.weights),
            (model.non_trainable_variables, state.extras),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        return model

    def _pack(self, state: JaxState) -> list[NDArray[Any]]:
        return [np.asarray(state.count), *map(np.asarray, jax.tree.leaves(_carry(state)))]

    def _unpack(self, setting: Setting, arrays: Sequence[NDArray[Any]]) -> JaxState:
        fresh = self._start(setting)
        leaves, structure = jax.tree.flatten(_carry(fresh))
        # A file does not know the small floats' names, only their bits.
        kept = [jnp.asarray(a.view(leaf.dtype)) for a, leaf in zip(arrays[1:], leaves, strict=True)]
        weights, extras, slots, shared = jax.tree.unflatten(structure, kept)
        return JaxState(setting, weights, extras, slots, shared, int(arrays[0]))

    def _train(
        self, state: JaxState, rates: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> tuple[JaxState, NDArray[np.float32]]:
        program = self._program(state.setting)
        try:
            return program.run(state, rates, rows)
        except Exception:
            if program.alone:
                raise
            # One of the rules may have spoilt the program of all: each gets one of its own.
            self._programs = {r: p for r, p in self._programs.items() if p is not program}
            return self._program(state.setting).run(state, rates, rows)

    def _validate(self, state: JaxState, block: Examples) -> float:
        arguments = (state.weights, state.extras, _on_device(block))
        if self._evaluate is None:
            with self.budget.compiling(), compile_cache():
                self._evaluate = jax.jit(self._validation_loss).lower(*arguments).compile()
        return float(self._evaluate(*arguments))

    def _validation_loss(self, weights: Any, extras: Any, batch: Examples) -> Tensor:
        return self._loss(weights, extras, batch, training=False)[0]

    def training_loss(self, weights: Any, extras: Any, batch: Examples) -> tuple[Tensor, Any]:
        """Loss of one minibatch with its penalties, and the model's other state after it."""
        return self._loss(weights, extras, batch, training=True)

    def _loss(
        self, weights: Any, extras: Any, batch: Examples, *, training: bool
    ) -> tuple[Tensor, Any]:
        """The loss that `model.fit` would compute: it asks the same method of Keras' trainer."""
        metrics = [v.value for v in self._model.metrics_variables]
        loss, (_, _, extras, _) = self._model.compute_loss_and_updates(
            weights, extras, metrics, *batch, training=training
        )
        return jnp.asarray(loss, jnp.float32), extras


class _Program:
    """One compiled program that trains under any of a few rules."""

    def __init__(self, population: JaxPopulation, settings: Sequence[Setting]) -> None:
        self._population = population
        self._rules = [setting.optimizer() for setting in settings]
        # Many small tensors cost more time than their numbers, in compiling most of all.
        self._packed = all(_packs(setting) for setting in settings)
        self._index = {setting.rule: i for i, setting in enumerate(settings)}
        self.restart()
        self._width = max(max(map(len, slots), default=0) for slots, _ in self._starts)
        self._hypers = [_other_hyperparameters(rule) for rule in self._rules]
        self._hyper_width = max(1, *(len(values) for values in self._hypers))
        # XLA on CPU runs convolutions in a loop of its own about 1.7 times slower than one by one.
        self._looped = not has_convolution(population.problem.model)
        self._compiled: Any = None

    @property
    def alone(self) -> bool:
        """Whether it is for one rule only."""
        return len(self._rules) == 1

    def restart(self) -> None:
        """Take first slots from the population's present weights."""
        weights = self._joined(self._population.weights)
        self._starts = [
            (rule.initial_slots(weights), rule.initial_shared(weights)) for rule in self._rules
        ]

    def fresh(self, setting: Setting) -> tuple[list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """Slots of a rule before its first step, padded where the program is shared."""
        slots, shared = self._starts[self._index[setting.rule]]
        if len(self._rules) == 1:
            return [tuple(own) for own in slots], dict(shared)
        return [
            (*own, *(jnp.zeros(w.shape, jnp.float32) for _ in range(self._width - len(own))))
            for w, own in zip(self._joined(self._population.weights), slots, strict=True)
        ], dict(shared)

    def _joined(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors in float32, as one vector where all rules take coordinates one by one."""
        floats = [jnp.asarray(t, jnp.float32) for t in tensors]
        return [jnp.concatenate([t.ravel() for t in floats])] if self._packed else floats

    def _cut(self, tensors: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
        """The inverse of `_joined`, in the types of those alike."""
        if self._packed:
            ends = np.cumsum([w.size for w in like])[:-1]
            tensors = jnp.split(tensors[0], ends)
        return [t.reshape(w.shape).astype(w.dtype) for t, w in zip(tensors, like, strict=True)]

    def run(
        self, state: JaxState, rates: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> tuple[JaxState, NDArray[np.float32]]:
        """Train over at most `CHUNK` steps."""
        which = self._index[state.setting.rule]
        hyper = np.zeros(self._hyper_width, np.float32)
        hyper[: len(self._hypers[which])] = list(self._hypers[which].values())
        carry = _carry(state)
        fixed = (np.int32(which), hyper, self._population.examples)
        if self._looped:
            carry, losses = self._chunk(carry, state.count, rates, rows, fixed)
        else:
            carry, losses = self._one_by_one(carry, state.count, rates, rows, fixed)
        weights, extras, slots, shared = carry
        new = replace(
            state,
            weights=weights,
            extras=extras,
            slots=slots,
            shared=shared,
            count=state.count + len(rates),
        )
        return new, losses

    def _chunk(
        self, carry: Any, count: int, rates: Any, rows: Any, fixed: Any
    ) -> tuple[Any, NDArray[np.float32]]:
        length = len(rates)
        padded = np.zeros(CHUNK, np.float32)
        padded[:length] = rates
        all_rows = np.zeros((CHUNK, rows.shape[1]), np.int32)
        all_rows[:length] = rows
        arguments = (carry, np.int32(count), padded, all_rows, np.int32(length), *fixed)
        carry, losses = self._ready(self._many, arguments)(*arguments)
        return carry, np.asarray(losses)[:length]

    def _one_by_one(
        self, carry: Any, count: int, rates: Any, rows: Any, fixed: Any
    ) -> tuple[Any, NDArray[np.float32]]:
        losses = []
        for i, rate in enumerate(rates):
            arguments = (carry, np.int32(count + i), np.float32(rate), rows[i], *fixed)
            carry, loss = self._ready(self._step, arguments)(*arguments)
            losses.append(loss)
        return carry, np.asarray(losses, np.float32)

    def _ready(self, function: Any, arguments: Any) -> Any:
        if self._compiled is None:
            with self._population.budget.compiling(), compile_cache():
                self._compiled = jax.jit(function).lower(*arguments).compile()
        return self._compiled

    def _many(
        self, carry: Any, count: Any, rates: Any, rows: Any, length: Any, *fixed: Any
    ) -> tuple[Any, Tensor]:
        """A loop of `length` steps; the length is an input too, so one program serves all."""

        def body(i: Any, loop: Any) -> Any:
            carry, losses = loop
            carry, loss = self._step(carry, count + i, rates[i], rows[i], *fixed)
            return carry, losses.at[i].set(loss)

        return lax.fori_loop(0, length, body, (carry, jnp.zeros(CHUNK, jnp.float32)))

    def _step(
        self,
        carry: Any,
        count: Any,
        rate: Any,
        rows: Any,
        which: Any,
        hyper: Any,
        examples: Examples,
    ) -> tuple[Any, Tensor]:
        weights, extras, slots, shared = carry
        differentiate = jax.value_and_grad(self._population.training_loss, has_aux=True)
        (loss, extras), gradients = differentiate(weights, extras, take(examples, rows))
        ws, gs = self._joined(weights), self._joined(gradients)
        branches = [self._branch(i) for i in range(len(self._rules))]
        operands = (ws, gs, slots, shared, count + 1, rate, hyper)
        if len(branches) == 1:
            ws, slots, shared = branches[0](*operands)
        else:
            ws, slots, shared = lax.switch(which, branches, *operands)
        return (self._cut(ws, weights), extras, slots, shared), loss

    def _branch(self, position: int) -> Any:
        rule = self._rules[position]
        names = list(self._hypers[position])

        def branch(
            ws: Any, gs: Any, slots: Any, shared: Any, step: Any, rate: Any, hyper: Any
        ) -> Any:
            own = [kept[: len(s)] for kept, s in zip(slots, self._starts[position][0], strict=True)]
            rest = [
                kept[len(s) :] for kept, s in zip(slots, self._starts[position][0], strict=True)
            ]
            others = {name: hyper[i] for i, name in enumerate(names)}
            h = rule.hyperparameters(step, learning_rate=rate, **others)
            ws, own, shared = rule.transition(ws, gs, own, shared, h)
            slots = [(*mine, *left) for mine, left in zip(own, rest, strict=True)]
            return list(ws), slots, shared

        return branch


def _on_device(examples: Examples) -> Examples:
    found: Examples = jax.tree.map(jnp.asarray, examples)
    return found


def _carry(state: JaxState) -> tuple[Any, ...]:
    return state.weights, state.extras, state.slots, state.shared


def _values(model: keras.Model) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and other state; probes work on these values, the variables stay as they are."""
    return (
        [jnp.asarray(v.value) for v in model.trainable_variables],
        [jnp.asarray(v.value) for v in model.non_trainable_variables],
    )


def has_convolution(model: keras.Model) -> bool:
    """Whether any layer of the model convolves."""
    return any("Conv" in type(layer).__name__ for layer in every_layer(model))


def _packs(setting: Setting) -> bool:
    """Whether a rule moves every coordinate alone, so that all weights can be one vector."""
    rule = setting.optimizer()
    return bool(rule.elementwise) and not rule.all_transforms()


def _weight_shaped(setting: Setting, weights: Sequence[Tensor]) -> bool:
    rule = setting.optimizer()
    floats = [jnp.asarray(w, jnp.float32) for w in weights]
    if rule.initial_shared(floats):
        return False
    slots = rule.initial_slots(floats)
    return all(
        tuple(slot.shape) == tuple(w.shape)
        for w, own in zip(weights, slots, strict=True)
        for slot in own
    )


def _other_hyperparameters(rule: Any) -> dict[str, float]:
    """Every float argument but the rate, with the value the constructor was given."""
    config = rule.get_config()
    return {
        name: float(config[name])
        for name in rule.hyperparameter_names
        if name != "learning_rate" and isinstance(config.get(name), (int, float))
    }
