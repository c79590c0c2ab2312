"""The patches of its input that the kernel of a convolution meets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from keras import ops

Tensor = Any


def patches(
    x: Tensor,
    kernel_size: Sequence[int],
    strides: Sequence[int],
    dilation_rate: Sequence[int],
    padding: str,
) -> Tensor:
    """Cuts out what each position of a convolution's output is made of.

    Args:
        x: Shape (batch, *space, channels), with one to three axes of space.
        kernel_size: The kernel's length along each axis.
        strides: Steps between two positions, per axis.
        dilation_rate: Steps between two of the kernel's entries, per axis.
        padding: "valid", "same" (more behind than in front, as Keras does) or "causal".

    Returns:
        Shape (batch, positions, entries of the kernel, channels), both in row-major order.
    """
    spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation_rate, strict=True)]
    if padding != "valid":
        sizes = ops.shape(x)[1:-1]
        ends = [
            _pads(size, span, stride, padding)
            for size, span, stride in zip(sizes, spans, strides, strict=True)
        ]
        x = ops.pad(x, [(0, 0), *ends, (0, 0)])
    sizes = ops.shape(x)[1:-1]
    counts = [(n - span) // s + 1 for n, span, s in zip(sizes, spans, strides, strict=True)]
    pieces = []
    for entry in itertools.product(*map(range, kernel_size)):
        starts = [e * d for e, d in zip(entry, dilation_rate, strict=True)]
        cuts = [
            slice(a, a + (count - 1) * s + 1, s)
            for a, count, s in zip(starts, counts, strides, strict=True)
        ]
        piece = x[(slice(None), *cuts)]
        pieces.append(ops.reshape(piece, (ops.shape(x)[0], -1, x.shape[-1])))
    return ops.stack(pieces, axis=2)


def _pads(size: Any, span: int, stride: int, padding: str) -> tuple[Any, Any]:
    """How many zeros come in front of an axis, and behind it."""
    if padding == "causal":
        return span - 1, 0
    # As many as give ceil(size / stride) positions.
    most = (-(-size // stride) - 1) * stride + span - size
    total = max(most, 0) if isinstance(size, int) else ops.maximum(most, 0)
    return total // 2, total - total // 2
