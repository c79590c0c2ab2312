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
    operation: str = ""
    operands: tuple = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    function: Callable | None = None


class Recorder(TorchDispatchMode):
    """Writes down each operation, and runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


class Nodes:
    """The recorded operations as a graph in which equal ones are one."""

    def __init__(self, on_host: bool) -> None:
        self.on_host = on_host
        self.scalars: list[Scalar] = []
        self._of: dict[int, Scalar | Vector] = {}
        self._equal: dict[tuple, Scalar | Vector] = {}
        # Ids are of living objects only.
        self._alive: list[Tensor] = []

    def enter(self, tensor: Tensor, node: Any) -> Any:
        """Makes a new node known as what this tensor holds."""
        self._of[id(tensor)] = node
        self._alive.append(tensor)
        if isinstance(node, Scalar):
            self.scalars.append(node)
        return node

    def of(self, value: Any) -> Any:
        """The node of a tensor; what is none stays. A tensor from elsewhere is a constant."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._of:
            if value.dim():
                raise NotBlockwiseError(f"a tensor of shape {tuple(value.shape)} from elsewhere")
            self.enter(value, Scalar(operation=lambda: value))
        return self._of[id(value)]

    def add(self, func: Any, args: tuple, keywords: dict[str, Any], result: Any) -> None:
        """Adds one recorded call."""
        name = func.overloadpacket.__name__
        if not isinstance(result, torch.Tensor) or func._schema.is_mutable:
            raise NotBlockwiseError(f"{func} is no operation from tensors to a tensor")
        operands = tuple(self.of(a) for a in args)
        keywords = {k: self.of(v) for k, v in keywords.items()}
        first: Any = operands[0] if operands else None
        if name in _ALIASES and _hands_on(first, result):
            self._enter_known(result, first)
            return
        key: tuple = (func, operands, tuple(sorted(keywords.items(), key=lambda item: item[0])))
        try:
            if key in self._equal:
                self._enter_known(result, self._equal[key])
                return
        except TypeError:  # a list among the operands
            key = (id(result),)
        touched = [*operands, *keywords.values()]
        if any(isinstance(t, list | tuple) for t in touched):
            raise NotBlockwiseError(f"{func} takes a list")
        has_vectors = any(isinstance(t, Vector) for t in touched)
        if tuple(result.shape) == (LENGTH,) and has_vectors:
            node: Any = Vector(result.dtype, name, operands, keywords, func)
        elif result.dim() == 0 and not has_vectors:
            number = None if keywords else _folded(name, operands)
            if number is not None:
                self._enter_known(result, self.constant(number))
                return
            node = Scalar(operation=_with_keywords(func, keywords), operands=operands)
        else:
            raise NotBlockwiseError(f"{func} makes the shape {tuple(result.shape)}")
        self._equal[key] = self.enter(result, node)

    def _enter_known(self, tensor: Tensor, node: Scalar | Vector) -> None:
        self._of[id(tensor)] = node
        self._alive.append(tensor)

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


def _hands_on(first: Any, result: Tensor) -> bool:
    """Whether a change of shape or type leaves a node as it is; scalars fit any shape."""
    if isinstance(first, Scalar):
        return True
    return (
        isinstance(first, Vector)
        and first.dtype == result.dtype
        and tuple(result.shape) == (LENGTH,)
    )


def _with_keywords(func: Callable, keywords: dict[str, Any]) -> Callable:
    return (lambda *operands: func(*operands, **keywords)) if keywords else func
