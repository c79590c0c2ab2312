"""Gradients of embeddings on TensorFlow, which hold the rows that a minibatch looked up."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from tests.keras_gradopt.problems import assert_close, start_weights, values
from tests.keras_gradopt.test_contract import WITHOUT_OBJECTIVE, one_gradient_class_per_contract

BACKEND = keras.backend.backend()
LAZY = [cls for cls in WITHOUT_OBJECTIVE if cls.example().lazy]
every_lazy_class = pytest.mark.parametrize("cls", LAZY, ids=lambda cls: cls.__name__)
on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="an Embedding's gradients are dense on JAX and torch"
)
TABLE = (50, 4)


def train(optimizer: Any, *, sparse: bool, compiled: bool = False) -> tuple[list, list]:
    """Three steps on a table and a vector: the weights, and the optimizer's state."""
    import tensorflow as tf

    table, vector = (keras.Variable(w) for w in start_weights((TABLE, (7,))))
    optimizer.build([vector, table])
    rng = np.random.default_rng(2)

    def step(rows: Any, gradient: Any, of_vector: Any) -> None:
        slices = tf.IndexedSlices(gradient, rows, tf.constant(TABLE))
        found = slices if sparse else tf.convert_to_tensor(slices)
        optimizer.apply([of_vector, found], [vector, table])

    # The number of rows is not known to the graph, as in a fit.
    known = [tf.TensorSpec([None], "int64"), tf.TensorSpec([None, TABLE[1]]), tf.TensorSpec([7])]
    run = tf.function(step, input_signature=known) if compiled else step
    # Rows come twice in a minibatch, and again in another.
    for rows in ([3, 7, 3, 49], [7, 0], [3, 3, 3, 3, 12]):
        gradient = rng.normal(size=(len(rows), TABLE[1])).astype("float32")
        of_vector = rng.normal(size=(7,)).astype("float32")
        run(tf.constant(rows, "int64"), tf.constant(gradient), tf.constant(of_vector))
    return values([vector, table]), values(optimizer.variables)


@on_tensorflow
@every_lazy_class
@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_on_touched_rows_is_the_step_on_the_whole_table(cls: type, compiled: bool) -> None:
    # XLA by itself would take the whole table but not the rows, and round otherwise.
    arguments = {"learning_rate": kg.schedules.CosineDecay(0.3, 10), "jit_compile": False}
    dense = train(cls.example(**arguments), sparse=False, compiled=compiled)
    lazy = train(cls.example(**arguments), sparse=True, compiled=compiled)
    for a, b in zip((*lazy[0], *lazy[1]), (*dense[0], *dense[1]), strict=True):
        np.testing.assert_array_equal(a, b)


@on_tensorflow
@every_lazy_class
@pytest.mark.parametrize("clipping", ["global_clipnorm", "clipnorm", "clipvalue"])
def test_clipping_sees_the_norm_of_the_summed_rows(cls: type, clipping: str) -> None:
    dense = train(cls.example(**{clipping: 0.5}), sparse=False)
    lazy = train(cls.example(**{clipping: 0.5}), sparse=True)
    # The norm adds the rows in another order.
    assert_close([lazy[0]], [dense[0]], 1e-6)


@on_tensorflow
@one_gradient_class_per_contract
@pytest.mark.parametrize(
    "around",
    [
        {},
        {"weight_decay": 0.1},
        {"use_ema": True, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 2},
        {"gradient_transforms": (kg.transforms.Centralize(),)},
        {"loss_scale_factor": 2.0},
        {"groups": {"variable": {"learning_rate": 0.5}}},
    ],
    ids=lambda around: next(iter(around), "plain"),
)
def test_gradients_of_rows_are_the_dense_gradient_in_every_rule(cls: type, around: dict) -> None:
    dense = train(cls.example(**around), sparse=False)
    lazy = train(cls.example(**around), sparse=True)
    for a, b in zip((*lazy[0], *lazy[1]), (*dense[0], *dense[1]), strict=True):
        np.testing.assert_array_equal(a, b)


@every_lazy_class
def test_a_gradient_of_zero_leaves_a_lazy_rule_where_it_is(cls: type) -> None:
    optimizer = cls.example(learning_rate=0.5)
    ws = [ops.convert_to_tensor(w) for w in start_weights()]
    slots, shared = optimizer.initial_slots(ws), optimizer.initial_shared(ws)
    for number in (1, 2):
        gs = [w * (2 - number) for w in ws]
        h = optimizer.hyperparameters(number)
        before = ws, slots
        ws, slots, shared = optimizer.transition(ws, gs, slots, shared, h)
    for now, former in zip(
        keras.tree.flatten((ws, slots)), keras.tree.flatten(before), strict=True
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(now), ops.convert_to_numpy(former))


@on_tensorflow
@every_lazy_class
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_trains_an_embedding_by_its_rows(cls: type, jit_compile: bool) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 30, size=(60, 3)), rng.normal(size=(60, 1))
    start = start_weights(((30, 4), (12, 1), (1,)))
    ends = []
    # A factor of 1 changes nothing, and makes gradients dense.
    for around in ({}, {"loss_scale_factor": 1.0}):
        layers = keras.layers
        table, flat, dense = layers.Embedding(30, 4), layers.Flatten(), layers.Dense(1)
        model = keras.Sequential([keras.Input((3,), dtype="int32"), table, flat, dense])
        for v, w in zip(model.trainable_variables, start, strict=True):
            v.assign(w)
        optimizer = cls.example(learning_rate=0.1, **around)
        assert optimizer._leaves_rows_out() == (not around)
        model.compile(optimizer=optimizer, loss="mse", jit_compile=jit_compile)
        model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        ends.append(values(model.trainable_variables))
    # XLA adds in another order.
    assert_close([ends[0]], [ends[1]], 1e-6)


@on_tensorflow
@every_lazy_class
def test_rows_of_a_bfloat16_table_keep_the_digits_they_drop(cls: type) -> None:
    import tensorflow as tf

    ends = []
    for whole in (False, True):
        table = keras.Variable(start_weights((TABLE,))[0], dtype="bfloat16")
        optimizer = cls.example(learning_rate=1e-3)
        for _ in range(8):
            slices = tf.IndexedSlices(tf.ones((2, 4), "bfloat16"), tf.constant([3, 9]), TABLE)
            optimizer.apply([tf.convert_to_tensor(slices) if whole else slices], [table])
        ends.append(values([table, *optimizer.variables]))
    assert_close([ends[0][:1]], [ends[1][:1]], 0.0)


@pytest.mark.skipif(BACKEND != "torch", reason="torch's own sparse tensors")
@one_gradient_class_per_contract
def test_a_sparse_tensor_of_torch_is_the_dense_gradient(cls: type) -> None:
    ends = []
    for sparse in (False, True):
        table = keras.Variable(start_weights((TABLE,))[0])
        g = ops.zeros(TABLE)
        g[3] = 1.0
        cls.example().apply([g.to_sparse() if sparse else g], [table])
        ends.append(values([table]))
    assert_close([ends[1]], [ends[0]], 0.0)
