"""The account of an advice: every gradient evaluation and every second, refused before overrun."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

from recommender.errors import BudgetExhausted, RequestError

Tier = Literal["instant", "quick", "standard", "thorough"]
TIERS: tuple[str, ...] = get_args(Tier)

# What a tier may spend, as a fraction of one full training of the caller's model.
SHARE: dict[str, float] = {"instant": 0.0, "quick": 0.10, "standard": 0.50, "thorough": 2.0}

# Price list, in gradient evaluations of one training step.
GRADIENT = 1.0
FORWARD = 1.0 / 3.0


@dataclass(frozen=True)
class Cost:
    """What an advice has cost.

    Attributes:
        gradients: Everything spent, in gradient evaluations of one training step.
        fraction_of_full: The same, divided by the steps of one full training.
        limit_fraction: What the tier allowed, in the same unit.
        seconds: Wall-clock seconds, compiling included.
        compile_seconds: The part of `seconds` that went into compiling programs.
        by_purpose: Gradient evaluations per purpose (`"sanity"`, `"range_test"`, `"rung_1"`, ...).
    """

    gradients: float
    fraction_of_full: float
    limit_fraction: float
    seconds: float
    compile_seconds: float
    by_purpose: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The cost as JSON-ready values."""
        return {
            "gradient_evaluations": round(self.gradients, 2),
            "fraction_of_full": round(self.fraction_of_full, 5),
            "limit_fraction": self.limit_fraction,
            "seconds": round(self.seconds, 2),
            "compile_seconds": round(self.compile_seconds, 2),
            "by_purpose": {name: round(value, 2) for name, value in self.by_purpose.items()},
        }


class Budget:
    """Counts gradients and seconds of one request, and refuses work that would overrun.

    Args:
        tier: What may be spent: one of `"instant"`, `"quick"`, `"standard"`, `"thorough"`.
        full_steps: Steps of one full training, at least 1.
        max_seconds: Wall-clock limit in seconds, above 0, or None for no limit.
        clock: Gives the present time in seconds; replaced in tests.
        enough: Whether somebody wants an end now, as if the seconds had passed.

    Raises:
        RequestError: When the tier is unknown or a limit is not positive.

    Example:
        >>> budget = Budget("quick", full_steps=6000)
        >>> budget.limit, budget.affords(601)
        (600.0, False)
    """

    def __init__(
        self,
        tier: str,
        full_steps: int,
        max_seconds: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        check_tier(tier)
        check_max_seconds(max_seconds)
        self.tier = tier
        self.full_steps = full_steps
        self.max_seconds = max_seconds
        self.limit = SHARE[tier] * full_steps
        self.spent = 0.0
        self.compile_seconds = 0.0
        self.by_purpose: dict[str, float] = defaultdict(float)
        self._clock = clock
        self._enough = enough
        self._started = clock()

    @property
    def remaining(self) -> float:
        """Gradient evaluations that may still be spent."""
        return max(0.0, self.limit - self.spent)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the request came in."""
        return self._clock() - self._started

    def affords(self, gradients: float) -> bool:
        """Whether this much work fits in what is left, in gradients and in seconds."""
        return self.spent + gradients <= self.limit * (1 + 1e-9) and not self.out_of_time()

    def out_of_time(self) -> bool:
        """Whether the wall-clock limit has passed, or somebody wants an end."""
        passed = self.max_seconds is not None and self.seconds >= self.max_seconds
        return passed or self._enough()

    def spend(self, purpose: str, gradients: float) -> None:
        """Book work that is about to be done.

        Args:
            purpose: What it is for; costs are reported per purpose.
            gradients: Its price in gradient evaluations, at least 0.

        Raises:
            BudgetExhausted: When it does not fit; nothing is booked then.
        """
        if self._enough():
            raise BudgetExhausted("Asked to come to an end with what is known.")
        if self.out_of_time():
            raise BudgetExhausted(
                f"{self.seconds:.1f} of {self.max_seconds:g} seconds are used. "
                "Give max_seconds more, or take a smaller tier."
            )
        if not self.affords(gradients):
            raise BudgetExhausted(
                f"{purpose} needs {gradients:.0f} gradient evaluations, {self.remaining:.0f} of "
                f"{self.limit:.0f} are left in tier {self.tier!r}. Take a larger tier."
            )
        self.spent += gradients
        self.by_purpose[purpose] += gradients

    def refund(self, purpose: str, gradients: float) -> None:
        """Take back what booked work turned out not to need.

        Args:
            purpose: What it was booked for.
            gradients: At least 0, at most what was booked.
        """
        self.spent -= gradients
        self.by_purpose[purpose] -= gradients

    @contextmanager
    def held(self, gradients: float) -> Iterator[None]:
        """Inside the block so much less may be spent: it is kept for what comes after.

        Args:
            gradients: At least 0.
        """
        self.limit -= gradients
        try:
            yield
        finally:
            self.limit += gradients

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Book the time inside the block as compile time."""
        began = self._clock()
        try:
            yield
        finally:
            self.compile_seconds += self._clock() - began

    def cost(self) -> Cost:
        """The account as it stands."""
        return Cost(
            gradients=self.spent,
            fraction_of_full=self.spent / self.full_steps,
            limit_fraction=SHARE[self.tier],
            seconds=self.seconds,
            compile_seconds=self.compile_seconds,
            by_purpose=dict(self.by_purpose),
        )


def check_tier(tier: str) -> None:
    """Refuse an unknown tier."""
    if tier not in TIERS:
        raise RequestError(
            f"tier must be one of {', '.join(TIERS)}, received {tier!r}. "
            "quick costs at most a tenth of one training.",
            code="unknown_tier",
        )


def check_max_seconds(max_seconds: float | None) -> None:
    """Refuse a wall-clock limit that leaves no time."""
    if max_seconds is not None and not max_seconds > 0:
        raise RequestError(
            f"max_seconds must be above 0 or None, received {max_seconds!r}. "
            "Use tier='instant' for an answer without training.",
            code="impossible_budget",
        )
