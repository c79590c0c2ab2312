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
    packing = Packing(
        rule.elementwise,
        ws,
        slots,
        members,
        pack_below=pack_below,
        flatten=flatten,
        unflatten=unflatten,
    )
    columns = (packing.joined(ws), packing.joined(gs), packing.joined_slots(slots), packing.members)
    moved = [
        rule.move(w, g, *own, h=h, member=member)
        for w, g, own, member in zip(*columns, strict=True)
    ]
    return (
        packing.cut([w for w, *_ in moved]),
        packing.cut_slots([tuple(own) for _, *own in moved]),
    )


class Packing:
    """Which variables go through a rule together, as one vector, and the way there and back.

    Args:
        elementwise: Whether the rule's coordinates move alone.
        ws: Weights.
        slots: Per variable, its slots.
        members: Per variable, its group: only variables of one group are packed together.
        pack_below: Entries below which a variable is packed.
        flatten: Makes one vector of many tensors.
        unflatten: Cuts it again.

    Attributes:
        members: Per pack, its group.
    """

    def __init__(
        self,
        elementwise: bool,
        ws: Sequence[Tensor],
        slots: Sequence[tuple[Tensor, ...]],
        members: Sequence[Hashable],
        *,
        pack_below: int,
        flatten: Callable[[Sequence[Tensor]], Tensor] = flatten,
        unflatten: Callable[[Tensor, Sequence[tuple[int, ...]]], list[Tensor]] = unflatten,
    ) -> None:
        self._packs = packs(elementwise, ws, slots, members, pack_below)
        self._shapes = [tuple(w.shape) for w in ws]
        self._flatten, self._unflatten = flatten, unflatten
        self.members = [members[pack[0]] for pack in self._packs]

    def joined(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """One tensor for each pack from one for each variable."""
        return [
            self._flatten([xs[i] for i in pack]) if len(pack) > 1 else xs[pack[0]]
            for pack in self._packs
        ]

    def cut(self, packed: Sequence[Tensor]) -> list[Tensor]:
        """The inverse of `joined`."""
        xs: list[Tensor] = [None] * len(self._shapes)
        for pack, vector in zip(self._packs, packed, strict=True):
            shapes = [self._shapes[i] for i in pack]
            pieces = self._unflatten(vector, shapes) if len(pack) > 1 else [vector]
            for i, piece in zip(pack, pieces, strict=True):
                xs[i] = piece
        return xs

    def joined_slots(self, slots: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        """`joined` for each of the slots."""
        return [
            tuple(self._flatten(column) for column in zip(*(slots[i] for i in pack), strict=True))
            if len(pack) > 1
            else slots[pack[0]]
            for pack in self._packs
        ]

    def cut_slots(self, packed: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        """The inverse of `joined_slots`."""
        slots: list[tuple[Tensor, ...]] = [()] * len(self._shapes)
        for pack, vectors in zip(self._packs, packed, strict=True):
            if len(pack) == 1:
                slots[pack[0]] = vectors
                continue
            shapes = [self._shapes[i] for i in pack]
            columns = [self._unflatten(vector, shapes) for vector in vectors]
            for position, i in enumerate(pack):
                slots[i] = tuple(column[position] for column in columns)
        return slots


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
