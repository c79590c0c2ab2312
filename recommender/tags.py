"""The words for a problem that the prior and the illnesses read."""

from __future__ import annotations

from collections.abc import Collection


def tags(
    kinds: Collection[str],
    depth: int,
    *,
    parameters: int | None,
    samples: int,
    zero_share: float,
    largest_class: float | None,
    scale_spread: float,
) -> tuple[str, ...]:
    """Which words hold.

    Args:
        kinds: Class names of the model's layers.
        depth: Layers with weights.
        parameters: Trainable numbers of the model; None where they are not known.
        samples: Training examples.
        zero_share: Share of inputs that are exactly 0, in [0, 1].
        largest_class: Share of the most frequent class; None where there are none.
        scale_spread: Base-10 logarithm of how far apart the features' scales lie.

    Returns:
        The words, always in the same order.
    """
    facts = {
        "recurrent": any(k in kinds for k in ("GRU", "LSTM", "SimpleRNN", "RNN", "Bidirectional")),
        "convolution": any("Conv" in kind for kind in kinds),
        "batch_norm": "BatchNormalization" in kinds,
        "attention": any("Attention" in kind for kind in kinds),
        "sparse": zero_share > 0.8 or "Embedding" in kinds,
        "few_samples": parameters is not None and parameters > 4 * samples,
        "imbalanced": largest_class is not None and largest_class > 0.8,
        "deep_plain": depth >= 6 and not any("Normalization" in kind for kind in kinds),
        "badly_scaled": scale_spread > 1.0,
    }
    return tuple(name for name, holds in facts.items() if holds)
