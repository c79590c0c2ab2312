"""Rules that see losses only: against cmaes, cma, evosax and NumPy, and as optimizers of models."""

from __future__ import annotations

import functools
import itertools
import warnings
from pathlib import Path
from typing import Any

import cma
import cmaes
import keras
import numpy as np
import pytest
from keras import ops
from scipy.optimize import rosen

import keras_gradopt as kg
from keras_gradopt import registry
from keras_gradopt.gradient_free import GradientFree
from keras_gradopt.objective import Objective
from keras_gradopt.ranking import rank_change
from tests.keras_gradopt.gradient_free_peers import record_evosax
from tests.keras_gradopt.problems import network, regression_data, values
from tests.keras_gradopt.test_second_order import double_precision

JIT = keras.backend.backend() == "jax"
CLASSES = [c for c in registry.optimizer_classes().values() if issubclass(c, GradientFree)]
every_rule = pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
# One stands for all in what the base class does, and is long in compiling.
one_rule = pytest.mark.parametrize(
    "cls",
    [c if c is kg.EvolutionStrategy else pytest.param(c, marks=pytest.mark.slow) for c in CLASSES],
    ids=lambda c: c.__name__,
)


def sphere(w: np.ndarray) -> float:
    return float(np.sum((w - 1.0) ** 2))


def rastrigin(w: np.ndarray) -> float:
    return float(np.sum(w**2 - 10 * np.cos(2 * np.pi * w) + 10))


def slot(optimizer: Any, name: str) -> np.ndarray:
    return np.array(ops.convert_to_numpy(optimizer.shared_variables[name].value))


def mean_of(optimizer: Any) -> np.ndarray:
    return optimizer._minimization().mean


@functools.cache
def search(cls: type) -> Any:
    """A rule in three dimensions, compiled once: `start` puts it back."""
    return cls(**({"sigma": 0.5} if cls is kg.CMAES else {}))


# ---------------------------------------------------------------------- CMA-ES


@pytest.mark.parametrize(
    ("covariance", "peer", "population", "restarts"),
    [
        ("full", cmaes.CMA, None, 0),
        ("full", cmaes.CMA, 13, 2),
        ("separable", cmaes.SepCMA, None, 0),
    ],
)
def test_cma_es_goes_the_way_of_cmaes_on_the_same_points(
    covariance: str, peer: Any, population: int | None, restarts: int
) -> None:
    start = np.linspace(-1.0, 2.0, 5)
    theirs = peer(mean=start.copy(), sigma=0.5, population_size=population)
    with double_precision():
        ours = kg.CMAES(
            sigma=0.5, covariance=covariance, population_size=population, restarts=restarts
        )
        ours.start(start)
        for _ in range(60):
            points = ours.ask()
            losses = [rosen(p) for p in points]
            ours.tell(losses)
            theirs.tell([(p.copy(), v) for p, v in zip(points, losses, strict=True)])
        # Rounding of 60 products of matrices.
        np.testing.assert_allclose(mean_of(ours), theirs.mean, rtol=1e-11)
        np.testing.assert_allclose(slot(ours, "sigma"), theirs._sigma, rtol=1e-11)
        np.testing.assert_allclose(slot(ours, "covariance"), theirs._C, atol=1e-10)


