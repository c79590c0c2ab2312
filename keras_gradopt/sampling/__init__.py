"""Which examples make up a minibatch, and how many: datasets for `fit`, and a control variate.

One file per class. A dataset here is given to `model.fit` in place of x and y, on each backend and
with every optimizer: `model.fit(ImportanceSampler(model, x, y), epochs=10)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradopt import registry
from keras_gradopt.arguments import Arguments, positive_int
from keras_gradopt.live_count import LiveCount
from keras_gradopt.readings import Readings

Batch = tuple[Any, Any, Any]


class Minibatches(Arguments, keras.utils.PyDataset):
    """Base of the datasets here: holds the examples, counts the epochs, cuts each into batches.

    A subclass defines `sizes()`, and `rows(index)` where the order is not a mere shuffling.

    Keras asks for batches before the first epoch too, to learn shapes and to build the model; in
    an order that `fit` shuffles unless told not to; and on TensorFlow ahead of time from a thread
    of its own. So a batch follows from seed, epoch and its place, which is the order of asking, and
    whatever looks at the model's weights does so in `on_epoch_begin`, which all backends call
    between two steps, unless it says otherwise.

    Attributes:
        epoch: The epoch in progress, 0 at first; over all calls of `fit`, until it is set. An
            epoch counts once the optimizer has stepped in it, or the dataset was iterated over.
    """

    def __init__(
        self, model: keras.Model, x: Any, y: Any, sample_weight: Any, initial_epoch: int, seed: int
    ) -> None:
        super().__init__()
        self._readings = Readings(model)
        self.declare(
            x=_arrays("x", x),
            y=_arrays("y", y),
            sample_weight=_arrays("sample_weight", sample_weight),
            seed=positive_int("seed", seed, 0),
            initial_epoch=positive_int("initial_epoch", initial_epoch, 0),
        )
        self.model = model
        self.examples = _common_length(x=self.x, y=self.y, sample_weight=self.sample_weight)
        self.epoch = self.initial_epoch
        self._begun_at: int | None = None
        self._within = False
        self._places: dict[int, int] = {}
        self._plan: np.ndarray | None = None
        self._order = np.arange(self.examples)

    @property
    def workers(self) -> int:
        """Always 1: the model's weights are in one place, and slicing arrays needs no help.

        Raises:
            ValueError: It is set to another number.
        """
        return 1

    @workers.setter
    def workers(self, value: int) -> None:
        if value > 1:
            raise ValueError(
                f"{type(self).__name__} reads the model's weights between two steps, which workers "
                f"running ahead cannot: workers must be 1, received {value!r}."
            )

    @property
    def use_multiprocessing(self) -> bool:
        """Always False, for the same reason.

        Raises:
            ValueError: It is set to True.
        """
        return False

    @use_multiprocessing.setter
    def use_multiprocessing(self, value: bool) -> None:
        if value:
            raise ValueError(
                f"{type(self).__name__} reads the model's weights, which another process does not "
                "have: use_multiprocessing must be False."
            )

    def sizes(self) -> Sequence[int]:
        """How many examples each batch of this epoch has."""
        raise NotImplementedError(f"{type(self).__name__} must define sizes().")

    def rows(self, index: int) -> np.ndarray:
        """The examples of a batch, by number."""
        ends = self._ends()
        return self._order[ends[index] : ends[index + 1]]

    def look(self, *, fresh: bool) -> None:
        """Looks at the model, which is built and between two steps; here at nothing.

        Args:
            fresh: Whether it is the first look since the model was compiled.
        """

    def __len__(self) -> int:
        """Batches in this epoch."""
        return len(self._ends()) - 1

    @property
    def num_batches(self) -> Any:
        """Batches in this epoch, as a number that follows when the next epoch has others."""
        # Outside of an epoch TensorFlow looks at the first batches for their shapes: two of them.
        return LiveCount(lambda: len(self) if self._within else max(len(self), 2))

    def __getitem__(self, index: int) -> Batch | tuple[Any, Any]:
        """One batch: (x, y), or (x, y, sample_weight)."""
        if self._within:
            return self.batch(self.rows(self.place(index)))
        # TensorFlow takes a size that the first two batches share for the size of all.
        size = len(self.rows(index % len(self)))
        return self.batch(self._order[: (size - index % 2) or 2])

    def __iter__(self) -> Iterator[Any]:
        """The batches of one epoch, for a training loop of one's own."""
        self.on_epoch_begin()
        for index in range(len(self)):
            yield self[index]
        self.on_epoch_end()
        self._begun_at = -1

    def batch(self, rows: np.ndarray, factor: np.ndarray | None = None) -> Any:
        """The examples of these numbers, their sample weights multiplied by `factor`."""
        x, y, weight = self.examples_at(rows)
        if factor is not None:
            weight = (
                factor.astype("float32")
                if weight is None
                else keras.tree.map_structure(
                    lambda w: w * factor.reshape((-1,) + (1,) * (w.ndim - 1)).astype(w.dtype),
                    weight,
                )
            )
        return (x, y) if weight is None else (x, y, weight)

    def place(self, index: int) -> int:
        """How many batches of this epoch were asked for before the one of this index."""
        return self._places.setdefault(index, len(self._places))

    def examples_at(self, rows: np.ndarray) -> Batch:
        """x, y and sample_weight of these numbers; None where there are none."""
        whole = (self.x, self.y, self.sample_weight)
        return keras.tree.map_structure(lambda a: None if a is None else a[rows], whole)

    def random(self, *numbers: int) -> np.random.Generator:
        """Random numbers that follow from the seed, the epoch and these numbers."""
        return np.random.default_rng([self.seed, self.epoch, *numbers])

    def steps(self) -> int:
        """Steps that the model's optimizer has made."""
        optimizer = self.model.optimizer
        return int(ops.convert_to_numpy(optimizer.iterations)) if optimizer is not None else 0

    def on_epoch_begin(self) -> None:
        """Counts the epoch and lays it out; Keras calls it."""
        fresh = self._readings.prepare(self.examples_at(np.arange(min(self.examples, 2))))
        steps = self.steps()
        if self._begun_at is not None and self._begun_at != steps:
            self.epoch += 1
        self._begun_at = steps
        self.look(fresh=fresh)
        self._places = {}
        self._lay_out()
        self._within = True

    def on_epoch_end(self) -> None:
        """Ends the epoch; Keras calls it."""
        self._within = False

    def _lay_out(self) -> None:
        self._order = self.random(0).permutation(self.examples)
        self._plan = np.concatenate([[0], np.cumsum(self.sizes())])

    def _ends(self) -> np.ndarray:
        if self._plan is None:
            self._lay_out()
        assert self._plan is not None
        return self._plan


