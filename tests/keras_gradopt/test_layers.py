"""Per-layer inputs and output gradients: together they are the gradient, example by example."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import kronecker, layers
from tests.keras_gradopt.problems import network, regression_data, values

L = keras.layers
EXAMPLES = 4


def on_the_host(tensors: list) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(t), "float64") for t in tensors]


def randomised(model: keras.Model) -> keras.Model:
    """Weights of order one, the same on every backend."""
    rng = np.random.default_rng(11)
    for v in model.trainable_variables:
        v.assign(rng.normal(size=v.shape) * 0.5 + 0.1)
    return model


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(EXAMPLES, *shape)).astype("float32")


def words(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 7, size=(EXAMPLES, *shape)).astype("int32")


def attention(*shape: int) -> keras.Model:
    """Attention of a sequence to itself: four EinsumDense."""
    x = keras.Input(shape)
    return keras.Model(x, L.MultiHeadAttention(2, 3)(x, x))


# Each kind of layer that K-FAC must find by itself: how to make it, and what it is given.
KINDS: dict[str, tuple[Callable[[], keras.layers.Layer], np.ndarray]] = {
    "Dense": (lambda: L.Dense(3, activation="tanh"), numbers(5)),
    "Dense without bias": (lambda: L.Dense(3, use_bias=False), numbers(5)),
    "Dense along a sequence": (lambda: L.Dense(3, activation="relu"), numbers(6, 5)),
    "EinsumDense": (
        lambda: L.EinsumDense("abc,cde->abde", (6, 2, 3), bias_axes="de"),
        numbers(6, 5),
    ),
    "EinsumDense of two axes": (
        lambda: L.EinsumDense("abcd,cde->abe", (3, 3), bias_axes="e"),
        numbers(3, 2, 4),
    ),
    "MultiHeadAttention": (lambda: attention(4, 5), numbers(4, 5)),
    "Conv1D": (lambda: L.Conv1D(3, 3, padding="same", activation="tanh"), numbers(7, 2)),
    "Conv1D causal, dilated": (
        lambda: L.Conv1D(3, 3, padding="causal", dilation_rate=2),
        numbers(7, 2),
    ),
    "Conv1D strided": (lambda: L.Conv1D(3, 4, strides=2, padding="same"), numbers(9, 2)),
    "Conv2D": (lambda: L.Conv2D(3, (3, 2), activation="relu"), numbers(5, 4, 2)),
    "Conv2D 1 by 1": (lambda: L.Conv2D(3, 1), numbers(3, 3, 2)),
    "Conv2D strided": (
        lambda: L.Conv2D(3, (3, 2), strides=(2, 3), padding="same", use_bias=False),
        numbers(6, 5, 2),
    ),
    "Conv2D dilated": (
        lambda: L.Conv2D(3, 2, dilation_rate=(2, 1), padding="same"),
        numbers(5, 4, 2),
    ),
    "Conv2D grouped": (lambda: L.Conv2D(6, 3, groups=2, padding="same"), numbers(4, 4, 4)),
    "Conv3D": (lambda: L.Conv3D(2, 2, strides=2, padding="same"), numbers(3, 3, 3, 2)),
    "Embedding": (lambda: L.Embedding(7, 3), words()),
    "Embedding of a sequence": (lambda: L.Embedding(7, 3), words(5)),
    "BatchNormalization": (L.BatchNormalization, numbers(5)),
    "BatchNormalization of images": (L.BatchNormalization, numbers(3, 3, 4)),
    "BatchNormalization without scale": (lambda: L.BatchNormalization(scale=False), numbers(5)),
    "LayerNormalization": (L.LayerNormalization, numbers(6, 5)),
    "LayerNormalization of two axes": (lambda: L.LayerNormalization(axis=[1, 2]), numbers(3, 5)),
    "GroupNormalization": (lambda: L.GroupNormalization(2), numbers(3, 4)),
    "RMSNormalization": (L.RMSNormalization, numbers(5)),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
# One of each path through the code; the others run with the slow tests.
VARIANTS = ("of two axes", "dilated", "strided", "of images", "of a sequence")
each_path = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=pytest.mark.slow) if k.endswith(VARIANTS) or "without" in k else k
        for k in KINDS
    ],
)


def model_of(kind: str) -> tuple[keras.Model, tuple]:
    """The layer between others, nested, with a loss that mixes its outputs."""
    make, x = KINDS[kind]
    dtype = "int32" if x.dtype == "int32" else None
    inner = keras.Sequential([keras.Input(x.shape[1:], dtype=dtype), make()], name="inner")
    model = keras.Sequential([inner, L.Flatten(), L.Dense(2, name="last")])
    randomised(model).compile(optimizer="sgd", loss="mse")
    y = np.random.default_rng(2).normal(size=(EXAMPLES, 2)).astype("float32")
    return model, (ops.convert_to_tensor(x), ops.convert_to_tensor(y))


def as_one_program(f: Callable[..., Any], *args: Any) -> Any:
    """Calls a function as `fit` would: traced and compiled where the backend does that."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(f)(*args)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(f, autograph=False)(*args)
    return f(*args)


