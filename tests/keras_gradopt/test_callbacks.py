"""Callbacks: a rate is found and nothing moves, sick layers are named, diverged trainings go on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from tests.keras_gradopt.problems import network, regression_data

BACKEND = keras.backend.backend()
# torch's compiler takes longer than these trainings.
JIT = BACKEND != "torch"

# Keras' own, ours, and one inside another, with state beside the weights.
OPTIMIZERS: dict[str, Callable[[float], Any]] = {
    "keras": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "ours": kg.Adam,
    "loss_scaled": lambda rate: keras.optimizers.LossScaleOptimizer(kg.Adam(rate)),
    "wrapped": lambda rate: kg.Lookahead(keras.optimizers.SGD(rate), sync_period=2),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def compiled(optimizer: Any, model: keras.Model | None = None) -> keras.Model:
    model = model or network()
    model.compile(optimizer=optimizer, loss="mse", jit_compile=JIT)
    return model


def fit(model: keras.Model, callback: Any, epochs: int = 1, batch_size: int = 16) -> Any:
    x, y = regression_data()
    return model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callback if isinstance(callback, list) else [callback] if callback else [],
    ).history


def state(model: keras.Model) -> list[np.ndarray]:
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def rate_of(model: keras.Model) -> float:
    return float(ops.convert_to_numpy(model.optimizer.learning_rate))


# --- LearningRateFinder ---


@every_optimizer
def test_rates_rise_exponentially_and_everything_is_put_back(optimizer: Any) -> None:
    model = compiled(optimizer(0.003))
    fit(model, None)
    before = state(model)
    finder = kg.callbacks.LearningRateFinder(min_rate=1e-5, max_rate=0.1, steps=10)
    fit(model, finder, epochs=4)
    np.testing.assert_allclose(finder.rates, np.geomspace(1e-5, 0.1, 10), rtol=1e-12)
    assert len(finder.losses) == len(finder.batch_losses) == 10
    assert_same(state(model), before)
    assert rate_of(model) == pytest.approx(0.003)
    fit(model, None)  # and it trains on
    assert np.isfinite(state(model)[0]).all()


def test_the_finder_trains_at_the_rates_it_names() -> None:
    """A plain SGD at these rates, one NumPy step per batch, gives these losses."""
    x, y = regression_data()
    model = compiled(keras.optimizers.SGD(0.1), linear())
    finder = kg.callbacks.LearningRateFinder(min_rate=1e-3, max_rate=0.3, steps=12)
    fit(model, finder, epochs=3)
    w, expected = np.zeros((5, 1)), []
    for k, rate in enumerate(np.geomspace(1e-3, 0.3, 12)):
        xs, ys = x[k % 4 * 16 : k % 4 * 16 + 16], y[k % 4 * 16 : k % 4 * 16 + 16]
        expected.append(np.mean((xs @ w - ys) ** 2))
        w = w - rate * 2 / 16 * xs.T @ (xs @ w - ys)
    # The running mean of four batches is taken apart in float32.
    np.testing.assert_allclose(finder.batch_losses, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        finder.losses[:2], [expected[0], np.average(expected[:2], weights=[0.9, 1])], rtol=1e-5
    )


def linear() -> keras.Model:
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    return keras.Sequential([keras.Input((5,)), dense])


@pytest.mark.parametrize("batch_size", [16, 64])
def test_the_suggestion_on_a_quadratic_is_stable(batch_size: int) -> None:
    """Gradient descent on a quadratic of largest curvature L diverges from 2 / L on."""
    x, _ = regression_data()
    largest = np.linalg.eigvalsh(2 / len(x) * x.T @ x).max()
    finder = kg.callbacks.LearningRateFinder(min_rate=1e-5, max_rate=100.0, steps=100)
    fit(compiled(keras.optimizers.SGD(0.1), linear()), finder, epochs=100, batch_size=batch_size)
    assert len(finder.rates) < 100, "the test goes on although the loss diverges"
    assert finder.rates[-1] > 2 / largest
    assert 1e-3 / largest < finder.suggestion < 2 / largest
    assert finder.suggestion == min(finder.steepest_rate, finder.tenth_of_minimum)


def test_a_loss_that_is_not_finite_ends_the_test_and_is_not_recorded() -> None:
    model = compiled(keras.optimizers.SGD(0.1))
    before = state(model)
    finder = kg.callbacks.LearningRateFinder(1e-3, 1e30, steps=12, smoothing=0.95)
    fit(model, finder, epochs=5)
    assert 2 < len(finder.rates) < 12
    assert np.isfinite(finder.losses).all()
    assert_same(state(model)[: len(model.variables)], before[: len(model.variables)])


def test_an_interrupted_test_can_be_put_back() -> None:
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                raise KeyboardInterrupt

    model = compiled(kg.Adam(0.003))
    fit(model, None)
    before = state(model)
    finder = kg.callbacks.LearningRateFinder(1e-3, 1.0, steps=12)
    with pytest.raises(KeyboardInterrupt):
        fit(model, [finder, Interrupt()], epochs=3)
    finder.restore()
    assert_same(state(model), before)


def test_a_short_fit_and_a_loss_that_never_falls_are_said(caplog: Any) -> None:
    finder = kg.callbacks.LearningRateFinder(1e-12, 1e-11, steps=20)
    fit(compiled(keras.optimizers.SGD(0.1)), finder, epochs=1)
    assert "4 of its 20 batches" in caplog.text
    assert "no rate at which the loss fell" in caplog.text
    assert finder.suggestion is None


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    finder = kg.callbacks.LearningRateFinder(1e-4, 10.0, steps=40)
    with pytest.raises(ValueError, match="nothing to plot before its first run"):
        finder.plot()
    fit(compiled(keras.optimizers.SGD(0.1)), finder, epochs=10)
    figure = finder.plot(tmp_path / "curve.html")
    np.testing.assert_allclose(figure.data[1].y, finder.losses)
    assert "<html>" in (tmp_path / "curve.html").read_text("utf-8")


def test_a_partial_batch_and_a_batch_loss_logged_by_a_train_step_are_understood() -> None:
    reader, callback = kg.callbacks.BatchLoss(), kg.callbacks.DivergenceGuard()
    callback.set_model(compiled("sgd"))
    # Keras' tracker counts nothing: the logs are the batch's own.
    assert [reader.read(callback, 1, {"loss": v}) for v in (4.0, 2.0)] == [4.0, 2.0]
    with pytest.raises(ValueError, match="under the name 'loss'"):
        reader.read(callback, 1, {"error": 1.0})


# --- what both that set the rate refuse ---


@pytest.mark.parametrize("name", ["LearningRateFinder", "DivergenceGuard"])
@pytest.mark.parametrize("ours", [True, False])
def test_a_schedule_is_refused(name: str, ours: bool) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    optimizer = kg.SGD(schedule) if ours else keras.optimizers.SGD(schedule)
    with pytest.raises(ValueError, match=f"{name} sets the learning rate.*with a number"):
        fit(compiled(optimizer), getattr(kg.callbacks, name)())


def test_a_model_without_variables_is_refused() -> None:
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    guard = kg.callbacks.DivergenceGuard()
    guard.set_model(model)
    with pytest.raises(ValueError, match="Give it a keras.Input"):
        guard.on_train_begin()


@pytest.mark.skipif(BACKEND == "tensorflow", reason="Keras calls no callbacks from threads there")
def test_a_callback_outside_a_list_is_refused() -> None:
    x, y = regression_data()
    model = compiled("sgd")
    with pytest.raises(ValueError, match=r"callbacks=\[...\]"):
        model.fit(x, y, verbose=0, callbacks=kg.callbacks.DivergenceGuard())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("LearningRateFinder", {"min_rate": 0.0}, "min_rate must be in (0, inf), received 0.0"),
        ("LearningRateFinder", {"min_rate": 1.0, "max_rate": 0.5}, "max_rate must be above min"),
        ("LearningRateFinder", {"steps": 3}, "steps must be a whole number >= 10, received 3"),
        ("LearningRateFinder", {"smoothing": 1.0}, "smoothing must be in [0, 1), received 1.0"),
        ("LearningRateFinder", {"stop_factor": 1}, "stop_factor must be in (1, inf), received 1.0"),
        ("DivergenceGuard", {"factor": 0.5}, "factor must be in (1, inf), received 0.5"),
        ("DivergenceGuard", {"rate_factor": 2.0}, "rate_factor must be in (0, 1], received 2.0"),
        ("DivergenceGuard", {"snapshot_frequency": 0}, "snapshot_frequency must be a whole number"),
        ("DivergenceGuard", {"max_restores": -1}, "max_restores must be a whole number >= 0"),
        ("DivergenceGuard", {"clip": 0.0}, "clip must be in (0, inf), received 0.0"),
        ("GradientMonitor", {"x": 0, "frequency": "batch"}, "a number of batches or 'epoch'"),
        ("GradientMonitor", {"x": 0, "frequency": 0}, "frequency must be a whole number >= 1"),
        (
            "GradientMonitor",
            {"x": 0, "vanishing": 2.0},
            "vanishing must be in [0, 1], received 2.0",
        ),
        ("GradientMonitor", {"x": 0, "exploding": "a"}, "exploding must be a number in (0, inf)"),
        ("GradientMonitor", {"x": 0, "dead_share": 0.0}, "dead_share must be in (0, 1], received"),
    ],
)
def test_bad_arguments_are_refused(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared to the letter
        getattr(kg.callbacks, name)(**arguments)
    assert message in str(caught.value)


# --- GradientMonitor ---


def stack(depth: int, activation: str, scale: float, bias: float = 0.0) -> keras.Model:
    """Dense layers of width 8 with fixed weights of a given size around 1 / sqrt(8)."""
    layers = [keras.layers.Dense(8, activation=activation, name=f"h{i}") for i in range(depth)]
    model = keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(1, name="out")])
    rng = np.random.default_rng(2)
    for v in model.trainable_variables:
        if v.name == "kernel":
            v.assign(scale * rng.normal(size=v.shape) / math.sqrt(v.shape[0]))
        elif "out" not in v.path:
            v.assign(np.full(v.shape, bias))
    return model


def watched(model: keras.Model, rate: float = 1e-6, **arguments: Any) -> Any:
    monitor = kg.callbacks.GradientMonitor(*regression_data(), **arguments)
    fit(compiled(keras.optimizers.SGD(rate), model), monitor)
    return monitor


def found(monitor: Any) -> dict[str, set[str]]:
    kinds: dict[str, set[str]] = {}
    for finding in monitor.findings:
        kinds.setdefault(finding.kind, set()).add(finding.layer.rpartition("/")[2])
    return kinds


def test_a_healthy_network_has_no_findings() -> None:
    assert watched(stack(3, "tanh", 1.0)).findings == []
    assert watched(stack(3, "relu", 1.4)).findings == []


def test_thirty_sigmoid_layers_vanish() -> None:
    """Each sigmoid passes on a quarter of the gradient at most."""
    kinds = found(watched(stack(30, "sigmoid", 1.0)))
    assert set(kinds) == {"vanishing"}
    assert {f"h{i}" for i in range(20)} <= kinds["vanishing"]
    assert not kinds["vanishing"] & {"h28", "h29", "out"}


def test_huge_initial_weights_explode() -> None:
    kinds = found(watched(stack(4, "relu", 20.0), rate=1e-20))
    assert kinds == {"exploding": {"h0", "h1", "h2", "h3", "out"}}


def test_a_relu_layer_that_never_fires_is_dead(caplog: Any) -> None:
    model = stack(2, "relu", 1.0)
    model.get_layer("h1").bias.assign(np.full(8, -100.0))
    monitor = watched(model, frequency=1)
    # What lies below it gets no gradient either; the output's own bias still does.
    assert found(monitor) == {"dead": {"h0", "h1"}}
    assert len(monitor.findings) == 8
    assert caplog.text.count("are dead") == 2, "once per layer, not per measurement"
    assert "h1" in next(r.message for r in caplog.records if "h1" in r.message)


def test_single_dead_units_are_counted() -> None:
    model = stack(1, "relu", 1.0)
    model.get_layer("h0").bias.assign([-100.0] * 3 + [1.0] * 5)
    assert found(watched(model, dead_share=0.5)) == {}
    (finding,) = watched(stack_with_dead_units(), dead_share=3 / 8).findings
    assert (finding.kind, finding.value, finding.threshold) == ("dead", 3 / 8, 3 / 8)


def stack_with_dead_units() -> keras.Model:
    model = stack(1, "relu", 1.0)
    model.get_layer("h0").bias.assign([-100.0] * 3 + [1.0] * 5)
    return model


def test_gradients_that_are_no_numbers_are_found() -> None:
    kinds = found(watched(stack(2, "tanh", 1.0), rate=float("nan")))
    assert kinds == {"non_finite": {"h0", "h1", "out"}}


def test_norms_ratios_and_shares_are_those_of_the_layer() -> None:
    x, y = regression_data()
    model = linear()
    start = np.linspace(0.5, 1.5, 5)[:, None]
    model.layers[-1].kernel.assign(start)
    x = x * np.array([1, 0, 1, 1, 1], "float32")
    monitor = kg.callbacks.GradientMonitor(x, y)
    compiled(keras.optimizers.SGD(0.1), model)
    model.fit(x, y, batch_size=64, verbose=0, callbacks=[monitor])
    step = -0.1 * 2 / 64 * x.T @ (x @ start - y)
    after = start + step
    ((layer, norms),) = monitor.history.items()
    gradient = 2 / 64 * x.T @ (x @ after - y)
    assert norms == pytest.approx([np.linalg.norm(gradient)], rel=1e-5)
    ratio = np.linalg.norm(step) / np.linalg.norm(after)
    assert monitor.update_ratios[layer] == pytest.approx([ratio], rel=1e-5)
    assert monitor.zero_shares[layer] == [0.2]


@pytest.mark.parametrize("frequency", [3, "epoch"])
def test_monitoring_changes_nothing(frequency: Any) -> None:
    weights = []
    for watches in (True, False):
        model = compiled(kg.Adam(0.01), network(dropout=0.3, batch_norm=True))
        monitor = kg.callbacks.GradientMonitor(*regression_data(), frequency=frequency)
        fit(model, monitor if watches else None, epochs=3)
        weights.append(state(model))
        if watches:
            assert monitor.steps == ([1, 4, 7, 10] if frequency == 3 else [1, 5, 9])
    assert_same(*weights)


def test_half_precision_gradients_are_found_through_the_loss_scale() -> None:
    policy = keras.mixed_precision.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = stack(3, "tanh", 1.0)
        monitor = watched(model)
    finally:
        keras.config.set_dtype_policy(policy)
    reference = watched(stack(3, "tanh", 1.0))
    for half, full in zip(monitor.history.values(), reference.history.values(), strict=True):
        # Ten bits of mantissa through four layers.
        np.testing.assert_allclose(half, full, rtol=0.02)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow reads what was written")
def test_tensorboard_can_read_the_scalars(tmp_path: Path) -> None:
    import tensorflow as tf

    monitor = watched(stack(2, "tanh", 1.0), frequency=2, log_dir=tmp_path / "run")
    (path,) = (tmp_path / "run").glob("*tfevents*")
    read: dict[str, list[tuple[int, float]]] = {}
    events = list(tf.compat.v1.train.summary_iterator(str(path)))
    for event in events:
        for value in event.summary.value:
            read.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert len(read) == 9
    for layer, norms in monitor.history.items():
        assert [s for s, _ in read[f"gradient_norm/{layer}"]] == [1, 3]
        np.testing.assert_allclose([v for _, v in read[f"gradient_norm/{layer}"]], norms, rtol=1e-6)
        assert len(read[f"update_to_weight/{layer}"]) == len(read[f"zero_gradients/{layer}"]) == 2


# --- DivergenceGuard ---


@every_optimizer
def test_a_far_too_large_rate_comes_back_to_a_finite_loss(optimizer: Any) -> None:
    model = compiled(optimizer(1e6))
    guard = kg.callbacks.DivergenceGuard(rate_factor=1e-4, snapshot_frequency=2)
    history = fit(model, guard, epochs=8)
    assert guard.events
    assert all(event.action == "restored" for event in guard.events)
    assert math.isfinite(history["loss"][-1])
    assert history["loss"][-1] < 5.0, "worse than the weights at the start"
    assert rate_of(model) == pytest.approx(1e6 * 1e-4 ** len(guard.events), rel=1e-5)


def test_a_restore_puts_the_last_good_state_back(capsys: Any) -> None:
    """One batch with huge targets: the state after it is that of the snapshot, but for the rate."""
    x, y = regression_data()
    y = y.copy()
    y[16 * 3 : 16 * 4] = 1e12
    states: list[list[np.ndarray]] = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            states.append(state(self.model))

    model = compiled(kg.Adam(0.01))
    guard = kg.callbacks.DivergenceGuard(snapshot_frequency=1, rate_factor=0.5)
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[guard, Look()])
    (event,) = guard.events
    assert (event.step, event.restored_step, event.action) == (4, 2, "restored")
    rate = [v.path for v in model.optimizer.variables].index(model.optimizer.learning_rate.path)
    rate += len(model.variables)
    restored, good = states[3], states[1]
    assert restored.pop(rate) == pytest.approx(0.005)
    assert good.pop(rate) == pytest.approx(0.01)
    assert_same(restored, good)
    assert capsys.readouterr().out.count("\n") == 1


def test_a_healthy_training_is_left_alone() -> None:
    weights = []
    for guard in (kg.callbacks.DivergenceGuard(snapshot_frequency=1), None):
        model = compiled(kg.Adam(0.01))
        fit(model, guard, epochs=3)
        weights.append(state(model))
        assert guard is None or guard.events == []
    assert_same(*weights)


def test_bad_data_ends_the_training_with_the_good_state(capsys: Any) -> None:
    x, y = regression_data()
    x = x.copy()
    x[20] = np.nan
    model = compiled(keras.optimizers.SGD(0.01))
    guard = kg.callbacks.DivergenceGuard(max_restores=2)
    history = model.fit(
        x, y, batch_size=16, epochs=10, shuffle=False, verbose=0, callbacks=[guard]
    ).history
    assert [e.action for e in guard.events] == ["restored", "restored", "stopped"]
    assert len(history["loss"]) == 3
    assert all(np.isfinite(v).all() for v in state(model))
    assert "Look for bad values in the data" in capsys.readouterr().out
    # The epochs' logs cover the batches after the restore.
    assert all(math.isfinite(loss) for loss in history["loss"][:2])


def test_both_parts_of_a_hybrid_clip_from_then_on() -> None:
    x, y = regression_data()
    model = compiled(kg.Hybrid(kg.SGD(1.0), keras.optimizers.SGD(1.0), switch=1))
    kg.callbacks.clip_from_now_on(model, 1e-3)
    for _ in range(2):
        before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
        model.train_on_batch(x, y)
        after = [ops.convert_to_numpy(v) for v in model.trainable_variables]
        squares = (((a - b) ** 2).sum() for a, b in zip(after, before, strict=True))
        # A step of rate 1 is the gradient, and weights of order one round to 6e-8.
        assert math.sqrt(sum(squares)) == pytest.approx(1e-3, rel=1e-3)


@every_optimizer
def test_gradients_are_clipped_from_the_first_restore_on(optimizer: Any) -> None:
    """SGD's steps are as long as the clipped gradient; Adam's state averages its square."""
    x, y = regression_data()
    model = compiled(optimizer(1e-3))
    y = y.copy()
    y[16:32] = 1e6
    guard = kg.callbacks.DivergenceGuard(clip=1e-3, rate_factor=1.0, max_restores=2)
    model.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0, callbacks=[guard])
    (event,) = guard.events
    assert "gradients clipped to norm 0.001" in str(event)
    assert event.restored_step == 0
    inner = kg.callbacks.innermost(model.optimizer)
    if isinstance(inner, kg.Adam):
        squares = [v for v in inner.variables if v.path.endswith("velocity")]
        total = sum(float(ops.sum(ops.convert_to_tensor(v))) for v in squares)
        # Two gradients, both longer than the bound.
        assert total == pytest.approx(0.001 * (1 + 0.999) * 1e-3**2, rel=1e-4)
    else:
        moved = [a - b for a, b in zip(state(model), state(compiled("sgd")), strict=False)][:4]
        length = math.sqrt(sum(float((m**2).sum()) for m in moved))
        # Two steps of rate 1e-3, the second with nine tenths of the first on top at most.
        assert 0 < length <= 3 * 1e-6


def test_clipping_twice_is_refused() -> None:
    model = compiled(keras.optimizers.SGD(0.1, clipnorm=1.0))
    with pytest.raises(ValueError, match="clip must be None.*clipnorm=1.0"):
        fit(model, kg.callbacks.DivergenceGuard(clip=1.0))
