"""Moves weights and slots in place on torch: by fused kernels, or by programs over blocks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from keras_gradopt.backend import engine
from keras_gradopt.backend.torch import host, kernels
from keras_gradopt.backend.torch.program import Program, record
from keras_gradopt.backend.torch.recording import NotBlockwiseError
from keras_gradopt.kernel import kernel_of

Tensor = Any
# Moves contiguous vectors `(w, g, *slots)` in place.
Mover = Callable[..., None]

# Entries of a block for each thread: weights, gradient, slots and temporaries stay in its cache.
_BLOCK = 131_072
# On a device nothing is blocked; packing spares launches until copying costs as much.
_DEVICE_PACK = 1 << 20
_LAYOUTS_KEPT = 4
_PROGRAMS_KEPT = 512
_WAYS_KEPT = 8

_engines: WeakKeyDictionary[Any, Engine] = WeakKeyDictionary()


def engine_of(rule: Any) -> Engine:
    """The engine of an optimizer, made at its first step; a copy of the optimizer has its own."""
    if rule not in _engines:
        _engines[rule] = Engine()
    return _engines[rule]


class Engine:
    """What one optimizer keeps between steps: how its variables are packed, and its programs."""

    def __init__(self) -> None:
        self._layouts: list[_Layout] = []
        # One for each way through the rule; empty where it cannot be made a program.
        self._programs: dict[Hashable, list[Program]] = {}
        self._refused: set[Hashable] = set()

    def step(
        self,
        rule: Any,
        ws: Sequence[Tensor],
        gs: Sequence[Tensor],
        slots: Sequence[tuple[Tensor, ...]],
        h: Any,
        members: Sequence[Hashable],
        factor: Tensor | None,
    ) -> None:
        """One step; weights and slots are overwritten.

        Args:
            rule: The optimizer.
            ws: Weights.
            gs: Gradients.
            slots: Per variable, its slots: the tensors that its variables hold.
            h: Hyper-parameters of the step.
            members: Per variable, its group.
            factor: What all gradients are multiplied by; None is 1.
        """
        movers: dict[Hashable, Mover] = {}
        if not rule.elementwise:
            for w, g, own, member in zip(ws, gs, slots, members, strict=True):
                kind = (member, w.device, *((t.shape, t.dtype) for t in (w, *own)))
                if kind not in movers:
                    movers[kind] = self._whole_mover(rule, kind, (w, g, *own), h, factor)
                movers[kind](w, g, *own)
            return
        layout = self._layout(ws, slots, members)
        for pack in layout.packs:
            first = ws[pack.positions[0]]
            kind = (pack.member, len(pack.slots), first.dtype, first.device)
            if kind not in movers:
                movers[kind] = self._mover(rule, kind, first, h, factor)
            pack.move(movers[kind], ws, gs)
        for mover in movers.values():
            if isinstance(mover, kernels.Native):
                mover.finish()

    def _layout(
        self,
        ws: Sequence[Tensor],
        slots: Sequence[tuple[Tensor, ...]],
        members: Sequence[Hashable],
    ) -> _Layout:
        flat = [s for own in slots for s in own]
        for layout in self._layouts:
            if layout.holds(flat, ws, members):
                return layout
        layout = _Layout(ws, slots, members)
        self._layouts = [layout, *self._layouts[: _LAYOUTS_KEPT - 1]]
        return layout

    def _mover(self, rule: Any, kind: tuple, like: Tensor, h: Any, factor: Tensor | None) -> Mover:
        member, slots, dtype, device = kind
        block = _block(device)
        kernel = kernel_of(rule, h)
        if kernel is not None and rule.jit_compile is not True:
            native = kernels.native(kernel, h, member, dtype, device, factor, block)
            if native is not None:
                return native
        vectors = [like] * (2 + slots)
        return self._programmed(rule, kind, vectors, h, factor, block)

    def _whole_mover(
        self, rule: Any, kind: tuple, tensors: Sequence[Tensor], h: Any, factor: Tensor | None
    ) -> Mover:
        return self._programmed(rule, kind, tensors, h, factor, 0)

    def _programmed(
        self,
        rule: Any,
        kind: tuple,
        vectors: Sequence[Tensor],
        h: Any,
        factor: Tensor | None,
        block: int,
    ) -> Mover:
        """The rule as a program, or as it is written where it cannot be one."""
        member = kind[0]
        places, values, constants = _scalars(h, factor)
        key = (*kind, tuple(places), constants)
        if len(self._programs) >= _PROGRAMS_KEPT:
            self._programs.clear()
        known = self._programs.setdefault(key, [])
        for program in known:
            mover = _prepared(program, rule, values, block)
            if mover is not None:
                return mover

        def move(vectors: Sequence[Tensor], scalars: Sequence[Tensor]) -> tuple:
            own, scale = _with_scalars(h, places, scalars)
            w, g, *rest = vectors
            g = g if scale is None else g * scale.to(g.dtype)
            return tuple(rule.move(w, g, *rest, h=own, member=member))

        if key not in self._refused and len(known) < _WAYS_KEPT:
            try:
                known.append(record(move, vectors, values, blockwise=rule.elementwise))
                mover = _prepared(known[-1], rule, values, block)
                if mover is not None:
                    return mover
            except NotBlockwiseError:
                self._refused.add(key)
        return _plain(rule, member, h, factor)


def _prepared(program: Program, rule: Any, values: Sequence[Tensor], block: int) -> Mover | None:
    if rule.jit_compile is True:
        return program.compiled(values)
    return program.prepare(values, block)


def _block(device: torch.device) -> int:
    """Entries per block: on the host as many as the threads' caches hold, on a device all."""
    return _BLOCK * torch.get_num_threads() if host.reads(device) else 1 << 62


