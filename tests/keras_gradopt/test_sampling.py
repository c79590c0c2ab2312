"""Sampling: the same gradient on average with less noise, and batches of the sizes asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import backend
from keras_gradopt.live_count import LiveCount
from keras_gradopt.sampling.noise_scale import noise_and_signal, noise_scale
from tests.keras_gradopt.problems import network, regression_data, values

BACKEND = keras.backend.backend()
JIT = [False] if BACKEND == "torch" else [False, True]
# Where only the data differ, one way will do on JAX, which takes long without compiling.
JIT_OF_DATA = [True] if BACKEND == "jax" else JIT
# Each statistical test gives a false alarm in one of so many runs with other seeds; all its numbers
# together (Bonferroni).
FALSE_ALARM = 1e-4


def largest_z(count: int) -> float:
    return NormalDist().inv_cdf(1 - FALSE_ALARM / count / 2)


def z_scores(estimates: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many standard errors the estimates' mean is from the truth, per entry."""
    error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    return (estimates.mean(axis=0) - truth) / error


def hard_examples(examples: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A linear problem in which one example in twenty is far off."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(examples, 4))
    y = x @ [1.0, -2.0, 0.5, 0.0] + 0.1 * rng.normal(size=examples)
    hard = rng.random(examples) < 0.05
    return x.astype("float32"), (y + 5.0 * hard * rng.normal(size=examples))[:, None].astype(
        "float32"
    )


def linear(loss: Any = "mse", **compiled: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.set_weights([np.array([[0.9], [-1.8], [0.6], [0.1]]), np.array([0.05])])
    model.compile(optimizer=keras.optimizers.SGD(0.02), loss=loss, **compiled)
    return model


def linear_gradients(model: keras.Model, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient of each example's squared error, in float64: (examples, 5)."""
    kernel, bias = (v.astype("float64") for v in values(model.trainable_variables))
    error = x.astype("float64") @ kernel + bias - y
    return 2 * error * np.concatenate([x, np.ones((len(x), 1))], axis=1)


def minibatch_gradients(model: keras.Model, dataset: Any) -> np.ndarray:
    """The gradient that each minibatch gives, in float64: (batches, 5)."""
    found = []
    for x, y, *weight in dataset:
        w = np.asarray(weight[0], "float64") if weight else np.ones(len(x))
        found.append((w[:, None] * linear_gradients(model, x, y)).mean(axis=0))
    return np.array(found)


# --- ImportanceSampler ---


@pytest.mark.parametrize("score_at", ["step", "epoch"])
@pytest.mark.parametrize("by", ["loss", "gradient_norm"])
def test_the_expected_minibatch_gradient_is_the_uniform_one(by: str, score_at: str) -> None:
    x, y = hard_examples()
    weight = np.random.default_rng(2).uniform(0.5, 1.5, len(x)).astype("float32")
    model = linear()
    batches = 400 if score_at == "step" else 1200
    sampler = kg.sampling.ImportanceSampler(
        model,
        x,
        y,
        8,
        by,
        weight,
        score_at=score_at,
        threshold=0.0,
        batches_per_epoch=batches,
        seed=3,
    )
    full = (weight[:, None] * linear_gradients(model, x, y)).mean(axis=0)
    drawn = minibatch_gradients(model, sampler)
    assert np.abs(z_scores(drawn, full)).max() < largest_z(4 * full.size)
    # The test can tell: the same examples without their importance weights are far off.
    x_drawn, y_drawn, _ = (np.concatenate(parts) for parts in zip(*sampler, strict=True))
    plain = linear_gradients(model, x_drawn, y_drawn).reshape(batches, 8, -1).mean(axis=1)
    assert np.abs(z_scores(plain, linear_gradients(model, x, y).mean(axis=0))).max() > 5


@pytest.mark.parametrize(("by", "least"), [("gradient_norm", 7.0), ("loss", 2.5)])
def test_the_gradient_varies_less_than_in_uniform_batches_of_the_same_size(
    by: str, least: float
) -> None:
    x, y = hard_examples()
    model = linear()
    sampler = kg.sampling.ImportanceSampler(
        model, x, y, 8, by, score_at="epoch", threshold=0.0, batches_per_epoch=2000
    )
    drawn = minibatch_gradients(model, sampler)
    # How much one uniform draw varies, over one draw by these probabilities, in float64.
    gradients = linear_gradients(model, x, y)
    squares, signal = (gradients**2).sum(axis=1), (gradients.mean(axis=0) ** 2).sum()
    error = np.abs(gradients[:, -1]) / 2
    score = error if by == "gradient_norm" else error**2
    p = 0.9 * score / score.sum() + 0.1 / len(x)
    uniform = squares.mean() - signal
    expected = uniform / ((squares / p).mean() / len(x) - signal)
    assert expected > least
    # The variance of 2000 heavy-tailed batches is known to some percent.
    measured = uniform / 8 / drawn.var(axis=0, ddof=1).sum()
    assert measured == pytest.approx(expected, rel=0.15)


def softmax_model() -> tuple[keras.Model, np.ndarray, np.ndarray, np.ndarray]:
    x, _ = regression_data(24)
    labels = np.random.default_rng(0).integers(3, size=24)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, activation="softmax")])
    kernel = np.random.default_rng(1).normal(size=(5, 3))
    model.set_weights([kernel, np.zeros(3)])
    logits = x.astype("float64") @ kernel
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return model, x, labels, p / p.sum(axis=1, keepdims=True)


