"""Under gradient accumulation the update is computed once per real step, and NaN is kept out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from tests.keras_gradopt.problems import assert_close, gradients, start_weights, values
from tests.keras_gradopt.test_contract import one_gradient_class_per_contract

BACKEND = keras.backend.backend()
PARTS = 8


def expensive(size: int) -> tuple[Any, keras.Variable, Any]:
    """An optimizer whose step decomposes two matrices, its variable and a gradient."""
    rng = np.random.default_rng(0)
    w = keras.Variable(rng.normal(size=(size, size)).astype("float32"))
    optimizer = kg.Shampoo(gradient_accumulation_steps=PARTS)
    optimizer.build([w])
    return optimizer, w, ops.convert_to_tensor(rng.normal(size=(size, size)).astype("float32"))


@pytest.mark.skipif(BACKEND != "jax", reason="reads JAX's own program")
def test_on_jax_decompositions_stand_in_one_branch_of_a_conditional_only() -> None:
    import jax

    optimizer, w, g = expensive(8)
    state = [v.value for v in optimizer.variables]
    program = jax.make_jaxpr(lambda s, g, w: optimizer.stateless_apply(s, [g], [w]))(
        state, g, w.value
    )
    where = [path for name, path in equations(program.jaxpr) if name == "eigh"]
    assert len(where) == 2
    # The last of the branches is the one taken where the predicate holds.
    assert {path[:1] for path in where} == {("cond branch 1",)}


def equations(program: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every primitive of a JAX program, with the branches of conditionals around it."""
    for equation in program.eqns:
        name = equation.primitive.name
        yield name, path
        for value in equation.params.values():
            parts = value if isinstance(value, tuple | list) else (value,)
            for number, part in enumerate(parts):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    branch = (f"cond branch {number}",) if name == "cond" else ()
                    yield from equations(inner, path + branch)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="reads TensorFlow's own program")
def test_on_tensorflow_decompositions_stand_in_one_branch_of_a_conditional_only() -> None:
    import tensorflow as tf

    optimizer, w, g = expensive(8)
    step = tf.function(lambda g: optimizer.apply([g], [w])).get_concrete_function(g)
    program = step.graph.as_graph_def()
    branches = {
        kind: node.attr[kind].func.name
        for node in program.node
        if node.op in ("If", "StatelessIf")
        for kind in ("then_branch", "else_branch")
    }
    of_function = {f.signature.name: [n.op for n in f.node_def] for f in program.library.function}
    decompositions = {kind: count(of_function[name]) for kind, name in branches.items()}
    assert decompositions == {"then_branch": 2, "else_branch": 0}
    assert count([node.op for node in program.node]) == 0


def count(operations: list[str]) -> int:
    """How many eigendecompositions are among them."""
    return sum("Eig" in operation for operation in operations)


def test_a_minibatch_that_makes_no_step_costs_a_small_part_of_one_that_does() -> None:
    minibatch = runnable(*expensive(256))
    seconds = np.zeros((4, PARTS))
    for turn in seconds:
        for i in range(PARTS):
            start = time.perf_counter()
            minibatch()
            turn[i] = time.perf_counter() - start
    # The first turn compiles. Medians of interleaved times; on an idle machine it is a twentieth.
    gathering, stepping = np.median(seconds[1:, :-1]), np.median(seconds[1:, -1])
    assert gathering < 0.4 * stepping


def runnable(optimizer: Any, w: keras.Variable, g: Any) -> Callable[[], None]:
    """One minibatch of an optimizer, compiled where the backend compiles, to its very end."""
    if BACKEND == "jax":
        import jax

        step = jax.jit(lambda s, g, ws: optimizer.stateless_apply(s, [g], ws))
        kept: dict[str, Any] = {"ws": [w.value], "s": [v.value for v in optimizer.variables]}

        def minibatch() -> None:
            kept["ws"], kept["s"] = jax.block_until_ready(step(kept["s"], g, kept["ws"]))

        return minibatch
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda: optimizer.apply([g], [w]))
    return lambda: optimizer.apply([g], [w])


@one_gradient_class_per_contract
def test_a_gradient_of_nan_changes_nothing_and_training_goes_on(cls: type) -> None:
    inner = cls.example(gradient_accumulation_steps=2)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    ws = [keras.Variable(w, name=f"w{i}") for i, w in enumerate(start_weights())]
    optimizer.build(ws)
    everything = [*ws, *optimizer.variables]
    start, step = [ops.copy(v.value) for v in everything], scaled_step(optimizer, ws)
    ends = []
    for poisoned in (False, True):
        for v, value in zip(everything, start, strict=True):
            v.assign(value)
        for number in range(5):
            scale = float(ops.convert_to_numpy(optimizer.scale_loss(1.0)))
            gs = [ops.convert_to_tensor(g * scale) for g in gradients(start_weights(), number)]
            # In the middle of an accumulation.
            if poisoned and number == 3:
                before = values([*ws, *inner.variables])
                step([gs[0], gs[1] * float("nan"), *gs[2:]])
                for a, b in zip(values([*ws, *inner.variables]), before, strict=True):
                    np.testing.assert_array_equal(a, b)
                # The scale is halved; these gradients came with the former one.
                gs = [g / 2 for g in gs]
            step(gs)
        ends.append(values(ws))
    assert_close([ends[1]], [ends[0]], 1e-6)


def scaled_step(optimizer: Any, ws: list[keras.Variable]) -> Callable[[list], None]:
    """The step of Keras' LossScaleOptimizer, which on JAX is stateless only."""
    if BACKEND != "jax":
        return lambda gs: optimizer.apply(gs, ws)
    import jax

    pure = jax.jit(optimizer.stateless_apply)

    def step(gs: list) -> None:
        state = [v.value for v in optimizer.variables]
        new_ws, new_state = pure(state, gs, [w.value for w in ws])
        for v, value in zip([*ws, *optimizer.variables], [*new_ws, *new_state], strict=True):
            v.assign(value)

    return step
