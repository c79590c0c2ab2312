"""diagnose(...): checks that later evidence rests on, and the rate at which training breaks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from recommender.description import Description
from recommender.errors import BudgetExhausted
from recommender.examples import take
from recommender.losses import OUTPUT_ROWS, is_squashed
from recommender.models import forward
from recommender.population import Population
from recommender.problem import Problem
from recommender.settings import Setting

# Steps that a rate of the range test is watched for.
RANGE_STEPS = 20
# Rates above the default's tenfold: where training breaks, looked for upwards.
RANGE_FACTORS = (1.0, 3.0, 10.0, 30.0, 100.0)
OVERFIT_STEPS = 30


@dataclass(frozen=True)
class Finding:
    """One thing that the checks saw.

    Attributes:
        code: Short stable identifier.
        text: What was seen and what to do.
        blocking: Whether advice on optimizers is worth little until it is mended.
    """

    code: str
    text: str
    blocking: bool = False


@dataclass(frozen=True)
class Diagnostics:
    """What was measured before the race.

    Attributes:
        initial_loss: Validation loss at the start; NaN where it was not measured.
        findings: Warnings, blocking ones first.
        range_test: (rate, loss after the test) per rate; infinite where it diverged.
        edge: The smallest rate of the test that diverged; None when none did, or it was not run.
    """

    initial_loss: float
    findings: tuple[Finding, ...]
    range_test: tuple[tuple[float, float], ...]
    edge: float | None

    def to_dict(self) -> dict[str, Any]:
        """The diagnostics as plain data, ready for JSON."""
        return {
            "initial_loss": self.initial_loss if math.isfinite(self.initial_loss) else None,
            "findings": [dataclasses.asdict(f) for f in self.findings],
            "range_test": [
                {"learning_rate": rate, "loss": loss if math.isfinite(loss) else None}
                for rate, loss in self.range_test
            ],
            "divergence_edge": self.edge,
        }


def inspect(problem: Problem, description: Description) -> list[Finding]:
    """Checks that need no training: outputs against the loss, labels, scales, duplicates."""
    findings = [*_output_findings(problem), *_data_findings(problem, description)]
    return sorted(findings, key=lambda f: not f.blocking)


def diagnose(
    problem: Problem,
    description: Description,
    population: Population,
    default: Setting,
) -> Diagnostics:
    """All checks and the learning-rate range test, as far as the budget goes.

    Args:
        problem: What is trained.
        description: Its description.
        population: The probe engine; its budget pays.
        default: The hurdle; the range test raises its rate.

    Returns:
        What was seen.
    """
    findings = inspect(problem, description)
    if blocking(findings):
        return Diagnostics(math.nan, tuple(findings), (), None)
    rates: list[tuple[float, float]] = []
    start = math.nan
    try:
        start = float(np.mean(population.validate(population.start(default), "sanity")))
        findings += _loss_findings(problem, description, start)
        findings += _overfit_findings(population, default)
        rates = _range_test(population, default)
        findings += _gradient_findings(population, default)
    except BudgetExhausted:
        findings.append(
            Finding("checks_cut_short", "The budget ended before all checks were made.")
        )
    broken = [rate for rate, loss in rates if not math.isfinite(loss) or loss > 4 * start + 1]
    findings = sorted(findings, key=lambda f: not f.blocking)
    return Diagnostics(start, tuple(findings), tuple(rates), min(broken, default=None))


def _range_test(population: Population, default: Setting) -> list[tuple[float, float]]:
    """Constant rates from the same start on the same batches; shares its steps with the race."""
    found = []
    for factor in RANGE_FACTORS:
        setting = dataclasses.replace(default, learning_rate=default.learning_rate * factor)
        trunk = population.trunk(setting)
        trunk.advance(RANGE_STEPS, "range_test")
        last = np.asarray(trunk.losses[-5:], np.float64)
        finite = trunk.diverged_at is None and len(last) and np.isfinite(last).all()
        found.append((setting.learning_rate, float(last.mean()) if finite else math.inf))
        if not finite:
            break
    return found


def _overfit_findings(population: Population, default: Setting) -> list[Finding]:
    """A model that cannot learn one batch by heart will not learn the data."""
    problem = population.problem
    rows = np.repeat(problem.batch_indices(0, 1), OVERFIT_STEPS, axis=0)
    rates = np.full(OVERFIT_STEPS, 10 * default.learning_rate, np.float32)
    _, losses = population.train(population.start(default), rates, rows, "sanity")
    if not np.isfinite(losses[0]):
        return [
            Finding(
                "loss_not_finite",
                "The first loss is not finite. Check the inputs' scale, the loss and the last "
                "layer's activation.",
                blocking=True,
            )
        ]
    if min(losses) > 0.98 * losses[0]:
        return [
            Finding(
                "cannot_overfit_one_batch",
                f"{OVERFIT_STEPS} steps on one batch left its loss at {min(losses):.3g} (from "
                f"{losses[0]:.3g}). Check that targets belong to inputs, that layers are "
                "trainable, and that no activation is saturated.",
                blocking=True,
            )
        ]
    return []


def _gradient_findings(population: Population, default: Setting) -> list[Finding]:
    """Weights that the range test's first steps never moved, and gradients that broke the first.

    Costs nothing: the default's rule moves every weight whose gradient was ever other than zero.
    """
    trunk = population.trunk(default)
    if trunk.diverged_at is not None and trunk.diverged_at <= 1 and np.isfinite(trunk.losses[0]):
        return [
            Finding(
                "gradient_not_finite",
                "The first loss is finite, its gradient is not: after one step the loss was gone. "
                "Look for a root, a logarithm or a division at 0 in the model or the loss.",
                blocking=True,
            )
        ]
    if trunk.step == 0 or trunk.diverged_at is not None:
        return []
    before = population.trained(population.start(default))
    after = population.trained(trunk.state)
    still = [
        variable.path
        for variable, old, new in zip(
            population.problem.model.trainable_variables, before, after, strict=True
        )
        if np.array_equal(old, new)
    ]
    if not still:
        return []
    return [
        Finding(
            "weights_without_gradient",
            f"{trunk.step} steps left {len(still)} of {len(before)} weights exactly as they were "
            f"({', '.join(still[:3])}{', ...' if len(still) > 3 else ''}): their gradient is zero. "
            "Look for dead units, layers whose output is not used, or a stopped gradient.",
        )
    ]


def _output_findings(problem: Problem) -> list[Finding]:
    """Whether the outputs are what the loss takes, judged by the outputs themselves."""
    logits = getattr(problem.loss, "from_logits", None)
    if logits is None:
        function = getattr(problem.loss, "_fn_kwargs", {})
        logits = function.get("from_logits")
    if logits is None:
        return []
    few = take(problem.x, slice(0, OUTPUT_ROWS))
    outputs = np.asarray(keras.ops.convert_to_numpy(forward(problem.model, few)), np.float64)
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    if logits and is_squashed(problem.model, problem.x):
        return [
            Finding(
                "squashed_twice",
                "The outputs are probabilities already and the loss has from_logits=True: they "
                "are squashed twice. Drop the last activation or set from_logits=False.",
                blocking=True,
            )
        ]
    if not inside and np.isfinite(outputs).all() and not logits:
        return [
            Finding(
                "logits_taken_for_probabilities",
                f"The loss expects probabilities, the outputs run from {outputs.min():.3g} to "
                f"{outputs.max():.3g}. Set from_logits=True in the loss, or end the model in "
                "softmax or sigmoid.",
                blocking=True,
            )
        ]
    return []


def _data_findings(problem: Problem, description: Description) -> list[Finding]:
    findings = []
    if "badly_scaled" in description.tags and "Normalization" not in description.layers:
        findings.append(
            Finding(
                "features_badly_scaled",
                f"Feature scales lie {10**description.scale_spread:.0f}-fold apart (90 % over 10 % "
                "quantile of their deviations). Put a "
                "Normalization layer in front (adapted on the training inputs) before tuning.",
            )
        )
    if description.task == "regression":
        deviation = float(np.std(problem.y))
        if deviation > 100 or (0 < deviation < 1e-3):
            findings.append(
                Finding(
                    "targets_badly_scaled",
                    f"Targets have a standard deviation of {deviation:.3g}. Scale them to about 1.",
                )
            )
    some, held = (np.asarray(_first(v))[:500] for v in (problem.x, problem.x_val))
    if some.dtype.kind == "f" and len(some) and len(held):
        seen = {row.tobytes() for row in np.asarray(_first(problem.x))}
        share = float(np.mean([row.tobytes() in seen for row in held]))
        if share > 0.2:
            findings.append(
                Finding(
                    "validation_in_training",
                    f"{share:.0%} of the validation inputs are also training inputs: the "
                    "validation loss says little about new data.",
                )
            )
    return findings


def _loss_findings(problem: Problem, description: Description, start: float) -> list[Finding]:
    if not math.isfinite(start):
        return [Finding("loss_not_finite", "The loss before training is not finite.", True)]
    if description.task != "classification" or not description.classes:
        return []
    width = int(forward(problem.model, take(problem.x, slice(0, 1))).shape[-1])
    expected = math.log(width)
    if start > 3 * expected + 1:
        return [
            Finding(
                "initial_loss_too_high",
                f"The loss before training is {start:.3g}, about {expected:.3g} would be usual for "
                f"{width} classes: the inputs' scale or the initial weights are too large.",
            )
        ]
    return []


def _first(x: Any) -> Any:
    return keras.tree.flatten(x)[0]


def blocking(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that have to be mended first."""
    return [f for f in findings if f.blocking]
