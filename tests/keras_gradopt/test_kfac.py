"""KFAC and EKFAC: exact where their curvature is, as kfac-jax elsewhere, whole in every corner."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import backend, kronecker, layers, likelihood
from tests.keras_gradopt.kfac_peers import numpy_reference as reference
from tests.keras_gradopt.problems import network, regression_data, values
from tests.keras_gradopt.test_layers import as_one_program, on_the_host, randomised, seen_by

L = keras.layers
ON_TORCH = keras.backend.backend() == "torch"
# The mode that starts sooner on small models.
JIT = keras.backend.backend() == "jax"
RECORDED = Path(__file__).parent / "kfac_peers" / "recorded" / "kfac_jax.npz"
both = pytest.mark.parametrize("cls", [kg.KFAC, kg.EKFAC], ids=lambda c: c.__name__)


def trained(model: keras.Model, optimizer: Any, loss: Any = "mse", **arguments: Any) -> list[float]:
    """Losses of the epochs."""
    kg.bind(model).compile(optimizer=optimizer, loss=loss, jit_compile=JIT)
    x, y = arguments.pop("data", None) or regression_data(32)
    defaults = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0}
    return model.fit(x, y, **{**defaults, **arguments}).history["loss"]


@contextlib.contextmanager
def told(part: str) -> Iterator[list[str]]:
    """Gathers the warnings that say so."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [text for text in (str(w.message) for w in caught) if part in text]


# ---------------------------------------------------------------------- exact where it should be


def dense_layer(data: tuple) -> tuple[layers.Seen, keras.Model]:
    model = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    randomised(model).compile(optimizer="sgd", loss="mse")
    _, _, (seen,) = seen_by(model, tuple(map(ops.convert_to_tensor, data)))
    return seen, model


def factors_of(seen: layers.Seen) -> list[np.ndarray]:
    """The factors of what a layer saw, all kept whole."""
    kept = kronecker.sides(seen.block, 100)
    pair = as_one_program(lambda: kronecker.factors(seen.block, kept, *seen.examples()))
    return on_the_host([x for x in pair if x is not None])


def product_of_factors(seen: layers.Seen, scale: float) -> np.ndarray:
    """A times G as the matrix on the weights as a vector, rows first."""
    a, g = factors_of(seen)
    return scale * np.kron(a[0], g[0])


def empirical_fisher(seen: layers.Seen) -> np.ndarray:
    """The mean of the outer products of the examples' gradients, from the sums of 1 / n of them."""
    a, d = on_the_host(list(as_one_program(seen.examples)))
    each = np.einsum("btrn,btrm->brnm", a, d).reshape(len(a), -1) * len(a)
    return each.T @ each / len(a)


def test_factors_of_one_example_are_its_fisher_block() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(1, 3)), rng.normal(size=(1, 2))
    seen, model = dense_layer((x.astype("float32"), y.astype("float32")))
    kernel, bias = (v.astype("float64") for v in values(model.trainable_variables))
    d = (x @ kernel + bias - y) * 2 / 2
    gradient = np.outer(np.append(x, 1.0), d).ravel()
    np.testing.assert_allclose(
        product_of_factors(seen, 1.0), np.outer(gradient, gradient), rtol=1e-4
    )


def test_factors_of_independent_inputs_and_gradients_are_the_fisher_block() -> None:
    """Every input with every residual: then the mean of products is the product of means."""
    rng = np.random.default_rng(4)
    inputs, residuals = rng.normal(size=(5, 3)), rng.normal(size=(4, 2))
    x = np.repeat(inputs, 4, axis=0).astype("float32")
    _, model = dense_layer((x, np.zeros((20, 2), "float32")))
    kernel, bias = values(model.trainable_variables)
    y = (x @ kernel + bias - np.tile(residuals, (5, 1))).astype("float32")
    seen, _ = dense_layer((x, y))
    # Output gradients are those of a mean over 20; its square is made a mean again.
    found = product_of_factors(seen, 20.0)
    np.testing.assert_allclose(found, empirical_fisher(seen), rtol=1e-3, atol=1e-4)


