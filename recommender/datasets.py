"""Reads data sets, loaders and generators into arrays."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from recommender.errors import RequestError
from recommender.examples import Examples, arrays_of, leaves

# Probes need every example at hand, so a larger source is read in part.
MOST_ROWS = 100_000
MOST_BYTES = 2**30
# Of max_seconds, reading may take this share.
READING_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Loaded:
    """Data as arrays, with what is known of how much of it there is.

    Attributes:
        examples: What was read.
        samples: Examples of the whole source, or of one epoch of it.
        batch_size: Examples in a batch of the source; None where it has no batches.
        batches: Batches of the whole source, or of one epoch; None where it has none.
        notes: Remarks for the answer.
    """

    examples: Examples
    samples: int
    batch_size: int | None = None
    batches: int | None = None
    notes: tuple[str, ...] = ()


def is_source(data: Any) -> bool:
    """Whether data must be read first: neither an array nor a list or dict of arrays.

    Whatever has no shape and can be iterated, or called to get such a thing, is a source; so no
    framework has to be imported to recognise its own.
    """
    if data is None or isinstance(data, (Mapping, list, tuple, str, bytes)):
        return False
    if hasattr(data, "shape") or hasattr(data, "__array__"):
        return False
    return hasattr(data, "__iter__") or callable(data)


def load(
    source: Any,
    name: str,
    model: Any,
    *,
    batch_size: int,
    steps_per_epoch: int | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
) -> Loaded:
    """Read a source once, up to `MOST_ROWS` examples and `MOST_BYTES` bytes.

    Args:
        source: A `keras.utils.PyDataset`, a `tf.data.Dataset`, a torch `DataLoader`, a generator,
            a function that returns one, or anything else to iterate, of batches or of examples.
        name: The argument's name, for messages.
        model: Tells examples from batches by the rank of its inputs, where it is known.
        batch_size: Examples per step where the source yields single ones.
        steps_per_epoch: Steps of one epoch; needed for training data that has no end.
        max_seconds: Of the whole request; a quarter of it may go into reading. None is no limit.
        seed: Decides which batches of a larger `PyDataset` are read.

    Returns:
        The arrays, with what is known of the source's length.

    Raises:
        RequestError: The source is empty, has no end and no `steps_per_epoch`, or yields anything
            but examples that look alike.
    """
    reader = _Reader(source, name, seed, max_seconds)
    if reader.length == math.inf and steps_per_epoch is None:
        raise reader.endless()
    first = reader.next()
    if first is None:
        raise RequestError(
            f"{name} yielded nothing. Give at least one batch; a generator that was used before "
            "is empty.",
            code="empty_source",
        )
    batched = _are_batches(first, model)
    epoch = None
    if steps_per_epoch is not None:
        epoch = steps_per_epoch * (1 if batched else batch_size)
    # Of a source that goes on for ever, one epoch is read.
    read = reader.rest(epoch if reader.length in (None, math.inf) else None)
    if reader.more and reader.length is None and epoch is None and name == "x":
        raise reader.endless()
    sizes = [len(leaves(parts.x, "x")[0][1]) if batched else 1 for parts in read]
    size = int(np.median(sizes[:-1] or sizes))
    total = epoch or (len(read) if reader.length is None else int(reader.length))
    examples = _joined(read, name, batched=batched)
    return Loaded(
        examples,
        samples=total * size if reader.more or epoch else examples.rows,
        batch_size=size if batched else None,
        batches=total if batched else None,
        notes=tuple(reader.notes(examples.rows)),
    )


class _Reader:
    """Goes through a source once, as far as the bounds allow.

    Attributes:
        length: Elements of the source; infinite where it has no end, None where it does not say.
        more: Whether elements were left.
    """

    def __init__(self, source: Any, name: str, seed: int, max_seconds: float | None) -> None:
        self._name = name
        self._used_up = isinstance(source, Iterator)
        self._source = _called(source, name)
        self.length = _length(self._source)
        self.more = False
        self._elements = self._in_order(seed)
        self._read: list[tuple[int, Examples]] = []
        self._rows = self._bytes = 0
        self._deadline = math.inf
        if max_seconds is not None:
            self._deadline = time.monotonic() + READING_SHARE * max_seconds

    def _in_order(self, seed: int) -> Iterator[tuple[int, Any]]:
        if not isinstance(self._source, keras.utils.PyDataset):
            return enumerate(self._source)
        if self.length == math.inf:
            return ((i, self._source[i]) for i in itertools.count())
        # It gives any batch that is asked for: should not all fit, those at random are read.
        order = np.random.default_rng([seed, 53]).permutation(int(self.length or 0))
        return ((int(i), self._source[int(i)]) for i in order)

    def next(self) -> Examples | None:
        """The next element; None at the end."""
        found = next(self._elements, None)
        if found is None:
            return None
        place, element = found
        parts = _unpacked(element, self._name)
        arrays = [array for part in parts for _, array in leaves(part, self._name)]
        self._rows += len(arrays[0]) if arrays and arrays[0].ndim else 1
        self._bytes += sum(array.nbytes for array in arrays)
        self._read.append((place, parts))
        return parts

    def rest(self, most: float | None) -> list[Examples]:
        """Everything up to the bounds, in the source's own order."""
        most = math.inf if most is None else most
        while len(self._read) < most:
            full = self._rows >= MOST_ROWS or self._bytes >= MOST_BYTES
            if full or time.monotonic() > self._deadline:
                # A source that does not say how long it is may have ended just here.
                known = self.length is not None
                self.more = len(self._read) < (self.length or 0) if known else self._has_next()
                break
            if self.next() is None:
                break
        return [parts for _, parts in sorted(self._read, key=lambda pair: pair[0])]

    def _has_next(self) -> bool:
        return next(self._elements, None) is not None

    def endless(self) -> RequestError:
        """What to do about a source without an end."""
        so_far = f" after {self._rows} examples" if self._rows else ""
        remedy = "Give steps_per_epoch, the steps of one epoch as in model.fit"
        if self._name != "x":
            remedy = "Cut it, for instance with dataset.take(100) or itertools.islice(batches, 100)"
        return RequestError(
            f"{self._name} has no end that was seen{so_far}. {remedy}.", code="endless_source"
        )

    def notes(self, rows: int) -> Iterator[str]:
        """Remarks on what was read."""
        if self.more:
            yield (
                f"{self._name} was read in part: {rows} examples, of at most {MOST_ROWS} or "
                f"{MOST_BYTES >> 20} MiB. Probes saw those; the length of a training counts all."
            )
        if self._used_up:
            yield f"{self._name} can be iterated once and was: make it anew to train on it."


