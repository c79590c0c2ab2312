"""Runs one pure update over many variables, small ones packed into one vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from keras import ops

Tensor = Any


def flatten(xs: Sequence[Tensor]) -> Tensor:
    """All entries of all tensors as one vector, in order."""
    return ops.concatenate([ops.reshape(x, (-1,)) for x in xs])


def unflatten(vector: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Cuts a vector into tensors of the given shapes: the inverse of `flatten`."""
    pieces, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        pieces.append(ops.reshape(vector[start : start + size], tuple(shape)))
        start += size
    return pieces


def run(
    rule: Any,
    ws: Sequence[Tensor],
    gs: Sequence[Tensor],
    slots: Sequence[tuple[Tensor, ...]],
    h: Any,
    members: Sequence[Hashable],
    factor: Tensor | None = None,
    *,
    donate: bool = False,
    pack_below: int,
    flatten: Callable[[Sequence[Tensor]], Tensor] = flatten,
    unflatten: Callable[[Tensor, Sequence[tuple[int, ...]]], list[Tensor]] = unflatten,
) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
    """Moves every variable by the rule.

    Variables of fewer than `pack_below` entries cost more to start than to compute; where the rule
    is elementwise they go through it together, as one vector.

    Args:
        rule: Its `move(w, g, *slots, h=, member=) -> (w, *slots)`, and what it declares.
        ws: Weights.
        gs: Gradients.
        slots: Per variable, its slots.
        h: Hyper-parameters of the step.
        members: Per variable, its group: only variables of one group are packed together.
        factor: What all gradients are multiplied by; None is 1.
        donate: Whether weights and slots may be overwritten; nothing is here.
        pack_below: Entries below which a variable is packed.
        flatten: Makes one vector of many tensors.
        unflatten: Cuts it again.

    Returns:
        New weights, new slots.
    """
    del donate
    if factor is not None:
        gs = [g * ops.cast(factor, g.dtype) for g in gs]
    new: list[tuple | None] = [None] * len(ws)
    for pack in packs(rule.elementwise, ws, slots, members, pack_below):
        columns = [(ws[i], gs[i], *slots[i]) for i in pack]
        if len(pack) == 1:
            moved = [rule.move(*columns[0], h=h, member=members[pack[0]])]
        else:
            packed = [flatten(column) for column in zip(*columns, strict=True)]
            vectors = rule.move(*packed, h=h, member=members[pack[0]])
            shapes = [tuple(ws[i].shape) for i in pack]
            moved = list(zip(*(unflatten(v, shapes) for v in vectors), strict=True))
        for i, values in zip(pack, moved, strict=True):
            new[i] = tuple(values)
    done = [values for values in new if values is not None]
    return [values[0] for values in done], [values[1:] for values in done]


def packs(
    elementwise: bool,
    ws: Sequence[Tensor],
    slots: Sequence[tuple[Tensor, ...]],
    members: Sequence[Hashable],
    pack_below: int,
) -> list[list[int]]:
    """Positions of variables that go through the rule together.

    Args:
        elementwise: Whether the rule's coordinates move alone.
        ws: Weights.
        slots: Per variable, its slots.
        members: Per variable, its group.
        pack_below: Entries below which a variable is packed.
    """
    found: dict[tuple, list[int]] = {}
    for i, w in enumerate(ws):
        # Rows of an embedding are as many as a minibatch looks up, which a graph does not know.
        if elementwise and None not in tuple(w.shape) and math.prod(w.shape) < pack_below:
            found.setdefault((str(w.dtype), len(slots[i]), members[i]), []).append(i)
        else:
            found[(i,)] = [i]
    return list(found.values())
