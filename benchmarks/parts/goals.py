"""Goals: ratios that ours is to reach, and whether it does."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.parts.plan import BY_MATRIX, BY_NORM, ELEMENTWISE, WITHOUT_KERNEL
from benchmarks.parts.results import FLOOR, SCALED
from benchmarks.parts.sets import LARGE, SMALL

# Ratios this close to each other count as equal on a machine that others use too.
NOISE = 1.1


@dataclass(frozen=True)
class Goal:
    """At most so many times as long as another side.

    Args:
        bound: The ratio.
        against: The other side.
        side: Of ours.
        modes: In which steps run; empty is all.
        rules: Which count; empty is all.
        sets: Which count; empty is all.
        first_call: Whether the first call is meant, not the later steps.
    """

    bound: float
    against: str
    side: str = "ours"
    modes: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    first_call: bool = False


# The first that fits counts.
GOALS = (
    Goal(1.25, "torch fused", rules=("adam", "adamw_clipped")),
    Goal(1.0, SCALED, rules=WITHOUT_KERNEL),
    Goal(0.45, "ordinary", modes=("eager",), rules=WITHOUT_KERNEL, sets=LARGE),
    Goal(0.07, "ordinary", modes=("eager",), rules=WITHOUT_KERNEL, sets=SMALL),
    Goal(1.8, FLOOR, side="ours, compiled", sets=LARGE),
    Goal(1.1, "optax", rules=ELEMENTWISE, sets=LARGE),
    Goal(0.75, "keras", modes=("jit",), rules=ELEMENTWISE, sets=SMALL),
    Goal(1.05, "keras", modes=("xla",), rules=ELEMENTWISE, sets=LARGE),
    Goal(0.85, "keras", modes=("xla",), rules=ELEMENTWISE, sets=SMALL),
    Goal(0.55, "keras", modes=("graph",), rules=ELEMENTWISE),
    Goal(1.0, "keras", rules=ELEMENTWISE),
    Goal(1.0, "optax", rules=(*BY_NORM, *BY_MATRIX)),
    Goal(1.0, "pytorch-optimizer", rules=(*BY_NORM, *BY_MATRIX)),
    Goal(0.75, "keras", rules=ELEMENTWISE, sets=SMALL, first_call=True),
    Goal(1.0, "keras", rules=ELEMENTWISE, first_call=True),
)
# What clipping by the global norm may do to the first call.
CLIPPING = 2.0
# What ours may add to a step of `fit` on torch, as a share of what the ordinary way adds.
FIT = {"torch": 0.35}
# What the instant answer may take at 99 %, as a multiple of an empty route of the same server, and
# with how many connections.
TAIL_OVER_EMPTY, TAIL_CONNECTIONS = 2.0, 32
# The same without HTTP, at the median.
IN_PROCESS_MS = 0.6
# From the command to a service that is ready.
READY_SECONDS = 3.0
# What all candidates may cost by our engine, as a share of build + compile + fit for each.
PROBES = {
    "jax": {"mlp": 1 / 15, "gru": 1 / 8, "cnn": 1 / 3},
    "tensorflow": {"mlp": 1 / 1.8, "gru": 1 / 1.8, "cnn": 1 / 1.8},
    "torch": {"mlp": 1.0, "gru": 1.0, "cnn": 1.0},
}
# Bytes of state, in those of the slots.
STATE = 1.0


def goal(
    cell: dict[str, str], side: str, against: str, *, first_call: bool = False
) -> float | None:
    """The bound of one ratio; None where there is none.

    Args:
        cell: Its rule, set and mode.
        side: Of ours.
        against: The side it is compared with.
        first_call: Whether of the first call.
    """
    for each in GOALS:
        if (
            (each.side, each.against, each.first_call) == (side, against, first_call)
            and (not each.modes or cell["mode"] in each.modes)
            and (not each.rules or cell["rule"] in each.rules)
            and (not each.sets or cell["set"] in each.sets)
        ):
            return each.bound
    return None


def verdict(ratio: float, bound: float) -> str:
    """Whether a ratio is within its bound."""
    if ratio <= bound:
        return "met"
    return "met within noise" if ratio <= NOISE * bound else "not met"
