"""Cells: one rule over one set of variables, every side measured."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.parts import floor, measure
from benchmarks.parts import sides as all_sides
from benchmarks.parts.methods import METHODS
from benchmarks.parts.results import FLOOR
from benchmarks.parts.sets import SETS, Shape, size, transformer
from benchmarks.parts.sides import BACKEND

# All sides step over these before anything else is timed, so that what a framework loads at its
# first use is no part of a first call.
SMALLEST = transformer(layers=1, width=8, tokens=4, positions=4)
_warm: set[str] = set()


def measured(
    shapes: Sequence[Shape],
    rule: str,
    mode: str,
    *,
    rounds: int,
    first_calls: int = 1,
    compiled: bool = False,
    tell: Callable[[str], Any] = lambda _: None,
) -> dict[str, Any]:
    """The figures of one cell, ready for JSON.

    Args:
        shapes: Of the variables.
        rule: A key of `METHODS`.
        mode: One of `plan.MODES`.
        rounds: Rounds, at least.
        first_calls: How often each side is traced and compiled, at least 1.
        compiled: Whether ours is also measured compiled, on torch.
        tell: Is told what goes on.
    """
    method = METHODS[rule]
    if mode not in _warm:
        tell("warming up")
        smallest = all_sides.sides(rule, method, SMALLEST, mode, compiled=compiled)
        measure.first_calls(smallest, 1, lambda _: None)
        _warm.add(mode)
    tell("building")
    sides = all_sides.sides(rule, method, shapes, mode, compiled=compiled)
    first = measure.first_calls(sides, first_calls, tell)
    seconds = measure.rounds(sides, rounds, method.steps_per_call, tell)
    del sides
    gc.collect()
    touched = floor.traffic(method.make_ours(), shapes)
    return {
        "rule": rule,
        "title": method.title,
        "mode": mode,
        "tensors": len(shapes),
        "parameters": size(list(shapes)),
        "bytes": touched.bytes,
        "floor_is_c": floor.COMPILER is not None,
        "seconds": {name: rounded(values) for name, values in seconds.items()},
        "first_call": {
            name: rounded(values)
            for name, values in first.items()
            if name != FLOOR and (BACKEND != "torch" or "compiled" in name)
        },
    }


def of_set(name: str, rule: str, mode: str, **options: Any) -> dict[str, Any]:
    """`measured` on a set by its name."""
    return {"set": name, **measured(SETS[name], rule, mode, **options)}


def rounded(values: Sequence[float]) -> list[float]:
    """Four digits, which is more than any clock here is good for."""
    return [float(f"{value:.4g}") for value in values]
