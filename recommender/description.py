"""describe(problem): facts about model and data that are read without training."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from recommender.columns import scale_spread
from recommender.examples import leaves
from recommender.models import every_layer
from recommender.problem import Problem
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
        task: "classification", "binary", "regression" or "other", by the loss; "several" where
            the model has several outputs.
        classes: Classes seen in the targets; None outside classification.
        largest_class: Share of the most frequent class; None outside classification.
        zero_share: Share of inputs that are exactly 0.
        scale_spread: Base-10 logarithm of the features' 90 % over their 10 % quantile of size, see
            `recommender.columns`.
        full_steps: Steps of one full training.
        batch_size: Examples per step.
        tags: Words that the prior reads, see `recommender.tags`.
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
    samples, said = problem.training.rows, problem.summary
    if said is not None:  # what was said of the data, not what the drawing made of it
        samples, zero_share, spread, largest = said.samples, said.sparsity, 0.0, said.imbalance
    parameters = sum(math.prod(v.shape) for v in problem.model.trainable_variables)
    found = tags(
        kinds,
        depth,
        parameters=parameters,
        samples=samples,
        zero_share=zero_share,
        largest_class=largest,
        scale_spread=spread,
    )
    return Description(
        parameters=parameters,
        layers=dict(sorted(kinds.items())),
        depth=depth,
        samples=samples,
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
    losses = keras.tree.flatten(problem.loss)
    if len(losses) > 1:
        return "several", None, None
    loss, kind = losses[0], type(losses[0]).__name__
    if kind in ("MeanSquaredError", "MeanAbsoluteError", "Huber", "LogCosh"):
        return "regression", None, None
    classes = ("SparseCategoricalCrossentropy", "CategoricalCrossentropy", "BinaryCrossentropy")
    if kind not in classes:
        return "other", None, None
    y = keras.tree.flatten(problem.y)[0]
    if kind == "BinaryCrossentropy":
        share = float(y.mean())
        return "binary", 2, max(share, 1 - share)
    if kind == "CategoricalCrossentropy":
        share = y.reshape(-1, y.shape[-1]).mean(0)
        return "classification", int(y.shape[-1]), float(share.max())
    counts = np.unique(y[y != loss.ignore_class], return_counts=True)[1]
    return "classification", len(counts), float(counts.max() / counts.sum())


def _inputs(x: Any) -> tuple[float, float]:
    """Share of zeros, and how far apart the features' scales lie; both from at most 2 000 rows."""
    some = np.asarray(x[:2000], np.float64)
    zero_share = float((some == 0).mean())
    if x.dtype.kind != "f" or some.ndim != 2:
        return (0.0 if x.dtype.kind != "f" else zero_share), 0.0
    return zero_share, scale_spread(some)
