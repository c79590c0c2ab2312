"""Program: a rule's arithmetic over one long vector as a short list of in-place ATen calls.

The rule is run once on small tensors while its operations are recorded. What is common to all
coordinates (bias corrections, products of rates) becomes a list of scalar operations, done once
per step. The rest is rewritten: scalar factors travel along the expressions until a call takes
them for nothing (`alpha`, `value`, the weight of a `lerp`), and results go where a dead operand
lies. Adam becomes six calls and one temporary. Blocks of the vector that stay in cache pass
through all calls, so that memory is read and written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from keras_gradopt.backend.torch import host
from keras_gradopt.backend.torch.blocks import cut
from keras_gradopt.backend.torch.lowering import Lowering
from keras_gradopt.backend.torch.recording import (
    LENGTH,
    Nodes,
    NotBlockwiseError,
    Recorder,
    Scalar,
    Vector,
)
from keras_gradopt.backend.torch.segments import ALL, EACH, Segments, segmented
from keras_gradopt.backend.torch.structure import structure
from keras_gradopt.backend.torch.writer import Fused, Writer, needed

Tensor = Any
# Tensors of fewer entries keep their temporaries, which takes longer than to compute.
_SMALL = 32_768
# Moves `(w, g, *slots)` in place.
Mover = Callable[..., None]


def record(
    move: Callable[..., tuple],
    vectors: Sequence[Tensor],
    scalars: Sequence[Tensor],
    *,
    blockwise: bool,
) -> Program:
    """Runs `move` once and makes a program of what it did.

    Args:
        move: `move(vectors, scalars) -> vectors`: weights, gradient, slots to new weights, slots.
        vectors: Weights, gradient and slots like those that will come.
        scalars: Tensors without dimensions, like those that each step will give.
        blockwise: Whether coordinates move alone, so that the program is for contiguous vectors of
            any length; else it is for tensors of these shapes.

    Raises:
        NotBlockwiseError: The rule does what programs do not: it reads a value, or, blockwise,
            sums over coordinates.
    """
    dtype, device = vectors[0].dtype, vectors[0].device
    if blockwise:
        examples = [torch.ones(LENGTH, dtype=dtype, device=device) for _ in vectors]
    else:
        examples = [v.detach() for v in vectors]
    given = [s.clone() for s in scalars]
    nodes = Nodes(device, on_host=host.reads(device), blockwise=blockwise)
    inputs = [nodes.enter(t, Vector(t.dtype, tuple(t.shape))) for t in examples]
    given_scalars = [nodes.enter(t, Scalar()) for t in given]
    with torch.no_grad(), Recorder(nodes):
        results = move(examples, given)
    outputs = [nodes.of(r) for r in results]
    for output, home in zip(outputs, [inputs[0], *inputs[2:]], strict=True):
        if not isinstance(output, Vector) or (output.dtype, output.shape) != (
            home.dtype,
            home.shape,
        ):
            raise NotBlockwiseError("a result is not of the type and shape of what it replaces")
    return Program(nodes, given_scalars, inputs, outputs)


class Program:
    """Moves tensors in place: `prepare` once per step, and what that gives for each of them.

    Args:
        nodes: What was recorded.
        given: The scalars that each step gives.
        inputs: Weights, gradient and slots.
        outputs: New weights and slots.
        in_segments: Whether the vectors stand for many tensors, as `segmented` gives them.
    """

    def __init__(
        self,
        nodes: Nodes,
        given: Sequence[Scalar],
        inputs: Sequence[Vector],
        outputs: Sequence[Vector],
        *,
        in_segments: bool = False,
    ) -> None:
        self._nodes, self._given, self._in_segments = nodes, list(given), in_segments
        self._inputs, self._outputs = inputs, outputs
        # On the host what is chosen for all coordinates is known before the first block.
        conditions = nodes.conditions() if nodes.on_host else []
        self._conditions = conditions
        asked = [scalar for scalar, _ in nodes.decisions]
        self._needed_first = needed([*conditions, *asked], nodes.scalars)
        self._variants: dict[tuple[bool, ...], _Variant] = {}
        self._fused: Fused | None = None

    @cached_property
    def _structured(self) -> tuple[Hashable, tuple[tuple[int, ...], ...]]:
        return structure(self._nodes, self._given, self._inputs, self._outputs)

    @property
    def structure(self) -> Hashable:
        """Equal for programs that do the same to tensors of other shapes."""
        return self._structured[0]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """All shapes, in the order in which those of an equal program stand for them."""
        return self._structured[1]

    @cached_property
    def for_segments(self) -> Program | None:
        """The program for many tensors that lie in one vector, where the rule allows it."""
        # What was asked on the way may be answered otherwise later; then it would be another one.
        found = None if self._nodes.decisions else segmented(self._inputs, self._outputs)
        return (
            None if found is None else Program(self._nodes, self._given, *found, in_segments=True)
        )

    def prepare(self, values: Sequence[Tensor], block: int) -> Mover | None:
        """Computes the scalars of one step.

        Args:
            values: The scalar tensors, in the order of `record`.
            block: Entries per block, or of the longest vector of segments.

        Returns:
            What moves weights and slots in place: a function of contiguous vectors; of tensors,
            and `shapes=` in the place of `self.shapes`; or of vectors and their `segments=`. None
            where this step's scalars are none that the program is right for.
        """
        known: dict[Scalar, Any] = dict(zip(self._given, values, strict=True))
        self._compute(self._needed_first, known)
        if not self._goes_this_way(known):
            return None
        choice = tuple(bool(known[c]) for c in self._conditions)
        if choice not in self._variants:
            decided = dict(zip(self._conditions, choice, strict=True))
            lowered = Lowering(self._nodes, self._outputs, decided)
            self._variants[choice] = _Variant(self._nodes, self._inputs, lowered)
        variant = self._variants[choice]
        self._compute(variant.scalars, known)
        numbers = variant.numbers(known)
        if numbers is None:
            return None
        if self._nodes.blockwise:
            return variant.over_blocks(numbers, block)
        if self._in_segments:
            return variant.over_segments(numbers, block)
        return variant.over_tensors(numbers, self.shapes)

    def compiled(self, values: Sequence[Tensor]) -> Callable[..., None] | None:
        """The same as `prepare`, the operations as recorded and compiled by torch.

        Args:
            values: The scalar tensors, in the order of `record`.
        """
        if self._fused is None:
            self._fused = Fused(self._nodes, self._inputs, self._outputs)
        fused = self._fused
        known: dict[Scalar, Any] = dict(zip(self._given, values, strict=True))
        self._compute(self._needed_first, known)
        if not self._goes_this_way(known):
            return None
        self._compute(fused.needed, known)
        scalars = [_as_tensor(known[s], self._nodes.device) for s in fused.scalars]
        return lambda *vectors, shapes=None: fused.function(vectors, scalars)

    def _goes_this_way(self, known: Mapping[Scalar, Any]) -> bool:
        """Whether the rule would take the branches that it took when it was recorded."""
        return all(bool(known[scalar]) is answer for scalar, answer in self._nodes.decisions)

    def source(self, *choice: bool) -> str:
        """The program as Python, for the conditions decided so.

        Args:
            *choice: What the conditions are that choose for all coordinates, in order.
        """
        return self._variants[choice].source

    def _compute(self, scalars: Sequence[Scalar], known: dict[Scalar, Any]) -> None:
        for scalar in scalars:
            if scalar in known:
                continue
            if scalar.operation is None:
                known[scalar] = scalar.number
                continue
            operands = [known[o] if isinstance(o, Scalar) else o for o in scalar.operands]
            if not scalar.is_derived:
                # As they were recorded: a number among them has been a tensor until it was folded.
                operands = [
                    _as_tensor(known[o], self._nodes.device) if isinstance(o, Scalar) else o
                    for o in scalar.operands
                ]
            elif self._nodes.on_host:
                # Python's numbers: a tensor takes longer to make than to compute.
                operands = [float(o) for o in operands]
            known[scalar] = scalar.operation(*operands)


class _Variant:
    """The program where the conditions are as they are."""

    def __init__(self, nodes: Nodes, inputs: Sequence[Vector], lowered: Lowering) -> None:
        writer = Writer(inputs, lowered)
        self.source = writer.source
        self._on_host, self._device = nodes.on_host, nodes.device
        self._under_roots, self._divisors = lowered.under_roots, lowered.divisors
        self._read = writer.scalars
        read = [scalar for scalar, _ in self._read]
        self.scalars = needed([*read, *self._under_roots, *self._divisors], nodes.scalars)
        self._block, self._blocks = writer.functions()
        self._kinds = writer.temporaries
        self._workspace: list[Tensor] = []
        self._spaces: dict[Sequence[tuple[int, ...]], list[Tensor]] = {}

    def numbers(self, known: Mapping[Scalar, Any]) -> list[Any] | None:
        """The scalars as calls take them; None where they are none the program is right for."""
        if not self._on_host:
            return [known[s] for s, _ in self._read]
        if any(float(known[s]) < 0 for s in self._under_roots) or any(
            float(known[s]) == 0 for s in self._divisors
        ):
            return None
        # ATen takes Python numbers for factors; on the host reading them waits for nothing.
        return [
            float(known[s]) if kind == "factor" else _as_tensor(known[s], self._device)
            for s, kind in self._read
        ]

    def over_blocks(self, numbers: list[Any], block: int) -> Mover:
        """Moves vectors, block after block."""

        def move(*vectors: Tensor) -> None:
            entries = vectors[0].numel()
            if entries <= block:
                self._block(*vectors, *self._temporaries(entries, vectors[0]), numbers)
                return
            *pieces, last = cut(vectors, block)
            self._blocks(pieces, *self._temporaries(len(pieces[0][0]), vectors[0]), numbers)
            self._block(*last, *self._temporaries(len(last[0]), vectors[0]), numbers)

        return move

    def over_tensors(self, numbers: list[Any], own: Sequence[tuple[int, ...]]) -> Mover:
        """Moves tensors whose shapes stand for `own`."""

        def move(*tensors: Tensor, shapes: Sequence[tuple[int, ...]] = own) -> None:
            fresh = self._spaces.get(shapes)
            if fresh is None:
                fresh = self._space(dict(zip(own, shapes, strict=True)), tensors[0].device)
                if tensors[0].numel() < _SMALL:
                    self._spaces[shapes] = fresh
            self._block(*tensors, *fresh, numbers)

        return move

    def _space(
        self, at: Mapping[tuple[int, ...], tuple[int, ...]], device: torch.device
    ) -> list[Tensor]:
        """Temporaries of one kind of tensors; those of small ones lie in the same memory."""
        shapes = [(at[shape], dtype) for shape, dtype in self._kinds]
        if any(math.prod(shape) >= _SMALL for shape, _ in shapes):
            return [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in shapes]
        if len(self._workspace) < len(shapes):
            self._workspace = [torch.empty(_SMALL, dtype=d, device=device) for _, d in shapes]
        pairs = zip(self._workspace, shapes, strict=True)
        return [t[: math.prod(shape)].view(shape) for t, (shape, _) in pairs]

    def over_segments(self, numbers: list[Any], longest: int) -> Mover:
        """Moves vectors of segments, none longer than `longest`."""

        def move(*vectors: Tensor, segments: Segments) -> None:
            device = vectors[0].device
            if self._kinds and (not self._workspace or len(self._workspace[0]) < longest):
                self._workspace = [
                    torch.empty(longest, dtype=d, device=device) for _, d in self._kinds
                ]
            lengths: dict[tuple[int, ...], int] = {ALL: segments.entries, EACH: len(segments)}
            own = [t[: lengths[s]] for t, (s, _) in zip(self._workspace, self._kinds, strict=True)]
            segments.stays(*own, *vectors[2:])
            self._block(*vectors, *own, numbers, segments)

        return move

    def _temporaries(self, entries: int, like: Tensor) -> list[Tensor]:
        if self._kinds and (not self._workspace or len(self._workspace[0]) < entries):
            self._workspace = [
                torch.empty(entries, dtype=dtype, device=like.device) for _, dtype in self._kinds
            ]
        return [t if len(t) == entries else t[:entries] for t in self._workspace]


def _as_tensor(value: Any, device: torch.device) -> Tensor:
    if isinstance(value, torch.Tensor):
        return value
    # Not `torch.tensor`: what it copies from the host waits for the device.
    return torch.full((), value, dtype=torch.float32, device=device)
