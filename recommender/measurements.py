"""Measurements of a training's start: each is made once, when somebody asks, and is paid for."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from recommender.budget import FORWARD, GRADIENT, Budget
from recommender.compiled import compile_with
from recommender.copies import private_copy
from recommender.errors import BudgetExhausted, ProbeFailed, is_out_of_memory
from recommender.examples import take
from recommender.models import forward
from recommender.population import Population
from recommender.problem import Problem
from recommender.seeding import seeded
from recommender.settings import Setting

# What all checks together may cost, as a share of one full training.
CAP = {"instant": 0.0, "quick": 0.02, "standard": 0.06, "thorough": 0.06}
# Steps that a rate of the range test is watched for.
RANGE_STEPS = 20
# Multiples of the default's rate: where training breaks, looked for upwards.
RANGE_FACTORS = (1.0, 3.0, 10.0, 30.0, 100.0)
# Steps on one batch that a model must learn by heart; fewer than the second show nothing.
OVERFIT_STEPS, LEAST_OVERFIT_STEPS = 30, 15
# Micro-batches that the gradient's noise is read from, each a quarter of a minibatch: few show
# outliers, many show a signal below the noise of a single one.
FEW_GROUPS, MANY_GROUPS = 16, 64
# Times that weights are shaken to see whether the loss moves at all.
SHAKES = 4
# Products with the Hessian for the ends of its spectrum.
PRODUCTS = 12


class Skipped(BudgetExhausted):
    """A measurement did not fit into what checks may cost, or the model does not allow it."""


@contextmanager
def _where_possible() -> Iterator[None]:
    """Skip a measurement that the model's layers or its loss do not allow."""
    try:
        yield
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise Skipped(str(error)) from error


class Allowance:
    """The part of the budget that checks may use.

    Args:
        budget: Pays.
        share: Of one full training.
    """

    def __init__(self, budget: Budget, share: float) -> None:
        self._budget = budget
        self.left = share * budget.full_steps

    def claim(self, price: float) -> None:
        """Set aside what a measurement is about to cost.

        Raises:
            Skipped: It does not fit.
        """
        if price > self.left * (1 + 1e-9) or not self._budget.affords(price):
            raise Skipped(f"a check needs {price:.0f} gradient evaluations, {self.left:.0f} remain")
        self.left -= price


@dataclass(frozen=True)
class LayerFacts:
    """One layer on one minibatch.

    Attributes:
        name: The layer's path.
        gradient: Norm of the loss' gradient at the layer's output before its activation, root of
            the mean square over the examples.
        activation: Root mean square of what goes in.
        dead: Share of its units whose gradient is 0 on every example.
        rectified: Whether its activation is 0 for half of the line.
    """

    name: str
    gradient: float
    activation: float
    dead: float
    rectified: bool


@dataclass(frozen=True)
class Noise:
    """The gradients of micro-batches at one point.

    Attributes:
        scale: Gradient noise scale in examples; infinite where the gradient is lost in the noise.
        norms: Norm of each micro-batch's gradient.
        rows: Examples in a micro-batch.
        signal: Squared norm of the expected gradient.
    """

    scale: float
    norms: tuple[float, ...]
    rows: int
    signal: float


@dataclass(frozen=True)
class Spectrum:
    """The ends of the Hessian's spectrum, and how typical they are.

    Attributes:
        largest: Largest eigenvalue.
        smallest: Smallest one; below 0 at a saddle.
        typical: Half of all eigenvalues are about this size or smaller.
    """

    largest: float
    smallest: float
    typical: float


