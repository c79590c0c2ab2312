"""The Objective and bind: the same point gives the same number, and nothing else moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import objective as objectives
from tests.keras_gradopt.problems import network, regression_data, values

JIT = keras.backend.backend() == "jax"


def compiled(optimizer: Any, *, bound: bool, **arguments: Any) -> keras.Model:
    model = network(**arguments)
    if bound:
        kg.bind(model)
    model.compile(optimizer=optimizer, loss="mse", jit_compile=JIT)
    return model


def at(model: keras.Model, data: tuple) -> tuple[kg.Objective, list]:
    objective = kg.Objective(model, data)
    return objective, [ops.convert_to_tensor(v) for v in model.trainable_variables]


def numpy(tensors: list) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(t)) for t in tensors]


def test_the_same_point_gives_the_same_number_with_dropout_and_batch_norm() -> None:
    model = compiled("sgd", bound=False, dropout=0.5, batch_norm=True)
    objective, ws = at(model, regression_data())
    state = values(model.non_trainable_variables)
    first, again = float(objective.value(ws)), float(objective.value(ws))
    value, _ = objective.value_and_grad(ws)
    assert first == again == pytest.approx(float(value), rel=1e-6)
    elsewhere = float(objective.value([w + 0.1 for w in ws]))
    assert elsewhere != first
    for a, b in zip(values(model.non_trainable_variables), state, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_unseeded_dropout_is_replayed_too() -> None:
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(32),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer="sgd", loss="mse")
    objective, ws = at(model, regression_data())
    assert len({float(objective.value(ws)) for _ in range(3)}) == 1


def loss_in_numpy(ws: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """`network(batch_norm=True)` with its mean squared error, in float64."""
    kernel, bias, gamma, beta, out, out_bias = (np.asarray(w, "float64") for w in ws)
    hidden = np.tanh(x @ kernel + bias)
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-3) * gamma + beta
    return float(np.mean((hidden @ out + out_bias - y) ** 2))


def test_gradients_and_products_agree_with_float64_differences_through_batch_norm() -> None:
    """TensorFlow's moments have wrong second derivatives; here they must not."""
    x, y = regression_data()
    model = compiled("sgd", bound=False, batch_norm=True)
    objective, ws = at(model, (x, y))
    start = numpy(ws)
    value, gs = objective.value_and_grad(ws)
    assert float(value) == pytest.approx(loss_in_numpy(start, x, y), rel=1e-5)
    rng = np.random.default_rng(0)
    us, vs = ([rng.normal(size=w.shape) for w in start] for _ in range(2))

    def moved(a: float, b: float) -> float:
        there = [w + a * u + b * v for w, u, v in zip(start, us, vs, strict=True)]
        return loss_in_numpy(there, x, y)

    eps = 1e-4
    slope = (moved(eps, 0) - moved(-eps, 0)) / (2 * eps)
    inner = sum((g * u).sum() for g, u in zip(numpy(gs), us, strict=True))
    # Differences are good to 1e-8, the sums of float32 products to 1e-6 of their parts.
    assert inner == pytest.approx(slope, rel=1e-4)
    mixed = moved(eps, eps) - moved(eps, -eps) - moved(-eps, eps) + moved(-eps, -eps)
    products = objective.hvp(ws, [ops.cast(ops.convert_to_tensor(v), "float32") for v in vs])
    bilinear = sum((p * u).sum() for p, u in zip(numpy(products), us, strict=True))
    assert bilinear == pytest.approx(mixed / (4 * eps**2), rel=1e-4)


def test_the_objective_is_the_loss_that_fit_minimises() -> None:
    """Sample weights, regularisers and add_loss included: one SGD step tells the gradient."""

    class Penalty(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            self.add_loss(0.1 * ops.mean(ops.square(x)))
            return x

    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1))(inputs)
    hidden = Penalty()(hidden)
    outputs = {
        "a": keras.layers.Dense(1, name="a")(hidden),
        "b": keras.layers.Dense(2, name="b")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.SGD(1.0), loss={"a": "mse", "b": "mae"}, jit_compile=JIT
    )
    x, y = regression_data(16)
    targets = {"a": y, "b": np.concatenate([y, -y], axis=1)}
    weights = np.linspace(0.5, 2.0, 16).astype("float32")
    data = (ops.convert_to_tensor(x), keras.tree.map_structure(ops.convert_to_tensor, targets))
    objective, ws = at(model, (*data, dict.fromkeys(targets, ops.convert_to_tensor(weights))))
    value, gs = objective.value_and_grad(ws)
    before = values(model.trainable_variables)
    history = model.fit(
        x,
        targets,
        sample_weight=dict.fromkeys(targets, weights),
        batch_size=16,
        epochs=1,
        verbose=0,
    )
    assert history.history["loss"][0] == pytest.approx(float(value), rel=1e-5)
    for a, b, g in zip(values(model.trainable_variables), before, numpy(gs), strict=True):
        np.testing.assert_allclose(b - a, g, rtol=1e-4, atol=1e-6)


