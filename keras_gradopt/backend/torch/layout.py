"""How variables lie in memory while they are moved: small ones packed into vectors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from operator import is_
from typing import Any

import torch
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from keras_gradopt.backend import engine
from keras_gradopt.backend.torch import host, kernels
from keras_gradopt.backend.torch.program import Mover, Program
from keras_gradopt.backend.torch.segments import Segments

Tensor = Any

# Entries of a block for each thread: weights, gradient, slots and temporaries stay in its cache.
BLOCK = 131_072
# On a device nothing is blocked; packing spares launches until copying costs as much.
_DEVICE_PACK = 1 << 24
# A call of a compiled function takes as long to start as to move some hundred thousand entries.
_COMPILED_PACK = 1 << 20


class Layout:
    """Variables and their slots, recognized when they come again.

    Args:
        ws: Weights.
        slots: Per variable, its slots: the tensors that its variables hold.
        members: Per variable, its group.
    """

    def __init__(
        self,
        ws: Sequence[Tensor],
        slots: Sequence[tuple[Tensor, ...]],
        members: Sequence[Hashable],
    ) -> None:
        self._flat = [s for own in slots for s in own]
        # Slots tell which variables these are; a rule without any goes by what they look like.
        self._looks = _looks(ws) if not self._flat else None
        self._members = members
        self._note_places()

    def _note_places(self) -> None:
        """Where the slots lie now; packs move them together first."""
        self._pointers = [s.data_ptr() for s in self._flat]

    def holds(
        self, flat: Sequence[Tensor], ws: Sequence[Tensor], members: Sequence[Hashable]
    ) -> bool:
        """Whether these are the variables, and their slots where they were."""
        return (
            len(flat) == len(self._flat)
            and all(map(is_, flat, self._flat))
            and [s.data_ptr() for s in flat] == self._pointers
            and (self._looks is None or _looks(ws) == self._looks)
            and (members is self._members or members == self._members)
        )


def _looks(ws: Sequence[Tensor]) -> list[tuple]:
    return [(w.shape, w.dtype, w.device) for w in ws]


class Vectors(Layout):
    """Variables of a rule that moves coordinates alone: as many small ones as fill a block."""

    def __init__(
        self,
        ws: Sequence[Tensor],
        slots: Sequence[tuple[Tensor, ...]],
        members: Sequence[Hashable],
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__(ws, slots, members)
        limit = _limit(ws)
        most = max(limit, _COMPILED_PACK) if compiled else limit
        self.packs = [
            Pack(part, [slots[i] for i in part], members[part[0]])
            for positions in engine.packs(True, ws, slots, members, limit)
            for part in _filled(positions, [w.numel() for w in ws], most)
        ]
        self._note_places()


class Kinds(Layout):
    """Variables of a rule on whole tensors, by what a program for them depends on.

    Attributes:
        kinds: Each kind, group first, with the positions of its variables.
        last: What an engine found for each kind in the last step, by what it depended on.
    """

    def __init__(
        self,
        ws: Sequence[Tensor],
        slots: Sequence[tuple[Tensor, ...]],
        members: Sequence[Hashable],
    ) -> None:
        super().__init__(ws, slots, members)
        self._slots = list(slots)
        self._limit = _limit(ws)
        self._entries = [w.numel() for w in ws]
        self.kinds: dict[tuple, list[int]] = {}
        for i, (w, own, member) in enumerate(zip(ws, slots, members, strict=True)):
            kind = (member, w.device, *((t.shape, t.dtype) for t in (w, *own)))
            self.kinds.setdefault(kind, []).append(i)
        self.last: dict[Hashable, list[Any]] = {}
        self._programs: list[Program | None] = []
        self._packs: list[tuple[Program, int, list[Pack]]] = []

    def packs(self, programs: Sequence[Program | None]) -> list[tuple[Program, int, list[Pack]]]:
        """Small variables that are moved as segments of a vector.

        Args:
            programs: Per kind, its program; equal ones are the same.

        Returns:
            Programs for segments, each with the length of its longest vector and with its packs.
        """
        if list(programs) != self._programs:
            self._programs = list(programs)
            self._packs = self._packed(programs)
            self._note_places()
        return self._packs

    def _packed(self, programs: Sequence[Program | None]) -> list[tuple[Program, int, list[Pack]]]:
        together: dict[tuple, list[int]] = {}
        for (kind, positions), program in zip(self.kinds.items(), programs, strict=True):
            if program is not None and program.for_segments is not None:
                small = [i for i in positions if self._entries[i] < self._limit]
                together.setdefault((program.for_segments, *kind[:2]), []).extend(small)
        found = []
        for (program, member, device), positions in together.items():
            parts = _filled(sorted(positions), self._entries, self._limit)
            parts = [part for part in parts if len(part) > 1]
            longest = max((sum(self._entries[i] for i in part) for part in parts), default=0)
            packs = [
                Pack(
                    part,
                    [self._slots[i] for i in part],
                    member,
                    Segments([self._entries[i] for i in part], device),
                )
                for part in parts
            ]
            found.append((program, longest, packs))
        return found


def _limit(ws: Sequence[Tensor]) -> int:
    return BLOCK if not ws or host.reads(ws[0].device) else _DEVICE_PACK


def _filled(positions: Sequence[int], entries: Sequence[int], limit: int) -> list[list[int]]:
    """Cuts positions where a pack has as many entries as it may have."""
    found: list[list[int]] = []
    filled = limit
    for i in positions:
        if filled + entries[i] > limit:
            found.append([])
            filled = 0
        found[-1].append(i)
        filled += entries[i]
    return found


class Pack:
    """Variables that are moved together, or one large variable.

    Args:
        positions: Of the variables.
        slots: Of each, which are moved into one piece of memory.
        member: Their group.
        segments: What they are in the vector, where the rule looks at each as a whole.
    """

    def __init__(
        self,
        positions: list[int],
        slots: Sequence[tuple[Tensor, ...]],
        member: Hashable,
        segments: Segments | None = None,
    ) -> None:
        self.positions, self.member, self.segments = positions, member, segments
        self._columns = [list(column) for column in zip(*slots, strict=True)]
        self.slots = [_together(column) for column in self._columns]

    def move(self, mover: Mover, ws: Sequence[Tensor], gs: Sequence[Tensor]) -> None:
        """Moves the variables of the pack; the mover sees one vector."""
        if self.segments is not None:
            mover = partial(mover, segments=self.segments)
        own = [ws[i] for i in self.positions]
        given = [gs[i] for i in self.positions]
        if isinstance(mover, kernels.Native) and mover.takes(own, given):
            mover.gather(own, given, self._columns)
            return
        if len(self.positions) == 1:
            w, g = own[0], given[0]
            if w.is_contiguous():
                mover(w.view(-1), g.reshape(-1), *self.slots)
            else:
                moved = w.flatten()
                mover(moved, g.reshape(-1), *self.slots)
                w.copy_(moved.view(w.shape))
            return
        w = _flatten_dense_tensors(own)
        mover(w, _flatten_dense_tensors(given), *self.slots)
        torch._foreach_copy_(own, _unflatten_dense_tensors(w, own))


def _together(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors' entries as one vector, in which the tensors lie from now on."""
    if len(tensors) == 1 and tensors[0].is_contiguous():
        return tensors[0].detach().view(-1)
    vector = torch.cat([t.detach().reshape(-1) for t in tensors])
    for tensor, piece in zip(tensors, vector.split([t.numel() for t in tensors]), strict=True):
        tensor.data = piece.view(tensor.shape)
    return vector
