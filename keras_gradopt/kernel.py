"""Kernel: the name under which a framework may have a rule ready-made as one fused kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Kernel:
    r"""A rule that frameworks fuse, in the conventions of ours.

    `adam`: slots $m, v$; numbers `beta_1`, `beta_2`, `epsilon` (outside the corrected root).
    `momentum`: slot $u$; number `momentum`; $u \leftarrow \beta u - \eta g$, $w \leftarrow w + u$.
    `adagrad`: slot $a$; number `epsilon` (outside the root).
    """

    name: Literal["adam", "momentum", "adagrad"]
    numbers: dict[str, Any] = field(default_factory=dict)


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
