"""Switches decide as NumPy decides from the same observations."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import registry
from keras_gradopt.switches import Switch, made
from tests.keras_gradopt.problems import regression_data, values

JIT = keras.backend.backend() == "jax"
CLASSES = registry.members("keras_gradopt.switches")


def series(steps: int = 60) -> np.ndarray:
    """A loss that falls fast, falls slowly, and rests, with noise."""
    rng = np.random.default_rng(0)
    t = np.arange(steps)
    falls = np.where(t < 20, 5 - 0.2 * t, np.where(t < 40, 1.2 - 0.01 * (t - 20), 1.0))
    return (falls + rng.normal(size=steps) * 0.02).astype("float32")


def step_of_switch(switch: Switch, losses: np.ndarray) -> tuple[int | None, str]:
    """After which step a hybrid switches that observes these losses, and why."""
    w = keras.Variable([1.0])
    hybrid = kg.Hybrid(kg.SGD(0.1), kg.SGD(0.1), switch=switch)
    hybrid.build([w])
    for loss in losses:
        hybrid.observe(loss)
        hybrid.apply([ops.ones((1,))], [w])
    log = hybrid.switch_log()
    return (log[0].step, log[0].reason) if log else (None, "")


def means(losses: np.ndarray, size: int) -> list[tuple[int, float]]:
    """The last step and the mean of each stretch of so many losses."""
    whole = len(losses) // size * size
    found = losses[:whole].astype("float64").reshape(-1, size).mean(axis=1)
    return [((i + 1) * size, float(mean)) for i, mean in enumerate(found)]


@pytest.mark.parametrize(
    ("patience", "average_steps", "relative_delta", "min_delta"),
    [(3, 1, 1e-4, 0.0), (2, 4, 0.0, 0.05), (1, 3, 0.1, 0.0), (50, 1, 0.0, 0.0)],
)
def test_a_plateau_is_where_numpy_finds_it(
    patience: int, average_steps: int, relative_delta: float, min_delta: float
) -> None:
    losses = series()
    expected, best, waited = None, np.inf, 0
    for step, mean in means(losses, average_steps):
        if not np.isfinite(best) or mean < best - relative_delta * abs(best) - min_delta:
            best, waited = mean, 0
        else:
            waited += 1
        if waited >= patience:
            expected = step
            break
    switch = kg.switches.OnPlateau(patience, average_steps, relative_delta, min_delta)
    found, reason = step_of_switch(switch, losses)
    assert found == expected
    assert (expected is None) == (patience == 50)
    if expected:
        said = float(reason.partition(" below ")[2].split()[0])
        assert said == pytest.approx(best, rel=1e-5)
        assert f"{patience} times in a row" in reason


@pytest.mark.parametrize(
    ("rate", "patience", "average_steps"), [(0.02, 1, 5), (0.02, 2, 5), (0.005, 3, 1), (0.0, 1, 20)]
)
def test_slow_progress_is_where_numpy_finds_it(
    rate: float, patience: int, average_steps: int
) -> None:
    losses = series()
    # The last stretch of twenty rises.
    losses[40:] += np.float32(0.1)
    expected, before, slow, last = None, None, 0, 0.0
    for step, mean in means(losses, average_steps):
        if before is not None:
            last = (before - mean) / abs(before) / average_steps
            slow = slow + 1 if last < rate else 0
        if slow >= patience:
            expected = step
            break
        before = mean
    found, reason = step_of_switch(
        kg.switches.OnSlowProgress(rate, patience, average_steps), losses
    )
    assert found is not None
    assert found == expected
    assert float(reason.split()[4]) == pytest.approx(last, rel=1e-2, abs=1e-6)


def test_a_loss_that_is_not_a_number_is_no_progress() -> None:
    losses = np.array([3.0, 2.0, np.nan, np.nan, np.nan], "float32")
    assert step_of_switch(kg.switches.OnPlateau(2, 1), losses)[0] == 4
    assert step_of_switch(kg.switches.OnSlowProgress(0.0, 2, 1), losses)[0] == 4


def noisy_gradients(steps: int) -> list[list[np.ndarray]]:
    """Gradients of two variables whose mean fades while their noise stays."""
    rng = np.random.default_rng(1)
    means = [rng.normal(size=(4, 3)), rng.normal(size=(5,))]
    return [
        [(m * 0.9**t + 0.2 * rng.normal(size=m.shape)).astype("float32") for m in means]
        for t in range(steps)
    ]


@pytest.mark.parametrize(
    ("ratio", "decay", "patience", "warmup"),
    [(1.0, 0.8, 2, 5), (5.0, 0.9, 1, 1), (3.0, 0.9, 4, 30)],
)
def test_noise_is_above_signal_where_numpy_finds_it(
    ratio: float, decay: float, patience: int, warmup: int
) -> None:
    gs = noisy_gradients(60)
    expected, in_a_row, noise, signal = None, 0, 0.0, 0.0
    for t in range(1, len(gs) + 1):
        flat = np.stack([np.concatenate([g.ravel() for g in one]) for one in gs[:t]])
        # The weights of the average, summing to 1, and what theory says of them.
        p = (1 - decay) * decay ** np.arange(t)[::-1]
        p /= p.sum()
        m, v, s = p @ flat.astype("float64"), p @ (flat.astype("float64") ** 2).sum(1), (p**2).sum()
        if t > 1:
            noise, signal = (v - m @ m) / (1 - s), (m @ m - s * v) / (1 - s)
        in_a_row = in_a_row + 1 if t > warmup and noise > ratio * signal and t > 1 else 0
        if in_a_row >= patience:
            expected = t
            break
    ws = [keras.Variable(np.zeros((4, 3), "float32")), keras.Variable(np.zeros(5, "float32"))]
    switch = kg.switches.OnGradientNoise(ratio, decay, patience, warmup)
    hybrid = kg.Hybrid(kg.SGD(0.0), kg.SGD(0.0), switch=switch)
    for one in gs:
        hybrid.apply([ops.convert_to_tensor(g) for g in one], ws)
    (record,) = hybrid.switch_log()
    assert record.step == expected
    assert f"variance, last {noise:.2g}"[:-1] in record.reason
    # What decided is kept, to float32's rounding of sums that nearly cancel.
    kept = {n: float(hybrid._shared[f"number_{n}"]) for n in ("noise", "signal")}
    assert kept["noise"] == pytest.approx(noise, rel=1e-4)
    assert kept["signal"] == pytest.approx(signal, rel=1e-3, abs=1e-5)


def test_the_estimates_of_noise_and_signal_are_unbiased() -> None:
    rng = np.random.default_rng(2)
    mean, sigma, decay, t = np.array([0.3, -0.1, 0.2]), np.array([0.5, 1.0, 0.2]), 0.9, 12
    switch = kg.switches.OnGradientNoise(decay=decay)
    runs = 4000
    # All runs at once: the switch is a pure function of one gradient, of which it sees norms only.
    gs = (mean + sigma * rng.normal(size=(t, runs, 3))).astype("float32")
    m, v = np.zeros((runs, 3)), np.zeros(runs)
    for g in gs:
        m, v = decay * m + (1 - decay) * g, decay * v + (1 - decay) * (g**2).sum(1)
    found = []
    for i in range(0, runs, 40):
        # The last step, from the state of all before it.
        before = (m[i] - (1 - decay) * gs[-1, i]) / decay
        square = (v[i] - (1 - decay) * (gs[-1, i] ** 2).sum()) / decay
        state = {
            "mean": [ops.convert_to_tensor(before.astype("float32"))],
            "square": ops.convert_to_tensor(np.float32(square)),
            "in_a_row": ops.zeros(()),
        }
        seen = kg.switches.Seen(
            ops.convert_to_tensor(float(t)), [], [ops.convert_to_tensor(gs[-1, i], "float32")]
        )
        numbers = switch.decide(seen, state).numbers
        found.append([float(numbers["noise"]), float(numbers["signal"])])
    error = np.std(found, axis=0) / np.sqrt(len(found))
    truth = np.array([(sigma**2).sum(), (mean**2).sum()])
    # Four standard errors of a hundred estimates.
    assert np.all(np.abs(np.mean(found, axis=0) - truth) < 4 * error)


class Surface(keras.layers.Layer):
    """Outputs whose mean square is x^2 - y^2 + y^4/4 + 1: a saddle at 0."""

    def build(self, shape: Any) -> None:
        del shape
        self.point = self.add_weight(shape=(2,), initializer="zeros", name="point")

    def call(self, x: Any) -> Any:
        w = ops.convert_to_tensor(self.point)
        residuals = ops.stack([2**0.5 * w[0], 2**0.5 * (w[1] * w[1] / 2 - 1)])
        return 0.0 * x + residuals[None]


def on_surface(optimizer: Any, start: tuple[float, float]) -> tuple[keras.Model, tuple]:
    model = kg.bind(keras.Sequential([keras.Input((1,)), Surface()]))
    model.trainable_variables[0].assign(np.array(start, "float32"))
    model.compile(optimizer=optimizer, loss="mse", jit_compile=JIT)
    return model, (np.zeros((1, 1), "float32"), np.zeros((1, 2), "float32"))


def test_at_a_saddle_a_rule_that_escapes_takes_over_and_the_log_says_why() -> None:
    escapes = kg.SGD(0.1, gradient_transforms=[kg.transforms.AddNoise(eta=0.01)])
    saddle = kg.switches.OnSaddle(gradient_norm=0.05, frequency=3)
    model, data = on_surface(kg.Hybrid(kg.SGD(0.1), escapes, switch=saddle), (0.5, 0.0))
    model.fit(*data, epochs=60, verbose=0)
    (record,) = model.optimizer.switch_log()
    # The gradient 2x falls by a factor 0.8 a step from 1: at step 15 it is 0.8^14 = 0.044.
    assert record.step == 15
    assert "the gradient's norm was 0.044" in record.reason
    # The Hessian is diag(2, -2).
    assert "lowest eigenvalue of the Hessian -2 beside a largest of 2 in size" in record.reason
    x, y = values(model.trainable_variables)[0]
    assert abs(abs(y) - 2**0.5) < 0.2
    assert abs(x) < 0.2
    # One gradient a step, and one look of two products of three gradients.
    assert float(ops.convert_to_tensor(model.optimizer.evaluations)) == pytest.approx(60 + 6)


def test_a_minimum_is_no_saddle_and_is_looked_at_now_and_then() -> None:
    saddle = kg.switches.OnSaddle(gradient_norm=0.05, frequency=4)
    model, data = on_surface(kg.Hybrid(kg.SGD(0.1), "sgd", switch=saddle), (0.0, 2**0.5))
    model.fit(*data, epochs=9, verbose=0)
    assert model.optimizer.switch_log() == []
    # Looks at the steps 1, 5 and 9.
    assert float(ops.convert_to_tensor(model.optimizer.evaluations)) == pytest.approx(9 + 3 * 6)


def test_a_plateau_is_found_in_fit_from_the_losses_of_the_steps() -> None:
    x, y = regression_data(64)
    model = kg.bind(keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)]))
    plateau = kg.switches.OnPlateau(patience=2, average_steps=4, relative_delta=0.0)
    model.compile(kg.Hybrid(kg.SGD(0.0), "sgd", switch=plateau), loss="mse", jit_compile=JIT)
    model.fit(x, y, epochs=4, batch_size=16, shuffle=False, verbose=0)
    # At rate 0 three epochs have one mean; its last loss is seen by the step after it.
    assert model.optimizer.switch_log()[0].step == 3 * 4 + 1


@pytest.mark.parametrize("name", CLASSES)
def test_a_switch_is_found_by_name_and_saved(name: str) -> None:
    cls = CLASSES[name]
    assert getattr(kg.switches, name) is cls
    assert keras.saving.get_registered_object(f"keras_gradopt>{name}") is cls
    if name == "AfterSteps":
        one = made(7)
    else:
        spelled = name.removeprefix("On").lower()
        for spelling in (name, f"On_{spelled}", spelled):
            assert type(made(spelling)) is cls
        one = made(name)
    again = made(keras.saving.serialize_keras_object(one))
    assert type(again) is cls
    assert again.get_config() == one.get_config()


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"AfterSteps"}))
def test_numbers_outside_their_range_are_refused_by_name(name: str) -> None:
    cls = CLASSES[name]
    for argument, default in cls.argument_defaults().items():
        with pytest.raises(ValueError, match=f"{argument} must be"):
            cls(**{argument: -1 if isinstance(default, int) else -1.0})
        if argument in cls.all_ranges():
            with pytest.raises(ValueError, match=f"{argument} must be a number"):
                cls(**{argument: kg.schedules.Constant(0.5)})
