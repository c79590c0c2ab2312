"""What only JAX can say: gradients, the update engine, one train step with an Objective."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.extend.core
import keras
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from keras import ops
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope
from keras.src.trainers.data_adapters import data_adapter_utils

from keras_gradopt.backend import common, engine

Tensor = Any

# XLA on a CPU starts one kernel for each result, cut from a vector or computed: packing saves none.
run = partial(engine.run, pack_below=0)
arithmetic = common.arithmetic


known = common.known
global_norm = common.global_norm


def without_waiting() -> contextlib.AbstractContextManager:
    """Nothing to do: JAX queues copies of numbers."""
    return contextlib.nullcontext()


def no_gradient() -> contextlib.AbstractContextManager:
    """Nothing to switch off: JAX differentiates functions, not operations."""
    return contextlib.nullcontext()


def building() -> contextlib.AbstractContextManager:
    """State is created where Keras builds: outside of traces."""
    return contextlib.nullcontext()


def beside(variable: Any) -> contextlib.AbstractContextManager:
    """Nothing to place: layouts travel with the variable."""
    del variable
    return contextlib.nullcontext()


def densify(gradient: Any) -> Any:
    """Gradients of JAX are dense."""
    return gradient


def dense(gradients: Sequence[Any], *, keeps_rows: bool) -> list[Any]:
    """All gradients as dense tensors, which they are."""
    del keeps_rows
    return list(gradients)


def widest_float() -> str:
    """The dtype of most digits that there is, unless JAX is told to have float64."""
    return "float64" if jax.config.jax_enable_x64 else "float32"


is_rows = common.is_rows


def apply(step: Callable, grads: list, variables: list) -> None:
    """Runs the step; sharded arrays carry their own reductions."""
    step(grads, variables)


def stepping_inner(optimizer: Any) -> contextlib.AbstractContextManager:
    """Nothing to change: Keras' own optimizers step their variables in place."""
    del optimizer
    return contextlib.nullcontext()


def one_of(
    number: Tensor, functions: Sequence[Callable[[], None]], variables: Sequence[Any]
) -> None:
    """Runs one of several functions, and nothing of the others.

    Args:
        number: Which: an integer scalar, traced in a compiled step.
        functions: They assign to variables.
        variables: All those that any of them may assign to.
    """
    try:
        known = int(number)
    except TypeError:  # traced
        pass
    else:
        functions[known]()
        return
    around = get_stateless_scope() if in_stateless_scope() else None
    variables = list({id(v): v for v in variables}.values())

    def branch(function: Callable[[], None]) -> Callable[[list], list]:
        def run(values: list) -> list:
            with keras.StatelessScope() as scope:
                # What is assigned here must not leave the branch but as a value.
                scope.state_mapping.update(around.state_mapping if around else {})
                scope.state_mapping.update(
                    {id(v): x for v, x in zip(variables, values, strict=True)}
                )
                function()
            return [scope.get_current_value(v) for v in variables]

        return run

    before = [v.value for v in variables]
    after = jax.lax.switch(ops.cast(number, "int32"), [branch(f) for f in functions], before)
    for variable, value in zip(variables, after, strict=True):
        variable.assign(value)


def replicas() -> int:
    """One program: keras.distribution shards its arrays."""
    return 1


def read(variables: Sequence[Any], dtypes: Sequence[str] | None = None) -> list[Tensor]:
    """The variables' values, in other dtypes if given."""
    values = [v.value for v in variables]
    if dtypes is None:
        return values
    return [v.astype(dtype) for v, dtype in zip(values, dtypes, strict=True)]


def write(optimizer: Any, targets: Sequence[Any], values: Sequence[Tensor]) -> None:
    """Assigns values to variables, each an array of its own.

    Two variables over one buffer cannot both be donated by `fit`, so repeated arrays are copied.
    """
    seen: set[int] = set()
    for target, value in zip(targets, values, strict=True):
        optimizer.assign(target, ops.copy(value) if id(value) in seen else value)
        seen.add(id(value))