class Measurements:
    """What can be measured before the race.

    Args:
        population: The probe engine; its budget pays.
        default: The hurdle, whose rate the range test raises.
        raced: Settings that the race will train anyway: their first steps cost the checks nothing.
    """

    def __init__(
        self, population: Population, default: Setting, raced: Collection[Setting] = ()
    ) -> None:
        self.population = population
        self.problem: Problem = population.problem
        self.default = default
        budget = population.budget
        self.allowance = Allowance(budget, CAP[budget.tier])
        self._free = {(s.rule, s.learning_rate) for s in (*raced, default)}
        self.range_test: list[tuple[float, float]] = []

    @functools.cached_property
    def initial_loss(self) -> float:
        """Validation loss before training: the decision needs it, so checks do not pay for it."""
        start = self.population.start(self.default)
        return float(np.mean(self.population.validate(start, "sanity")))

    @functools.cached_property
    def first_steps(self) -> Any:
        """The default's trunk after the range test's number of steps."""
        return self._watched(self.default)

    @functools.cached_property
    def refused(self) -> str | None:
        """What the backend said where it could not take a step at all; None where it could.

        Where no weight is connected to the loss by anything that has a slope, some backends give
        gradients of 0 and others refuse.
        """
        try:
            self.first_steps  # noqa: B018
        except ProbeFailed as error:
            cause = error.__cause__
            said = str(cause).strip().partition("\n")[0]
            if not isinstance(cause, (RuntimeError, ValueError)) or is_out_of_memory(cause):
                raise
            if "grad" not in said.lower():  # it complains of something else
                raise
            return said
        return None

    @functools.cached_property
    def by_heart(self) -> NDArray[np.float32]:
        """Losses of steps on one single batch."""
        steps = OVERFIT_STEPS
        if self.allowance.left < steps:
            steps = max(LEAST_OVERFIT_STEPS, int(self.allowance.left))
        self.allowance.claim(GRADIENT * steps)
        rows = np.repeat(self.problem.batch_indices(0, 1), steps, axis=0)
        rates = np.full(steps, 10 * self.default.learning_rate, np.float32)
        start = self.population.start(self.default)
        return self.population.train(start, rates, rows, "sanity")[1]

    @functools.cached_property
    def edge(self) -> float | None:
        """The smallest rate of the range test that diverged; None when none did."""
        for factor in RANGE_FACTORS:
            rate = self.default.learning_rate * factor
            trunk = self._watched(dataclasses.replace(self.default, learning_rate=rate))
            last = np.asarray(trunk.losses[:RANGE_STEPS][-5:], np.float64)
            finite = trunk.diverged_at is None and len(last) and np.isfinite(last).all()
            self.range_test.append((rate, float(last.mean()) if finite else math.inf))
            if not finite:
                break
        rates = [r for r, loss in self.range_test if not loss <= 4 * self.initial_loss + 1]
        return min(rates, default=None)

    def _watched(self, setting: Setting) -> Any:
        trunk = self.population.trunk(setting)
        ahead = max(0, RANGE_STEPS - trunk.step)
        if (setting.rule, setting.learning_rate) not in self._free:
            self.allowance.claim(GRADIENT * ahead)
        trunk.advance(RANGE_STEPS, "range_test")
        return trunk

    @functools.cached_property
    def moves(self) -> bool:
        """Whether the loss of a minibatch changes when all weights are shaken."""
        price = FORWARD * (SHAKES + 1)
        self.allowance.claim(price)
        self.population.budget.spend("diagnostics", price)
        x, y = first_rows(self.problem, self.problem.batch_size)
        model, losses = compiled_copy(self.problem.model, self.problem), []
        rng = np.random.default_rng([self.problem.seed, 47])
        first = [np.array(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]
        for shake in range(SHAKES + 1):
            for variable, w in zip(model.trainable_variables, first, strict=True):
                size = float(np.sqrt(np.mean(w * w))) or 1.0
                noise = 0.3 * size * rng.normal(size=w.shape) if shake else 0.0
                variable.assign(w + noise)
            value = model.compute_loss(x, y, forward(model, x))
            losses.append(float(keras.ops.convert_to_numpy(value)))
        return max(losses) - min(losses) > 1e-6 * max(map(abs, losses))

    @functools.cached_property
    def layers(self) -> list[LayerFacts]:
        """Each layer that multiplies, at the first weights, in the model's order."""
        return self._layers(self._copy)

    @functools.cached_property
    def layers_later(self) -> list[LayerFacts]:
        """The same after the default's first steps."""
        model = compiled_copy(self._copy, self.problem)
        values = self.population.trained(self.first_steps.state)
        for variable, value in zip(model.trainable_variables, values, strict=True):
            variable.assign(value)
        return self._layers(model)

    def _layers(self, model: keras.Model) -> list[LayerFacts]:
        from keras_gradopt.objective import Objective

        self.allowance.claim(GRADIENT)
        self.population.budget.spend("diagnostics", GRADIENT)
        x, y = first_rows(self.problem, self.problem.batch_size)
        with _where_possible():  # a layer that is called in a loop has no gradient of its own
            objective = Objective(model, (x, y))
            ws = [keras.ops.cast(v.value, "float32") for v in model.trainable_variables]
            seen = objective.layers(ws).seen
        return [_layer(one) for one in seen if one.block.kind == "product"]

    @functools.cached_property
    def noise(self) -> Noise:
        """How noisy the gradient is at the first weights."""
        return noise_at(self._copy, self.population, self.allowance, FEW_GROUPS)

    @functools.cached_property
    def spectrum(self) -> Spectrum:
        """The ends of the Hessian's spectrum at the first weights, by Lanczos."""
        from keras_gradopt.curvature import DataLandscape
        from keras_gradopt.curvature.krylov import Krylov

        batches = min(2, self.problem.steps_per_epoch)
        # The first product comes with two more that see whether it is symmetric.
        price = 3 * GRADIENT * batches * (PRODUCTS + 2)
        self.allowance.claim(price)
        self.population.budget.spend("diagnostics", price)
        x, y = first_rows(self.problem, batches * self.problem.batch_size)
        rng = np.random.default_rng([self.problem.seed, 41])
        with _where_possible():  # not where a layer has no second derivative, or a loss has kinks
            landscape = DataLandscape(self._copy, x, y, training=True)
            start = rng.normal(size=landscape.size)
            krylov = Krylov(landscape.product, start, PRODUCTS, rng)
            while not krylov.is_full:
                krylov.extend()
            values, vectors, _ = krylov.ritz()
        # Lanczos from a random vector is a quadrature of the spectral density.
        sizes, shares = np.abs(values), np.asarray(vectors)[0] ** 2
        rising = np.argsort(sizes)
        half = np.searchsorted(np.cumsum(shares[rising]), shares.sum() / 2)
        typical = float(sizes[rising][min(half, len(sizes) - 1)])
        return Spectrum(float(np.max(values)), float(np.min(values)), typical)

    @functools.cached_property
    def _copy(self) -> keras.Model:
        return compiled_copy(self.problem.model, self.problem)


def compiled_copy(model: keras.Model, problem: Problem) -> keras.Model:
    """A copy with the same weights and the problem's loss, whose dropout follows from its seed."""
    with seeded(problem.seed):
        twin = private_copy(model, problem.x)
    compile_with(twin, None, problem.loss, problem.loss_weights)
    return twin


def first_rows(problem: Problem, count: int) -> tuple[Any, Any]:
    """The first examples that training sees."""
    batches = math.ceil(count / problem.batch_size)
    rows = problem.batch_indices(0, batches).ravel()[:count]
    return take(problem.x, rows), take(problem.y, rows)


def noise_at(
    model: keras.Model, population: Population, allowance: Allowance, groups: int
) -> Noise:
    """How noisy the gradient of a compiled model is, over micro-batches of a quarter batch.

    Args:
        model: At the weights in question.
        population: Its problem gives the data, its budget pays.
        allowance: What checks may still cost.
        groups: Micro-batches, as far as there are examples.

    Raises:
        Skipped: There are too few examples, or the measurement does not fit.
    """
    from keras_gradopt.curvature import DataLandscape
    from keras_gradopt.sampling.noise_scale import noise_and_signal, noise_scale

    problem = population.problem
    rows = max(1, problem.batch_size // 4)
    groups = min(groups, problem.training.rows // rows)
    if groups < 2:
        raise Skipped("too few examples for the noise of gradients")
    price = GRADIENT * rows * groups / problem.batch_size
    allowance.claim(price)
    population.budget.spend("diagnostics", price)
    x, y = first_rows(problem, rows * groups)
    with _where_possible():
        landscape = DataLandscape(model, x, y, batch_size=rows, training=True)
        gradients = list(landscape.gradients())
    squares = [float(g @ g) for g in gradients]
    mean = np.mean(gradients, axis=0)
    trace, signal = noise_and_signal(squares, float(mean @ mean), rows, rows * groups)
    scale = noise_scale(trace, signal) if math.isfinite(trace) else math.nan
    return Noise(scale, tuple(math.sqrt(s) for s in squares), rows, signal)


def _layer(seen: Any) -> LayerFacts:
    """Facts of a layer from what it saw."""
    gradients = [_array(g) for g in seen.output_gradients]
    inputs = [_array(x) for x in seen.inputs]
    units = gradients[0].shape[-1]
    alive = np.zeros(units, bool)
    for g in gradients:
        alive |= (g.reshape(-1, units) != 0).any(axis=0)
    examples = len(gradients[0])
    # An example's own gradient is its number of examples times its part of the mean's.
    norm = math.sqrt(examples * sum(float(np.sum(g * g)) for g in gradients))
    return LayerFacts(
        seen.layer.path,
        norm,
        math.sqrt(float(np.mean([np.mean(x * x) for x in inputs]))),
        float(np.mean(~alive)),
        getattr(getattr(seen.layer, "activation", None), "__name__", "") == "relu",
    )


def _array(tensor: Any) -> NDArray[np.float64]:
    return np.asarray(keras.ops.convert_to_numpy(tensor), np.float64)


def norms_ratio(norms: Sequence[float]) -> float:
    """How far the largest norm lies above the middle one; 1 where there is nothing to compare."""
    middle = float(np.median(norms)) if len(norms) else 0.0
    return max(norms) / middle if middle > 0 else 1.0
