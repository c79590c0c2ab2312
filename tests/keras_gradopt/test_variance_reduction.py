"""SVRG, SARAH, STORM and MARS: their papers' paths, and that their noise falls."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from tests.keras_gradopt import logistic
from tests.keras_gradopt.logistic import BATCH, EXAMPLES, Weights
from tests.keras_gradopt.problems import network, regression_data, values

RATE = 0.3
EPOCHS = 4
M = EXAMPLES // BATCH
# The mode that starts sooner; on torch the other one leaves the arithmetic as it is.
JIT = keras.backend.backend() == "jax"
OTHER = (
    [] if keras.backend.backend() == "torch" else [pytest.param(not JIT, marks=pytest.mark.slow)]
)
in_every_mode = pytest.mark.parametrize("jit_compile", [JIT, *OTHER])


def follow(optimizer: Any, rule: Callable, *, jit_compile: bool) -> None:
    """Compares a model's weights with a rule in NumPy, after 32 steps in float32."""
    model = logistic.model(optimizer, logistic.data(), jit_compile=jit_compile)
    found, expected = logistic.fitted(model, EPOCHS), logistic.path(rule, EPOCHS)
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=2e-6)


def full(ws: Weights) -> Weights:
    return logistic.gradient(ws, *logistic.data())


def norm(gs: Weights) -> float:
    return float(np.sqrt(sum((g**2).sum() for g in gs)))


def plus(a: Weights, b: Weights, factor: float = 1.0) -> Weights:
    return [p + factor * q for p, q in zip(a, b, strict=True)]


# ---------------------------------------------------------------------- the papers' paths


class SVRG:
    """Johnson & Zhang 2013, option I, in NumPy."""

    def __init__(self, interval: int) -> None:
        self.interval = interval

    def __call__(self, t: int, ws: Weights, gradient: Callable) -> Weights:
        if t % self.interval == 0:
            self.snapshot, self.mu = ws, full(ws)
        v = plus(plus(gradient(ws), gradient(self.snapshot), -1), self.mu)
        return plus(ws, v, -RATE)


class SARAH:
    """Nguyen et al. 2017, Algorithm 1, and the step of SPIDER (Fang et al. 2018), in NumPy."""

    def __init__(self, interval: int, length: float | None = None) -> None:
        self.interval, self.length = interval, length

    def __call__(self, t: int, ws: Weights, gradient: Callable) -> Weights:
        if t % self.interval == 0:
            self.v = full(ws)
        else:
            self.v = plus(plus(gradient(ws), gradient(self.previous), -1), self.v)
        self.previous = ws
        return plus(ws, self.v, -(self.length / norm(self.v) if self.length else RATE))


class STORM:
    """Cutkosky & Orabona 2019, Algorithm 1, in NumPy; with `a` the constant variant."""

    def __init__(self, c: float = 0.0, w: float = 0.0, a: float | None = None) -> None:
        self.c, self.w, self.a, self.squares = c, w, a, 0.0

    def __call__(self, t: int, ws: Weights, gradient: Callable) -> Weights:
        g = gradient(ws)
        if t == 0:
            self.d = g
        else:
            a = self.next if self.a is None else self.a
            self.d = plus(g, plus(self.d, gradient(self.previous), -1), 1 - a)
        self.squares += norm(g) ** 2
        self.eta = RATE / (self.w + self.squares) ** (1 / 3) if self.a is None else RATE
        self.next, self.previous = min(1.0, self.c * self.eta**2), ws
        return plus(ws, self.d, -self.eta)


class MARS:
    """Yuan et al. 2024 around momentum, in NumPy: one variable's norm at a time."""

    def __init__(self, gamma: float, beta: float, limit: float, *, exact: bool) -> None:
        self.strength, self.beta, self.limit = gamma * beta / (1 - beta), beta, limit
        self.exact, self.last = exact, [np.zeros_like(w) for w in logistic.start()]
        self.u = self.last

    def __call__(self, t: int, ws: Weights, gradient: Callable) -> Weights:
        g = gradient(ws)
        if self.exact:
            self.last = gradient(self.previous) if t else g
        c = plus(g, plus(g, self.last, -1), self.strength)
        c = [x * min(1.0, self.limit / np.linalg.norm(x)) for x in c]
        self.u = [self.beta * u - RATE / 10 * x for u, x in zip(self.u, c, strict=True)]
        self.last, self.previous = g, ws
        return plus(ws, self.u)


@in_every_mode
@pytest.mark.parametrize("interval", [None, 5])
def test_svrg_follows_its_paper(interval: int | None, jit_compile: bool) -> None:
    follow(kg.SVRG(RATE, interval), SVRG(interval or 2 * M), jit_compile=jit_compile)


@in_every_mode
@pytest.mark.parametrize("interval", [None, 11])
def test_sarah_follows_its_paper(interval: int | None, jit_compile: bool) -> None:
    follow(kg.SARAH(RATE, interval), SARAH(interval or M), jit_compile=jit_compile)


