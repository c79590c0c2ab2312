"""Runs one pure update over many variables, small ones packed into one vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from keras_gradopt.tensors import flatten, unflatten

Tensor = Any


def run(
    move: Callable[..., tuple],
    elementwise: bool,
    ws: Sequence[Tensor],
    gs: Sequence[Tensor],
    slots: Sequence[tuple[Tensor, ...]],
    h: Any,
    members: Sequence[Hashable],
    *,
    pack_below: int,
    flatten: Callable[[Sequence[Tensor]], Tensor] = flatten,
    unflatten: Callable[[Tensor, Sequence[tuple[int, ...]]], list[Tensor]] = unflatten,
) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
    """Applies `move` to every variable.

    Variables of fewer than `pack_below` entries cost more to start than to compute; where the rule
    is elementwise they go through `move` together, as one vector.

    Args:
        move: `move(w, g, *slots, h=, member=) -> (w, *slots)`.
        elementwise: Whether the rule's coordinates move alone.
        ws: Weights.
        gs: Gradients.
        slots: Per variable, its slots.
        h: Hyper-parameters of the step.
        members: Per variable, its group: only variables of one group are packed together.
        pack_below: Entries below which a variable is packed.
        flatten: Makes one vector of many tensors.
        unflatten: Cuts it again.

    Returns:
        New weights, new slots.
    """
    new: list[tuple | None] = [None] * len(ws)
    packs: dict[tuple, list[int]] = {}
    for i, w in enumerate(ws):
        # Rows of an embedding are as many as a minibatch looks up, which a graph does not know.
        if elementwise and None not in tuple(w.shape) and math.prod(w.shape) < pack_below:
            packs.setdefault((str(w.dtype), len(slots[i]), members[i]), []).append(i)
        else:
            packs[(i,)] = [i]
    for pack in packs.values():
        columns = [(ws[i], gs[i], *slots[i]) for i in pack]
        if len(pack) == 1:
            moved = [move(*columns[0], h=h, member=members[pack[0]])]
        else:
            packed = [flatten(column) for column in zip(*columns, strict=True)]
            vectors = move(*packed, h=h, member=members[pack[0]])
            shapes = [tuple(ws[i].shape) for i in pack]
            moved = list(zip(*(unflatten(v, shapes) for v in vectors), strict=True))
        for i, values in zip(pack, moved, strict=True):
            new[i] = tuple(values)
    done = [values for values in new if values is not None]
    return [values[0] for values in done], [values[1:] for values in done]