def test_binding_changes_nothing_for_optimizers_that_need_gradients_only() -> None:
    x, y = regression_data()
    models = [
        compiled(kg.Adam(0.05), bound=bound, dropout=0.3, batch_norm=True)
        for bound in (False, True)
    ]
    for model in models:
        keras.utils.set_random_seed(0)
        model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(values(models[0].variables), values(models[1].variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sam_of_radius_zero_is_its_inner_optimizer_and_moves_the_same_state() -> None:
    x, y = regression_data()
    plain = compiled(kg.SGD(0.05), bound=False, dropout=0.3, batch_norm=True)
    sharp = compiled(kg.SAM(kg.SGD(0.05), rho=0.0), bound=True, dropout=0.3, batch_norm=True)
    for model in (plain, sharp):
        model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    # Weights, BatchNorm statistics and dropout's seeds: the second look left no trace.
    for a, b in zip(values(plain.variables), values(sharp.variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_sam_follows_its_paper_on_linear_regression() -> None:
    """Algorithm 1 in NumPy: the gradient at w + rho g / |g|, over all variables together."""
    x, y = regression_data(32)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    w, b = np.linspace(-1, 1, 5)[:, None], np.array([0.5])
    for v, value in zip(model.trainable_variables, (w, b), strict=True):
        v.assign(value)
    kg.bind(model).compile(
        optimizer=kg.SAM(kg.SGD(0.1, momentum=0.5), rho=0.3), loss="mse", jit_compile=JIT
    )

    def gradient(w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        error = x @ w + b - y
        return 2 * x.T @ error / len(x), 2 * error.mean(axis=0)

    u_w, u_b = np.zeros_like(w), np.zeros_like(b)
    for _ in range(20):
        g_w, g_b = gradient(w, b)
        norm = np.sqrt((g_w**2).sum() + (g_b**2).sum())
        s_w, s_b = gradient(w + 0.3 * g_w / norm, b + 0.3 * g_b / norm)
        u_w, u_b = 0.5 * u_w - 0.1 * s_w, 0.5 * u_b - 0.1 * s_b
        w, b = w + u_w, b + u_b
        model.fit(x, y, epochs=1, batch_size=32, verbose=0)
    # 20 steps in float32 against float64.
    for v, expected in zip(values(model.trainable_variables), (w, b), strict=True):
        np.testing.assert_allclose(v, expected, rtol=2e-5, atol=2e-6)


def linear(x: np.ndarray, y: np.ndarray) -> tuple[keras.Model, list[np.ndarray], Any]:
    """A linear model, its start, and its loss' gradient in NumPy."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    start = [np.linspace(-1, 1, 5)[:, None], np.array([0.5])]
    for v, value in zip(model.trainable_variables, start, strict=True):
        v.assign(value)

    def gradient(w: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
        error = x @ w + b - y
        return [2 * x.T @ error / len(x), 2 * error.mean(axis=0)]

    return kg.bind(model), start, gradient


def test_sam_goes_the_way_of_optax_s() -> None:
    optax = pytest.importorskip("optax")
    jax = pytest.importorskip("jax")
    x, y = regression_data(32)
    model, start, _ = linear(x, y)
    model.compile(kg.SAM(kg.SGD(0.1, momentum=0.9), rho=0.2), loss="mse", jit_compile=JIT)
    ws = [jax.numpy.asarray(w, "float32") for w in start]
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.2))
    peer = optax.contrib.sam(optax.sgd(0.1, momentum=0.9), adversary, opaque_mode=True)
    state = peer.init(ws)

    def loss(ws: list) -> Any:
        return jax.numpy.mean((x @ ws[0] + ws[1] - y) ** 2)

    grad = jax.grad(loss)
    for _ in range(15):
        updates, state = peer.update(grad(ws), state, ws, grad_fn=lambda ws, _: grad(ws))
        ws = optax.apply_updates(ws, updates)
        model.fit(x, y, epochs=1, batch_size=32, verbose=0)
        # Both in float32, whose rounding 15 steps add up.
        for v, expected in zip(values(model.trainable_variables), ws, strict=True):
            np.testing.assert_allclose(v, expected, rtol=2e-5, atol=2e-6)


def test_asam_follows_its_paper_on_linear_regression() -> None:
    """Algorithm 1 in NumPy: the neighbourhood is as large as the weights are."""
    x, y = regression_data(32)
    model, ws, gradient = linear(x, y)
    model.compile(kg.ASAM(kg.SGD(0.1), rho=0.3, eta=0.05), loss="mse", jit_compile=JIT)
    for _ in range(20):
        gs, ts = gradient(*ws), [np.abs(w) + 0.05 for w in ws]
        norm = np.sqrt(sum(((t * g) ** 2).sum() for t, g in zip(ts, gs, strict=True)))
        worst = [w + 0.3 * t**2 * g / norm for w, t, g in zip(ws, ts, gs, strict=True)]
        ws = [w - 0.1 * s for w, s in zip(ws, gradient(*worst), strict=True)]
        model.fit(x, y, epochs=1, batch_size=32, verbose=0)
    for v, expected in zip(values(model.trainable_variables), ws, strict=True):
        np.testing.assert_allclose(v, expected, rtol=2e-5, atol=2e-6)


def test_asam_looks_as_far_after_weights_are_scaled() -> None:
    """Twice the weights of one layer over half of the next are the same function: Kwon 2021."""
    x, y = regression_data(32)
    losses = []
    for scale in (1.0, 8.0):
        layers = [keras.layers.Dense(6, "relu", use_bias=False)]
        layers.append(keras.layers.Dense(1, use_bias=False))
        model = kg.bind(keras.Sequential([keras.Input((5,)), *layers]))
        rng = np.random.default_rng(2)
        for v, factor in zip(model.trainable_variables, (scale, 1 / scale), strict=True):
            v.assign(factor * rng.normal(size=v.shape))
        model.compile(kg.ASAM("sgd", rho=0.5, eta=0.0), loss="mse", jit_compile=JIT)
        objective, ws = at(model, (ops.convert_to_tensor(x), ops.convert_to_tensor(y)))
        _, gs = objective.value_and_grad(ws)
        optimizer = model.optimizer
        worst = optimizer.worst(ws, gs, optimizer.hyperparameters(ops.convert_to_tensor(1)))
        losses.append(float(objective.value(worst)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_nag_is_nesterov_s_method_and_sgd_takes_its_path_ahead() -> None:
    x, y = regression_data(32)
    model, ws, gradient = linear(x, y)
    model.compile(kg.NAG(0.05, momentum=0.9), loss="mse", jit_compile=JIT)
    twin, _, _ = linear(x, y)
    twin.compile(kg.SGD(0.05, momentum=0.9, nesterov=True), loss="mse", jit_compile=JIT)
    us = [np.zeros_like(w) for w in ws]
    for _ in range(20):
        ahead = [w + 0.9 * u for w, u in zip(ws, us, strict=True)]
        us = [0.9 * u - 0.05 * g for u, g in zip(us, gradient(*ahead), strict=True)]
        ws = [w + u for w, u in zip(ws, us, strict=True)]
        for each in (model, twin):
            each.fit(x, y, epochs=1, batch_size=32, verbose=0)
    ahead = [w + 0.9 * u for w, u in zip(ws, us, strict=True)]
    for found, expected in ((model, ws), (twin, ahead)):
        for v, array in zip(values(found.trainable_variables), expected, strict=True):
            np.testing.assert_allclose(v, array, rtol=2e-5, atol=2e-6)


def test_evaluations_are_counted() -> None:
    x, y = regression_data()
    model = compiled(kg.SAM("sgd"), bound=True)
    model.fit(x, y, epochs=2, batch_size=16, verbose=0)
    assert float(ops.convert_to_tensor(model.optimizer.evaluations)) == 2 * 2 * 4
    objective, ws = at(model, (x, y))
    objective.value(ws)
    objective.value_and_grad(ws)
    objective.hvp(ws, ws)
    assert objective.evaluations == pytest.approx(1 / 3 + 1 + 3)


def test_wrappers_of_wrappers_find_the_objective(tmp_path: Path) -> None:
    x, y = regression_data()
    model = compiled(kg.Lookahead(kg.SAM("adam"), sync_period=2), bound=True)
    history = model.fit(x, y, epochs=3, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < history[0]
    model.save(tmp_path / "m.keras")
    loaded = kg.bind(keras.models.load_model(tmp_path / "m.keras"))
    for other in (model, loaded):
        other.fit(x, y, epochs=1, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(values(model.variables), values(loaded.variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bind_twice_is_bind_once_and_recompiling_keeps_it() -> None:
    x, y = regression_data()
    model = kg.bind(kg.bind(network()))
    for optimizer in (kg.SAM("sgd"), "adam", kg.SAM("adam")):
        model.compile(optimizer=optimizer, loss="mse", jit_compile=JIT)
        model.fit(x, y, epochs=1, batch_size=32, verbose=0)
    assert float(ops.convert_to_tensor(model.optimizer.evaluations)) == 4
    assert objectives.current() is None


def test_a_model_s_own_train_step_is_kept() -> None:
    steps = []

    class Own(keras.Sequential):
        def train_step(self, *args: Any) -> Any:
            steps.append(1)
            return super().train_step(*args)

    x, y = regression_data()
    model = kg.bind(Own(network().layers))
    model.compile(optimizer=kg.SAM("sgd"), loss="mse", run_eagerly=not JIT, jit_compile=JIT)
    model.fit(x, y, epochs=1, batch_size=32, verbose=0)
    assert steps


def test_bind_refuses_what_is_no_model() -> None:
    with pytest.raises(TypeError, match=r"keras\.Model, received str"):
        kg.bind("model")


def test_accumulation_and_a_second_look_exclude_each_other() -> None:
    model = compiled(kg.SAM(kg.SGD(gradient_accumulation_steps=2)), bound=True)
    with pytest.raises(ValueError, match="cannot accumulate gradients"):
        model.fit(*regression_data(), verbose=0)