def scores(model: keras.Model, by: str, *batch: Any) -> np.ndarray:
    sampler = kg.sampling.ImportanceSampler(model, batch[0], batch[1], 8)
    readings = sampler._readings
    readings.prepare(batch)
    return readings.scores(readings.values(), batch, by)


def test_scores_are_losses_and_gradient_norms_before_the_last_activation() -> None:
    model, x, labels, p = softmax_model()
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    weight = np.linspace(0.5, 2.0, 24).astype("float32")
    losses = -np.log(p[np.arange(24), labels])
    norms = np.linalg.norm(p - np.eye(3)[labels], axis=1)
    # Summed over 24 examples in float32, and divided by 24.
    for found, expected in (
        (scores(model, "loss", x, labels, None), losses / 24),
        (scores(model, "gradient_norm", x, labels, None), norms / 24),
        (scores(model, "gradient_norm", x, labels, weight), weight * norms / 24),
    ):
        np.testing.assert_allclose(found, expected, rtol=2e-4)


@pytest.mark.parametrize(
    "activation",
    ["linear", "sigmoid", "tanh", "relu", "softplus", "exponential", "log_softmax", "softmax"],
)
def test_gradients_before_an_activation_agree_with_float64_differences(activation: str) -> None:
    from keras_gradopt import readings

    functions: dict[str, Callable] = {
        "linear": lambda z: z,
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "tanh": np.tanh,
        "relu": lambda z: np.maximum(z, 0),
        "softplus": lambda z: np.log1p(np.exp(z)),
        "exponential": np.exp,
        "log_softmax": lambda z: z - np.log(np.exp(z).sum(-1, keepdims=True)),
        "softmax": lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True),
    }
    f = functions[activation]
    rng = np.random.default_rng(0)
    z, g = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    eps = 1e-6
    expected = np.zeros_like(z)
    for k in range(3):
        step = eps * np.eye(3)[k]
        expected[:, k] = ((f(z + step) - f(z - step)) / (2 * eps) * g).sum(axis=1)
    layer = keras.layers.Dense(3, activation=activation)
    tensors = (ops.convert_to_tensor(a.astype("float32")) for a in (f(z), g))
    found = ops.convert_to_numpy(readings._entering(layer, *tensors))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_several_outputs_and_loss_weights_count_as_in_training() -> None:
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(4, kernel_regularizer="l2")(inputs)
    outputs = {n: keras.layers.Dense(1, name=n)(hidden) for n in ("a", "b")}
    model = keras.Model(inputs, outputs)
    model.compile(optimizer="sgd", loss={"a": "mse", "b": "mae"}, loss_weights={"a": 2.0, "b": 0.5})
    x, y = regression_data(16)
    targets = {"a": y[:, :1], "b": -y[:, :1]}
    k, c, ka, ca, kb, cb = (v.astype("float64") for v in values(model.trainable_variables))
    a, b = ((x @ k + c) @ kernel + bias for kernel, bias in ((ka, ca), (kb, cb)))
    expected = (2.0 * (a - targets["a"]) ** 2 + 0.5 * np.abs(b - targets["b"]))[:, 0] / 16
    np.testing.assert_allclose(scores(model, "loss", x, targets, None), expected, rtol=1e-4)
    slopes = np.concatenate([4.0 * (a - targets["a"]), 0.5 * np.sign(b - targets["b"])], axis=1)
    norms = np.linalg.norm(slopes, axis=1) / 16
    np.testing.assert_allclose(scores(model, "gradient_norm", x, targets, None), norms, rtol=1e-4)
    sampler = kg.sampling.ImportanceSampler(model, x, targets, 4, threshold=0.0)
    assert np.isfinite(model.fit(sampler, epochs=2, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("jit_compile", JIT)
@pytest.mark.parametrize(("score_at", "bound"), [("step", False), ("epoch", False), ("step", True)])
def test_fit_learns_from_drawn_examples(score_at: str, bound: bool, jit_compile: bool) -> None:
    x, y = hard_examples()
    model = linear(jit_compile=jit_compile)
    model.optimizer.learning_rate = 0.05
    if bound:
        model = kg.bind(model)
        model.compile(
            optimizer=kg.SAM(keras.optimizers.SGD(0.05)), loss="mse", jit_compile=jit_compile
        )
    weight = np.ones(len(x), "float32")
    sampler = kg.sampling.ImportanceSampler(
        model, x, y, 32, sample_weight=weight, score_at=score_at, threshold=0.0
    )
    model.set_weights([np.zeros((4, 1)), np.zeros(1)])
    before = model.evaluate(x, y, verbose=0)
    history = model.fit(sampler, epochs=3, verbose=0, validation_data=(x, y)).history
    assert int(model.optimizer.iterations) == 3 * 13
    assert sampler.epoch == 2
    assert sampler.tau > 1.0
    # The least squares solution leaves the hard examples' noise.
    best = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[1][0] / len(x)
    assert before > 3 * best
    assert history["val_loss"][-1] < 1.1 * best


class Weights(keras.callbacks.Callback):
    """The kernel before each step of an epoch, as training goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[np.ndarray] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.kernels.append(np.array(ops.convert_to_numpy(self.model.trainable_variables[0])))


def test_scores_are_made_with_present_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = hard_examples()
    model = linear()
    sampler = kg.sampling.ImportanceSampler(model, x, y, 16, threshold=0.0)
    seen: list[np.ndarray] = []
    own = sampler._readings.scores

    def spied(weights: Any, *args: Any) -> np.ndarray:
        seen.append(np.array(ops.convert_to_numpy(weights[0][0])))
        return own(weights, *args)

    model.fit(sampler, epochs=1, verbose=0)
    monkeypatch.setattr(sampler._readings, "scores", spied)
    watch = Weights()
    model.fit(sampler, epochs=2, verbose=0, callbacks=[watch])
    assert len({k.tobytes() for k in watch.kernels}) == 50
    if BACKEND == "tensorflow":
        # Its thread runs ahead by what it likes, but follows.
        assert len({k.tobytes() for k in seen}) > 2
    else:
        np.testing.assert_array_equal(seen, watch.kernels)


def test_scores_of_an_epoch_draw_the_same_on_every_run() -> None:
    x, y = hard_examples(100)

    def losses() -> list[float]:
        model = linear()
        sampler = kg.sampling.ImportanceSampler(
            model, x, y, 16, score_at="epoch", threshold=0.0, seed=5
        )
        return model.fit(sampler, epochs=3, verbose=0).history["loss"]

    assert losses() == losses()


def test_batches_are_uniform_until_drawing_pays() -> None:
    """A problem of equal examples: tau is 1, below the bound (3 + 3) / 3."""
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    model = linear()
    y = np.array(ops.convert_to_numpy(model(x))) + np.float32(1.0)
    sampler = kg.sampling.ImportanceSampler(model, x, y, 16, tau_decay=0.0)
    for _ in range(2):
        batches = list(sampler)
        rows = np.concatenate([b[0] for b in batches])
        np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(x[:, 0]))
        assert all((b[2] == 1.0).all() for b in batches)
    assert sampler.tau == pytest.approx(1.0, rel=1e-5)


def test_tau_is_that_of_the_paper() -> None:
    """1 / tau = sqrt(1 - |g - u|^2 / |g|^2) for uniform u, in float64."""
    x, y = hard_examples(48)
    model = linear()
    sampler = kg.sampling.ImportanceSampler(
        model, x, y, 48, smoothing=0.0, tau_decay=0.0, by="loss", threshold=100.0
    )
    list(sampler)
    kernel, bias = (v.astype("float64") for v in values(model.trainable_variables))
    losses = ((x @ kernel + bias - y) ** 2)[:, 0]
    g = losses / losses.sum()
    expected = (1 - ((g - 1 / 48) ** 2).sum() / (g**2).sum()) ** -0.5
    assert sampler.tau == pytest.approx(expected, rel=1e-4)


def test_a_few_steps_at_a_time_and_half_precision_work_too() -> None:
    x, y = hard_examples(128)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, dtype="mixed_float16")])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=8.0)
    together = 1 if BACKEND == "torch" else 4  # torch refuses more
    model.compile(optimizer=optimizer, loss="mse", steps_per_execution=together)
    for score_at in ("step", "epoch"):
        sampler = kg.sampling.ImportanceSampler(model, x, y, 16, score_at=score_at, threshold=0.0)
        losses = model.fit(sampler, epochs=2, verbose=0).history["loss"]
        assert np.isfinite(losses).all()


def test_a_model_without_variables_is_built_from_the_data() -> None:
    x, y = hard_examples(64)
    model = keras.Sequential([keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse", metrics=["mae"])
    sampler = kg.sampling.ImportanceSampler(model, x, y, 16, threshold=0.0)
    history = model.fit(sampler, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert sampler.epoch == 1


def test_a_loss_that_divides_by_the_weights_is_refused() -> None:
    x, y = hard_examples(32)
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    sampler = kg.sampling.ImportanceSampler(linear(loss), x, y, 8)
    with pytest.raises(ValueError, match=r"times 0, 1 and 2 it is 0, .*sum_over_batch_size"):
        sampler.on_epoch_begin()

    class Careless(keras.losses.Loss):
        def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            return ops.mean(ops.abs(y_true - y_pred))

    sampler = kg.sampling.ImportanceSampler(linear(Careless()), x, y, 8)
    with pytest.raises(ValueError, match=r"does not grow in proportion to sample weights"):
        sampler.on_epoch_begin()


# --- BatchSizeSchedule ---


class Steps(keras.callbacks.Callback):
    """Batches of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.counts.append(0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.counts[-1] += 1


@pytest.mark.parametrize("jit_compile", JIT_OF_DATA)
def test_fit_sees_every_example_once_in_batches_of_the_schedule(jit_compile: bool) -> None:
    x, y = hard_examples(200)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, 200).astype("float32")
    model = linear(jit_compile=jit_compile)
    model.optimizer.learning_rate = 0.0
    batches = kg.sampling.BatchSizeSchedule(model, x, y, [(0, 8), (1, 64), (3, 25)], weight)
    steps = Steps()
    history = model.fit(batches, epochs=4, verbose=0, callbacks=[steps]).history
    assert steps.counts == [25, 4, 4, 8]
    model.fit(batches, epochs=1, verbose=0, callbacks=[steps])
    assert steps.counts[-1] == 8, "the epochs go on"
    # At a rate of 0 the epoch's loss, a mean over its examples, is that of all data if each example
    # was there once; 200 terms in float32.
    kernel, bias = (v.astype("float64") for v in values(model.trainable_variables))
    expected = float((weight[:, None] * (x @ kernel + bias - y) ** 2).mean())
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)


def test_the_order_changes_from_epoch_to_epoch_and_not_from_run_to_run() -> None:
    x, y = hard_examples(40)

    def orders() -> list[np.ndarray]:
        batches = kg.sampling.BatchSizeSchedule(linear(), x, y, 16, seed=1)
        return [np.concatenate([b[0][:, 0] for b in batches]) for _ in range(2)]

    first, second = orders()
    np.testing.assert_array_equal(np.sort(first), np.sort(second))
    assert (first != second).any()
    np.testing.assert_array_equal([first, second], orders())


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("power_of_two", [16, 16, 32, 32, 64, 64]),
        (24, [24, 24, 24, 48, 48, 72]),
        (None, [16, 21, 28, 37, 49, 65]),
    ],
)
def test_sizes_are_rounded_to_few(rounding: Any, expected: list[int]) -> None:
    """16 (4/3)^t = 16, 21.3, 28.4, 37.9, 50.6, 67.4; the nearest power of two by ratio."""
    x, y = hard_examples(400)
    sizes = [16.0, 21.3, 28.4, 37.4, 49.4, 65.2]
    batches = kg.sampling.BatchSizeSchedule(
        linear(), x, y, lambda epoch: sizes[int(epoch)], rounding=rounding
    )
    assert [max(len(b[0]) for b in batches) for _ in sizes] == expected


