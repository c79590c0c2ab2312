"""The arithmetic of a step, compiled by itself on TensorFlow."""

from __future__ import annotations

import gc
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import registry
from keras_gradopt.transforms import AddNoise, ClipByNorm

if keras.backend.backend() != "tensorflow":
    pytest.skip("only TensorFlow's steps may be left uncompiled", allow_module_level=True)

import tensorflow as tf

from keras_gradopt.backend import tensorflow_compiled

# Two that are packed, one of a scalar, two above the bound for packing.
SHAPES = ((200, 100), (3, 4), (7,), (), (160, 160))
# Four steps of float32 rounding, where XLA fuses a product and a sum into one rounding.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
ELEMENTWISE = [
    cls
    for cls in registry.optimizer_classes().values()
    if cls.elementwise and cls.needs == "gradient"
]


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if these variables were large enough for compiling to pay."""
    monkeypatch.setattr(tensorflow_compiled, "LEAST_ENTRIES", 0)


def arrays(seed: int) -> list[np.ndarray]:
    """One array for each variable."""
    generator = np.random.default_rng(seed)
    return [np.array(generator.normal(size=shape), "float32") for shape in SHAPES]


def trained(optimizer: Any, *, in_a_graph: bool, steps: int = 4) -> list[np.ndarray]:
    """Weights, then state, after some steps on fixed gradients."""
    variables = [keras.Variable(w) for w in arrays(0)]
    optimizer.build(variables)

    def step(gs: list) -> None:
        optimizer.apply(gs, variables)

    run = tf.function(step) if in_a_graph else step
    for number in range(steps):
        run([tf.constant(g) for g in arrays(number + 1)])
    return [ops.convert_to_numpy(v) for v in (*variables, *optimizer.variables)]


def compiled_calls(optimizer: Any) -> list[Any]:
    """The functions in the graph of a step that XLA has to compile."""
    variables = [keras.Variable(w) for w in arrays(0)]
    optimizer.build(variables)
    gs = [tf.constant(g) for g in arrays(1)]
    step = tf.function(lambda: optimizer.apply(gs, variables)).get_concrete_function()
    functions = step.graph.as_graph_def().library.function
    return [f for f in functions if "_XlaMustCompile" in f.attr and f.attr["_XlaMustCompile"].b]


@pytest.mark.parametrize("in_a_graph", [True, False])
@pytest.mark.parametrize("cls", ELEMENTWISE, ids=lambda cls: cls.__name__)
def test_compiled_and_plain_steps_agree(cls: type, in_a_graph: bool) -> None:
    compiled = trained(cls.example(jit_compile="auto"), in_a_graph=in_a_graph)
    plain = trained(cls.example(jit_compile=False), in_a_graph=in_a_graph)
    for a, b in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(a, b, **TOLERANCE)


@pytest.mark.parametrize("in_a_graph", [True, False])
def test_clipping_and_noise_are_the_same_compiled(in_a_graph: bool) -> None:
    for arguments in (
        {"global_clipnorm": 0.5},
        {"clipvalue": 0.1},
        {"gradient_transforms": [AddNoise(0.1), ClipByNorm(0.3)]},
    ):
        compiled, plain = (
            trained(kg.AdamW(jit_compile=choice, **arguments), in_a_graph=in_a_graph)
            for choice in ("auto", False)
        )
        for a, b in zip(compiled, plain, strict=True):
            np.testing.assert_allclose(a, b, **TOLERANCE)


def test_auto_compiles_what_xla_is_good_at() -> None:
    assert compiled_calls(kg.Adam())
    assert compiled_calls(kg.Shampoo(jit_compile=True))
    assert not compiled_calls(kg.Adam(jit_compile=False))
    assert not compiled_calls(kg.Shampoo())


def test_a_step_that_is_compiled_as_a_whole_is_neither_packed_nor_compiled_in_parts() -> None:
    """Both cost more of the compiler than they save in a step."""
    for choice in ("auto", True, False):
        optimizer = kg.Adam(jit_compile=choice)
        variables = [keras.Variable(w) for w in arrays(0)]
        optimizer.build(variables)
        gs = [tf.constant(g) for g in arrays(1)]
        step = tf.function(lambda: optimizer.apply(gs, variables), jit_compile=True)  # noqa: B023
        graph = step.get_concrete_function().graph.as_graph_def()
        assert not graph.library.function
        assert "ConcatV2" not in {node.op for node in graph.node}


@pytest.mark.parametrize("choice", ["auto", False])
def test_a_slot_may_keep_a_gradient_that_is_no_part_of_the_graph(choice: str | bool) -> None:
    optimizer = kg.Adan(jit_compile=choice)
    w, g = keras.Variable([1.0, 2.0]), tf.constant([0.5, -0.5])
    optimizer.build([w])
    tf.function(lambda: optimizer.apply([g], [w]))()
    kept = [v for v in optimizer.variables if "last_gradient" in v.path]
    np.testing.assert_array_equal(kept[0], g)


def test_eager_steps_trace_once() -> None:
    optimizer = kg.Adam(learning_rate=0.1)
    trained(optimizer, in_a_graph=False, steps=1)
    functions = tensorflow_compiled._functions[optimizer]
    variables = list(optimizer._trainable_variables)
    for number in range(3):
        optimizer.learning_rate = 0.1 / (number + 1)
        optimizer.apply([tf.constant(g) for g in arrays(number)], variables)
    assert [f.experimental_get_tracing_count() for f in functions.values()] == [1, 1]


def test_another_hyperparameter_is_noticed() -> None:
    changed, fresh = kg.SGD(momentum=0.9), kg.SGD(momentum=0.5)
    trained(changed, in_a_graph=False, steps=1)
    changed.momentum = 0.5
    twin = keras.Variable(arrays(0)[0])
    target = changed._trainable_variables[0]
    fresh.build([twin])
    twin.assign(target)
    fresh.variables[-1].assign(changed.variables[2])
    gs = arrays(5)
    fresh.apply([tf.constant(gs[0])], [twin])
    changed.apply([tf.constant(g) for g in gs], changed._trainable_variables)
    np.testing.assert_allclose(target, twin, **TOLERANCE)


def test_a_callable_rate_is_asked_at_every_eager_step() -> None:
    rates = iter([0.1, 0.2, 0.4])
    optimizer = kg.SGD(learning_rate=lambda: next(rates))
    w = keras.Variable([1.0])
    for _ in range(3):
        optimizer.apply([tf.constant([1.0])], [w])
    np.testing.assert_allclose(w, [0.3], rtol=1e-6)


def test_functions_go_with_their_optimizer() -> None:
    optimizer = kg.Adam()
    trained(optimizer, in_a_graph=False, steps=1)
    before = len(tensorflow_compiled._functions)
    del optimizer
    gc.collect()
    assert len(tensorflow_compiled._functions) < before


def test_float64_stays_float64() -> None:
    w = keras.Variable(np.array([1.0, 2.0]), dtype="float64")
    optimizer = kg.SGD(learning_rate=1e-9)
    step = tf.function(lambda: optimizer.apply([tf.constant([1.0, 1.0], "float64")], [w]))
    optimizer.build([w])
    step()
    # float32 would not see a step of 1e-9.
    np.testing.assert_allclose(1.0 - ops.convert_to_numpy(w)[0], 1e-9, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_fit_gives_the_same_weights_compiled_or_not(jit_compile: bool) -> None:
    x = np.random.default_rng(0).normal(size=(32, 130)).astype("float32")
    y = x[:, :1]
    found = []
    for choice in ("auto", True, False):
        model = keras.Sequential([keras.layers.Dense(130), keras.layers.Dense(1)])
        model.build((None, 130))
        start = np.random.default_rng(1)
        model.set_weights([0.1 * start.normal(size=w.shape) for w in model.get_weights()])
        model.compile(kg.AdamW(0.01, jit_compile=choice), "mse", jit_compile=jit_compile)
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        found.append(model.get_weights())
    for a, b, c in zip(*found, strict=True):
        # Adam's root lets rounding of the smallest gradients through.
        np.testing.assert_allclose(a, c, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(b, c, rtol=1e-3, atol=1e-4)


def test_auto_leaves_a_small_model_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_compiled, "LEAST_ENTRIES", 10**6)
    assert not compiled_calls(kg.Adam())
    assert compiled_calls(kg.Adam(jit_compile=True))