def test_a_convolution_of_one_pixel_is_a_dense_layer_along_positions() -> None:
    x = np.random.default_rng(5).normal(size=(4, 3, 3, 2)).astype("float32")
    y = np.random.default_rng(6).normal(size=(4, 3, 3, 5)).astype("float32")
    found = []
    for layer in (L.Conv2D(5, 1), L.Dense(5)):
        model = keras.Sequential([keras.Input((3, 3, 2)), layer])
        randomised(model).compile(optimizer="sgd", loss="mse")
        for v, w in zip(model.trainable_variables, (np.ones((2, 5)), np.ones(5)), strict=True):
            v.assign(np.reshape(w, v.shape))
        _, _, (seen,) = seen_by(model, (ops.convert_to_tensor(x), ops.convert_to_tensor(y)))
        found.append(product_of_factors(seen, 1.0))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-7)
    # Of the paper: inputs as a mean over positions, gradients as a sum.
    a = np.concatenate([x.reshape(-1, 2), np.ones((36, 1))], axis=1).astype("float64")
    d = (x.reshape(-1, 2).sum(axis=1, keepdims=True) + 1.0 - y.reshape(-1, 5)) * 2 / (36 * 5)
    np.testing.assert_allclose(found[0], np.kron(a.T @ a / 36, d.T @ d), rtol=1e-3, atol=1e-8)


def test_an_embedding_has_the_factors_of_a_dense_layer_on_one_hot_inputs() -> None:
    words = np.array([[0, 2], [2, 2], [4, 1]], "int32")
    y = np.random.default_rng(7).normal(size=(3, 6)).astype("float32")
    found = []
    for layer, x in ((L.Embedding(5, 3), words), (L.Dense(3, use_bias=False), np.eye(5)[words])):
        model = keras.Sequential(
            [keras.Input(x.shape[1:], dtype="int32" if x is words else None), layer, L.Flatten()]
        )
        randomised(model).compile(optimizer="sgd", loss="mse")
        data = (ops.convert_to_tensor(x.astype("int32" if x is words else "float32")), y)
        _, _, (seen,) = seen_by(model, (data[0], ops.convert_to_tensor(y)))
        a, g = factors_of(seen)
        found.append((np.diag(a[0]) if a.ndim == 2 else a[0], g[0]))
    for table, dense in zip(*found, strict=True):
        np.testing.assert_allclose(table, dense, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("layer", [L.LayerNormalization, L.BatchNormalization])
def test_scale_and_shift_have_their_whole_fisher_block(layer: Any) -> None:
    x = np.random.default_rng(8).normal(size=(6, 3)).astype("float32")
    y = np.random.default_rng(9).normal(size=(6, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), layer()])
    randomised(model).compile(optimizer="sgd", loss="mse")
    scale, shift = values(model.trainable_variables)
    _, _, (seen,) = seen_by(model, (ops.convert_to_tensor(x), ops.convert_to_tensor(y)))
    axis = 1 if layer is L.LayerNormalization else 0
    x64 = x.astype("float64")
    normal = x64 - x64.mean(axis, keepdims=True)
    normal /= np.sqrt(x64.var(axis, keepdims=True) + 1e-3)
    d = (normal * scale + shift - y) * 2 / 18
    each = np.concatenate([d * normal, d], axis=1)
    np.testing.assert_allclose(factors_of(seen)[0][0], each.T @ each, rtol=1e-3, atol=1e-6)


