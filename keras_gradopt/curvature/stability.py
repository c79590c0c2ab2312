"""Sharpness against the learning rate: whether gradient descent can stay where it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_gradopt.arguments import is_number
from keras_gradopt.callbacks import innermost
from keras_gradopt.closure.nag import NAG
from keras_gradopt.gradient.sgd import SGD


@dataclasses.dataclass(frozen=True)
class Stability:
    r"""The largest eigenvalue times the learning rate.

    Attributes:
        product: $\lambda_{\max} \eta$.
        error: Of the product.
        learning_rate: $\eta$.
        limit: Above it gradient descent moves away along the sharpest direction: 2, with momentum
            $\beta$ $2 (1 + \beta)$, with Nesterov's $2 (1 + \beta) / (1 + 2 \beta)$. None for other
            rules, which scale the curvature: the product is not theirs to compare.
    """

    product: float
    error: float
    learning_rate: float
    limit: float | None

    @property
    def is_unstable(self) -> bool:
        """Whether the product is above the limit by more than its error."""
        return self.limit is not None and self.product - self.error > self.limit

    def __str__(self) -> str:
        text = f"{self.product:.3g} ± {self.error:.1g} at rate {self.learning_rate:.3g}"
        if self.limit is None:
            return f"{text} (no limit is known for this optimizer)"
        where = "unstable above" if self.is_unstable else "stable below"
        return f"{text} ({where} {self.limit:.3g})"


def stability(
    sharpness: float, error: float, optimizer: Any, learning_rate: float | None = None
) -> Stability:
    """How the sharpness stands to an optimizer's learning rate.

    Args:
        sharpness: The largest eigenvalue.
        error: Of it.
        optimizer: The model's.
        learning_rate: None takes the optimizer's present one.
    """
    rate = present_rate(optimizer) if learning_rate is None else float(learning_rate)
    return Stability(sharpness * rate, error * rate, rate, stability_limit(optimizer))


def present_rate(optimizer: Any) -> float:
    """The learning rate that an optimizer has now; of a schedule, its value at this step."""
    return float(ops.convert_to_numpy(optimizer.learning_rate))


def stability_limit(optimizer: Any) -> float | None:
    r"""Where $\lambda \eta$ must stay below for descent on $\lambda w^2 / 2$; None if unknown.

    The roots of $z^2 - (1 + \beta - \lambda\eta) z + \beta$, with Nesterov's momentum of
    $z^2 - (1 + \beta)(1 - \lambda\eta) z + \beta (1 - \lambda\eta)$, leave the unit circle at -1.
    """
    rule = innermost(optimizer)
    if not isinstance(rule, keras.optimizers.SGD | SGD | NAG):
        return None
    beta = rule.momentum
    if not is_number(beta):
        return None
    ahead = isinstance(rule, NAG) or rule.nesterov
    return 2 * (1 + beta) / (1 + 2 * beta) if ahead else 2.0 * (1 + beta)
