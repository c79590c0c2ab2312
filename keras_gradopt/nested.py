"""Finds the optimizers inside an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any


def inside(optimizer: Any) -> Sequence[Any]:
    """The optimizers that one is made of: those of a hybrid, the inner one of a wrapper, or none.

    Args:
        optimizer: Any Keras optimizer, or None.
    """
    if parts := getattr(optimizer, "parts", None):
        return list(parts)
    # Keras' own name, which its LossScaleOptimizer has too.
    inner = getattr(optimizer, "inner_optimizer", None)
    return [] if inner is None else [inner]


def all_of(optimizer: Any) -> Iterator[Any]:
    """An optimizer, then those inside it, outermost first; nothing for None."""
    if optimizer is not None:
        yield optimizer
        for part in inside(optimizer):
            yield from all_of(part)


def leaves(optimizer: Any) -> list[Any]:
    """The optimizers inside one, or itself, that are made of no others: those that step."""
    return [one for one in all_of(optimizer) if not inside(one)]


def first(optimizer: Any, wanted: Callable[[Any], bool]) -> Any:
    """The outermost of an optimizer and those inside it that is wanted; None if there is none."""
    return next((one for one in all_of(optimizer) if wanted(one)), None)


def asks_gradient(optimizer: Any) -> bool:
    """Whether an optimizer, or one inside it, makes use of the gradient that a step computes."""
    own = getattr(optimizer, "asks_gradient", None)
    if own is not None:
        return bool(own)
    return any(map(asks_gradient, inside(optimizer))) if inside(optimizer) else True