def test_a_schedule_of_steps_changes_sizes_within_an_epoch() -> None:
    x, y = hard_examples(100)
    model = linear()
    doubling = kg.schedules.ExponentialDecay(4.0, 2, 2.0, staircase=True)
    batches = kg.sampling.BatchSizeSchedule(model, x, y, doubling, by="step")
    # 4 4 8 8 16 16 32 and what is left of 100, then on from the 8th step.
    assert [len(b[0]) for b in batches] == [4, 4, 8, 8, 16, 16, 32, 12]
    steps = Steps()
    model.fit(batches, epochs=2, verbose=0, callbacks=[steps])
    assert steps.counts == [8, 2]


def test_examples_may_be_trees_and_tensors() -> None:
    x, y = hard_examples(20)
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs["a"] + inputs["b"]))
    model.compile(optimizer="sgd", loss="mse")
    data = {"a": x.astype("float64"), "b": ops.convert_to_tensor(x)}
    for dataset in (
        kg.sampling.BatchSizeSchedule(model, data, y, [(0, 1), (1, 4)]),
        kg.sampling.ImportanceSampler(model, data, y, 4, threshold=0.0),
        kg.sampling.AdaptiveBatchSize(model, data, y, minimum=2),
    ):
        assert np.isfinite(model.fit(dataset, epochs=2, verbose=0).history["loss"]).all()