def test_squares_in_a_basis_are_the_diagonal_of_the_turned_fisher_block() -> None:
    rng = np.random.default_rng(10)
    block = layers.Block("product", 0, 1, 2, 3, 2)
    left = np.linalg.qr(rng.normal(size=(2, 4, 4)))[0]
    right = np.linalg.qr(rng.normal(size=(2, 2, 2)))[0]
    for positions in (1, 5):
        a, d = rng.normal(size=(6, positions, 2, 4)), rng.normal(size=(6, positions, 2, 2))
        each = np.einsum("btrn,btrm->brnm", a, d)
        expected = (np.einsum("rni,brnm,rmj->brij", left, each, right) ** 2).sum(axis=0)
        tensors = [ops.cast(ops.convert_to_tensor(v), "float32") for v in (left, right, a, d)]
        found = kronecker.second_moments(block, kronecker.Pair(*tensors[:2]), *tensors[2:])
        np.testing.assert_allclose(on_the_host([found])[0], expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- targets of its own


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def hessian(name: str, y: np.ndarray) -> np.ndarray:
    """The Fisher information by the outputs of one term (3 of them), from its likelihood."""
    if name == "mse":
        return 2 / 3 * np.eye(3)
    if name == "poisson":
        return np.diag(1 / y) / 3
    if name == "binary":
        return np.diag(1 / (y * (1 - y))) / 3
    if name == "binary logits":
        p = 1 / (1 + np.exp(-y))
        return np.diag(p * (1 - p)) / 3
    if name == "probabilities":
        return np.diag(1 / y)
    p = softmax(y)
    return np.diag(p) - np.outer(p, p)


LOSSES = {
    "mse": keras.losses.MeanSquaredError(),
    "poisson": keras.losses.Poisson(),
    "binary": keras.losses.BinaryCrossentropy(),
    "binary logits": keras.losses.BinaryCrossentropy(from_logits=True),
    "probabilities": keras.losses.SparseCategoricalCrossentropy(),
    "logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "one-hot logits": keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_random_gradients_have_the_covariance_of_the_likelihood(name: str) -> None:
    """The mean over all signs is the expectation, without a statistical error."""
    outputs = np.array([[0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], "float32")
    weights = np.array([1.0, 2.5], "float32")
    model = keras.Sequential([keras.Input((3,)), L.Dense(3)])
    model.compile(optimizer="sgd", loss=LOSSES[name], loss_weights=0.7)
    y_pred = ops.convert_to_tensor(outputs)
    y = ops.zeros((2,), "int32") if name in ("probabilities", "logits") else ops.ones((2, 3))
    model._compile_loss(y, y_pred)
    assert likelihood.unknown(model) == []
    covariance = np.zeros((2, 3, 3))
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        drawn = ops.convert_to_tensor(np.tile(signs, (2, 1)).astype("float32"))

        def drawn_loss(ys: list, drawn: Any = drawn) -> Any:
            given = ops.convert_to_tensor(weights)
            return likelihood.pseudo_loss(model, y, ys[0], given, lambda shape, number: drawn)

        _, (u,) = backend.value_and_grad(drawn_loss, [y_pred])
        (u,) = on_the_host([u])
        covariance += np.einsum("bi,bj->bij", u, u) / 8
    # What the loss gives an example: a mean over two, sample weights, and a weight of the output.
    for c, found, at in zip(0.7 * weights / 2, covariance, outputs, strict=True):
        np.testing.assert_allclose(
            found, c * hessian(name, at.astype("float64")), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    "loss",
    [
        "mae",
        keras.losses.SparseCategoricalCrossentropy(ignore_class=0),
        keras.losses.CategoricalCrossentropy(axis=1),
    ],
    ids=["mae", "ignored class", "other axis"],
)
def test_losses_without_a_known_likelihood_are_told_apart(loss: Any) -> None:
    model = keras.Sequential([keras.Input((3,)), L.Dense(3)])
    model.compile(optimizer="sgd", loss=loss)
    model._compile_loss.build(ops.zeros((2, 3)), ops.zeros((2, 3)))
    assert len(likelihood.unknown(model)) == 1


# ---------------------------------------------------------------------- whole trajectories


def digits(name: str) -> tuple[keras.Model, Any, np.ndarray, np.ndarray]:
    """A recorded problem of kfac-jax: the model at its first weights, loss, inputs, targets."""
    recorded = np.load(RECORDED)
    weights = [
        recorded[f"{name}_weight_{i}"]
        for i in range(len(recorded))
        if f"{name}_weight_{i}" in recorded
    ]
    count = len(weights) // 2
    model = keras.Sequential([keras.Input((64,))])
    for i in range(count):
        model.add(L.Dense(len(weights[2 * i + 1]), activation="tanh" if i < count - 1 else None))
    model.set_weights(weights)
    x = (recorded["pixels"] / 16.0).astype("float32")
    if name == "autoencoder":
        return model, "mse", x, x
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return model, loss, x, recorded["labels"].astype("int32")


SETTINGS = {"momentum": 0.9, "damping": 1e-2, "norm_constraint": 1e-2, "decay": 0.95}


@pytest.mark.parametrize("name", ["classifier", "autoencoder"])
def test_the_loss_falls_as_that_of_kfac_jax(name: str) -> None:
    """Recorded with exact expectations over targets; ours is one draw for each step."""
    expected = np.load(RECORDED)[f"{name}_fisher_exact"]
    model, loss, x, y = digits(name)
    found = np.array(
        trained(
            model, kg.KFAC(0.3, **SETTINGS), loss, data=(x, y), epochs=len(expected), batch_size=200
        )
    )
    # The same weights; then a draw for 200 examples in place of the expectation, which kfac-jax'
    # own draws miss by 0.3 % at first, and by 12 % where the loss falls by half at each step.
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[:4], expected[:4], rtol=0.03)
    np.testing.assert_allclose(found, expected, rtol=0.3)
    assert found[-1] <= 1.1 * expected[-1]


@both
def test_steps_are_those_of_the_paper_in_float64(cls: type) -> None:
    model, loss, x, y = digits("classifier")
    settings = {**SETTINGS, "learning_rate": 0.3, "inverse_interval": 2}
    expected = reference.train(model.get_weights(), x, y, 5, **settings, eigenbasis=cls is kg.EKFAC)
    trained(
        model,
        cls(**settings, fisher="empirical"),
        loss,
        data=(x, y),
        epochs=5,
        batch_size=200,
    )
    for v, w in zip(values(model.trainable_variables), expected[-1], strict=True):
        # Inverses in float32 of factors whose eigenvalues span four orders above the damping.
        np.testing.assert_allclose(v, w, atol=2e-3 * np.abs(w).max())


@pytest.mark.slow
def test_a_deep_autoencoder_needs_at_most_half_of_adams_steps() -> None:
    """The best of four rates of Adam, against the settings of the other recorded problems."""
    recorded = np.load(RECORDED)
    x = (recorded["pixels"] / 16.0).astype("float32")

    def losses(optimizer: Any, epochs: int) -> list[float]:
        rng, sizes = np.random.default_rng(0), (64, 32, 16, 8, 16, 32, 64)
        model = keras.Sequential([keras.Input((64,))])
        for n in sizes[1:]:
            model.add(L.Dense(n, activation="tanh" if len(model.layers) < 5 else None))
        for v in model.trainable_variables:
            if v.name == "kernel":
                v.assign(rng.normal(size=v.shape) / np.sqrt(v.shape[0]))
        return trained(model, optimizer, "mse", data=(x, x), epochs=epochs, batch_size=200)

    target = min(losses(kg.Adam(rate), 150)[-1] for rate in (1e-3, 3e-3, 1e-2, 3e-2))
    assert losses(kg.KFAC(0.3, **SETTINGS), 75)[-1] <= target


# ---------------------------------------------------------------------- in every corner


def several_outputs() -> tuple[keras.Model, dict, tuple]:
    inputs = keras.Input((5,))
    hidden = L.BatchNormalization()(L.Dense(6, activation="tanh")(inputs))
    hidden = L.Dropout(0.2, seed=1)(hidden)
    outputs = {"a": L.Dense(1, name="a")(hidden), "b": L.Dense(3, name="b")(hidden)}
    x, y = regression_data(32)
    labels = (np.arange(32) % 3).astype("int32")
    losses = {"a": "mse", "b": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    return keras.Model(inputs, outputs), losses, (x, {"a": y, "b": labels})


@both
def test_saved_loaded_and_continued_is_as_if_nothing_had_happened(
    cls: type, tmp_path: Path
) -> None:
    """With dropout, BatchNormalization, two outputs, stale inverses and skipped looks."""
    model, losses, data = several_outputs()
    optimizer = cls(inverse_interval=3, curvature_interval=2)
    history = trained(model, optimizer, losses, data=data, epochs=3)
    assert np.all(np.isfinite(history))
    model.save(tmp_path / "model.keras")
    loaded = kg.bind(keras.models.load_model(tmp_path / "model.keras"))
    for a, b in zip(
        values(model.optimizer.variables), values(loaded.optimizer.variables), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    # The file does not hold the states of random numbers.
    for a, b in zip(model.non_trainable_variables, loaded.non_trainable_variables, strict=True):
        b.assign(ops.convert_to_numpy(a))
    for each in (model, loaded):
        each.fit(*data, epochs=2, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(values(model.variables), values(loaded.variables), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(
    ON_TORCH, reason="torch.compile takes a minute; the contract's slow tests do it"
)
@pytest.mark.parametrize("cls", [kg.KFAC, pytest.param(kg.EKFAC, marks=pytest.mark.slow)])
def test_compiled_and_eager_steps_agree(cls: type) -> None:
    found = []
    for jit_compile in (True, False):
        model = network(batch_norm=True)
        # TensorFlow's random numbers are others in XLA.
        optimizer = cls(inverse_interval=2, fisher="empirical")
        kg.bind(model).compile(optimizer, loss="mse", jit_compile=jit_compile)
        model.fit(*regression_data(32), epochs=2, batch_size=16, shuffle=False, verbose=0)
        found.append(values(model.trainable_variables))
    for a, b in zip(*found, strict=True):
        # Sums in another order, times inverses of up to a thousand, four steps long.
        np.testing.assert_allclose(a, b, rtol=5e-3, atol=1e-3)


@both
def test_unknown_layers_get_a_diagonal_and_one_warning(cls: type) -> None:
    class Scale(L.Layer):
        def build(self, shape: tuple) -> None:
            self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

        def call(self, x: Any) -> Any:
            return x * self.factor

    model = keras.Sequential(
        [keras.Input((3, 5)), L.GRU(4, name="gru"), Scale(name="scale"), L.Dense(1)]
    )
    x = np.random.default_rng(0).normal(size=(16, 3, 5)).astype("float32")
    with told("diagonal of the curvature") as messages:
        history = trained(model, cls(), data=(x, x[:, 0, :1]), epochs=6, batch_size=8)
    assert len(messages) == 1
    assert "'gru' (GRU)" in messages[0] or "(GRUCell)" in messages[0]
    assert "'scale' (Scale)" in messages[0]
    assert history[-1] < history[0]
    diagonals = [v for v in model.optimizer.variables if v.name.endswith("_diagonal")]
    assert len(diagonals) == 4
    assert all(float(ops.max(v)) > 0 for v in diagonals)


def test_named_layers_get_a_diagonal_without_a_warning() -> None:
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(model, kg.KFAC(diagonal=r"dense\w*/(kernel|bias)"), epochs=1)
    names = [v.name for v in model.optimizer.variables]
    assert sum(name.endswith("_diagonal") for name in names) == 4
    assert not any("factor" in name and "weight" not in name for name in names)


def test_an_unknown_loss_takes_the_empirical_curvature_and_says_so_once() -> None:
    unknown, empirical = network(), network()
    with told("no likelihood behind mae") as messages:
        trained(unknown, kg.KFAC(), "mae")
        unknown.fit(*regression_data(20), batch_size=10, shuffle=False, verbose=0)
    assert len(messages) == 1
    trained(empirical, kg.KFAC(fisher="empirical"), "mae")
    empirical.fit(*regression_data(20), batch_size=10, shuffle=False, verbose=0)
    for a, b in zip(values(empirical.variables), values(unknown.variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@both
def test_one_example_and_inputs_of_zero_stay_finite(cls: type) -> None:
    x, y = regression_data(6)
    model = network(batch_norm=True)
    trained(model, cls(inverse_interval=2), data=(x, y), batch_size=1)
    for data in ((0 * x, y), (x, 0 * y), (x, y)):
        history = model.fit(*data, epochs=1, batch_size=1, verbose=0).history["loss"]
        assert np.all(np.isfinite(history))
        assert all(np.all(np.isfinite(v)) for v in values(model.variables))


def test_a_minibatch_that_is_not_finite_leaves_the_curvature_alone() -> None:
    x, y = regression_data(32)
    model = network()
    trained(model, kg.KFAC(), data=(x, y))
    kept = [v for v in model.optimizer.variables if "factor" in v.name]
    before = values(kept)
    model.fit(np.full_like(x[:16], np.nan), y[:16], epochs=1, batch_size=16, verbose=0)
    for a, b in zip(values(kept), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_long_sides_keep_a_diagonal() -> None:
    model = network(batch_norm=True)
    history = trained(model, kg.KFAC(max_factor=4), epochs=5)
    shapes = {v.name: tuple(v.shape) for v in model.optimizer.variables}
    # Dense(8) on 5 inputs: rows for inputs and bias, columns; BatchNormalization's 8 and 8.
    factors = [s for name, s in shapes.items() if "_factor" in name and s]
    assert sorted(factors) == sorted([(1, 6), (1, 8), (1, 16), (1, 9), (1, 1, 1)])
    assert history[-1] < history[0]


def test_work_that_is_not_due_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step in Python: looks at steps 1, 4, 7 of 8, inverses at steps 1 and 5."""
    calls = {"looks": 0, "inverses": 0}

    def counting(name: str, f: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return f(*args, **kwargs)

        return counted

    monkeypatch.setattr(kg.Objective, "layers", counting("looks", kg.Objective.layers))
    monkeypatch.setattr(
        kronecker, "damped_inverses", counting("inverses", kronecker.damped_inverses)
    )
    model = keras.Sequential([keras.Input((5,)), L.Dense(1)])
    kg.bind(model).compile(
        kg.KFAC(curvature_interval=3, inverse_interval=4),
        loss="mse",
        run_eagerly=True,
        jit_compile=False,
    )
    model.fit(*regression_data(32), batch_size=8, epochs=2, verbose=0)
    assert calls == {"looks": 3, "inverses": 2}
    assert float(ops.convert_to_tensor(model.optimizer.evaluations)) == 8 + 3


def test_skipped_looks_are_not_counted_in_compiled_steps() -> None:
    model = network()
    trained(model, kg.KFAC(curvature_interval=4), batch_size=8, epochs=2)
    assert float(ops.convert_to_tensor(model.optimizer.evaluations)) == 8 + 2


def test_frozen_groups_stay_and_are_left_out_of_their_layer() -> None:
    model = network()
    start = values(model.trainable_variables)
    trained(model, kg.KFAC(groups={"bias": {"frozen": True}}))
    for v, before in zip(model.trainable_variables, start, strict=True):
        assert np.array_equal(values([v])[0], before) == (v.name == "bias")
    shapes = [tuple(v.shape) for v in model.optimizer.variables if "inputs_factor" in v.name]
    assert shapes == [(1, 5, 5), (1, 8, 8)]


def test_an_optimizer_built_without_the_model_says_so() -> None:
    model = network()
    model.compile(optimizer=kg.KFAC(), loss="mse", jit_compile=JIT)
    model.optimizer.build(model.trainable_variables)
    kg.bind(model)
    with pytest.raises(RuntimeError, match="built without a look at the layers"):
        model.fit(*regression_data(16), verbose=0)


def test_one_variable_alone_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="whole layers"):
        kg.KFAC().update_step(ops.ones((2,)), keras.Variable([1.0, 2.0]), 0.1)


def test_the_kind_of_fisher_is_checked() -> None:
    with pytest.raises(ValueError, match="'mc' or 'empirical', received 'exact'"):
        kg.KFAC(fisher="exact")
