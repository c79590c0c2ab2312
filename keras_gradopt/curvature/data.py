"""Minibatches of data that is looked at many times: arrays cut up, or a dataset read once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradopt.arguments import positive_int

# Data of fewer bytes stays on the device between two passes.
_KEPT_BYTES = 2**28


class Minibatches:
    """The data in minibatches, always the same ones, in order.

    Args:
        x: Inputs: an array, a list or dict of arrays, or a dataset, an iterable of minibatches
            `(x, y)` or `(x, y, sample_weight)`, which is read into host memory once.
        y: Targets; None where the model needs none, and with a dataset.
        sample_weight: Weights of the rows; None is 1 each.
        batch_size: Rows to a minibatch of arrays, at least 1.

    Attributes:
        rows: Rows of all minibatches.
        sizes: Rows of each.

    Raises:
        ValueError: Lengths differ, or there are no rows.
    """

    def __init__(self, x: Any, y: Any, sample_weight: Any, batch_size: int) -> None:
        batch_size = positive_int("batch_size", batch_size)
        if _is_arrays(x):
            whole = _each(_array, (x, y, sample_weight))
            self._parts = [
                _each(lambda a, start=i: a[start : start + batch_size], whole)
                for i in range(0, _rows(whole), batch_size)
            ]
        elif isinstance(x, Iterable | keras.utils.PyDataset):
            if y is not None or sample_weight is not None:
                raise ValueError(
                    f"x is a dataset ({type(x).__name__}), which brings its targets and weights: "
                    "leave out y and sample_weight."
                )
            self._parts = [_part(batch) for batch in _batches(x)]
        else:
            raise ValueError(
                f"x must be an array, a list or dict of arrays, or a dataset of minibatches (x, "
                f"y), received {type(x).__name__}."
            )
        if not self._parts:
            raise ValueError("x holds no rows: give at least one.")
        self.sizes = [_rows(part) for part in self._parts]
        self.rows = sum(self.sizes)
        leaves = keras.tree.flatten(self._parts)
        self._kept: list[Any] | None = None
        if sum(a.nbytes for a in leaves if a is not None) <= _KEPT_BYTES:
            self._kept = [_tensors(part) for part in self._parts]

    def regrouped(self, groups: int) -> Minibatches:
        """The same rows in at least so many minibatches, or in as many as there are rows.

        Args:
            groups: At least 1.
        """
        if len(self) >= min(groups, self.rows):
            return self
        x, y, sample_weight = keras.tree.map_structure(
            lambda *parts: None if parts[0] is None else np.concatenate(parts), *self._parts
        )
        return Minibatches(x, y, sample_weight, max(self.rows // groups, 1))

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, i: int) -> Any:
        """Minibatch `i` as tensors: (x, y, sample_weight)."""
        if i >= len(self._parts):
            raise IndexError(i)
        return _tensors(self._parts[i]) if self._kept is None else self._kept[i]


def _is_arrays(x: Any) -> bool:
    leaves = keras.tree.flatten(x)
    return bool(leaves) and all(hasattr(a, "shape") and hasattr(a, "dtype") for a in leaves)


def _batches(x: Any) -> Iterable[Any]:
    return (x[i] for i in range(len(x))) if isinstance(x, keras.utils.PyDataset) else x


def _part(batch: Any) -> tuple:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    if not _is_arrays(x):
        raise ValueError(
            "x must be an array, a list or dict of arrays, or a dataset of minibatches (x, y); "
            f"received an iterable of {type(batch).__name__}."
        )
    return _each(_array, (x, y, sample_weight))


def _each(f: Callable, part: tuple) -> Any:
    return keras.tree.map_structure(lambda a: a if a is None else f(a), part)


def _array(a: Any) -> np.ndarray:
    a = np.asarray(ops.convert_to_numpy(a) if ops.is_tensor(a) else a)
    # Floats as Keras' own adapters hand them to a model.
    return a.astype(keras.config.floatx()) if a.dtype.kind == "f" else a


def _tensors(part: tuple) -> Any:
    return _each(ops.convert_to_tensor, part)


def _rows(part: tuple) -> int:
    named = [
        (name, a.shape[0] if a.ndim else 0)
        for name, side in zip(("x", "y", "sample_weight"), part, strict=True)
        for a in keras.tree.flatten(side)
        if a is not None
    ]
    if len({rows for _, rows in named}) > 1:
        said = ", ".join(f"{name} has {rows}" for name, rows in named)
        raise ValueError(f"x, y and sample_weight must have as many rows as each other: {said}.")
    return int(named[0][1])