def test_a_live_count_is_what_keras_makes_of_a_number() -> None:
    numbers = iter([5, 7])
    count = LiveCount(lambda: next(numbers))
    assert [len(range(0, count)), len(range(0, count))] == [5, 7]  # noqa: PIE808 (as Keras does)
    count = LiveCount(lambda: 5)
    assert (min(2, count), count <= 5, count > 0, count - 2, 10 - count) == (2, True, True, 3, 5)
    assert f"{count} %d %.1f" % (count, 2 / count) == "5 5 0.4"
    assert bool(count)


# --- AdaptiveBatchSize ---


def test_noise_and_signal_are_unbiased_where_both_are_known() -> None:
    rng = np.random.default_rng(0)
    gradient, deviations = np.array([1.0, -0.5, 0.25]), np.array([1.0, 2.0, 3.0])
    small, big, times = 4, 32, 4000
    found = []
    for _ in range(times):
        examples = gradient + deviations * rng.normal(size=(big, 3))
        means = examples.reshape(-1, small, 3).mean(axis=1)
        low, high = (means**2).sum(axis=1), (examples.mean(axis=0) ** 2).sum()
        found.append(noise_and_signal(low, high, small, big))
    truth = np.array([(deviations**2).sum(), (gradient**2).sum()])
    assert np.abs(z_scores(np.array(found), truth)).max() < largest_z(2)
    # Taken as it is, the squared norm of the big batch is off by trace / big.
    assert noise_scale(*truth) == pytest.approx(14.0 / 1.3125)