def normal(shape: tuple[int, ...], seed: Any, step: Any, number: Any) -> Tensor:
    """Standard normal numbers that follow from seed, step and number."""
    first = seed if isinstance(seed, int) else ops.cast(seed, "uint32")
    key = jax.random.fold_in(jax.random.key(first), ops.cast(step, "uint32"))
    return jax.random.normal(jax.random.fold_in(key, number), shape)


def value_and_grad(f: Callable[[list], Tensor], ws: list) -> tuple[Tensor, list]:
    """A scalar function's value and gradients at `ws`."""
    return jax.value_and_grad(f)(list(ws))


def value_and_grads_at_taps(f: Callable[..., tuple], ws: list) -> tuple[Tensor, list, dict, Any]:
    """A scalar function's value and its gradients at `ws` and at tensors on the way to it.

    Args:
        f: `f(ws, tap) -> (value, more)`; it goes on with what `tap(key, tensor)` returns.
        ws: Where to differentiate.

    Returns:
        The value, the gradients at `ws`, those at the tapped tensors by key, and `more`.
    """
    shapes: dict[Any, Any] = {}

    def noted(key: Any, x: Tensor) -> Tensor:
        shapes[key] = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return x

    # JAX differentiates at arguments only, so a zero is added; its shape is known from a dry run.
    jax.eval_shape(lambda ws: f(ws, noted), list(ws))
    zeros = {key: jax.numpy.zeros(x.shape, x.dtype) for key, x in shapes.items()}

    def tapped(ws: list, taps: dict) -> tuple:
        return f(ws, lambda key, x: x + taps[key])

    (value, more), (gs, at_taps) = jax.value_and_grad(tapped, argnums=(0, 1), has_aux=True)(
        list(ws), zeros
    )
    return value, gs, at_taps, more


def nesting() -> Any:
    """Which function is traced now; within a loop or a map it is another than around it."""
    return jax.extend.core.get_opaque_trace_state()


def hessian_at(f: Callable[[list], Tensor], ws: list) -> Callable[[list], list]:
    """The Hessian of `f` at `ws` as a function of vectors; what all products share is done once."""
    _, product = jax.linearize(jax.grad(f), list(ws))
    return lambda vs: product(list(vs))


def compiled(f: Callable) -> Callable:
    """A function of arrays, in lists and tuples, compiled once for each set of shapes."""
    return jax.jit(f)


def jacobian_at(
    f: Callable[[list], list], ws: list
) -> tuple[list, Callable[[list], list], Callable[[list], list]]:
    r"""The values of `f` at `ws`, and its Jacobian $J$ there as two functions.

    Returns:
        `f(ws)`, the function $v \mapsto Jv$ and the function $u \mapsto J^T u$.
    """
    ys, push = jax.linearize(f, list(ws))
    pull = jax.linear_transpose(push, list(ws))
    return ys, lambda vs: push(list(vs)), lambda us: pull(list(us))[0]