def seen_by(model: keras.Model, data: tuple) -> tuple[Any, list, list[layers.Seen]]:
    """Value, gradients, and what each layer saw."""
    found: list[layers.Seen] = []

    def look(ws: list, *data: Any) -> tuple:
        seen = kg.Objective(model, data).layers(ws)
        found[:] = seen.seen
        return seen.value, seen.gradients, [(s.inputs, s.output_gradients) for s in seen.seen]

    ws = [ops.convert_to_tensor(v) for v in model.trainable_variables]
    value, gs, pairs = as_one_program(look, ws, *data)
    seen = [
        layers.Seen(s.layer, s.block, *map(list, pair))
        for s, pair in zip(found, pairs, strict=True)
    ]
    return value, gs, seen


def gradients_of(model: keras.Model, data: tuple) -> tuple[Any, list]:
    ws = [ops.convert_to_tensor(v) for v in model.trainable_variables]
    return as_one_program(lambda ws, *data: kg.Objective(model, data).value_and_grad(ws), ws, *data)


def products(one: layers.Seen) -> np.ndarray:
    """Per example the gradient of the layer's matrix, (examples, groups, rows, outputs)."""
    a, d = on_the_host(list(as_one_program(one.examples)))
    if one.block.kind == "table":
        a = np.eye(one.block.inputs)[a.astype(int)][:, :, None]
    return np.einsum("btrn,btrm->brnm", a, d)


def matrix(block: layers.Block, gs: list) -> np.ndarray:
    """What belongs to a block's variables as its matrix."""
    return on_the_host([as_one_program(block.matrix, [gs[i] for i in block.positions])])[0]


@each_kind
def test_no_listed_layer_falls_back(kind: str) -> None:
    model, _ = model_of(kind)
    found = layers.find(model, model.trainable_variables)
    assert found.others == ()
    positions = sorted(i for block in found.blocks for i in block.positions)
    assert positions == list(range(len(model.trainable_variables)))


@pytest.mark.parametrize(
    ("block", "shapes"),
    [
        (layers.Block("product", 0, 1, 1, 6, 4), [(2, 3, 4), (4,)]),
        (layers.Block("product", 1, 0, 3, 4, 2), [(2, 2, 1, 6), (6,)]),
        (layers.Block("product", None, 0, 3, 4, 2), [(6,)]),
        (layers.Block("table", 0, None, 1, 5, 2), [(5, 2)]),
        (layers.Block("scale_shift", 0, 1, 1, 0, 8), [(4,), (2, 2)]),
    ],
)
def test_the_matrix_of_a_block_turns_back_into_its_variables(
    block: layers.Block, shapes: list
) -> None:
    xs = [
        np.arange(math.prod(s), dtype="float32").reshape(s) + 100 * n for n, s in enumerate(shapes)
    ]
    matrix = block.matrix([ops.convert_to_tensor(x) for x in xs])
    assert tuple(matrix.shape) == (block.groups, block.rows, block.outputs)
    for x, y in zip(xs, on_the_host(block.variables(matrix, shapes)), strict=True):
        np.testing.assert_array_equal(x, y)