@pytest.mark.slow
def test_a_population_in_chunks_is_one_population(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keras_gradopt.gradient_free._ENTRIES_AT_A_TIME", 20)
    start = np.linspace(-1.0, 2.0, 5)
    theirs = cmaes.CMA(mean=start.copy(), sigma=0.5, population_size=12)
    with double_precision():
        ours = kg.CMAES(sigma=0.5, population_size=12)
        ours.start(start)
        assert ours.chunk_size(5) == 4
        for _ in range(10):
            points = ours.ask()
            losses = [rosen(p) for p in points]
            ours.tell(losses)
            theirs.tell([(p.copy(), v) for p, v in zip(points, losses, strict=True)])
        np.testing.assert_allclose(mean_of(ours), theirs.mean, rtol=1e-12)
        np.testing.assert_allclose(slot(ours, "covariance"), theirs._C, atol=1e-12)


def test_restarts_double_the_population_and_keep_the_best_of_all_searches() -> None:
    optimizer = kg.CMAES(sigma=0.5, restarts=2, seed=1)
    optimizer.start([3.0, -2.0])
    populations: list[int] = []
    ends: list[float] = []
    last = np.inf
    for _ in range(400):
        points = optimizer.ask()
        if populations and len(points) != populations[-1]:
            # Where the search before ended, a local minimum, was the best of its last points.
            ends.append(last)
        populations.append(len(points))
        losses = [rastrigin(p) for p in points]
        last = min(losses)
        optimizer.tell(losses)
    assert list(dict.fromkeys(populations)) == [6, 12, 24]
    assert rastrigin(mean_of(optimizer)) == pytest.approx(min(*ends, last), abs=1e-4)
    reason, is_failure = optimizer.verdict(1)
    assert "shrunk" in str(reason)
    assert not is_failure


def test_what_noise_does_to_ranks_is_measured_as_cma_does() -> None:
    rng = np.random.default_rng(0)
    for points, noise in itertools.product((6, 9), (0.0, 0.3, 5.0)):
        losses = np.arange(points) + noise * rng.normal(size=(2, points))
        theirs = cma.NoiseHandler(points)
        theirs.fit, theirs.fitre = list(losses[0]), list(losses[1])
        theirs.idx = np.arange(points)
        theirs.cum, theirs.noiseS, theirs.theta = 1.0, 0.0, 0.2
        wanted, _ = theirs.update_measure()
        missing = np.full((2, 3), np.inf)
        for given in (losses, np.concatenate([losses, missing], axis=1)):
            found = rank_change(ops.convert_to_tensor(given, "float32"), float(points))
            assert float(found) == pytest.approx(wanted, abs=1e-4)


def test_generations_take_more_minibatches_only_where_ranks_are_noise() -> None:
    rng = np.random.default_rng(0)
    taken = []
    optimizer = kg.CMAES(sigma=0.5, handle_noise=True, most_evaluations=4)
    for noise in (0.0, 30.0):
        optimizer.start(np.ones(4) * 3)
        for _ in range(60):
            points = optimizer.ask()
            np.testing.assert_array_equal(optimizer.ask(), points)
            optimizer.tell(
                *(np.array([sphere(p) for p in points]) + noise * rng.normal(size=(2, 8)))
            )
        taken.append(float(slot(optimizer, "wanted")))
        # Where a generation needs several, they are of the same points.
        assert (slot(optimizer, "generation") == 60) == (noise == 0.0)
    assert taken[0] == 1.0
    assert taken[1] == 4.0


@pytest.mark.slow
def test_noise_handling_finds_a_better_mean_than_none_at_equal_evaluations() -> None:
    """Median over seeds of the true loss at the mean, in noise as large as the first loss."""

    def end(optimizer: Any, seed: int) -> float:
        rng = np.random.default_rng(seed)
        found = optimizer.minimize(
            lambda w: sphere(w) + 4.0 * rng.normal(), np.zeros(4), 3000, seed=seed
        )
        return sphere(found.mean)

    both = [kg.CMAES(sigma=0.3, handle_noise=handled) for handled in (False, True)]
    ends = [[end(optimizer, seed) for seed in range(9)] for optimizer in both]
    assert np.median(ends[1]) < 0.5 * np.median(ends[0])


def test_halves_of_a_minibatch_that_disagree_are_noise_to_a_model() -> None:
    rng = np.random.default_rng(0)
    half = rng.normal(size=(8, 3)).astype("float32")
    x = np.concatenate([half, half])
    wanted = []
    for noise in (0.0, 3.0):
        y = x @ np.ones((3, 1)) + noise * rng.normal(size=(16, 1))
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        kg.bind(model).compile(kg.CMAES(sigma=0.01, handle_noise=True), "mse", jit_compile=JIT)
        model.fit(x, y.astype("float32"), batch_size=16, epochs=20, shuffle=False, verbose=0)
        wanted.append(float(slot(model.optimizer, "wanted")))
    assert wanted[0] == 1.0
    assert wanted[1] > 1.0


# ---------------------------------------------------------------------- the other rules


def test_the_evolution_strategy_goes_the_way_of_evosax(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = record_evosax
    draws = peer.directions()
    with np.load(peer.OUT) as file:
        means = file["means"]
    with double_precision():
        optimizer = kg.EvolutionStrategy(
            peer.LEARNING_RATE, population_size=peer.POPULATION, sigma=peer.SIGMA
        )
        table = ops.convert_to_tensor(draws)
        monkeypatch.setattr(
            optimizer,
            "_directions",
            lambda w, shared, h, chunk: ops.take(table, ops.cast(h.step, "int32") - 1, axis=0),
        )
        optimizer.start(peer.start())
        for mean in means:
            optimizer.tell(peer.loss(optimizer.ask()))
            # Keras keeps the learning rate in float32.
            np.testing.assert_allclose(mean_of(optimizer), mean, atol=1e-7)


def test_spsa_follows_its_equations_in_float64() -> None:
    a, c, stability, alpha, gamma = 0.5, 0.1, 10.0, 0.602, 0.101
    with double_precision():
        optimizer = kg.SPSA(a, c, stability, alpha, gamma, averages=3, seed=5)
        optimizer.start([2.0, -1.0, 0.5])
        w = np.array([2.0, -1.0, 0.5])
        for k in range(20):
            points = optimizer.ask()
            c_k = c / (k + 1) ** gamma
            ahead, behind = points[:3], points[3:]
            signs = (ahead - w) / c_k
            np.testing.assert_allclose(np.abs(signs), 1.0, rtol=1e-9)
            np.testing.assert_allclose(behind, w - c_k * signs)
            estimates = [
                (rosen(p) - rosen(m)) / (2 * c_k) / s
                for p, m, s in zip(ahead, behind, signs, strict=True)
            ]
            w = w - a / (stability + k + 1) ** alpha * 1e-3 * np.mean(estimates, axis=0)
            optimizer.tell([1e-3 * rosen(p) for p in points])
            np.testing.assert_allclose(mean_of(optimizer), w, rtol=1e-9)


@pytest.mark.slow
def test_spsa_reaches_in_its_papers_setting_what_gradients_with_noise_would() -> None:
    """A skewed quartic in 10 dimensions with noise, gains by Spall's rules.

    From Spall 1998, section V: the loss falls from 4.18 at the start by more than a factor of 20
    with 4000 noisy losses.
    """
    size = 10
    upper = np.triu(np.ones((size, size))) / size

    def quartic(w: np.ndarray) -> float:
        b = upper @ w
        return float(b @ b + 0.1 * np.sum(b**3) + 0.01 * np.sum(b**4))

    start = np.ones(size)
    ends = []
    optimizer = kg.SPSA(1.0, perturbation=0.1, stability=100.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)

        def noisy(w: np.ndarray, rng: Any = rng) -> float:
            return quartic(w) + 0.05 * rng.normal()

        found = optimizer.minimize(noisy, start, 4000, seed=seed)
        ends.append(quartic(found.mean) / quartic(start))
    assert np.median(ends) < 0.05


def test_averaging_takes_the_noise_out_of_spsa() -> None:
    """The variance of one step falls as 1 / averages: within 40 % for 60 draws of each."""
    spreads = []
    for averages in (1, 16):
        steps = []
        optimizer = kg.SPSA(1.0, averages=averages)
        for seed in range(60):
            optimizer.start(np.zeros(4), seed)
            optimizer.tell([sphere(p) for p in optimizer.ask()])
            steps.append(mean_of(optimizer))
        spreads.append(np.var(steps, axis=0).sum())
    assert spreads[0] / spreads[1] == pytest.approx(16, rel=0.4)


# ---------------------------------------------------------------------- what all share


@every_rule
def test_the_same_seed_asks_for_the_same_points(cls: type) -> None:
    optimizer = search(cls)

    def third(seed: int) -> np.ndarray:
        optimizer.start(np.ones(3), seed)
        for _ in range(2):
            optimizer.tell([sphere(p) for p in optimizer.ask()])
        return optimizer.ask()

    np.testing.assert_array_equal(third(1), third(1))
    assert not np.allclose(third(1), third(2))


def test_a_seed_at_the_start_is_a_seed_of_the_constructor() -> None:
    points = []
    for optimizer, seed in ((kg.SPSA(seed=4), None), (kg.SPSA(), 4)):
        optimizer.start(np.ones(3), seed)
        points.append(optimizer.ask())
    np.testing.assert_array_equal(*points)


@every_rule
def test_a_model_and_ask_and_tell_make_the_same_steps(cls: type) -> None:
    start = np.array([[2.0], [-1.0], [0.5]])
    x, y = np.eye(3), np.ones((3, 1))
    # In one precision: a decomposition in another may turn the axes round.
    with double_precision():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        model.layers[0].kernel.assign(start)
        kg.bind(model).compile(cls(seed=3), "mse", jit_compile=JIT)
        model.fit(x, y, batch_size=3, epochs=6, verbose=0)
        free = cls(seed=3)
        free.start(start)
        for _ in range(6):
            free.tell([np.mean((p - 1.0) ** 2) for p in free.ask()])
        np.testing.assert_allclose(values(model.weights)[0][:, 0], mean_of(free), rtol=1e-5)


class Step(keras.layers.Layer):
    """A hard threshold whose gradient is an error."""

    def call(self, x: Any) -> Any:
        @ops.custom_gradient
        def step(x: Any) -> Any:
            def refuse(*_: Any, **__: Any) -> Any:
                raise AssertionError("A gradient was asked for.")

            return ops.cast(x > 0, "float32"), refuse

        return step(x)


@every_rule
def test_no_gradient_is_ever_asked_for(cls: type) -> None:
    x, y = regression_data(16)
    model = keras.Sequential(
        [keras.Input((x.shape[1],)), keras.layers.Dense(3), Step(), keras.layers.Dense(1)]
    )
    kg.bind(model).compile(cls(), "mse", jit_compile=JIT)
    before = values(model.trainable_variables)
    # A search that keeps the best point may find none better at first.
    history = model.fit(x, y, batch_size=16, epochs=8, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(before, values(model.trainable_variables), strict=True)
    )


def test_a_network_with_hard_thresholds_learns_to_classify() -> None:
    """Two rings: a linear model gets half of them right, 8 hard units more than nine of ten."""
    rng = np.random.default_rng(0)
    angle, ring = rng.uniform(0, 2 * np.pi, 200), rng.integers(0, 2, 200)
    radius = 1.0 + ring + 0.1 * rng.normal(size=200)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype("float32")
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(8), Step(), keras.layers.Dense(1, "sigmoid")]
    )
    kg.bind(model)
    model.compile(
        kg.CMAES(sigma=0.5, seed=2), "binary_crossentropy", metrics=["accuracy"], jit_compile=JIT
    )
    model.fit(x, ring, batch_size=200, epochs=150, verbose=0)
    assert model.evaluate(x, ring, verbose=0, return_dict=True)["accuracy"] > 0.9