@in_every_mode
def test_normalized_sarah_is_spider(jit_compile: bool) -> None:
    # 32 steps of this length stay on this side of the minimum, where their direction is steady.
    ours = kg.SARAH(0.03, 8, normalized=True)
    follow(ours, SARAH(8, length=0.03), jit_compile=jit_compile)


@in_every_mode
def test_storm_follows_its_paper(jit_compile: bool) -> None:
    ours = kg.STORM(RATE, share_factor=3.0, offset=0.2)
    follow(ours, STORM(c=3.0, w=0.2), jit_compile=jit_compile)


@in_every_mode
def test_storm_of_constant_share_follows_its_equations(jit_compile: bool) -> None:
    follow(kg.STORM(RATE, share=0.3), STORM(a=0.3), jit_compile=jit_compile)


@in_every_mode
@pytest.mark.parametrize("exact", [False, True])
def test_mars_follows_its_paper(exact: bool, jit_compile: bool) -> None:
    # A strength of 0.9 and a limit that most of the kernel's gradients exceed.
    ours = kg.MARS(
        kg.SGD(RATE / 10, momentum=0.9), gamma=0.1, beta_1=0.9, max_norm=0.1, exact=exact
    )
    follow(ours, MARS(0.1, 0.9, 0.1, exact=exact), jit_compile=jit_compile)


def test_a_share_of_one_is_sgd() -> None:
    ours = logistic.fitted(logistic.model(kg.STORM(RATE, share=1.0)), 2)
    sgd = logistic.fitted(logistic.model(kg.SGD(RATE)), 2)
    for a, b in zip(ours, sgd, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "paper"),
    [
        (lambda: kg.SVRG(RATE, weight_decay=0.1), lambda: SVRG(2 * M)),
        (lambda: kg.SARAH(RATE, weight_decay=0.1), lambda: SARAH(M)),
        (lambda: kg.STORM(RATE, weight_decay=0.1, share_factor=3.0), lambda: STORM(c=3.0, w=0.1)),
    ],
    ids=["SVRG", "SARAH", "STORM"],
)
def test_weight_decay_is_decoupled_from_the_estimate(ours: Callable, paper: Callable) -> None:
    """It pulls at the weights of the step; gradients are taken where they were before it."""
    rule = paper()

    def decayed(t: int, ws: Weights, gradient: Callable) -> Weights:
        return plus(rule(t, ws, gradient), ws, -0.1 * getattr(rule, "eta", RATE))

    follow(ours(), decayed, jit_compile=JIT)


# ---------------------------------------------------------------------- the noise falls


def noise(model: keras.Model, estimate: Callable[[Weights, Weights], Weights]) -> list[float]:
    """Squared errors against the full gradient: of the estimate over that of the minibatch.

    One step is taken from the present state on each of the minibatches in turn.
    """
    kept = [*model.variables, *model.optimizer.variables]
    state = [np.array(ops.convert_to_numpy(v)) for v in kept]
    before = values(model.trainable_variables)
    truth, errors = full(before), np.zeros(2)
    for x, y in logistic.minibatches():
        model.train_on_batch(x, y)
        found = estimate(before, values(model.trainable_variables))
        plain = logistic.gradient(before, x, y)
        errors += [norm(plus(found, truth, -1)) ** 2, norm(plus(plain, truth, -1)) ** 2]
        for v, value in zip(kept, state, strict=True):
            v.assign(value)
    return list(errors / M)


def of_step(before: Weights, after: Weights) -> Weights:
    """The estimate that a step of plain descent took."""
    return [(b - a) / RATE for b, a in zip(before, after, strict=True)]


@pytest.mark.parametrize("cls", [kg.SVRG, kg.SARAH])
def test_the_variance_of_the_estimate_vanishes_as_training_converges(cls: type) -> None:
    model = logistic.model(cls(RATE, 2 * M), logistic.data(), jit_compile=JIT)
    ratios = []
    for _ in range(3):
        # To the middle between two passes, with the snapshot an epoch old.
        logistic.fitted(model, 3)
        ours, plain = noise(model, of_step)
        ratios.append(ours / plain)
        logistic.fitted(model, 3)
    # The minibatch's variance stays: it is that of the gradients at the minimum.
    assert ratios[0] < 1 / 100
    assert ratios[1] < ratios[0] / 10
    assert ratios[2] < 1e-5


def test_the_error_of_storm_falls_to_a_twentieth_of_the_minibatch_s() -> None:
    model = logistic.model(kg.STORM(0.1), jit_compile=JIT)

    def estimate(before: Weights, after: Weights) -> Weights:
        del before, after
        return [np.array(ops.convert_to_numpy(own[1])) for own in model.optimizer._slots]

    logistic.fitted(model, 1, shuffle=True)
    early, plain = noise(model, estimate)
    logistic.fitted(model, 40, shuffle=True)
    late, same = noise(model, estimate)
    assert late / same < 1 / 20
    assert late / same < early / plain / 5


