"""What a choice costs while it trains: gradients per step, and memory for its state."""

from __future__ import annotations

from recommender.answer import Plain
from recommender.knowledge import published

# Of a weight or a slot in float32.
BYTES = 4


def cost_of(method: str, parameters: int) -> Plain:
    """The price of an optimizer, from the catalogue and without importing Keras.

    Args:
        method: Its name in the catalogue.
        parameters: Trainable numbers of the model.

    Returns:
        "gradient_evaluations_per_step", and "state_bytes", which come on top of the weights.

    Raises:
        LookupError: The catalogue has no such name.

    Example:
        >>> cost_of("adam", 1000)["state_bytes"]
        8000
    """
    for entry in published()["optimizers"]:
        if entry["name"] == method:
            return {
                "gradient_evaluations_per_step": entry["gradient_evaluations_per_step"],
                "state_bytes": round(BYTES * entry["state_multiple"] * parameters),
            }
    raise LookupError(f"{method!r} is not in the catalogue of published.json.")