@every_rule
def test_points_without_a_finite_loss_are_the_worst_and_spread_no_nan(cls: type) -> None:
    optimizer = search(cls)
    optimizer.start(np.ones(3))
    for _ in range(4):
        points = optimizer.ask()
        losses = np.array([sphere(p) for p in points])
        losses[0] = np.nan
        losses[-1] = np.inf if len(losses) > 1 else losses[-1]
        optimizer.tell(losses)
    for variable in optimizer.variables:
        assert np.all(np.isfinite(np.asarray(ops.convert_to_numpy(variable.value))))
    assert np.all(np.isfinite(mean_of(optimizer)))


def test_nan_is_ranked_last() -> None:
    """Losses beyond all others, and no losses, are the same to a rule of ranks."""
    ends = []
    for worst in (1e9, np.nan, np.inf):
        optimizer = search(kg.CMAES)
        optimizer.start(np.ones(3))
        for _ in range(3):
            losses = np.array([sphere(p) for p in optimizer.ask()])
            losses[2] = worst
            optimizer.tell(losses)
        ends.append(mean_of(optimizer))
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])


@every_rule
def test_a_search_without_any_finite_loss_stops(cls: type) -> None:
    found = search(cls).minimize(lambda w: np.nan, np.ones(3), 1000)
    assert not found.success
    assert "no point of the population has a finite loss" in found.message
    np.testing.assert_array_equal(found.x, np.ones(3))


