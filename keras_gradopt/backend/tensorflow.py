"""What only TensorFlow can say: gradients, the update engine, one train step with an Objective."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer

from keras_gradopt.backend import common, engine, tensorflow_compiled
from keras_gradopt.backend.common import stateful_train_step

Tensor = Any

# Packing tensors below 16k entries pays on TensorFlow, with and without XLA; larger ones lose.
PACK_BELOW = 16_384


def _flatten(xs: Sequence[Tensor]) -> Tensor:
    return tf.concat([x if x.shape.rank == 1 else tf.reshape(x, (-1,)) for x in xs], 0)


def _unflatten(vector: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    pieces = tf.split(vector, [math.prod(shape) for shape in shapes])
    return [
        piece if len(shape) == 1 else tf.reshape(piece, shape)
        for piece, shape in zip(pieces, shapes, strict=True)
    ]


_packing: dict[str, Any] = {"pack_below": PACK_BELOW, "flatten": _flatten, "unflatten": _unflatten}
# What is packed goes packed through the whole arithmetic.
run = partial(engine.run, pack_below=0)
arithmetic = partial(tensorflow_compiled.arithmetic, **_packing)
train_step = stateful_train_step

# What Keras' TensorFlow optimizers do through tf.distribute, and its base class does in place.
_REDUCING = (
    "_apply_weight_decay",
    "_backend_increment_gradient_accumulators",
    "_backend_update_step",
    "_overwrite_model_variables_with_average_value",
)
# True inside a step under tf.distribute, where gradients are summed already.
_on_one_replica: ContextVar[bool] = ContextVar("keras_gradopt_on_one_replica", default=False)


known = common.known


def global_norm(xs: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all entries of all tensors, a scalar."""
    # One pass, without a tensor of squares.
    halves = [tf.nn.l2_loss(x) for x in common.joined(xs, flatten=_flatten)]
    return tf.sqrt(2 * tf.add_n(halves))


def without_waiting() -> contextlib.AbstractContextManager:
    """Nothing to do: numbers are part of the graph."""
    return contextlib.nullcontext()


def no_gradient() -> contextlib.AbstractContextManager:
    """Nothing to switch off: only tapes record."""
    return contextlib.nullcontext()


def building() -> contextlib.AbstractContextManager:
    """Creates state outside the traced graph: XLA cannot lift values that read weights."""
    return tf.init_scope()


def beside(variable: Any) -> contextlib.AbstractContextManager:
    """Places new state on the variable's device."""
    return tf.distribute.get_strategy().extended.colocate_vars_with(_native(variable))


def _native(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def densify(gradient: Any) -> Any:
    """A gradient of an embedding as a dense tensor."""
    return tf.convert_to_tensor(gradient) if is_rows(gradient) else gradient


def dense(gradients: Sequence[Any], *, keeps_rows: bool) -> list[Any]:
    """All gradients as dense tensors, but those of some rows if told so; None stays."""
    return list(gradients) if keeps_rows else [densify(g) for g in gradients]


def is_rows(gradient: Any) -> bool:
    """Whether a gradient holds some rows only, as that of an embedding does."""
    return isinstance(gradient, tf.IndexedSlices)


def summed_rows(gradient: tf.IndexedSlices) -> tuple[Tensor, Tensor]:
    """The numbers of the rows, each once, and their gradients."""
    rows, position = tf.unique(gradient.indices)
    return rows, tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))


def read_rows(variables: Sequence[Any], rows: Tensor) -> list[Tensor]:
    """These rows of variables; the others are not read."""
    return [tf.gather(_native(v), rows) for v in variables]


def write_rows(
    optimizer: Any, targets: Sequence[Any], rows: Tensor, values: Sequence[Tensor]
) -> None:
    """Assigns values to these rows of variables."""
    for target, value in zip(targets, values, strict=True):
        optimizer.assign(target, tf.IndexedSlices(value, rows))


def apply(step: Callable, grads: list, variables: list) -> None:
    """Runs the step; under tf.distribute on the sum of all replicas' gradients, once per replica.

    Clipping, norms and accumulation so see the gradient of the whole batch. Every replica steps
    its own copy of weights and state by the same values, as the copies stay equal.
    """
    if replicas() == 1 or _on_one_replica.get():
        step(grads, variables)
        return

    def step_on_each(distribution: Any, summed: Sequence[Tensor]) -> None:
        def step_here(_: Any, *own: Tensor) -> None:
            token = _on_one_replica.set(True)
            try:
                step(list(own), variables)
            finally:
                _on_one_replica.reset(token)

        anchor = _native(variables[0])
        distribution.extended.update(anchor, step_here, args=tuple(summed), group=False)

    strategy, replica = tf.distribute.get_strategy(), tf.distribute.get_replica_context()
    if replica is None:
        step_on_each(strategy, [densify(g) for g in grads])
        return
    dense = [densify(g) for g in grads]
    summed = replica.all_reduce(tf.distribute.ReduceOp.SUM, dense)
    tf.__internal__.distribute.interim.maybe_merge_call(step_on_each, strategy, summed)


