"""Records losses of kfac-jax on two small networks, to compare ours with.

kfac-jax 0.0.8 fails on the JAX of this project, so it runs in an environment of its own:

    python3 -m venv kfac-env
    kfac-env/bin/pip install "jax==0.4.38" "jaxlib==0.4.38" "kfac-jax==0.0.8" scikit-learn
    kfac-env/bin/python tests/keras_gradopt/kfac_peers/record_kfac_jax.py

It writes recorded/kfac_jax.npz beside itself: 200 digits of 8 by 8 pixels (scikit-learn), first
weights, and the loss before each step of full-batch training.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import kfac_jax
import numpy as np
from sklearn.datasets import load_digits

STEPS = 40
SETTINGS = {"learning_rate": 0.3, "momentum": 0.9, "damping": 1e-2, "norm_constraint": 1e-2}
CLASSIFIER, AUTOENCODER = (64, 24, 10), (64, 32, 8, 32, 64)


def first_weights(sizes: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Kernels of variance 1 / inputs, and biases of 0."""
    rng = np.random.default_rng(seed)
    weights = []
    for n, m in itertools.pairwise(sizes):
        weights.append((rng.normal(size=(n, m)) / np.sqrt(n)).astype("float32"))
        weights.append(np.zeros(m, "float32"))
    return weights


def network(weights: list[Any], x: Any) -> Any:
    for i in range(0, len(weights), 2):
        x = x @ weights[i] + weights[i + 1]
        if i + 2 < len(weights):
            x = jnp.tanh(x)
    return x


def classified(weights: list[Any], batch: tuple[Any, Any]) -> Any:
    x, labels = batch
    logits = network(weights, x)
    kfac_jax.register_softmax_cross_entropy_loss(logits, labels)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


def encoded(weights: list[Any], batch: tuple[Any, Any]) -> Any:
    x, _ = batch
    found = network(weights, x)
    # The registered loss is the sum over pixels, times the weight.
    kfac_jax.register_squared_error_loss(found, x, weight=1.0 / x.shape[1])
    return jnp.mean((found - x) ** 2)


def record(loss: Any, weights: list[np.ndarray], batch: tuple, mode: str) -> np.ndarray:
    optimizer = kfac_jax.Optimizer(
        jax.value_and_grad(loss),
        l2_reg=0.0,
        learning_rate_schedule=lambda step: SETTINGS["learning_rate"],
        momentum_schedule=lambda step: SETTINGS["momentum"],
        damping_schedule=lambda step: SETTINGS["damping"],
        norm_constraint=SETTINGS["norm_constraint"],
        estimation_mode=mode,
        curvature_ema=0.95,
        inverse_update_period=1,
        num_burnin_steps=0,
    )
    weights = [jnp.asarray(w) for w in weights]
    key = jax.random.PRNGKey(0)
    state = optimizer.init(weights, key, batch)
    losses = []
    for _ in range(STEPS):
        key, own = jax.random.split(key)
        weights, state, stats = optimizer.step(
            weights, state, own, batch=batch, global_step_int=len(losses)
        )
        losses.append(float(stats["loss"]))
    return np.asarray(losses)


def main() -> None:
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = pixels[:200].astype("uint8"), labels[:200].astype("uint8")
    batch = (jnp.asarray(pixels / 16.0, "float32"), jnp.asarray(labels, "int32"))
    found: dict[str, np.ndarray] = {"pixels": pixels, "labels": labels}
    for name, loss, sizes in (
        ("classifier", classified, CLASSIFIER),
        ("autoencoder", encoded, AUTOENCODER),
    ):
        weights = first_weights(sizes, seed=0)
        found |= {f"{name}_weight_{i}": w for i, w in enumerate(weights)}
        for mode in ("fisher_empirical", "fisher_exact", "fisher_gradients"):
            found[f"{name}_{mode}"] = record(loss, weights, batch, mode)
            print(name, mode, found[f"{name}_{mode}"][[0, 1, 2, 5, 10, 20, -1]])
    np.savez_compressed(Path(__file__).parent / "recorded" / "kfac_jax.npz", **found)


if __name__ == "__main__":
    main()