@one_rule
def test_a_model_without_any_finite_loss_stays_and_stops(cls: type) -> None:
    x, y = regression_data(16)
    y = np.full_like(y, np.nan)
    model = network()
    kg.bind(model).compile(cls(), "mse", jit_compile=JIT)
    before = values(model.trainable_variables)
    with pytest.warns(UserWarning, match="no point of the population has a finite loss"):
        history = model.fit(x, y, batch_size=16, epochs=5, verbose=0)
    assert len(history.history["loss"]) == 1
    for a, b in zip(before, values(model.trainable_variables), strict=True):
        np.testing.assert_array_equal(a, b)


@one_rule
def test_a_checkpoint_continues_exactly(cls: type, tmp_path: Path) -> None:
    x, y = regression_data()
    model = kg.bind(network(batch_norm=True, dropout=0.1))
    model.compile(cls(), "mse", jit_compile=JIT)
    model.fit(x, y, epochs=2, batch_size=32, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = kg.bind(keras.models.load_model(tmp_path / "model.keras"))
    seeds = [v for v in model.variables if "seed" in v.path]
    for ours, theirs in zip(seeds, [v for v in loaded.variables if "seed" in v.path], strict=True):
        theirs.assign(values([ours])[0])  # Keras does not save them.
    for other in (model, loaded):
        other.fit(x, y, epochs=2, batch_size=32, shuffle=False, verbose=0)
    for a, b in zip(values(model.variables), values(loaded.variables), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("make", "each"),
    [
        (lambda: kg.SPSA(averages=3), 7 / 3),
        pytest.param(
            lambda: kg.CMAES(population_size=9, handle_noise=True), 10 / 3, marks=pytest.mark.slow
        ),
    ],
)
def test_evaluations_count_a_third_of_a_gradient_each(make: Any, each: float) -> None:
    x, y = regression_data(16)
    model = kg.bind(network())
    model.compile(make(), "mse", jit_compile=JIT)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    counted = float(ops.convert_to_numpy(model.optimizer.evaluations))
    assert counted == pytest.approx(4 * each, rel=1e-5)


def test_a_wrapper_that_reads_no_gradient_asks_for_none() -> None:
    x, y = regression_data(16)
    model = keras.Sequential(
        [keras.Input((x.shape[1],)), keras.layers.Dense(3), Step(), keras.layers.Dense(1)]
    )
    kg.bind(model).compile(kg.Lookahead(kg.SPSA(), sync_period=2), "mse", jit_compile=JIT)
    history = model.fit(x, y, batch_size=16, epochs=4, verbose=0).history["loss"]
    assert np.all(np.isfinite(history))


def test_what_was_found_is_there_after_an_interruption() -> None:
    told: list[float] = []

    def interrupted(w: np.ndarray) -> float:
        if len(told) == 40:
            raise KeyboardInterrupt
        told.append(sphere(w))
        return told[-1]

    optimizer, seen = kg.CMAES(sigma=0.5), []
    with pytest.raises(KeyboardInterrupt):
        optimizer.minimize(interrupted, np.zeros(3), 1000, callback=seen.append)
    # The population is 7, and the sixth generation was not told.
    assert [r.nfev for r in seen] == [7, 14, 21, 28, 35]
    found = optimizer.result()
    assert found.fun == min(told[:35]) == sphere(found.x)
    assert not found.success


# ---------------------------------------------------------------------- populations of a model


def test_losses_of_a_population_are_those_of_its_members() -> None:
    x, y = regression_data(16)
    model = network(batch_norm=True, dropout=0.3)
    model.compile("sgd", "mse")
    model.train_on_batch(x, y)
    objective = Objective(model, (ops.convert_to_tensor(x), ops.convert_to_tensor(y)))
    rng = np.random.default_rng(0)
    points = [
        [w + 0.1 * rng.normal(size=w.shape).astype("float32") for w in values(objective.variables)]
        for _ in range(3)
    ]
    stacked = [ops.convert_to_tensor(np.stack(ws)) for ws in zip(*points, strict=True)]
    single = [float(objective.value([ops.convert_to_tensor(w) for w in ws])) for ws in points]
    together = ops.convert_to_numpy(objective.values(stacked))
    np.testing.assert_allclose(together, single, rtol=1e-5)
    # Dropout draws one mask for the whole, others for its halves.
    plain = network()
    plain.compile("sgd", "mse")
    plain.train_on_batch(x, y)
    objective = Objective(plain, (ops.convert_to_tensor(x), ops.convert_to_tensor(y)))
    stacked = [ops.convert_to_tensor(np.stack([w, 2 * w])) for w in values(objective.variables)]
    halves = ops.convert_to_numpy(objective.values_on_halves(stacked))
    np.testing.assert_allclose(
        halves.mean(axis=0), ops.convert_to_numpy(objective.values(stacked)), rtol=1e-5
    )
    assert not np.allclose(halves[0], halves[1])


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only torch runs operations at once")
def test_a_layer_that_reads_values_is_evaluated_point_by_point() -> None:
    class Reads(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            y = self.dense(x)
            return y * 2.0 if bool(ops.sum(y) > 0) else y

    x, y = regression_data(16)
    model = Reads()
    model(x)
    kg.bind(model).compile(kg.CMAES(), "mse")
    history = model.fit(x, y, batch_size=16, epochs=10, verbose=0).history["loss"]
    assert history[-1] < history[0]


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kg.CMAES(population_size=1), r"population_size must be a whole number >= 2"),
        (lambda: kg.EvolutionStrategy(population_size=1), r"population_size must be .* >= 2"),
        (lambda: kg.EvolutionStrategy(population_size=7), r"must be even.*received 7"),
        (lambda: kg.SPSA(averages=0), r"averages must be a whole number >= 1, received 0"),
        (lambda: kg.SPSA(perturbation=0.0), r"perturbation must be in \(0, inf\)"),
        (lambda: kg.CMAES(covariance="diagonal"), r"'auto', 'full' or 'separable', received"),
        (lambda: kg.CMAES(sigma=-1.0), r"sigma must be in"),
        (lambda: kg.CMAES(seed=-1), r"seed must be a whole number >= 0"),
        (lambda: kg.CMAES(clipnorm=1.0), r"takes no clipnorm"),
        (lambda: kg.CMAES().ask(), r"Call CMAES.start\(point\) first"),
        (lambda: kg.CMAES().start([np.nan]), r"vector of finite numbers, received \[nan\]"),
        (lambda: kg.CMAES().start([]), r"vector of finite numbers"),
    ],
)
def test_bad_input_is_one_clear_error(make: Any, message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message):
        make()