@contextlib.contextmanager
def stepping_inner(optimizer: Any) -> Iterator[None]:
    """Lets Keras' own optimizer step inside the step of a wrapper.

    Under tf.distribute it would sum the summed gradients again and update every replica from each
    of them; the methods of Keras' base class update the variables at hand.

    Args:
        optimizer: The wrapper's inner optimizer.
    """
    replaced = _REDUCING if _on_one_replica.get() else ()
    for name in replaced:
        object.__setattr__(optimizer, name, getattr(BaseOptimizer, name).__get__(optimizer))
    try:
        yield
    finally:
        for name in replaced:
            object.__delattr__(optimizer, name)


def one_of(
    number: Tensor, functions: Sequence[Callable[[], None]], variables: Sequence[Any]
) -> None:
    """Runs one of several functions, and nothing of the others.

    Args:
        number: Which: an integer scalar, symbolic in a graph.
        functions: They assign to variables.
        variables: All those that any of them may assign to.
    """
    del variables
    number = tf.cast(number, tf.int32)
    if not tf.is_symbolic_tensor(number):
        functions[int(number)]()
        return

    def branch(function: Callable[[], None]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            function()
            return tf.zeros(())

        return run

    tf.switch_case(number, [branch(f) for f in functions])


def replicas() -> int:
    """Copies of the model that train in step under the strategy in scope."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def read(variables: Sequence[Any], dtypes: Sequence[str] | None = None) -> list[Tensor]:
    """The variables' values, in other dtypes if given."""
    values = [tf.convert_to_tensor(_native(v)) for v in variables]
    if dtypes is None:
        return values
    return [tf.cast(v, dtype) for v, dtype in zip(values, dtypes, strict=True)]


def write(optimizer: Any, targets: Sequence[Any], values: Sequence[Tensor]) -> None:
    """Assigns values to variables, but for those that lie in them."""
    for target, value in zip(targets, values, strict=True):
        if not _lies_in(target, value):
            optimizer.assign(target, value)


def _lies_in(target: Any, value: Tensor) -> bool:
    """Whether a value was read from the variable itself, which no step does but to leave it."""
    handle = tensorflow_compiled.variable_of(value) if tf.is_tensor(value) else None
    if handle is None or not hasattr(_native(target), "handle"):
        return False
    return handle is tf.compat.v1.get_default_graph().capture(_native(target).handle)


def normal(shape: tuple[int, ...], seed: Any, step: Any, number: Any) -> Tensor:
    """Standard normal numbers that follow from seed, step and number."""
    pair = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    folded = tf.random.experimental.stateless_fold_in(pair, tf.cast(number, tf.int64))
    return tf.random.stateless_normal(shape, folded)


def value_and_grad(f: Callable[[list], Tensor], ws: list) -> tuple[Tensor, list]:
    """A scalar function's value and gradients at `ws`."""
    ws = [tf.convert_to_tensor(w) for w in ws]
    with tf.GradientTape() as tape:
        tape.watch(ws)
        value = f(ws)
    gradients = tape.gradient(value, ws, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return value, [densify(g) for g in gradients]


def value_and_grads_at_taps(f: Callable[..., tuple], ws: list) -> tuple[Tensor, list, dict, Any]:
    """A scalar function's value and its gradients at `ws` and at tensors on the way to it.

    Args:
        f: `f(ws, tap) -> (value, more)`; it goes on with what `tap(key, tensor)` returns.
        ws: Where to differentiate.

    Returns:
        The value, the gradients at `ws`, those at the tapped tensors by key, and `more`.
    """
    ws = [tf.convert_to_tensor(w) for w in ws]
    taps: dict[Any, Tensor] = {}

    def tap(key: Any, x: Tensor) -> Tensor:
        taps[key] = x
        return x

    with tf.GradientTape() as tape:
        tape.watch(ws)
        value, more = f(ws, tap)
    found = tape.gradient(
        value, [*ws, *taps.values()], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    found = [densify(g) for g in found]
    return value, found[: len(ws)], dict(zip(taps, found[len(ws) :], strict=True)), more


def nesting() -> Any:
    """Which graph is traced now; within a loop or a map it is another than around it."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def hessian_at(f: Callable[[list], Tensor], ws: list) -> Callable[[list], list]:
    """The Hessian of `f` at `ws` as a function of vectors; what all products share is done once."""
    ws = [tf.convert_to_tensor(w) for w in ws]
    with tf.GradientTape(persistent=True) as tape, _twice_differentiable_moments():
        tape.watch(ws)
        _, gs = value_and_grad(f, ws)
    return lambda vs: _pulled(tape, gs, ws, vs)


def _pulled(tape: tf.GradientTape, ys: list, xs: list, vs: Sequence[Tensor]) -> list:
    """Gradients of `ys` in `xs` times `vs`, dense, zeros where nothing depends."""
    zero = tf.UnconnectedGradients.ZERO
    found = tape.gradient(ys, xs, output_gradients=list(vs), unconnected_gradients=zero)
    return [densify(g) for g in found]


@contextlib.contextmanager
def _twice_differentiable_moments() -> Iterator[None]:
    """Replaces `tf.nn.moments` while a loss is traced for second derivatives.

    TensorFlow 2.21 stops the gradient at the mean inside the variance, which leaves first
    derivatives right and second ones wrong, so that every Hessian of a model with
    BatchNormalization would be.
    """
    original = tf.nn.moments

    def moments(
        x: Tensor, axes: Any, shift: Any = None, keepdims: bool = False, name: Any = None
    ) -> tuple[Tensor, Tensor]:
        del shift, name
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
        return (mean if keepdims else tf.reduce_mean(x, axes)), variance

    tf.nn.moments = moments
    try:
        yield
    finally:
        tf.nn.moments = original


def compiled(f: Callable) -> Callable:
    """A function of tensors, in lists and tuples, as one graph for each set of shapes."""
    return tf.function(f, autograph=False)


def jacobian_at(
    f: Callable[[list], list], ws: list
) -> tuple[list, Callable[[list], list], Callable[[list], list]]:
    r"""The values of `f` at `ws`, and its Jacobian $J$ there as two functions.

    $Jv$ is the gradient of $u \mapsto \langle J^T u, v \rangle$: forward mode lacks operations.

    Returns:
        `f(ws)`, the function $v \mapsto Jv$ and the function $u \mapsto J^T u$.
    """
    ws = [tf.convert_to_tensor(w) for w in ws]
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(ws)
            # Copies: Keras hangs a softmax's logits on its tensor, and would take the loss of them.
            ys = [tf.identity(y) for y in f(ws)]
        us = [tf.zeros_like(y) for y in ys]
        outer.watch(us)
        pulled = _pulled(tape, ys, ws, us)
    return (
        ys,
        lambda vs: _pulled(outer, pulled, us, vs),
        lambda us: _pulled(tape, ys, ws, us),
    )


def mapped(f: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`f` of each row, stacked."""
    return tf.map_fn(f, rows)


def values(f: Callable[[list], Tensor], population: list) -> Tensor:
    """A scalar function at several points, which lie along the first axes; one at a time."""
    return keras.ops.map(f, list(population))


losses_step = common.losses_step


def eagerly(f: Callable) -> Callable:
    """The function itself: its loops and branches are TensorFlow's own."""
    return f


def on_host(f: Callable, like: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """A function of NumPy arrays, called by the host when a graph comes to it.

    Args:
        f: From arrays to a sequence of arrays; the same for the same.
        like: Tensors of the results' shapes and dtypes.
        inputs: What it gets.
    """

    def called(*arrays: Any) -> list[np.ndarray]:
        found = f(*arrays)
        return [np.asarray(r, d.as_numpy_dtype) for r, d in zip(found, dtypes, strict=True)]

    dtypes = [x.dtype for x in like]
    found = tf.numpy_function(called, list(inputs), dtypes, stateful=False)
    return [tf.ensure_shape(r, x.shape) for r, x in zip(found, like, strict=True)]


def check_host_step(name: str, model: Any) -> None:
    """Refuses a step that the host is part of where XLA compiles it, which cannot call the host.

    Args:
        name: The optimizer's, for the message.
        model: The compiled model.

    Raises:
        ValueError: The model was compiled with jit_compile=True.
    """
    if model.jit_compile:
        raise ValueError(
            f"{name} computes a part of its step on the host, which XLA on TensorFlow cannot call; "
            "received a model compiled with jit_compile=True. Call model.compile(..., "
            "jit_compile=False)."
        )


def frozen(variables: Sequence[Any]) -> list:
    """Copies of the variables' present values, which later assignments leave alone."""
    return [tf.identity(v.value) for v in variables]


def present(model: Any, last: Any = None) -> tuple[list[Tensor], list[Tensor]]:
    """The values that a model has now: of the trainable variables, and of the others."""
    del last
    return frozen(model.trainable_variables), frozen(model.non_trainable_variables)


def random_state() -> None:
    """Keras keeps TensorFlow's random state in variables, which `frozen` holds."""
    return


@contextlib.contextmanager
def replayed(state: None, *, double: bool = False) -> Iterator[None]:
    """Runs with the random state of `random_state`; float64 stays what it is."""
    del state, double
    yield
