"""describe(problem): facts about model and data that are read without training."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from recommender.columns import scale_spread
from recommender.problem import Problem, every_layer
from recommender.request import leaves
from recommender.tags import tags


@dataclass(frozen=True)
class Description:
    """Facts about a problem.

    Attributes:
        parameters: Trainable numbers of the model.
        layers: How many layers of each kind.
        depth: Layers with weights.
        samples: Training examples.
        input_shape: Shape of one example's (first) input.
        task: "classification", "binary", "regression" or "other", by the loss.
        classes: Classes seen in the targets; None outside classification.
        largest_class: Share of the most frequent class; None outside classification.
        zero_share: Share of inputs that are exactly 0.
        scale_spread: Base-10 logarithm of the features' 90 % over their 10 % quantile of size, see
            `recommender.columns`.
        full_steps: Steps of one full training.
        batch_size: Examples per step.
        tags: Words that the portfolio's priors react to.
    """

    parameters: int
    layers: dict[str, int]
    depth: int
    samples: int
    input_shape: tuple[int, ...]
    task: str
    classes: int | None
    largest_class: float | None
    zero_share: float
    scale_spread: float
    full_steps: int
    batch_size: int
    tags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The description as plain data, ready for JSON."""
        return dataclasses.asdict(self) | {
            "input_shape": list(self.input_shape),
            "tags": list(self.tags),
        }


def describe(problem: Problem) -> Description:
    """Read model and data.

    Args:
        problem: What is to be trained.

    Returns:
        The facts, without a single training step.
    """
    kinds = Counter(type(layer).__name__ for layer in every_layer(problem.model))
    depth = sum(bool(layer.trainable_variables) for layer in every_layer(problem.model))
    x = leaves(problem.x, "x")[0][1]
    task, classes, largest = _targets(problem)
    zero_share, spread = _inputs(x)
    parameters = sum(math.prod(v.shape) for v in problem.model.trainable_variables)
    found = tags(
        kinds,
        depth,
        parameters=parameters,
        samples=len(problem.y),
        zero_share=zero_share,
        largest_class=largest,
        scale_spread=spread,
    )
    return Description(
        parameters=parameters,
        layers=dict(sorted(kinds.items())),
        depth=depth,
        samples=len(problem.y),
        input_shape=tuple(x.shape[1:]),
        task=task,
        classes=classes,
        largest_class=largest,
        zero_share=zero_share,
        scale_spread=spread,
        full_steps=problem.full_steps,
        batch_size=problem.batch_size,
        tags=found,
    )


def _targets(problem: Problem) -> tuple[str, int | None, float | None]:
    kind = type(problem.loss).__name__
    if kind == "SparseCategoricalCrossentropy":
        counts = np.bincount(problem.y.ravel().astype(int))
        return "classification", int((counts > 0).sum()), float(counts.max() / counts.sum())
    if kind == "CategoricalCrossentropy":
        share = problem.y.reshape(-1, problem.y.shape[-1]).mean(0)
        return "classification", int(problem.y.shape[-1]), float(share.max())
    if kind == "BinaryCrossentropy":
        share = float(problem.y.mean())
        return "binary", 2, max(share, 1 - share)
    regression = ("MeanSquaredError", "MeanAbsoluteError", "Huber", "LogCosh")
    return ("regression" if kind in regression else "other"), None, None


def _inputs(x: Any) -> tuple[float, float]:
    """Share of zeros, and how far apart the features' scales lie; both from at most 2 000 rows."""
    some = np.asarray(x[:2000], np.float64)
    zero_share = float((some == 0).mean())
    if x.dtype.kind != "f" or some.ndim != 2:
        return (0.0 if x.dtype.kind != "f" else zero_share), 0.0
    return zero_share, scale_spread(some)
