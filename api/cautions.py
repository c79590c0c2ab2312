"""When an optimizer of the catalogue is better left alone, from what it needs and costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Numbers for each weight, and gradient evaluations per step, from which a price is worth a word;
# Adam has 2 and 1.
MUCH_STATE, DEAR_STEP = 3.0, 1.25
NEEDS: Mapping[str, str] = {
    "closure": "where a step gets one gradient and cannot ask for the loss again, as in a loop "
    "that computes gradients itself",
    "layers": "where most weights lie outside dense and convolution layers",
    "dataset": "where full passes over the data between the steps are out of question",
    "population": "where there is a gradient and the weights are many: a loss tells much less",
}


def cautions(entry: Mapping[str, Any]) -> list[str]:
    """Where not to use an optimizer; each begins with "where".

    Args:
        entry: Of the catalogue; its `needs`, `state_multiple` and `gradient_evaluations_per_step`
            are read, where it has them.
    """
    found = [NEEDS[entry["needs"]]] if entry.get("needs") in NEEDS else []
    state, evaluations = (
        entry.get(name, 0) for name in ("state_multiple", "gradient_evaluations_per_step")
    )
    if state >= MUCH_STATE:
        found.append(
            f"where memory is short: it keeps {state:,.3g} numbers for each weight, and Adam 2"
        )
    if evaluations >= DEAR_STEP:
        found.append(
            f"where each step has to be cheap: one costs about {evaluations:,.3g} gradients"
        )
    return found
