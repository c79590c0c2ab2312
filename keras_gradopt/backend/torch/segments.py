"""Rules that look at a whole tensor only through sums: many small tensors in one vector.

LAMB's ratio needs two norms of each tensor; everything else in it is done alone for each
coordinate. Where a recording shows this, tensors of any shapes are moved as segments of one vector:
a norm becomes a number for each segment, and is spread over its coordinates where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch

from keras_gradopt.backend.torch import host
from keras_gradopt.backend.torch.lowering import WRITE_OUT
from keras_gradopt.backend.torch.recording import LENGTH, Vector

Tensor = Any
# Shapes that stand for all coordinates of all segments, and for one number for each segment.
ALL, EACH = (LENGTH,), (3,)
# Stands for the segments among a call's operands.
SEGMENTS = object()

_ALONE = WRITE_OUT | {"sub", "rsub", "square", "zeros_like", "ones_like", "isfinite", "_to_copy"}
# Functions of a whole tensor that gives one number.
_SUMS = {
    "linalg_vector_norm": torch.linalg.vector_norm,
    **{name: getattr(torch, name) for name in ("sum", "mean", "amax", "amin", "max", "min")},
}


def segmented(
    inputs: Sequence[Vector], outputs: Sequence[Vector]
) -> tuple[list[Vector], list[Vector]] | None:
    """The same computation over segments of a vector; None where the rule sees more than sums.

    Args:
        inputs: Weights, gradient and slots, as recorded.
        outputs: New weights and slots.
    """
    shape = inputs[0].shape
    if not shape or any(i.shape != shape for i in inputs):
        return None
    graph = _Graph(shape, inputs)
    try:
        return list(graph.inputs), [graph.of(o) for o in outputs]
    except _OtherError:
        return None


class _OtherError(Exception):
    pass


class _Graph:
    def __init__(self, shape: tuple[int, ...], inputs: Sequence[Vector]) -> None:
        self._shape = shape
        self.inputs = [Vector(i.dtype, ALL) for i in inputs]
        self._made: dict[Vector, Vector] = dict(zip(inputs, self.inputs, strict=True))
        self._spread: dict[Vector, Vector] = {}

    def of(self, node: Vector) -> Vector:
        if node not in self._made:
            self._made[node] = self._rewritten(node)
        return self._made[node]

    def _rewritten(self, node: Vector) -> Vector:
        if node.shape not in (self._shape, ()) or node.is_view:
            raise _OtherError
        operands = tuple(self.of(o) if isinstance(o, Vector) else o for o in node.operands)
        keywords = {k: self.of(v) if isinstance(v, Vector) else v for k, v in node.keywords.items()}
        vectors = [v for v in (*operands, *keywords.values()) if isinstance(v, Vector)]
        if node.shape == () and any(v.shape == ALL for v in vectors):
            if node.operation not in _SUMS or vectors != [operands[0]] or keywords:
                raise _OtherError
            # All axes are summed over, whether they were named or not; a norm has its order.
            order = operands[1:2] if node.operation == "linalg_vector_norm" else ()
            given = (SEGMENTS, _SUMS[node.operation], operands[0], *order)
            return Vector(node.dtype, EACH, "sum_each", given, keywords, _summed)
        if node.operation not in _ALONE:
            raise _OtherError
        if node.shape == self._shape:
            operands = tuple(map(self._over_all, operands))
            keywords = {k: self._over_all(v) for k, v in keywords.items()}
        shape = ALL if node.shape == self._shape else EACH
        return Vector(node.dtype, shape, node.operation, operands, keywords, node.function)

    def _over_all(self, value: Any) -> Any:
        """A number for each segment as one for each coordinate."""
        if not isinstance(value, Vector) or value.shape == ALL:
            return value
        if value not in self._spread:
            operands = (SEGMENTS, value)
            self._spread[value] = Vector(value.dtype, ALL, "spread", operands, {}, _spread)
        return self._spread[value]


class Segments:
    """Tensors that lie one after the other in a vector.

    Args:
        lengths: Entries of each.
        device: Where they lie.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._lengths, self._device = list(lengths), device
        self.entries = sum(lengths)
        self._staying: set[int] = set()
        self._known: dict[int, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self._lengths)

    @cached_property
    def _repeats(self) -> Tensor:
        return torch.tensor(self._lengths, device=self._device)

    def stays(self, *vectors: Tensor) -> None:
        """The memory of these vectors stays theirs, so that they are cut into pieces only once."""
        self._staying.update(v.data_ptr() for v in vectors)

    def _pieces(self, vector: Tensor) -> list[Tensor]:
        address = vector.data_ptr()
        if address not in self._staying:
            return self._cut(vector)
        if address not in self._known:
            self._known[address] = self._cut(vector)
        return self._known[address]

    def _cut(self, vector: Tensor) -> list[Tensor]:
        return list(vector.split(self._lengths))

    def summed(self, function: Callable, vector: Tensor, *order: Any) -> Tensor:
        """What a function of all entries of a tensor, to one number, gives for each."""
        pieces = self._pieces(vector)
        if function is torch.linalg.vector_norm and not order:
            if host.reads(self._device):
                # The quickest call there is to start.
                return torch.stack([torch.dot(p, p) for p in pieces]).sqrt_()
            # One launch for all of them.
            return torch.stack(torch._foreach_norm(pieces))
        return torch.stack([function(p, *order) for p in pieces])

    def spread(self, values: Tensor) -> Tensor:
        """A number for each tensor as one for each coordinate."""
        return torch.repeat_interleave(values, self._repeats, output_size=self.entries)


def _summed(segments: Segments, function: Callable, vector: Tensor, *order: Any) -> Tensor:
    return segments.summed(function, vector, *order)


def _spread(segments: Segments, values: Tensor) -> Tensor:
    return segments.spread(values)