def _plain(rule: Any, member: Hashable, h: Any, factor: Tensor | None) -> Mover:
    """The rule as it is written, its results copied."""

    def move(*vectors: Tensor) -> None:
        w, g, *slots = vectors
        g = g if factor is None else g * factor.to(g.dtype)
        new = rule.move(w, g, *slots, h=h, member=member)
        torch._foreach_copy_([w, *slots], list(new))

    return move


# ---------------------------------------------------------------------- hyper-parameters

# Stands for the gradients' factor among the places of scalars.
_FACTOR = ("", "factor")


def _scalars(h: Any, factor: Tensor | None) -> tuple[list[tuple], list[Tensor], tuple]:
    """The tensors without dimensions in `h`, where they stand, and the numbers beside them."""
    places, values, constants = [], [], []
    for name, value in h.__dict__.items():
        for key, item in value.items() if isinstance(value, dict) else ((None, value),):
            if isinstance(item, torch.Tensor):
                if item.dim() == 0:
                    places.append((name, key))
                    values.append(item)
            else:
                constants.append((name, key, item))
    if factor is not None:
        places.append(_FACTOR)
        values.append(factor)
    return places, values, tuple(constants)


def _with_scalars(
    h: Any, places: Sequence[tuple], scalars: Sequence[Tensor]
) -> tuple[Any, Tensor | None]:
    """`h` with other tensors at these places, and the gradients' factor."""
    changed = {k: dict(v) if isinstance(v, dict) else v for k, v in h.__dict__.items()}
    factor = None
    for (name, key), scalar in zip(places, scalars, strict=True):
        if (name, key) == _FACTOR:
            factor = scalar
        elif key is None:
            changed[name] = scalar
        else:
            changed[name][key] = scalar
    return h.replace(**changed), factor


# ---------------------------------------------------------------------- where variables lie


class _Layout:
    """How variables are packed, with the slots of each pack in one piece of memory."""

    def __init__(
        self,
        ws: Sequence[Tensor],
        slots: Sequence[tuple[Tensor, ...]],
        members: Sequence[Hashable],
    ) -> None:
        self._flat = [s for own in slots for s in own]
        # Slots tell which variables these are; a rule without any goes by what they look like.
        self._kinds = _kinds(ws) if not self._flat else None
        self._members = members
        self.packs = [
            _Pack(positions, [slots[i] for i in positions], members[positions[0]])
            for positions in _packs(ws, slots, members)
        ]
        # Slots are moved together first, so these are where they lie now.
        self._pointers = [s.data_ptr() for s in self._flat]

    def holds(
        self, flat: Sequence[Tensor], ws: Sequence[Tensor], members: Sequence[Hashable]
    ) -> bool:
        """Whether these variables are the packed ones, and their slots where they were."""
        return (
            len(flat) == len(self._flat)
            and all(map(is_, flat, self._flat))
            and [s.data_ptr() for s in flat] == self._pointers
            and (self._kinds is None or _kinds(ws) == self._kinds)
            and (members is self._members or members == self._members)
        )


def _kinds(ws: Sequence[Tensor]) -> list[tuple]:
    return [(w.shape, w.dtype, w.device) for w in ws]


def _packs(
    ws: Sequence[Tensor], slots: Sequence[tuple[Tensor, ...]], members: Sequence[Hashable]
) -> list[list[int]]:
    """Positions of variables that are moved together: as many small ones as fill a block."""
    limit = _BLOCK if not ws or host.reads(ws[0].device) else _DEVICE_PACK
    found: list[list[int]] = []
    for positions in engine.packs(True, ws, slots, members, limit):
        filled = limit
        for i in positions:
            entries = ws[i].numel()
            if filled + entries > limit:
                found.append([])
                filled = 0
            found[-1].append(i)
            filled += entries
    return found


class _Pack:
    """Variables that are moved together, or one large variable."""

    def __init__(
        self,
        positions: list[int],
        slots: Sequence[tuple[Tensor, ...]],
        member: Hashable,
    ) -> None:
        self.positions, self.member = positions, member
        self._columns = [list(column) for column in zip(*slots, strict=True)]
        self.slots = [_together(column) for column in self._columns]

    def move(self, mover: Mover, ws: Sequence[Tensor], gs: Sequence[Tensor]) -> None:
        """Moves the variables of the pack; the mover sees one vector."""
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
