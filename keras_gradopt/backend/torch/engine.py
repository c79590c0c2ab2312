"""Moves weights and slots in place on torch: by fused kernels, or by recorded programs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from keras_gradopt.backend.torch import host, kernels
from keras_gradopt.backend.torch.layout import BLOCK, Kinds, Layout, Vectors
from keras_gradopt.backend.torch.program import Mover, Program, record
from keras_gradopt.backend.torch.recording import NotBlockwiseError
from keras_gradopt.kernel import kernel_of

Tensor = Any

_LAYOUTS_KEPT = 4
_PROGRAMS_KEPT = 512
_WAYS_KEPT = 8

_engines: WeakKeyDictionary[Any, Engine] = WeakKeyDictionary()


def engine_of(rule: Any) -> Engine:
    """The engine of an optimizer, made at its first step; a copy of the optimizer has its own."""
    if rule not in _engines:
        _engines[rule] = Engine()
    return _engines[rule]


class _Placed(NamedTuple):
    """A program, and the shapes that it is for here."""

    program: Program
    shapes: tuple[tuple[int, ...], ...]


class _Now:
    """The numbers of one step, and the programs that are ready for it."""

    def __init__(self, rule: Any, h: Any, factor: Tensor | None) -> None:
        self.rule, self.h, self.factor = rule, h, factor
        self.places, self.values, self.constants = _scalars(h, factor)
        self._ready: dict[Program, Mover | None] = {}

    def ready(self, program: Program, block: int = 0) -> Mover | None:
        """What moves tensors now; None where the program is not right for these numbers."""
        if program not in self._ready:
            if self.rule.jit_compile is True:
                self._ready[program] = program.compiled(self.values)
            else:
                self._ready[program] = program.prepare(self.values, block)
        return self._ready[program]

    def move_of(self, member: Hashable) -> Callable[..., tuple]:
        """The rule as a function of tensors and of the scalars in their places."""

        def move(vectors: Sequence[Tensor], scalars: Sequence[Tensor]) -> tuple:
            own, scale = _with_scalars(self.h, self.places, scalars)
            w, g, *rest = vectors
            g = g if scale is None else g * scale.to(g.dtype)
            return tuple(self.rule.move(w, g, *rest, h=own, member=member))

        return move


class Engine:
    """What one optimizer keeps between steps: how its variables are packed, and its programs."""

    def __init__(self) -> None:
        self._layouts: list[Any] = []
        # One for each way through the rule; empty where it cannot be made a program.
        self._programs: dict[Hashable, list[_Placed]] = {}
        self._structures: dict[Hashable, Program] = {}
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
        now = _Now(rule, h, factor)
        step = self._step_vectors if rule.elementwise else self._step_tensors
        step(now, ws, gs, slots, members)

    def _layout(
        self,
        make: Callable[..., Layout],
        ws: Sequence[Tensor],
        slots: Sequence[tuple[Tensor, ...]],
        members: Sequence[Hashable],
    ) -> Any:
        flat = [s for own in slots for s in own]
        for layout in self._layouts:
            if layout.holds(flat, ws, members):
                return layout
        layout = make(ws, slots, members)
        self._layouts = [layout, *self._layouts[: _LAYOUTS_KEPT - 1]]
        return layout

    # -- rules that move coordinates alone

    def _step_vectors(
        self,
        now: _Now,
        ws: Sequence[Tensor],
        gs: Sequence[Tensor],
        slots: Sequence[tuple[Tensor, ...]],
        members: Sequence[Hashable],
    ) -> None:
        movers: dict[Hashable, Mover] = {}
        make = partial(Vectors, compiled=now.rule.jit_compile is True)
        for pack in self._layout(make, ws, slots, members).packs:
            first = ws[pack.positions[0]]
            kind = (pack.member, len(pack.slots), first.dtype, first.device)
            if kind not in movers:
                movers[kind] = self._vector_mover(now, kind, first)
            pack.move(movers[kind], ws, gs)
        for mover in movers.values():
            if isinstance(mover, kernels.Native):
                mover.finish()

    def _vector_mover(self, now: _Now, kind: tuple, like: Tensor) -> Mover:
        member, slots, dtype, device = kind
        # Entries per block: on the host as many as the threads' caches hold, on a device all.
        block = BLOCK * torch.get_num_threads() if host.reads(device) else 1 << 62
        kernel = kernel_of(now.rule, now.h)
        if kernel is not None and now.rule.jit_compile is not True:
            native = kernels.native(kernel, now.h, member, dtype, device, now.factor, block)
            if native is not None:
                return native
        placed = self._program(now, kind, [like] * (2 + slots), block)
        mover = None if placed is None else now.ready(placed.program, block)
        return mover or _plain(now, member)

    # -- rules on whole tensors

    def _step_tensors(
        self,
        now: _Now,
        ws: Sequence[Tensor],
        gs: Sequence[Tensor],
        slots: Sequence[tuple[Tensor, ...]],
        members: Sequence[Hashable],
    ) -> None:
        layout = self._layout(Kinds, ws, slots, members)
        placed = self._programs_of(now, layout, ws, gs, slots)
        done = self._step_packs(now, layout, placed, ws, gs)
        for (kind, positions), found in zip(layout.kinds.items(), placed, strict=True):
            mover = _plain(now, kind[0]) if found is None else self._tensor_mover(now, found)
            for i in positions:
                if i not in done:
                    mover(ws[i], gs[i], *slots[i])

    def _programs_of(
        self,
        now: _Now,
        layout: Kinds,
        ws: Sequence[Tensor],
        gs: Sequence[Tensor],
        slots: Sequence[tuple[Tensor, ...]],
    ) -> list[_Placed | None]:
        """For each kind its program; mostly the one of the last step."""
        key = (tuple(now.places), now.constants)
        found = layout.last.get(key)
        if found is None or any(p is None or now.ready(p.program) is None for p in found):
            found = [
                self._program(now, kind, (ws[i], gs[i], *slots[i]))
                for kind, (i, *_) in layout.kinds.items()
            ]
            layout.last = {key: found}
        return found

    def _tensor_mover(self, now: _Now, placed: _Placed) -> Mover:
        mover = now.ready(placed.program)
        assert mover is not None
        return partial(mover, shapes=placed.shapes)

    def _step_packs(
        self,
        now: _Now,
        layout: Kinds,
        placed: Sequence[_Placed | None],
        ws: Sequence[Tensor],
        gs: Sequence[Tensor],
    ) -> set[int]:
        """Moves what one program moves as segments of a vector, and says which these were."""
        done: set[int] = set()
        if now.rule.jit_compile is True:
            return done
        for program, longest, packs in layout.packs([p and p.program for p in placed]):
            mover = now.ready(program, longest)
            if mover is not None:
                for pack in packs:
                    pack.move(mover, ws, gs)
                    done.update(pack.positions)
        return done

    # -- programs

    def _program(
        self, now: _Now, kind: tuple, vectors: Sequence[Tensor], block: int = 0
    ) -> _Placed | None:
        """The rule as a program that is right for the numbers of this step, if it can be one."""
        key = (*kind, tuple(now.places), now.constants)
        if len(self._programs) >= _PROGRAMS_KEPT:
            self._programs.clear()
            self._structures.clear()
        known = self._programs.setdefault(key, [])
        for placed in known:
            if now.ready(placed.program, block) is not None:
                return placed
        if key in self._refused or len(known) >= _WAYS_KEPT:
            return None
        try:
            placed = self._recorded(now, kind, vectors)
        except NotBlockwiseError:
            self._refused.add(key)
            return None
        known.append(placed)
        return placed if now.ready(placed.program, block) is not None else None

    def _recorded(self, now: _Now, kind: tuple, vectors: Sequence[Tensor]) -> _Placed:
        blockwise = now.rule.elementwise
        program = record(now.move_of(kind[0]), vectors, now.values, blockwise=blockwise)
        if not blockwise:
            same = (program.structure, vectors[0].device, tuple(now.places))
            shapes = program.shapes
            return _Placed(self._structures.setdefault(same, program), shapes)
        return _Placed(program, ())


def _plain(now: _Now, member: Hashable) -> Mover:
    """The rule as it is written, its results copied."""

    def move(*vectors: Tensor) -> None:
        w, g, *slots = vectors
        g = g if now.factor is None else g * now.factor.to(g.dtype)
        new = now.rule.move(w, g, *slots, h=now.h, member=member)
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
