"""What the caller asks for, checked at the door."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recommender.budget import check_max_seconds, check_tier
from recommender.errors import RequestError

OBJECTIVES = ("val_loss",)
# Of Keras; probes are fastest on the first.
BACKENDS = ("jax", "tensorflow", "torch")


@dataclass(frozen=True, eq=False)
class Request:
    """One request for advice; made by `recommend`, checked by `checked`.

    Attributes:
        model: A Keras model, or its description (a config or a family summary).
        x: Inputs as arrays, or a summary of the data.
        y: Targets, first axis as in `x`; None with a summary.
        validation_data: `(x_val, y_val)`, or None to hold a part of the data out.
        loss: What `model.compile` takes; None for the compiled model's loss, else by the targets.
        epochs: Length of one full training, at least 1.
        batch_size: Examples per step, between 1 and the number of training examples.
        tier: How much may be spent, see `recommender.budget`.
        max_seconds: Wall-clock limit, above 0, or None.
        objective: What to minimise; `"val_loss"`.
        backend: The Keras backend to probe on; None for the fastest that is installed.
        include: Further optimizers by name that must be among the candidates.
        seed: Seed of splits, batch order and everything else that is drawn.
    """

    model: Any
    x: Any
    y: Any = None
    validation_data: tuple[Any, Any] | None = None
    loss: Any = None
    epochs: int = 20
    batch_size: int = 32
    tier: str = "quick"
    max_seconds: float | None = None
    objective: str = "val_loss"
    backend: str | None = None
    include: Sequence[str] = field(default_factory=tuple)
    seed: int = 0


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
    _check_count("batch_size", request.batch_size, "32 is usual.")
    if isinstance(request.seed, bool) or not isinstance(request.seed, (int, np.integer)):
        raise RequestError(f"seed must be a whole number, received {request.seed!r}.", code="seed")
    if request.seed < 0:
        raise RequestError(f"seed must be at least 0, received {request.seed}.", code="seed")
    _check_backend(request.backend)
    if not is_summary(request.x):
        _check_arrays(request)
    return request


def is_summary(x: Any) -> bool:
    """Whether the data came as a description instead of arrays."""
    if isinstance(x, Mapping):
        return "shape" in x or "samples" in x
    return hasattr(x, "__dataclass_fields__")


def leaves(data: Any, name: str) -> list[tuple[str, np.ndarray]]:
    """The arrays of a possibly nested input, each with the name to use in messages."""
    if isinstance(data, Mapping):
        return [pair for key in data for pair in leaves(data[key], f"{name}[{key!r}]")]
    if isinstance(data, (list, tuple)) and data and hasattr(data[0], "shape"):
        return [pair for i, part in enumerate(data) for pair in leaves(part, f"{name}[{i}]")]
    return [(name, np.asarray(data))]


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


def _check_arrays(request: Request) -> None:
    if request.y is None:
        raise RequestError(
            "y is missing. Pass the targets (for an autoencoder, y=x), or describe the data "
            "with a summary such as {'shape': [64], 'task': 'classification', 'samples': 1000}.",
            code="shape_mismatch",
        )
    _check_pair(request.x, request.y, "x", "y")
    rows = len(leaves(request.x, "x")[0][1])
    if rows < 8:
        raise RequestError(
            f"x holds {rows} examples; at least 8 are needed to train and to validate.",
            code="shape_mismatch",
        )
    if request.validation_data is not None:
        pair = request.validation_data
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise RequestError(
                "validation_data must be (x_val, y_val); sample weights are not supported yet.",
                code="shape_mismatch",
            )
        _check_pair(pair[0], pair[1], "x_val", "y_val")
        _check_same_kind(request.x, pair[0], "x", "x_val")
        _check_same_kind(request.y, pair[1], "y", "y_val")


def _check_pair(x: Any, y: Any, x_name: str, y_name: str) -> None:
    named = leaves(x, x_name)
    targets = leaves(y, y_name)
    if len(targets) != 1:
        raise RequestError(
            f"{y_name} holds {len(targets)} arrays; models with several outputs are not "
            "supported yet. Ask for one output at a time.",
            code="unsupported_model",
        )
    for name, values in [*named, *targets]:
        if values.ndim == 0:
            raise RequestError(
                f"{name} has no first axis; one row per example is expected.",
                code="shape_mismatch",
            )
        if len(values) != len(named[0][1]):
            raise RequestError(
                f"{named[0][0]} has {len(named[0][1])} examples and {name} has {len(values)}. "
                "Both need one row per example.",
                code="shape_mismatch",
            )
        check_numbers(name, values)


def check_numbers(name: str, values: np.ndarray) -> None:
    """Refuse what is not a number, saying where the first bad value sits and how many there are."""
    if values.dtype.kind not in "fiub":
        raise RequestError(
            f"{name} has dtype {values.dtype}; numbers are expected. "
            "Encode text and categories first.",
            code="not_numeric",
        )
    if values.dtype.kind != "f":
        return
    bad = ~np.isfinite(values)
    if bad.any():
        where = [int(i) for i in np.argwhere(bad)[0]]
        rows = int(bad.reshape(len(values), -1).any(axis=1).sum())
        raise RequestError(
            f"{name} holds {int(bad.sum())} NaN or infinite values in {rows} of {len(values)} "
            f"rows, the first at index {where}. Fill them (for instance with the column's "
            f"median) or drop those rows.",
            code="not_finite",
        )


def _check_same_kind(train: Any, validation: Any, name: str, validation_name: str) -> None:
    for (_, a), (label, b) in zip(
        leaves(train, name), leaves(validation, validation_name), strict=True
    ):
        if a.shape[1:] != b.shape[1:]:
            raise RequestError(
                f"{name} has rows of shape {a.shape[1:]}, {label} of shape {b.shape[1:]}; "
                "training and validation rows must look alike.",
                code="shape_mismatch",
            )