def test_svrg_converges_linearly_where_sgd_stalls_at_the_same_rate() -> None:
    best = logistic.minimum()
    least = logistic.loss(best, *logistic.data())

    def gaps(optimizer: Any) -> list[float]:
        """What is left of the loss after every ten epochs."""
        model = logistic.model(optimizer, logistic.data(), jit_compile=JIT)
        found = [logistic.fitted(model, 10, shuffle=True) for _ in range(3)]
        return [logistic.loss(ws, *logistic.data()) - least for ws in found]

    ours, theirs = gaps(kg.SVRG(RATE)), gaps(kg.SGD(RATE))
    # Ten epochs gain a digit at least, each time.
    assert all(after < before / 10 for before, after in itertools.pairwise(ours))
    assert ours[-1] < 1e-6
    assert min(theirs) > 1e-5


# ---------------------------------------------------------------------- with everything around


MAKERS: list[Any] = [
    lambda: kg.SVRG(0.05, 5),
    lambda: kg.SARAH(0.02, 5, normalized=True),
    kg.STORM,
    lambda: kg.MARS(keras.optimizers.Adam(0.01), exact=True),
    *(
        pytest.param(make, marks=pytest.mark.slow)
        for make in (
            lambda: kg.SARAH(0.05),
            lambda: kg.STORM(0.05, share=0.2),
            lambda: kg.MARS("adamw"),
            lambda: kg.Lookahead(kg.SVRG(0.05), sync_period=3),
            lambda: kg.WeightAveraging(kg.SVRG(0.05), average="swa"),
        )
    ),
]
every_rule = pytest.mark.parametrize("make", MAKERS)


@every_rule
def test_saved_and_loaded_it_goes_on_as_if_nothing_had_happened(
    make: Callable, tmp_path: Path
) -> None:
    x, y = regression_data()
    model = kg.bind(network(), dataset=(x, y))
    model.compile(make(), loss="mse", jit_compile=JIT)
    # Three epochs of four steps end between two full passes.
    model.fit(x, y, epochs=3, batch_size=16, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = kg.bind(keras.models.load_model(tmp_path / "model.keras"), dataset=(x, y))
    for other in (model, loaded):
        other.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    for of in (lambda m: m.variables, lambda m: m.optimizer.variables):
        for a, b in zip(values(of(model)), values(of(loaded)), strict=True):
            np.testing.assert_array_equal(a, b)


@every_rule
def test_networks_with_dropout_and_batch_norm_train(make: Callable) -> None:
    x, y = regression_data()
    model = kg.bind(network(dropout=0.2, batch_norm=True), dataset=(x, y))
    model.compile(make(), loss="mse", jit_compile=JIT)
    losses = model.fit(x, y, epochs=10, batch_size=16, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("make", "per_step", "passes"),
    [
        (kg.SVRG, 2, 2),
        (lambda: kg.SVRG(snapshot_interval=3), 2, 6),
        (kg.SARAH, 2, 4),
        (kg.STORM, 2, 0),
        (lambda: kg.MARS("sgd", exact=True), 2, 0),
        (lambda: kg.MARS("sgd"), 1, 0),
    ],
)
def test_evaluations_are_counted_full_passes_included(
    make: Callable, per_step: int, passes: int
) -> None:
    x, y = regression_data()
    optimizer = make()
    model = kg.bind(network(), dataset=(x, y))
    model.compile(optimizer, loss="mse", jit_compile=JIT)
    model.fit(x, y, epochs=4, batch_size=16, verbose=0)
    assert float(ops.convert_to_tensor(optimizer.evaluations)) == 16 * per_step + 4 * passes
    if getattr(optimizer, "snapshot_interval", None) is None:
        assert optimizer.gradient_evaluations_per_step == per_step + passes * 4 / 16


def test_the_approximate_mars_needs_no_binding_and_the_exact_one_does() -> None:
    x, y = regression_data()
    for exact in (False, True):
        model = network()
        model.compile(kg.MARS("adam", exact=exact), loss="mse", jit_compile=False)
        if not exact:
            assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()
            continue
        with pytest.raises(RuntimeError, match=r"MARS .* keras_gradopt\.bind\(model\) before fit"):
            model.fit(x, y, verbose=0)


@pytest.mark.parametrize("exact", [False, True])
def test_mars_refuses_accumulation_in_both_modes(exact: bool) -> None:
    optimizer = kg.MARS(kg.SGD(gradient_accumulation_steps=2), exact=exact)
    with pytest.raises(ValueError, match="MARS .* cannot accumulate gradients"):
        optimizer.build([keras.Variable([1.0])])


@pytest.mark.parametrize("make", [kg.SVRG, kg.SARAH, kg.STORM])
def test_accumulation_is_refused(make: Callable) -> None:
    with pytest.raises(ValueError, match="cannot accumulate gradients"):
        make(gradient_accumulation_steps=2).build([keras.Variable([1.0])])


@pytest.mark.parametrize("interval", [0, -3, 2.5, "often"])
def test_an_interval_is_a_whole_number_of_steps(interval: Any) -> None:
    with pytest.raises(ValueError, match=r"snapshot_interval must be a whole number >= 1"):
        kg.SVRG(snapshot_interval=interval)
