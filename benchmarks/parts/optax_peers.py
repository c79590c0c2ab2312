"""The methods as optax has them."""

from __future__ import annotations

from collections.abc import Callable

import optax

PEERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adam": lambda: optax.adam(1e-3),
    "adamw_clipped": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=0.004)
    ),
    "sgd_momentum": lambda: optax.sgd(1e-2, momentum=0.9),
    "adabelief": lambda: optax.adabelief(1e-3),
    "lion": lambda: optax.lion(1e-3, weight_decay=0.0),
    "adan": lambda: optax.adan(1e-3),
    "lamb": lambda: optax.lamb(1e-3),
    "lars": lambda: optax.lars(1.0),
    # Ours factors every matrix, whatever its size.
    "adafactor": lambda: optax.adafactor(1e-3, min_dim_size_to_factor=1),
    "muon": lambda: optax.contrib.muon(1e-3),
}