def test_losses_of_another_number_are_refused() -> None:
    optimizer = kg.CMAES(population_size=6)
    optimizer.start([1.0, 2.0])
    with pytest.raises(ValueError, match=r"asked about 6 points .* received 5 numbers"):
        optimizer.tell(np.zeros(5))
    noisy = kg.CMAES(population_size=6, handle_noise=True)
    noisy.start([1.0, 2.0])
    with pytest.raises(ValueError, match=r"losses twice, tell\(losses, again\)"):
        noisy.tell(np.zeros(6))


def test_too_many_weights_for_a_full_matrix_say_what_to_take_instead() -> None:
    with pytest.raises(ValueError, match=r"6 parameters.*covariance='separable'"):
        kg.CMAES(covariance="full", max_parameters=5).start(np.zeros(6))
    wide = kg.CMAES()
    wide.start(np.zeros(1001))
    assert slot(wide, "covariance").shape == (1001,)


def test_a_minibatch_of_one_cannot_be_halved() -> None:
    x, y = regression_data(3)
    model = kg.bind(network())
    model.compile(kg.CMAES(handle_noise=True), "mse", jit_compile=JIT)
    with pytest.raises(ValueError, match="cannot be halved"):
        model.fit(x, y, batch_size=1, epochs=1, verbose=0)


def test_an_optimizer_of_a_model_starts_no_search_of_its_own() -> None:
    x, y = regression_data(16)
    model = kg.bind(network())
    model.compile(kg.CMAES(), "mse", jit_compile=JIT)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    with pytest.raises(ValueError, match="trains a model already"):
        model.optimizer.start([1.0])


def test_frozen_layers_are_not_searched() -> None:
    x, y = regression_data(16)
    model = kg.bind(network())
    frozen = model.trainable_variables[0]
    optimizer = kg.SPSA(groups={frozen.path: {"frozen": True}})
    model.compile(optimizer, "mse", jit_compile=JIT)
    before = values(model.trainable_variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    after = values(model.trainable_variables)
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])
    assert optimizer.size == sum(w.size for w in before[1:])