def mapped(f: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`f` of each row, stacked; some rows at a time."""
    return jax.lax.map(f, rows, batch_size=32)


def values(f: Callable[[list], Tensor], population: list) -> Tensor:
    """A scalar function at several points, which lie along the first axes; some at a time."""
    return jax.lax.map(f, list(population), batch_size=32)


def losses_step(model: Any) -> Callable:
    """A model's train step `(state, data)` without gradients: the optimizer gets zeros."""

    def step(state: tuple, data: Any) -> tuple:
        trainable, non_trainable, optimizer, metrics = state
        x, y, sample_weight = data_adapter_utils.unpack_x_y_sample_weight(data)
        _, (loss, y_pred, non_trainable, metrics) = model.compute_loss_and_updates(
            trainable,
            non_trainable,
            metrics,
            x,
            y,
            sample_weight,
            training=True,
            optimizer_variables=optimizer,
        )
        zeros = [jax.numpy.zeros_like(w) for w in trainable]
        trainable, optimizer = model.optimizer.stateless_apply(optimizer, zeros, trainable)
        logs, metrics = model._update_metrics_variables(metrics, loss, x, y, y_pred, sample_weight)
        return logs, (trainable, non_trainable, optimizer, metrics)

    return step


def eagerly(f: Callable) -> Callable:
    """The function itself: its loops and branches are JAX' own."""
    return f


def on_host(f: Callable, like: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """A function of NumPy arrays, called by the host when a compiled step comes to it.

    It must call nothing of JAX: the device may be waiting for it.

    Args:
        f: From arrays to a sequence of arrays; the same for the same.
        like: Tensors of the results' shapes and dtypes.
        inputs: What it gets.
    """

    def called(*arrays: Any) -> list[np.ndarray]:
        found = f(*(np.asarray(a) for a in arrays))
        return [np.asarray(r, x.dtype) for r, x in zip(found, shapes, strict=True)]

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like]
    return list(jax.pure_callback(called, shapes, *inputs, vmap_method="sequential"))


@contextlib.contextmanager
def compile_cache(folder: str, most_bytes: int) -> Iterator[None]:
    """`common.compile_cache`; a cache that the process has already stays in its place.

    Args:
        folder: Made where it is missing.
        most_bytes: The programs that were not used for longest go first; takes filelock.
    """
    config = {
        "jax_compilation_cache_dir": folder,
        "jax_compilation_cache_max_size": most_bytes,
        # Programs of probes are small, and any of them saves more than its reading takes.
        "jax_persistent_cache_min_compile_time_secs": 0.05,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in config}
    if before["jax_compilation_cache_dir"] or importlib.util.find_spec("filelock") is None:
        yield
        return
    try:
        _set(config)
        yield
    finally:
        _set(before)


def _set(config: dict[str, Any]) -> None:
    for name, value in config.items():
        jax.config.update(name, value)
    # JAX opens the folder once; it has to look again.
    compilation_cache.reset_cache()


def frozen(variables: Sequence[Any]) -> list:
    """The variables' present values."""
    return [v.value for v in variables]


def present(
    model: Any, last: tuple[list[Tensor], list[Tensor]] | None = None
) -> tuple[list[Tensor], list[Tensor]] | None:
    """The values that a model has now: of the trainable variables, and of the others.

    Inside `fit` the variables are empty while a step runs and while its data are fetched: the
    trainer holds the values then, from the end of the first step on.

    Args:
        model: The model.
        last: What was returned between two steps, which holds until the first of them runs.

    Returns:
        None where the values are out of reach, in the middle of several steps that run as one.
    """
    held = getattr(model, "_jax_state", None) or {}

    def values(name: str) -> list[Tensor] | None:
        variables = getattr(model, name)
        own = [v._value for v in variables]
        if any(v is None for v in own):
            own = list(held.get(name) or ())
        return own if len(own) == len(variables) else None

    trainable, non_trainable = values("trainable_variables"), values("non_trainable_variables")
    if trainable is not None and non_trainable is not None:
        last = trainable, non_trainable
    if last is None or any(getattr(v, "is_deleted", bool)() for v in (*last[0], *last[1])):
        return None
    return last


def random_state() -> None:
    """JAX keeps random state in variables, which `frozen` holds."""
    return


@contextlib.contextmanager
def replayed(state: None, *, double: bool = False) -> Iterator[None]:
    """Runs with the random state of `random_state`; float64 stays what it is."""
    del state
    with common.keeping_double() if double else contextlib.nullcontext():
        yield


def train_step(keras_step: Callable, offer: Callable, watch: Any) -> Callable:
    """Wraps Keras' stateless `train_step(state, data)`: an Objective around it, its loss observed.

    Args:
        keras_step: The model's own step.
        offer: `offer(trainable, non_trainable, metrics, optimizer, data)` as a context manager;
            lists of values.
        watch: A `binding.LossWatch`.
    """

    def step(state: tuple, data: Any) -> tuple:
        trainable, non_trainable, optimizer, metrics = state
        kept, metrics = watch.begin(metrics)
        with offer(trainable, non_trainable, metrics, optimizer, data):
            logs, state = keras_step((trainable, non_trainable, optimizer, metrics), data)
        trainable, non_trainable, optimizer, metrics = state
        logs, optimizer, metrics = watch.end(kept, logs, optimizer, metrics)
        return logs, (trainable, non_trainable, optimizer, metrics)

    return step
