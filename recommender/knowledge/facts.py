"""The facts about a task that the prior looks at, as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TASKS = ("classification", "binary", "regression")
TAGS = (
    "recurrent", "convolution", "batch_norm", "attention", "sparse", "few_samples", "deep_plain",
)  # fmt: skip
NAMES = (
    "log10 full_steps", "log10 epochs", "log10 parameters", "log10 samples",
    "log10 parameters per sample", "depth", "batch_size", *TASKS, "zero_share", "scale_spread",
    "largest_class", *TAGS, "normalisation",
)  # fmt: skip


def numbers(description: Mapping[str, Any]) -> NDArray[np.float32]:
    """The facts in the order of `NAMES`.

    Args:
        description: What `Description.to_dict` gives. Where the model's size is not known, one
            weight for each training example is assumed.

    Returns:
        One number per name, shape (len(NAMES),), float32 as the prior's thresholds.
    """
    samples = max(1, description["samples"])
    parameters = max(1, description["parameters"] or samples)
    steps, batch = description["full_steps"], description["batch_size"]
    tags = description["tags"]
    return np.array(
        [
            np.log10(steps),
            np.log10(max(1.0, steps * batch / samples)),
            np.log10(parameters),
            np.log10(samples),
            np.log10(parameters / samples),
            description["depth"],
            batch,
            *(description["task"] == task for task in TASKS),
            description["zero_share"],
            description["scale_spread"] or 0.0,
            description["largest_class"] or 1 / (description["classes"] or math.inf),
            *(tag in tags for tag in TAGS),
            any("Norm" in layer for layer in description["layers"]),
        ],
        np.float32,
    )