def equal_sizes(examples: int, size: int) -> list[int]:
    """As many batches of `size` as there are, and the rest."""
    whole, rest = divmod(examples, size)
    return [size] * whole + [rest] * (rest > 0)


def power_of_two_times(base: int, size: float) -> int:
    """The number nearest to `size`, by ratio, among base, 2 base, 4 base, ..."""
    return base * 2 ** max(round(math.log2(max(size, base) / base)), 0)


def batch_size_in(name: str, value: Any, examples: int) -> int:
    """Checks a batch size.

    Raises:
        ValueError: It is no whole number of at least 1, or there are fewer examples.
    """
    size = positive_int(name, value)
    if size > examples:
        raise ValueError(f"{name} must be at most the {examples} examples, received {size}.")
    return size


def _arrays(name: str, tree: Any) -> Any:
    def array(leaf: Any) -> np.ndarray:
        found = np.asarray(ops.convert_to_numpy(leaf)) if ops.is_tensor(leaf) else np.asarray(leaf)
        if found.ndim == 0 or found.dtype == object:
            raise ValueError(
                f"{name} must hold arrays with one row per example, received "
                f"{type(leaf).__name__}. Datasets and generators cannot be drawn from by number: "
                "read them into arrays first."
            )
        floating = np.issubdtype(found.dtype, np.floating)
        return found.astype(keras.config.floatx()) if floating else found  # as `fit` does

    return None if tree is None else keras.tree.map_structure(array, tree)


def _common_length(**trees: Any) -> int:
    lengths = {
        name: sorted({len(leaf) for leaf in keras.tree.flatten(tree)})
        for name, tree in trees.items()
        if tree is not None
    }
    found = {length for each in lengths.values() for length in each}
    if len(found) != 1 or 0 in found:
        listed = ", ".join(f"{name}: {each}" for name, each in lengths.items())
        raise ValueError(
            f"x, y and sample_weight must have the same number of examples, at least 1; received "
            f"{listed}."
        )
    return found.pop()


__getattr__, __dir__ = registry.lazy_members(__name__)
