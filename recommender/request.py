"""What the caller asks for, checked at the door."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recommender.budget import check_max_seconds, check_tier
from recommender.datasets import is_source
from recommender.errors import RequestError
from recommender.examples import Examples, check_enough, check_examples

OBJECTIVES = ("val_loss",)
# Examples per step where neither the caller nor the data say how many.
BATCH_SIZE = 32
# Of Keras; probes are fastest on the first.
BACKENDS = ("jax", "tensorflow", "torch")


@dataclass(frozen=True, eq=False)
class Request:
    """One request for advice; made by `recommend`, checked by `checked`.

    Attributes:
        model: A Keras model, or its description (a config or a family summary).
        x: Inputs as arrays, a source of batches (see `recommender.datasets`), or a summary.
        y: Targets, first axis as in `x`; None with a summary or a source, or where the model has a
            loss of its own.
        validation_data: `(x_val, y_val)`, `(x_val, y_val, sample_weight_val)` or a source; None to
            hold a part of the data out.
        loss: What `model.compile` takes; None for the compiled model's loss, else by the targets.
        epochs: Length of one full training, at least 1.
        batch_size: Examples per step, between 1 and the number of training examples; None is the
            source's own, else 32.
        tier: How much may be spent, see `recommender.budget`.
        max_seconds: Wall-clock limit, above 0, or None.
        objective: What to minimise; `"val_loss"`.
        backend: The Keras backend to probe on; None for the fastest that is installed.
        include: Further optimizers by name that must be among the candidates.
        seed: Seed of splits, batch order and everything else that is drawn.
        loss_weights: Factor of each output's loss, as `model.compile` takes them.
        sample_weight: Weight of each example in the loss, as `model.fit` takes it.
        class_weight: Weight of each class, as `model.fit` takes it; for training only.
        steps_per_epoch: Steps of one epoch; None counts the data.
    """

    model: Any
    x: Any
    y: Any = None
    validation_data: Any = None
    loss: Any = None
    epochs: int = 20
    batch_size: int | None = None
    tier: str = "quick"
    max_seconds: float | None = None
    objective: str = "val_loss"
    backend: str | None = None
    include: Sequence[str] = field(default_factory=tuple)
    seed: int = 0
    loss_weights: Any = None
    sample_weight: Any = None
    class_weight: Mapping[int, float] | None = None
    steps_per_epoch: int | None = None


def checked(request: Request) -> Request:
    """The same request, once everything that can be checked without a model is in order.

    Args:
        request: What came in.

    Returns:
        The request.

    Raises:
        RequestError: On the first thing that is out of range, with a stable `code`.
    """
    check_tier(request.tier)
    check_max_seconds(request.max_seconds)
    if request.objective not in OBJECTIVES:
        raise RequestError(
            f"objective must be one of {', '.join(OBJECTIVES)}, received {request.objective!r}.",
            code="unknown_objective",
        )
    _check_count("epochs", request.epochs, "One full training takes at least one epoch.")
    if request.batch_size is not None:
        _check_count("batch_size", request.batch_size, "32 is usual.")
    if request.steps_per_epoch is not None:
        _check_count("steps_per_epoch", request.steps_per_epoch, "Leave it out to count batches.")
    if isinstance(request.seed, bool) or not isinstance(request.seed, (int, np.integer)):
        raise RequestError(f"seed must be a whole number, received {request.seed!r}.", code="seed")
    if request.seed < 0:
        raise RequestError(f"seed must be at least 0, received {request.seed}.", code="seed")
    _check_backend(request.backend)
    _check_class_weight(request)
    if not is_summary(request.x):
        _check_data(request)
    return request


def is_summary(x: Any) -> bool:
    """Whether the data came as a description instead of arrays."""
    if isinstance(x, Mapping):
        return "shape" in x or "samples" in x
    return hasattr(x, "__dataclass_fields__")


def _check_count(name: str, value: Any, advice: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise RequestError(
            f"{name} must be a whole number of at least 1, received {value!r}. {advice}",
            code="impossible_budget",
        )


def _check_backend(backend: str | None) -> None:
    if backend is None:
        return
    if backend not in BACKENDS:
        raise RequestError(
            f"backend must be one of {', '.join(BACKENDS)}, received {backend!r}.",
            code="unknown_backend",
        )
    if importlib.util.find_spec(backend) is None:
        raise RequestError(
            f"backend={backend!r} was asked for, but it is not installed. Install it, or leave "
            "backend out.",
            code="backend_mismatch",
        )


def _check_data(request: Request) -> None:
    """Check what is there as arrays; what has to be read first is checked when it was."""
    if not is_source(request.x):
        arrays = Examples(request.x, request.y, request.sample_weight)
        check_examples(arrays)
        check_enough(arrays)
    elif request.y is not None or request.sample_weight is not None:
        given = "y" if request.y is not None else "sample_weight"
        raise RequestError(
            f"{given} was given beside x, which is a {type(request.x).__name__}. Let x yield "
            "(x, y) or (x, y, sample_weight) instead.",
            code="bad_source",
        )
    held = request.validation_data
    if held is None or is_source(held):
        return
    if isinstance(held, (tuple, list)) and not 1 <= len(held) <= 3:
        raise RequestError(
            f"validation_data holds {len(held)} things; (x_val, y_val), (x_val, y_val, "
            "sample_weight_val) or a data set is expected.",
            code="shape_mismatch",
        )
    check_examples(Examples(*held) if isinstance(held, (tuple, list)) else Examples(held), "_val")


def _check_class_weight(request: Request) -> None:
    weights = request.class_weight
    if weights is None:
        return
    if request.sample_weight is not None:
        raise RequestError(
            "class_weight and sample_weight were both given; multiply them into sample_weight.",
            code="bad_class_weight",
        )
    if not isinstance(weights, Mapping) or not all(
        isinstance(value, (int, float, np.number)) for value in weights.values()
    ):
        raise RequestError(
            f"class_weight is a dict from class to weight, such as {{0: 1.0, 1: 5.0}}; received "
            f"{weights!r}.",
            code="bad_class_weight",
        )
