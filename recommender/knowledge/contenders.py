"""Optimizers that evaluate the loss again, and the problems on which a trial of them pays.

Limits come from `benchmarks/closures.py` on the development tasks (docs/benchmarks/closures.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from recommender.settings import Setting

Kind = Literal["smooth", "least_squares", "no_gradient"]
# What a tier's trials may cost together, in full trainings. The race loses nothing by it: the last
# rung that it then leaves out changes few of its answers.
RESERVE = {"quick": 0.04, "standard": 0.15, "thorough": 0.6}
# How many are tried.
ROOM = {"quick": 1, "standard": 2, "thorough": 3}
# Layers that are another function in each step or in training, and convolutions, on whose tasks
# the whole data as one batch was always worse than minibatches.
UNSUITED_LAYERS = ("Norm", "Dropout", "Noise", "Random", "Conv")


@dataclass(frozen=True)
class Contender:
    """One optimizer that may be tried beside the race.

    Attributes:
        setting: The optimizer.
        kind: Where it belongs: smooth losses, mean squared errors, or losses without a gradient.
        most_parameters: Models with more are not worth its while.
        evaluations: Gradients over all data that have to be affordable.
        per_parameter: As many more for each parameter.
        reason: Why it is tried, as a clause.
    """

    setting: Setting
    kind: Kind
    most_parameters: int
    evaluations: float
    per_parameter: float
    reason: str

    def fits(self, parameters: int, affordable: float) -> bool:
        """Whether a trial can show anything.

        Args:
            parameters: Trainable numbers of the model.
            affordable: Gradients over all data that the trial may cost.
        """
        needed = self.evaluations + self.per_parameter * parameters
        return parameters <= self.most_parameters and affordable >= needed


SMALL = "the model is small and smooth, and the training long enough for passes over all data"
FLAT = "most weights have no gradient, and it needs none"
QUASI_NEWTON = (("memory", 30), ("iterations_per_step", 5), ("search_evaluations", 4))
DAMPED_NEWTON = (("damping", 0.1), ("cg_iterations", 10))
# In the order in which they are tried.
CONTENDERS = (
    # Searches are cut off early: the dearest step, 22 gradients, has to fit in a budget.
    Contender(Setting("lbfgs", 1.0, QUASI_NEWTON), "smooth", 1500, 30.0, 0.0, SMALL),
    # Three steps at least, each with two gradients for every parameter.
    Contender(
        Setting("levenberg_marquardt", 1.0), "least_squares", 100, 20.0, 6.0,
        "it fits least squares of few parameters in few steps",
    ),
    Contender(Setting("newton_cg", 1.0, DAMPED_NEWTON), "smooth", 1500, 40.0, 0.0, SMALL),
    Contender(Setting("cma_es", 1.0, (("sigma", 0.3),)), "no_gradient", 1000, 50.0, 10.0, FLAT),
)  # fmt: skip


def plausible(
    description: Mapping[str, Any], tier: str, *, least_squares: bool | None = None
) -> list[Contender]:
    """The contenders that a description speaks for.

    Args:
        description: What `Description.to_dict` gives; nothing fits where the number of parameters
            is not known.
        tier: What may be spent; "instant" names what "thorough" would try first.
        least_squares: Whether the loss is a mean squared error; None where only the task is known.

    Returns:
        In the order in which they are to be tried.
    """
    names = description["layers"]
    if description["parameters"] is None or description["task"] == "several":
        return []
    if any(word in name for name in names for word in UNSUITED_LAYERS):
        return []
    fits_squares = description["task"] == "regression" and least_squares is not False
    affordable = passes(description) * RESERVE.get(tier, RESERVE["thorough"])
    return [
        one
        for one in CONTENDERS
        if one.kind in ("smooth", *(("least_squares",) if fits_squares else ()))
        and one.fits(description["parameters"], affordable)
    ][: ROOM.get(tier, 1)]


def gradient_free(parameters: int, affordable: float) -> list[Contender]:
    """The contenders for a loss without a usable gradient.

    Args:
        parameters: Trainable numbers of the model.
        affordable: Gradients over all data that the trial may cost.
    """
    return [
        one for one in CONTENDERS if one.kind == "no_gradient" and one.fits(parameters, affordable)
    ]


def passes(description: Mapping[str, Any]) -> float:
    """Gradients over all data that cost one full training."""
    examples: float = description["full_steps"] * description["batch_size"]
    return examples / max(1, description["samples"])
