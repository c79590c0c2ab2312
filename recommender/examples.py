"""Examples as arrays: taken by rows, checked, and split into training and validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from recommender import length
from recommender.errors import RequestError

# Fewer cannot be trained on and validated with.
LEAST_ROWS = 8


class Examples(NamedTuple):
    """What one step of training takes, as Keras' `train_step` does.

    Attributes:
        x: Inputs: an array, or a list or dict of arrays, one row per example.
        y: Targets alike; None where the model needs none.
        weight: Weight of each example (or of each step of a sequence) in the loss; alike, or None.
    """

    x: Any
    y: Any = None
    weight: Any = None

    @property
    def rows(self) -> int:
        """How many examples there are."""
        return len(leaves(self.x, "x")[0][1])


def take(tree: Any, rows: Any) -> Any:
    """The given rows of every array in a possibly nested structure."""
    return keras.tree.map_structure(lambda v: None if v is None else v[rows], tree)


def leaves(data: Any, name: str) -> list[tuple[str, NDArray[Any]]]:
    """The arrays of a possibly nested input, each with the name to use in messages."""
    if data is None:
        return []
    if isinstance(data, Mapping):
        return [pair for key in data for pair in leaves(data[key], f"{name}[{key!r}]")]
    if _holds_arrays(data):
        return [pair for i, part in enumerate(data) for pair in leaves(part, f"{name}[{i}]")]
    return [(name, as_numpy(data))]


def arrays_of(data: Any) -> Any:
    """The arrays as they came, in lists and dicts as they came."""
    if isinstance(data, Mapping):
        return {key: arrays_of(part) for key, part in data.items()}
    if _holds_arrays(data):
        return [arrays_of(part) for part in data]
    return None if data is None else as_numpy(data)


def trainable(tree: Any) -> Any:
    """The same arrays in the types that models take: Keras' float type and int32."""
    return keras.tree.map_structure(lambda v: None if v is None else _as_array(v), tree)


def _as_array(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "f":
        return array.astype(keras.config.floatx(), copy=False)
    return array.astype(np.int32 if array.dtype.kind in "iu" else np.float32, copy=False)


def as_numpy(values: Any) -> NDArray[Any]:
    """Whatever holds numbers (an array, a tensor, a data frame) as an array."""
    if hasattr(values, "detach"):  # a torch tensor may hang on a graph or lie on a device
        values = values.detach().cpu()
    return np.asarray(values)


def _holds_arrays(data: Any) -> bool:
    """Whether a list holds arrays (or lists or dicts of them), not numbers."""
    if not isinstance(data, (list, tuple)) or not data:
        return False
    first = data[0]
    return hasattr(first, "shape") or isinstance(first, Mapping) or _holds_arrays(first)


def check_examples(examples: Examples, suffix: str = "") -> None:
    """Refuse rows that disagree and values that are no finite numbers.

    Args:
        examples: Arrays of any kind.
        suffix: What is put after x, y and sample_weight in messages.

    Raises:
        RequestError: With the first array that is wrong.
    """
    named = [
        *leaves(examples.x, f"x{suffix}"),
        *leaves(examples.y, f"y{suffix}"),
        *leaves(examples.weight, f"sample_weight{suffix}"),
    ]
    if not leaves(examples.x, "x"):
        raise RequestError(
            f"x{suffix} holds no array; one row per example is expected.", code="shape_mismatch"
        )
    for name, values in named:
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


def check_enough(examples: Examples) -> None:
    """Refuse fewer examples than can be trained on and validated with."""
    if examples.rows < LEAST_ROWS:
        raise RequestError(
            f"x holds {examples.rows} examples; at least {LEAST_ROWS} are needed to train and to "
            "validate.",
            code="shape_mismatch",
        )


def check_numbers(name: str, values: NDArray[Any]) -> None:
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


def check_alike(training: Examples, validation: Examples) -> None:
    """Refuse validation rows that look unlike the training rows."""
    for ours, theirs, name in zip(training[:2], validation[:2], ("x", "y"), strict=True):
        a, b = leaves(ours, name), leaves(theirs, f"{name}_val")
        if len(a) != len(b):
            raise RequestError(
                f"{name} holds {len(a)} arrays and {name}_val {len(b)}; training and validation "
                "need the same.",
                code="shape_mismatch",
            )
        for (label, one), (other_label, other) in zip(a, b, strict=True):
            if one.shape[1:] != other.shape[1:]:
                raise RequestError(
                    f"{label} has rows of shape {one.shape[1:]}, {other_label} of shape "
                    f"{other.shape[1:]}; training and validation rows must look alike.",
                    code="shape_mismatch",
                )


def split(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """Hold a fifth out, with the same share of every class where the targets are classes.

    Args:
        examples: All of them.
        seed: Decides which are held out.

    Returns:
        Training and validation examples.
    """
    rows = examples.rows
    order = np.random.default_rng([seed, 5]).permutation(rows)
    y = examples.y
    is_class = isinstance(y, np.ndarray) and y.dtype.kind in "iub" and y.size == rows
    if is_class:
        # Stable sort of a random order by class, then every fifth row: stratified by hand, since
        # the library function refuses classes with a single member.
        order = order[np.argsort(y.reshape(rows)[order], kind="stable")]
        held = np.zeros(rows, bool)
        held[:: length.HELD_OUT_EVERY] = True
    else:
        held = np.arange(rows) < length.held_out(rows, classes=False)
    return take(examples, np.sort(order[~held])), take(examples, np.sort(order[held]))


def class_weights(y: Any, weights: Mapping[int, float]) -> NDArray[np.float32]:
    """The weight of each example by its class, as `model.fit` understands `class_weight`.

    Raises:
        RequestError: The targets are not one class per example.
    """
    if not isinstance(y, np.ndarray):
        raise RequestError(
            "class_weight needs one array of classes as y. Give sample_weight instead, which may "
            "differ by output.",
            code="bad_class_weight",
        )
    labels = y
    if y.ndim > 1:
        labels = y[..., 0] if y.shape[-1] == 1 else y.argmax(-1)
    if labels.ndim != 1:
        raise RequestError(
            f"class_weight needs one class per example; y has rows of shape {y.shape[1:]}. Give "
            "sample_weight of that shape instead.",
            code="bad_class_weight",
        )
    return np.asarray([weights.get(int(label), 1.0) for label in np.rint(labels)], np.float32)