def test_the_noise_scale_has_an_answer_for_every_estimate() -> None:
    assert noise_scale(2.0, 0.5) == 4.0
    assert noise_scale(-1.0, 0.5) == 0.0
    assert noise_scale(1.0, -0.5) == np.inf
    assert np.isnan(noise_scale(0.0, 0.0))
    assert np.isnan(noise_scale(np.nan, 1.0))
    with pytest.raises(ValueError, match=r"big above it, received 4 and 4"):
        noise_and_signal(1.0, 1.0, 4, 4)


def test_a_measurement_is_that_of_float64_gradients() -> None:
    x, y = hard_examples(96)
    model = linear()
    batches = kg.sampling.AdaptiveBatchSize(model, x, y, minimum=8, measured_batches=6, seed=2)
    batches.on_epoch_begin()
    (measured,) = batches.history
    drawn = np.random.default_rng([2, 0, 1]).permutation(96)[:48]
    means = linear_gradients(model, x, y)[drawn].reshape(6, 8, 5).mean(axis=1)
    low, high = (means**2).sum(axis=1).mean(), (means.mean(axis=0) ** 2).sum()
    # Norms in float32, and a difference that loses a digit.
    assert measured.trace == pytest.approx((low - high) / (1 / 8 - 1 / 48), rel=1e-4)
    assert measured.squared_gradient == pytest.approx((48 * high - 8 * low) / 40, rel=1e-3)