def _called(source: Any, name: str) -> Any:
    """A function's iterable, or the source itself."""
    if hasattr(source, "__iter__"):
        return source
    try:
        found = source()
    except TypeError:
        found = None
    if not hasattr(found, "__iter__"):
        raise RequestError(
            f"{name} is a {type(source).__name__}; arrays, a data set, a generator or a function "
            "that returns one are expected.",
            code="bad_source",
        )
    return found


def _length(source: Any) -> float | None:
    """How many elements a source has; infinite for no end, None where it does not say."""
    if isinstance(source, keras.utils.PyDataset):
        try:
            count = source.num_batches
        except NotImplementedError:
            count = None
        return math.inf if count is None else count
    if hasattr(source, "cardinality"):  # tf.data has its own words for endless and unknown
        return {-1: math.inf, -2: None}.get(found := int(source.cardinality()), found)
    try:
        return len(source)
    except (TypeError, NotImplementedError):  # a loader of a data set that can only be iterated
        return None


def _unpacked(element: Any, name: str) -> Examples:
    """One element as inputs, targets and weights."""
    if isinstance(element, Mapping) or hasattr(element, "shape"):
        element = (element,)
    if not isinstance(element, (tuple, list)) or not 1 <= len(element) <= 3:
        count = f" of {len(element)}" if isinstance(element, (tuple, list)) else ""
        raise RequestError(
            f"{name} yielded a {type(element).__name__}{count}; (x, y), (x, y, sample_weight) or "
            "x alone is expected, each an array or a list or dict of arrays.",
            code="bad_element",
        )
    try:
        return Examples(*(arrays_of(part) for part in element))
    except ValueError as error:
        raise RequestError(
            f"{name} yielded what is no array: {error}. Pad sequences to one length.",
            code="bad_element",
        ) from error


def _are_batches(first: Examples, model: Any) -> bool:
    """Whether elements are batches, not single examples."""
    arrays: list[NDArray[Any]] = [a for part in first for _, a in leaves(part, "")]
    if any(array.ndim == 0 for array in arrays):
        return False
    inputs = getattr(model, "inputs", None) or []
    given = [array.ndim for _, array in leaves(first.x, "")]
    ranks = [len(tensor.shape) for tensor in inputs]
    return len(ranks) != len(given) or given != [rank - 1 for rank in ranks]


def _joined(read: list[Examples], name: str, *, batched: bool) -> Examples:
    """Everything that was read in one array each."""
    join = np.concatenate if batched else np.stack
    try:
        found: Examples = keras.tree.map_structure(
            lambda *parts: None if parts[0] is None else join(parts), *read
        )
    except ValueError as error:
        raise RequestError(
            f"{name} yields elements that do not look alike, so they cannot be put together: "
            f"{str(error).splitlines()[0]} Pad them to one shape.",
            code="bad_element",
        ) from error
    return found
