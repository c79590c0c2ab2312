"""Kernels: rules that frameworks have ready-made as one fused kernel, in our conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Moments:
    r"""Slots $m, v$, both moments corrected, $\epsilon$ outside the corrected root."""

    beta_1: Any
    beta_2: Any
    epsilon: Any


@dataclass(frozen=True)
class Velocity:
    r"""Slot $u$: $u \leftarrow \beta u - \eta g$, $w \leftarrow w + u$."""

    momentum: Any


@dataclass(frozen=True)
class SquaredSum:
    r"""Slot $a$: $a \leftarrow a + g^2$, $w \leftarrow w - \eta g / (\sqrt a + \epsilon)$."""

    epsilon: Any


Kernel = Moments | Velocity | SquaredSum


def kernel_of(rule: Any, h: Any) -> Kernel | None:
    """The kernel that a rule declares, None where a subclass has changed the rule since.

    Args:
        rule: Its `kernel(h)` is asked.
        h: Hyper-parameters of the step.
    """
    classes = type(rule).__mro__

    def declared(name: str) -> int:
        return next(i for i, c in enumerate(classes) if name in vars(c))

    if declared("kernel") > min(declared("update"), declared("move")):
        return None
    found: Kernel | None = rule.kernel(h)
    return found