def test_measurements_agree_with_the_covariance_of_all_examples() -> None:
    x, y = hard_examples(96)
    model = linear()
    gradients = linear_gradients(model, x, y)
    # Drawn without replacement the estimates are those of a population that the data are from:
    # the covariance with N - 1, and the squared mean less trace / N.
    trace = gradients.var(axis=0, ddof=1).sum()
    signal = (gradients.mean(axis=0) ** 2).sum() - trace / 96
    batches = kg.sampling.AdaptiveBatchSize(model, x, y, minimum=8, measured_batches=4)
    for _ in range(120):
        list(batches)
    assert [m.epoch for m in batches.history] == list(range(120))
    found = np.array([(m.trace, m.squared_gradient) for m in batches.history])
    z = z_scores(found, np.array([trace, signal]))
    assert np.abs(z).max() < largest_z(2)


@pytest.mark.parametrize("jit_compile", JIT_OF_DATA)
def test_batches_grow_when_the_gradient_drowns_in_noise(jit_compile: bool) -> None:
    x, y = hard_examples(400)
    model = linear(jit_compile=jit_compile)
    model.set_weights([np.full((4, 1), 3.0), np.array([3.0])])
    batches = kg.sampling.AdaptiveBatchSize(
        model, x, y, minimum=16, maximum=100, smoothing=0.5, measured_batches=16
    )
    steps = Steps()
    model.fit(batches, epochs=12, verbose=0, callbacks=[steps])
    sizes = [m.batch_size for m in batches.history]
    assert [m.epoch for m in batches.history] == list(range(12))
    assert steps.counts == [-(-400 // size) for size in sizes]
    assert sizes[0] == 16, "far from the minimum the gradient stands out"
    assert sizes[-1] == 64, "powers of two times 16, of at most 100"


def test_epochs_between_measurements_keep_the_size() -> None:
    x, y = hard_examples(64)
    batches = kg.sampling.AdaptiveBatchSize(linear(), x, y, minimum=4, frequency=2)
    for _ in range(5):
        list(batches)
    assert [m.epoch for m in batches.history] == [0, 2, 4]


def test_gradients_that_are_not_finite_leave_the_size_alone() -> None:
    x, y = hard_examples(64)
    y[:] = np.nan
    batches = kg.sampling.AdaptiveBatchSize(linear(), x, y, minimum=4)
    list(batches)
    assert batches.batch_size == 4
    assert np.isnan(batches.history[0].trace)


# --- ControlVariate ---


def leave_one_out(f: np.ndarray, h: np.ndarray, mean: float) -> tuple[float, float]:
    """The estimate by regressions on the other samples, one by one, and its standard error."""
    corrected = []
    for i in range(len(f)):
        others = np.arange(len(f)) != i
        covariance = np.cov(f[others], h[others])
        corrected.append(f[i] - covariance[0, 1] / covariance[1, 1] * (h[i] - mean))
    return float(np.mean(corrected)), float(np.std(corrected, ddof=1) / np.sqrt(len(f)))


def numpy(tensor: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(tensor), "float64")


def test_each_sample_is_corrected_by_the_others() -> None:
    rng = np.random.default_rng(0)
    h = rng.normal(size=(7, 3)).astype("float32")
    f = (h * [1.0, -2.0, 0.1] + 0.3 * rng.normal(size=(7, 3))).astype("float32")
    estimate = kg.sampling.ControlVariate(elementwise=True)(f, h, 0.2)
    pairs = [leave_one_out(*(a[:, k].astype("float64") for a in (f, h)), 0.2) for k in range(3)]
    means, errors = np.array(pairs).T
    np.testing.assert_allclose(numpy(estimate.mean), means, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(numpy(estimate.standard_error), errors, rtol=1e-4)
    # One coefficient for all entries, of a tree: that of the sums over all entries.
    pooled = kg.sampling.ControlVariate()(
        {"a": f[:, :2], "b": f[:, 2]}, {"a": h[:, :2], "b": h[:, 2]}
    )
    expected = np.zeros(3)
    for i in range(7):
        others = np.arange(7) != i
        fc, hc = (a[others].astype("float64") - a[others].mean(axis=0) for a in (f, h))
        expected += (f[i] - (fc * hc).sum() / (hc * hc).sum() * h[i]) / 7
    np.testing.assert_allclose(numpy(pooled.mean["a"]), expected[:2], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(numpy(pooled.mean["b"]), expected[2], rtol=1e-4, atol=1e-6)


def test_the_corrected_mean_is_unbiased_even_for_four_samples() -> None:
    """Of e^u, with u^2 as the control; one coefficient from all samples would be biased."""
    times, n = 40_000, 4
    u = np.random.default_rng(0).random((n, times)).astype("float32")
    f, h = np.exp(u), u * u
    truth = np.e - 1
    estimate = kg.sampling.ControlVariate(elementwise=True)(f, h, 1 / 3)
    assert np.abs(z_scores(numpy(estimate.mean), np.array(truth))) < largest_z(1)
    fc, hc = f - f.mean(axis=0), h - h.mean(axis=0)
    from_all = f.mean(axis=0) - (fc * hc).sum(axis=0) / (hc * hc).sum(axis=0) * (
        h.mean(axis=0) - 1 / 3
    )
    assert np.abs(z_scores(from_all, np.array(truth))) > 6, "the test can tell"


def test_the_variance_falls_by_what_theory_says() -> None:
    """For e^u with u as the control, 1 - correlation^2 = 0.01623 exactly."""
    u = np.random.default_rng(0).random((50, 2000)).astype("float32")
    estimate = kg.sampling.ControlVariate(elementwise=True)(np.exp(u), u, 0.5)
    covariance = (3 - np.e) / 2
    variance = (np.e**2 - 1) / 2 - (np.e - 1) ** 2
    left = 1 - covariance**2 / (variance / 12)
    means = numpy(estimate.mean)
    plain = np.exp(u.astype("float64")).mean(axis=0)
    # The variance of 2000 means is known to 3 %, and 50 samples' coefficients add some percent.
    assert plain.var() / means.var() == pytest.approx(1 / left, rel=0.25)
    assert float(estimate.variance_reduction) == pytest.approx(1 / left, rel=0.1)
    np.testing.assert_allclose(numpy(estimate.standard_error).mean(), means.std(), rtol=0.1)
    assert numpy(estimate.coefficient).mean() == pytest.approx(12 * covariance, rel=0.01)


def reinforce(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards and scores of a softmax policy over three actions, and the exact gradient."""
    logits, rewards = np.array([0.5, 0.0, -0.5]), np.array([10.0, 11.0, 13.0])
    p = np.exp(logits) / np.exp(logits).sum()
    actions = rng.choice(3, size=n, p=p)
    score = np.eye(3)[actions] - p
    return rewards[actions].astype("float32"), score.astype("float32"), p * (rewards - p @ rewards)


def test_score_function_gradients_are_unbiased_and_vary_less() -> None:
    rng = np.random.default_rng(0)
    control = kg.sampling.ControlVariate()
    run = backend.compiled(lambda r, s: (control(r[:, None] * s, s).mean, control.advantages(r)))
    plain, corrected, advantaged = [], [], []
    for _ in range(1000):
        rewards, score, truth = reinforce(rng, 8)
        mean, advantages = run(rewards, score)
        plain.append((rewards[:, None] * score).mean(axis=0))
        corrected.append(numpy(mean))
        advantaged.append((numpy(advantages)[:, None] * score).mean(axis=0))
    spread = np.var(plain, axis=0).sum()
    for estimates in (corrected, advantaged):
        # The three entries add up to 0, so two of them tell all.
        z = z_scores(np.array(estimates), truth)[:2]
        assert np.abs(z).max() < largest_z(4)
        assert np.var(estimates, axis=0).sum() < spread / 20


def test_a_given_coefficient_is_used_and_a_control_that_does_not_vary_is_left_alone() -> None:
    f, h = np.array([1.0, 2.0, 6.0], "float32"), np.array([0.0, 2.0, 1.0], "float32")
    estimate = kg.sampling.ControlVariate(coefficient=1.0)(f, h, 0.5)
    assert float(estimate.mean) == pytest.approx(3.0 - (1.0 - 0.5))
    still = kg.sampling.ControlVariate()(f, np.full(3, 0.7, "float32"), 0.7)
    assert float(still.mean) == pytest.approx(3.0)
    assert float(still.variance_reduction) == pytest.approx(1.0)
    perfect = kg.sampling.ControlVariate()(f, f, 3.5)
    assert float(perfect.mean) == pytest.approx(3.5)


# --- bad input ---


def refusals() -> Iterator[tuple[str, Callable[[], Any], str]]:
    x, y = hard_examples(32)
    sampling = kg.sampling
    model = linear()
    sampler, schedule, adaptive = (
        sampling.ImportanceSampler,
        sampling.BatchSizeSchedule,
        sampling.AdaptiveBatchSize,
    )
    yield "lengths", lambda: sampler(model, x, y[:30]), r"same number.*x: \[32\], y: \[30\]"
    yield "weights", lambda: schedule(model, x, y, 4, np.ones(3)), r"sample_weight: \[3\]"
    yield "no rows", lambda: sampler(model, x[:0], y[:0]), r"at least 1"
    yield "dataset", lambda: sampler(model, iter([x]), y), r"must hold arrays"
    yield "size 0", lambda: sampler(model, x, y, batch_size=0), r"batch_size must be .* >= 1"
    yield "size", lambda: sampler(model, x, y, 33), r"at most the 32 examples, received 33"
    yield "by", lambda: sampler(model, x, y, 8, by="norm"), r"'gradient_norm', received 'norm'"
    yield "score", lambda: sampler(model, x, y, 8, score_at="batch"), r"received 'batch'"
    yield "presample", lambda: sampler(model, x, y, 8, presample=0), r"presample must be"
    yield "smoothing", lambda: sampler(model, x, y, 8, smoothing=1.5), r"smoothing must be in"
    yield "seed", lambda: sampler(model, x, y, 8, seed=-1), r"seed must be"
    yield "model", lambda: sampler("model", x, y), r"must be a keras.Model, received str"
    yield "schedule by", lambda: schedule(model, x, y, 8, by="batch"), r"'epoch' or 'step'"
    yield "rounding", lambda: schedule(model, x, y, 8, rounding="half"), r"received 'half'"
    yield "pairs", lambda: schedule(model, x, y, [8, 16]), r"list of pairs"
    yield "late", lambda: schedule(model, x, y, [(1, 8)]), r"begin at 0 and go up"
    yield "pair size", lambda: schedule(model, x, y, [(0, 8), (1, 64)]), r"batch_size\[1\]\[1\]"
    yield (
        "follows loss",
        lambda: schedule(model, x, y, kg.schedules.ReduceOnPlateau(8.0)),
        r"step or epoch alone",
    )
    yield "falls to 0", lambda: list(schedule(model, x, y, lambda epoch: 0.0)), r"gives 0"
    yield "maximum", lambda: adaptive(model, x, y, 8, maximum=4), r"at least minimum=8"
    yield "minimum", lambda: adaptive(model, x, y, 17), r"two batches of minimum=17"
    yield "measured", lambda: adaptive(model, x, y, 8, measured_batches=1), r">= 2"
    control = sampling.ControlVariate
    yield "shapes", lambda: control()(x, y), r"same shapes"
    yield "samples", lambda: control()(y[:2], y[:2]), r"at least 3 samples"
    yield "rewards", lambda: control.advantages(y[:1]), r"at least 2 samples"
    yield "coefficient", lambda: control(coefficient="best"), r"coefficient must be a number"


@pytest.mark.parametrize(
    "name",
    [name for name, _, _ in refusals()],
)
def test_bad_input_gets_one_clear_error(name: str) -> None:
    (attempt, message) = next((a, m) for n, a, m in refusals() if n == name)
    with pytest.raises(ValueError if name != "model" else TypeError, match=message):
        attempt()


def test_a_model_that_is_not_compiled_is_refused_before_it_is_touched() -> None:
    x, y = hard_examples(32)
    model = network()
    sampler = kg.sampling.ImportanceSampler(model, x, y, 8)
    with pytest.raises(ValueError, match=r"is not compiled: call model.compile"):
        sampler.on_epoch_begin()
    without = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    without.compile(optimizer="sgd")
    with pytest.raises(ValueError, match=r"compiled without a loss"):
        kg.sampling.ImportanceSampler(without, x, y, 8).on_epoch_begin()


def test_workers_are_refused() -> None:
    x, y = hard_examples(32)
    batches = kg.sampling.BatchSizeSchedule(linear(), x, y, 8)
    with pytest.raises(ValueError, match=r"workers must be 1, received 4"):
        batches.workers = 4
    with pytest.raises(ValueError, match=r"use_multiprocessing must be False"):
        batches.use_multiprocessing = True
    batches.workers = 1
    batches.use_multiprocessing = False
    assert (batches.workers, batches.use_multiprocessing) == (1, False)
