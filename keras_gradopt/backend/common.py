"""What two of the backends have in common."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keras import ops, tree
from keras.src.backend.common import dtypes
from keras.src.trainers.data_adapters import data_adapter_utils

from keras_gradopt.backend.engine import flatten

Tensor = Any


def stateful_train_step(keras_step: Callable, offer: Callable, watch: Any) -> Callable:
    """Wraps Keras' `train_step(data)` so that an Objective surrounds it and its loss is observed.

    Args:
        keras_step: The model's own step.
        offer: `offer(trainable, non_trainable, metrics, optimizer, data)` as a context manager;
            None for lists that are to be read from the variables.
        watch: A `binding.LossWatch`.
    """

    def step(data: Any) -> Any:
        kept, _ = watch.begin(None)
        with offer(None, None, None, None, data):
            logs = keras_step(data)
        logs, _, _ = watch.end(kept, logs, None, None)
        return logs

    return step


def losses_step(model: Any) -> Callable:
    """A model's train step `(data)` without gradients: the optimizer gets zeros."""

    def step(data: Any) -> Any:
        x, y, sample_weight = data_adapter_utils.unpack_x_y_sample_weight(data)
        y_pred = model(x, training=True) if model._call_has_training_arg else model(x)
        loss = model._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )
        examples = ops.shape(next(t for t in tree.flatten(x) if t is not None))[0]
        model._loss_tracker.update_state(loss, sample_weight=examples)
        variables = model.trainable_variables
        model.optimizer.apply([ops.zeros_like(v) for v in variables], variables)
        return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    return step


def draw_anew(seeds: Sequence[Any]) -> None:
    """Moves the variables in which Keras counts random draws on, as one draw from each does."""
    for seed in seeds:
        seed.assign(seed + ops.cast(ops.convert_to_tensor([0, 1]), seed.dtype))


def seeded(seed: int) -> contextlib.AbstractContextManager:
    """Random numbers inside follow from the seed; the caller's generators stay as they were.

    Here every layer counts its draws in a variable, which says it all.
    """
    del seed
    return contextlib.nullcontext()


def compile_cache(folder: str, most_bytes: int) -> contextlib.AbstractContextManager:
    """Programs compiled inside are kept in the folder, and found there by later processes.

    Here none are: only JAX offers it.
    """
    del folder, most_bytes
    return contextlib.nullcontext()


def check_host_step(name: str, model: Any) -> None:
    """Refuses a step that the host is part of where it cannot be; here it can."""
    del name, model


def arithmetic(rule: Any, *args: Any, **kwargs: Any) -> tuple[list, list, dict]:
    """The arithmetic of a step as it is, `Rule.arithmetic`, on a backend that need not pack it."""
    return rule.arithmetic(*args, **kwargs)


def widest_float() -> str:
    """The dtype of most digits that there is."""
    return "float64"


def is_rows(gradient: Any) -> bool:
    """Whether a gradient holds some rows only; JAX' and torch's layers make none."""
    del gradient
    return False


def known(condition: Any) -> bool | None:
    """A condition's value if asking is free; here steps are compiled, so it is not."""
    del condition
    return None


def global_norm(xs: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all entries of all tensors, a scalar."""
    return ops.sqrt(sum(ops.sum(x * x) for x in joined(xs)))


def joined(
    xs: Sequence[Tensor],
    below: int = 16_384,
    flatten: Callable[[Sequence[Tensor]], Tensor] = flatten,
) -> list[Tensor]:
    """The same entries in fewer tensors: those of fewer than `below` entries as one vector.

    For what asks all entries alike: hundreds of operations on small tensors take long to start, and
    to compile.
    """
    is_small = [None not in tuple(x.shape) and math.prod(x.shape) < below for x in xs]
    if sum(is_small) < 2:
        return list(xs)
    pairs = list(zip(xs, is_small, strict=True))
    return [flatten([x for x, small in pairs if small]), *(x for x, small in pairs if not small)]


@contextlib.contextmanager
def keeping_double() -> Iterator[None]:
    """Lets float64 stay float64 in all operations while it lasts.

    Keras 3.15 on JAX and torch promotes it to float32 in many, matrix products (torch) and the mean
    of a loss among them, and differences of such losses drown in rounding.
    """
    before = dtypes.BIT64_TO_BIT32_DTYPE["float64"]
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    try:
        yield
    finally:
        dtypes.BIT64_TO_BIT32_DTYPE["float64"] = before
