"""What a rule does to its tensors, written down as a graph of scalars and vectors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Tensor = Any
# Entries of the vectors on which a rule is recorded: no other tensor has this length by chance.
LENGTH = 7
# Operations that hand on their first argument where its shape or type does not change.
_ALIASES = {"detach", "alias", "view", "_unsafe_view", "expand", "clone", "lift_fresh", "_to_copy"}


class NotBlockwiseError(Exception):
    """The rule does something that a list of calls over blocks cannot."""


@dataclass(eq=False)
class Scalar:
    """A number common to all coordinates: given, constant, or `operation` of others."""

    operation: Callable | None = None
    operands: tuple = ()
    number: float | None = None
    # Whether the lowering made it, of numbers; recorded operations are on tensors.
    is_derived: bool = False


@dataclass(eq=False)
class Vector:
    """What one recorded operation gives for each coordinate: `operation` of others, or an input."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    operation: str = ""
    operands: tuple = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    function: Callable | None = None
    # Whether it shows the memory of another tensor, and which vector's that is.
    is_view: bool = False
    origin: Vector | None = None


class Recorder(TorchDispatchMode):
    """Runs each operation and adds it to the nodes."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__()
        self._nodes = nodes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        self._nodes.add(func, args, kwargs or {}, result)
        return result


class Nodes:
    """The recorded operations as a graph in which equal ones are one.

    Args:
        device: Where the tensors lie.
        on_host: Whether the host may read numbers without waiting.
        blockwise: Whether all vectors are of `LENGTH` and coordinates move alone; else shapes are
            what they are, and what depends on vectors may be of any.
    """

    def __init__(self, device: torch.device, *, on_host: bool, blockwise: bool) -> None:
        self.device, self.on_host, self.blockwise = device, on_host, blockwise
        self.scalars: list[Scalar] = []
        # What the rule asked about before it went on, and the answers it got.
        self.decisions: list[tuple[Scalar, bool]] = []
        self._equal: dict[tuple, Scalar | Vector] = {}

    def enter(self, tensor: Tensor, node: Any) -> Any:
        """Makes a new node known as what this tensor holds."""
        if isinstance(node, Scalar):
            self.scalars.append(node)
        return self._enter_known(tensor, node)

    def _enter_known(self, tensor: Tensor, node: Any) -> Any:
        # On the tensor itself: its id may be another's once it is gone.
        tensor._recorded = (self, node)
        return node

    def of(self, value: Any) -> Any:
        """The node of a tensor; what is none stays. A tensor from elsewhere is a constant."""
        if isinstance(value, list | tuple):
            if any(isinstance(item, torch.Tensor) for item in value):
                raise NotBlockwiseError("a list of tensors")
            return tuple(value)
        if not isinstance(value, torch.Tensor):
            return value
        recording, node = getattr(value, "_recorded", (None, None))
        if recording is self:
            return node
        if value.dim():
            raise NotBlockwiseError(f"a tensor of shape {tuple(value.shape)} from elsewhere")
        return self.enter(value, Scalar(operation=_Constant(value)))

    def add(self, func: Any, args: tuple, keywords: dict[str, Any], result: Any) -> None:
        """Adds one recorded call."""
        if func._schema.is_mutable:
            raise NotBlockwiseError(f"{func} writes into its operands")
        operands = tuple(self.of(a) for a in args)
        keywords = {k: self.of(v) for k, v in keywords.items()}
        if isinstance(result, bool) and self.on_host and isinstance(operands[0], Scalar):
            self.decisions.append((operands[0], result))
            return
        if isinstance(result, tuple) and not self.blockwise:
            self._add_each(func, operands, keywords, result)
            return
        if not isinstance(result, torch.Tensor):
            raise NotBlockwiseError(f"{func} is no operation from tensors to a tensor")
        name = func.overloadpacket.__name__
        first: Any = operands[0] if operands else None
        copies_view = name == "clone" and getattr(first, "is_view", False)
        if name in _ALIASES and not copies_view and _hands_on(first, result, self.blockwise):
            self._enter_known(result, first)
            return
        key = (func, operands, tuple(sorted(keywords.items(), key=lambda item: item[0])))
        if key in self._equal:
            self._enter_known(result, self._equal[key])
            return
        has_vectors = any(isinstance(t, Vector) for t in (*operands, *keywords.values()))
        shape = tuple(result.shape)
        if self.blockwise and shape != ((LENGTH,) if has_vectors else ()):
            raise NotBlockwiseError(f"{func} makes the shape {shape}")
        if has_vectors or shape:
            origin = first if func.is_view and isinstance(first, Vector) else None
            # A program's own results may lie in another order than the recorded ones.
            function = torch.reshape if name in ("view", "_unsafe_view") else func
            node: Any = Vector(
                result.dtype, shape, name, operands, keywords, function, func.is_view, origin
            )
        else:
            number = None if keywords else _folded(name, operands)
            if number is not None:
                self._enter_known(result, self.constant(number))
                return
            operation = _WithKeywords(func, tuple(keywords.items())) if keywords else func
            node = Scalar(operation=operation, operands=operands)
        self._equal[key] = self.enter(result, node)

    def _add_each(self, func: Any, operands: tuple, keywords: dict[str, Any], results: Any) -> None:
        """A call that gives several tensors: one node for all, and one for each."""
        every = Vector(torch.float32, (-1,), "tuple", operands, keywords, func)
        for position, result in enumerate(results):
            choose = (every, position)
            shape = tuple(result.shape)
            node = Vector(result.dtype, shape, "choose", choose, {}, operator.getitem)
            self.enter(result, node)

    def conditions(self) -> list[Scalar]:
        """The scalars that choose between vectors, for all coordinates alike."""
        chosen = [
            node.operands[0]
            for node in self._equal.values()
            if isinstance(node, Vector) and node.operation == "where"
        ]
        return list(dict.fromkeys(c for c in chosen if isinstance(c, Scalar)))

    # What the lowering adds.

    def constant(self, number: float) -> Scalar:
        """The scalar of a number."""
        return self._made(None, (float(number),), Scalar(number=float(number)))

    def scalar(self, operation: Callable, *operands: Scalar) -> Scalar:
        """A scalar that follows from others; a number if they are numbers."""
        if all(o.number is not None for o in operands):
            return self.constant(operation(*(o.number for o in operands)))
        node = Scalar(operation=operation, operands=operands, is_derived=True)
        return self._made(operation, operands, node)

    def _made(self, operation: Callable | None, operands: tuple, node: Scalar) -> Scalar:
        found = self._equal.setdefault((operation, operands), node)
        if found is node:
            self.scalars.append(node)
        assert isinstance(found, Scalar)
        return found

    def as_scalar(self, value: Any) -> Scalar | None:
        """A number or scalar as a scalar, None for anything else."""
        if isinstance(value, Scalar):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self.constant(value)
        return None


_ARITHMETIC = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}


def _folded(name: str, operands: tuple) -> float | None:
    """The number that an operation on numbers gives; anything times 0 is 0."""
    numbers = [o.number if isinstance(o, Scalar) else o for o in operands]
    if name == "mul" and 0.0 in numbers:
        return 0.0
    known = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if name in _ARITHMETIC and known and len(numbers) == 2:
        return float(_ARITHMETIC[name](*numbers))
    return None


def _hands_on(first: Any, result: Tensor, blockwise: bool) -> bool:
    """Whether a change of shape or type leaves a node as it is; in blocks scalars fit any shape."""
    if isinstance(first, Scalar):
        return blockwise or result.dim() == 0
    return (
        isinstance(first, Vector)
        and first.dtype == result.dtype
        and first.shape == tuple(result.shape)
    )


class _Constant:
    """A tensor from elsewhere, equal to those of the same number.

    A recording reads it, also from a device; the steps after it do not.
    """

    def __init__(self, value: Tensor) -> None:
        self._value = value
        self._key = (value.dtype, value.device, repr(value.item()))

    def __call__(self) -> Tensor:
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constant) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True)
class _WithKeywords:
    function: Callable
    keywords: tuple[tuple[str, Any], ...]

    def __call__(self, *operands: Any) -> Any:
        return self.function(*operands, **dict(self.keywords))
