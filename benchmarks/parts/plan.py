"""The plan: which rules are measured on which sets."""

from __future__ import annotations

from collections.abc import Sequence

# A step of these over large variables need cost little more than touching them.
ELEMENTWISE = ("adam", "adamw_clipped", "sgd_momentum", "adabelief", "lion", "adan")
BY_NORM = ("lamb", "lars", "adafactor")
BY_MATRIX = ("muon", "shampoo", "soap")
RULES = (*ELEMENTWISE, *BY_NORM, *BY_MATRIX)
# torch has no fused kernel for these; their measure is its foreach Adam by bytes.
WITHOUT_KERNEL = ("adabelief", "lion", "adan")

# How a step is run: TensorFlow compiles a model's step by XLA or leaves it a graph.
MODES = {"jax": ("jit",), "tensorflow": ("xla", "graph"), "torch": ("eager",)}

EAGER = {
    "resnet50": ELEMENTWISE,
    "many_small": (*ELEMENTWISE, *BY_NORM),
    "transformer": (*ELEMENTWISE, *BY_NORM),
    "matrices": BY_MATRIX,
}
# Each side takes up to a minute to compile a step over the many small variables.
COMPILED = {
    "resnet50": ELEMENTWISE[:4],
    "many_small": ELEMENTWISE[:4],
    "transformer": (*ELEMENTWISE, *BY_NORM),
    "matrices": BY_MATRIX,
}
PLAN: dict[str, dict[str, tuple[str, ...]]] = {
    "jit": COMPILED,
    # XLA takes more than a minute for each side of what the other two do on TensorFlow.
    "xla": COMPILED | {"matrices": BY_MATRIX[:1]},
    "graph": COMPILED,
    "eager": EAGER,
}


def chosen(
    modes: Sequence[str], sets: Sequence[str] | None, rules: Sequence[str] | None
) -> list[tuple[str, str, str]]:
    """What is measured, as set, rule and mode: the plan, or exactly what is asked for.

    Args:
        modes: Of running a step.
        sets: Only these sets; None is all.
        rules: Only these rules; None is all. With sets and rules each of both, planned or not.
    """
    if sets and rules:
        return [(name, rule, mode) for name in sets for rule in rules for mode in modes]
    return [
        (name, rule, mode)
        for name in sets or EAGER
        for rule in rules or RULES
        for mode in modes
        if rule in PLAN[mode][name]
    ]