@each_path
def test_inputs_times_output_gradients_are_the_gradient_of_each_example(kind: str) -> None:
    """Their sum is the whole gradient; one example's is that of a batch of one."""
    model, (x, y) = model_of(kind)
    value, gs, seen = seen_by(model, (x, y))
    expected, expected_gs = gradients_of(model, (x, y))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    # Sums of some hundred float32 products of order one, relative to the largest.
    for a, b in zip(on_the_host(gs), on_the_host(expected_gs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-6)
    # BatchNormalization mixes examples: there is no batch of one to compare with.
    alone = None if "Batch" in kind else gradients_of(model, (x[2:3], y[2:3]))[1]
    for one in seen:
        own, whole = products(one), matrix(one.block, expected_gs)
        np.testing.assert_allclose(own.sum(axis=0), whole, atol=1e-5 * np.abs(whole).max() + 1e-6)
        if alone is not None:
            single = matrix(one.block, alone)
            tolerance = 2e-5 * np.abs(single).max() + 1e-6
            np.testing.assert_allclose(EXAMPLES * own[2], single, atol=tolerance)


def patches_in_numpy(x: np.ndarray, layer: keras.layers.Layer) -> np.ndarray:
    """Patches position by position, of 2-D images: (batch, positions, kernel, channels)."""
    size = layer.kernel_size
    spans = [(k - 1) * d + 1 for k, d in zip(size, layer.dilation_rate, strict=True)]
    if layer.padding == "same":
        pads = []
        for n, span, s in zip(x.shape[1:3], spans, layer.strides, strict=True):
            total = max((math.ceil(n / s) - 1) * s + span - n, 0)
            pads.append((total // 2, total - total // 2))
        x = np.pad(x, [(0, 0), *pads, (0, 0)])
    rows = range(0, x.shape[1] - spans[0] + 1, layer.strides[0])
    columns = range(0, x.shape[2] - spans[1] + 1, layer.strides[1])
    found = []
    for i, j in itertools.product(rows, columns):
        entries = [
            x[:, i + a * layer.dilation_rate[0], j + b * layer.dilation_rate[1]]
            for a, b in itertools.product(range(size[0]), range(size[1]))
        ]
        found.append(np.stack(entries, axis=1))
    return np.stack(found, axis=1)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.startswith("Conv2D")])
def test_factors_of_convolutions_are_those_of_patches_in_float64(kind: str) -> None:
    model, (x, y) = model_of(kind)
    _, _, seen = seen_by(model, (x, y))
    (one,) = [s for s in seen if isinstance(s.layer, L.Conv2D)]
    layer, block = one.layer, one.block
    patches = patches_in_numpy(KINDS[kind][1].astype("float64"), layer)
    batch, positions, entries, channels = patches.shape
    r = layer.groups
    a = patches.reshape(batch, positions, entries, r, channels // r).transpose(0, 1, 3, 2, 4)
    a = a.reshape(batch * positions, r, -1)
    if layer.use_bias:
        a = np.concatenate([a, np.ones_like(a[..., :1])], axis=-1)
    expected = np.einsum("brn,brm->rnm", a, a) / len(a)
    kept = kronecker.sides(block, 1000)
    found = as_one_program(lambda: kronecker.factors(block, kept, *one.examples()))
    # Means of float32 squares of order one.
    np.testing.assert_allclose(on_the_host([found.inputs])[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="TensorFlow has no channels_first convolution on a CPU",
)
def test_channels_first_is_read_as_channels_last() -> None:
    model = keras.Sequential(
        [
            keras.Input((4, 5, 6)),
            L.Conv2D(4, 3, strides=2, groups=2, padding="same", data_format="channels_first"),
            L.Flatten(),
            L.Dense(2),
        ]
    )
    randomised(model).compile(optimizer="sgd", loss="mse")
    data = (ops.convert_to_tensor(numbers(4, 5, 6)), ops.convert_to_tensor(numbers(2)))
    _, gs, (one, _) = seen_by(model, data)
    whole = matrix(one.block, gs)
    np.testing.assert_allclose(products(one).sum(axis=0), whole, rtol=1e-4, atol=1e-5)


def test_a_layer_called_twice_has_the_positions_of_both_calls() -> None:
    shared, norm = L.Dense(5, activation="tanh"), L.LayerNormalization()
    inputs = keras.Input((5,))
    outputs = L.Dense(1)(norm(shared(norm(shared(inputs)))))
    model = randomised(keras.Model(inputs, outputs))
    model.compile(optimizer="sgd", loss="mse")
    data = tuple(ops.convert_to_tensor(v) for v in regression_data(8))
    _, gs, seen = seen_by(model, data)
    assert [len(one.inputs) for one in seen] == [2, 2, 1]
    for one in seen:
        whole = matrix(one.block, gs)
        np.testing.assert_allclose(products(one).sum(axis=0), whole, rtol=1e-4, atol=1e-5)


def test_looking_leaves_the_model_as_it_was_and_agrees_with_the_loss() -> None:
    """Dropout and BatchNorm are held still, and the layers are their own again."""
    model = network(dropout=0.5, batch_norm=True)
    model.compile(optimizer="sgd", loss="mse")
    data = tuple(ops.convert_to_tensor(v) for v in regression_data(16))
    before = values(model.variables)
    counted = []

    def thrice(ws: list) -> tuple:
        objective = kg.Objective(model, data)
        first, again = objective.layers(ws), objective.layers(ws)
        expected = objective.value_and_grad(ws)
        counted.append(objective.evaluations)
        return (first.value, first.gradients), (again.value, again.gradients), expected

    ws = [ops.convert_to_tensor(v) for v in model.trainable_variables]
    (value, gs), (again, _), (expected, expected_gs) = as_one_program(thrice, ws)
    assert counted[0] == 3
    assert float(value) == float(again) == pytest.approx(float(expected), rel=1e-6)
    for a, b in zip(on_the_host(gs), on_the_host(expected_gs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(values(model.variables), before, strict=True):
        np.testing.assert_array_equal(a, b)
    for layer in model.layers:
        assert "call" not in vars(layer)


def test_subclasses_that_change_the_call_and_layers_in_loops_are_not_known() -> None:
    class Own(L.Dense):
        def call(self, inputs: Any, training: Any = None) -> Any:
            return super().call(ops.square(inputs))

    class Kept(L.Dense):
        pass

    inputs = keras.Input((4, 5))
    x = Own(3, name="own")(Kept(3, name="kept")(inputs))
    x = L.TimeDistributed(L.Dense(2, name="within"), name="spread")(x)
    model = keras.Model(inputs, L.GRU(2, name="gru")(x))
    found = layers.find(model, model.trainable_variables)
    assert [layer.name for layer in found.layers] == ["kept"]
    assert [(name, kind) for name, kind, _ in found.others] == [
        ("own", "Own"),
        ("spread", "TimeDistributed"),
        ("gru", "GRU"),
    ]


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras' loop on torch is one of plain calls"
)
def test_a_layer_called_in_a_loop_says_so() -> None:
    class Loop(L.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.dense = L.Dense(5, name="inside")

        def build(self, shape: tuple) -> None:
            self.dense.build(shape)
            self.built = True

        def call(self, x: Any) -> Any:
            return ops.fori_loop(0, 3, lambda _, state: self.dense(state), x)

    model = keras.Sequential([keras.Input((5,)), Loop(), L.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    objective = kg.Objective(model, tuple(ops.convert_to_tensor(v) for v in regression_data(8)))
    ws = [ops.convert_to_tensor(v) for v in model.trainable_variables]
    with pytest.raises(RuntimeError, match="'inside'.*within a loop"):
        as_one_program(lambda: objective.layers(ws).value)
