"""Muon and SOAP."""

from __future__ import annotations

from typing import Any

import heavyball
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytorch_optimizer
import torch

import keras_gradopt as kg
from tests.keras_gradopt.parity import (
    DECAY,
    NORM,
    RATE,
    STEPS,
    Pair,
    Trajectory,
    keras_path,
    numpy_path,
    optax_path,
    rate_at,
    torch_path,
)

# The inputs of the convolution kernel are its first three axes.
AS_MATRICES = [
    optax.contrib.MuonDimensionNumbers(0, 1),
    None,
    optax.contrib.MuonDimensionNumbers((0, 1, 2), 3),
    optax.contrib.MuonDimensionNumbers(0, 1),
]
RATES = jnp.array([rate_at(step) for step in range(STEPS)])
BFLOAT16 = "torch iterates in bfloat16, which keeps 8 bits of each matrix."


def adamw(w: np.ndarray, g: np.ndarray, state: dict, rate: float, t: int) -> np.ndarray:
    """AdamW in its default betas."""
    m = 0.9 * state.get("m", 0.0) + 0.1 * g
    v = 0.999 * state.get("v", 0.0) + 0.001 * g * g
    state |= {"m": m, "v": v}
    step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-7)
    return w * (1 - rate * DECAY) - rate * step


def muon(w: np.ndarray, g: np.ndarray, state: dict, t: int) -> np.ndarray:
    """Jordan's rule in Keras' layout, by singular values: the iteration is a polynomial of them."""
    rate = rate_at(t - 1)
    if w.ndim < 2:
        return adamw(w, g, state, rate, t)
    g = g.reshape(-1, w.shape[-1])
    m = 0.95 * state.get("m", 0.0) + 0.05 * g
    state["m"] = m
    left, values, right = np.linalg.svd(0.95 * m + 0.05 * g, full_matrices=False)
    values /= np.sqrt((values**2).sum())
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    scale = np.sqrt(max(1.0, g.shape[1] / g.shape[0]))
    step = scale * ((left * values) @ right)
    return w * (1 - rate * DECAY) - rate * step.reshape(w.shape)


def optax_muon_path(
    rate: Any, *before: optax.GradientTransformation, **arguments: Any
) -> Trajectory:
    """Muon of optax without Nesterov, kernels as matrices; compiled, since it loops within vmap."""
    method = optax.chain(
        *before,
        optax.contrib.muon(
            rate,
            nesterov=False,
            muon_weight_dimension_numbers=lambda _: AS_MATRICES,
            **arguments,
        ),
    )
    return optax_path(optax.GradientTransformation(method.init, jax.jit(method.update)))


class TransposedMatrices:
    """torch's Muon on weights in torch's layout, outputs first, and its AdamW on vectors."""

    def __init__(self, ws: list, **arguments: Any) -> None:
        self.ws = ws
        matrices = [w for w in ws if w.ndim > 1]
        views = {id(w): w.data.reshape(-1, w.shape[-1]).T for w in matrices}
        self.rows = {key: torch.nn.Parameter(view) for key, view in views.items()}
        vectors = [w for w in ws if w.ndim < 2]
        self.optimizers = [
            torch.optim.Muon(self.rows.values(), weight_decay=DECAY, **arguments),
            torch.optim.AdamW(vectors, weight_decay=DECAY),
        ]

    @property
    def param_groups(self) -> list[dict]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for w in self.ws:
            if id(w) in self.rows:
                self.rows[id(w)].grad = w.grad.reshape(-1, w.shape[-1]).T
        for optimizer in self.optimizers:
            optimizer.step()


def soap(w: np.ndarray, g: np.ndarray, state: dict, t: int) -> np.ndarray:
    """The paper's Algorithms 3 and 4, axes up to 5, the first step as its authors have it."""
    rate = rate_at(t - 1)
    w = w * (1 - rate * DECAY)
    axes = [i for i, n in enumerate(w.shape) if n <= 5 and w.ndim > 1]
    squares = {i: np.tensordot(g, g, [[j for j in range(w.ndim) if j != i]] * 2) for i in axes}
    if t == 1:
        state |= {"m": 0.0, "v": 0.0, "L": {i: 0.05 * s for i, s in squares.items()}}
        state["Q"] = {i: np.linalg.eigh(s)[1][:, ::-1] for i, s in state["L"].items()}
        return w

    def turned(x: np.ndarray, *, back: bool = False) -> np.ndarray:
        for i, q in state["Q"].items():
            x = np.moveaxis(np.tensordot(q if back else q.T, x, [[1], [i]]), 0, i)
        return x

    state["m"] = 0.95 * state["m"] + 0.05 * g
    state["v"] = 0.95 * state["v"] + 0.05 * turned(g) ** 2
    corrected = 1 - 0.95 ** (t - 1)
    n = turned(state["m"]) / corrected / (np.sqrt(state["v"] / corrected) + 1e-8)
    w = w - rate * turned(n, back=True)
    for i in axes:
        state["L"][i] = 0.95 * state["L"][i] + 0.05 * squares[i]
        if (t - 1) % 3 == 0:
            product = state["L"][i] @ state["Q"][i]
            order = np.argsort(-(state["Q"][i] * product).sum(0))
            state["v"] = np.take(state["v"], order, axis=i)
            state["Q"][i] = np.linalg.qr(product[:, order])[0]
    return w


def heavyball_path(**arguments: Any) -> Trajectory:
    """SOAP of heavyball with the axes as they are, run as plain torch."""
    # Its functions read this at every call: None leaves torch.compile out.
    heavyball.utils.compile_mode = None
    return torch_path(
        lambda ws: heavyball.SOAP(
            ws,
            weight_decay=0.0,
            merge_dims=False,
            use_precond_schedule=False,
            compile_step=False,
            **arguments,
        )
    )


PAIRS = {
    "Muon | keras Muon, decay, schedule, clipping": Pair(
        lambda: kg.Muon(
            RATE,
            weight_decay=DECAY,
            adam_beta_2=0.99,
            adam_weight_decay=0.05,
            adam_lr_ratio=0.5,
            exclude_layers=["w2"],
            global_clipnorm=NORM,
        ),
        lambda: keras_path(
            keras.optimizers.Muon(
                RATE,
                weight_decay=DECAY,
                adam_beta_2=0.99,
                adam_weight_decay=0.05,
                adam_lr_ratio=0.5,
                global_clipnorm=NORM,
            )
        ),
    ),
    "Muon | keras Muon, unscaled, without Nesterov, other coefficients": Pair(
        lambda: kg.Muon(
            0.02,
            rms_rate=None,
            nesterov=False,
            momentum=0.9,
            ns_steps=3,
            muon_a=3.0,
            muon_b=-3.2,
            muon_c=1.2,
            exclude_layers=["w[23]"],
        ),
        lambda: keras_path(
            keras.optimizers.Muon(
                0.02,
                rms_rate=None,
                nesterov=False,
                momentum=0.9,
                ns_steps=3,
                muon_a=3.0,
                muon_b=-3.2,
                muon_c=1.2,
                exclude_layers=["w[23]"],
            )
        ),
    ),
    "Muon | optax.contrib.muon, without Nesterov, decay, schedule, clipping": Pair(
        lambda: kg.Muon(RATE, nesterov=False, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: optax_muon_path(
            lambda step: RATES[step],
            optax.clip_by_global_norm(NORM),
            weight_decay=DECAY,
            adam_weight_decay=DECAY,
            consistent_rms=0.2,
        ),
    ),
    "Muon | optax.contrib.muon, original scale, without Nesterov": Pair(
        lambda: kg.Muon(0.02, nesterov=False, adjust="original", weight_decay=None),
        lambda: optax_muon_path(0.02),
    ),
    "Muon | torch.optim.Muon, decay, schedule, clipping": Pair(
        lambda: kg.Muon(RATE, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: torch_path(
            lambda ws: TransposedMatrices(ws, adjust_lr_fn="match_rms_adamw"),
            scheduled=True,
            norm=NORM,
        ),
        tolerance=1e-2,
        why=BFLOAT16,
    ),
    "Muon | torch.optim.Muon, original scale, decay, schedule": Pair(
        lambda: kg.Muon(RATE, adjust="original", weight_decay=DECAY),
        lambda: torch_path(TransposedMatrices, scheduled=True),
        tolerance=1e-2,
        why=BFLOAT16,
    ),
    "Muon | Jordan's equations in float64, original scale, decay, schedule, clipping": Pair(
        lambda: kg.Muon(RATE, adjust="original", weight_decay=DECAY, global_clipnorm=NORM),
        lambda: numpy_path(muon, norm=NORM),
    ),
    "SOAP | pytorch_optimizer.SOAP, axes up to 5, schedule, clipping": Pair(
        lambda: kg.SOAP(
            RATE,
            weight_decay=None,
            precondition_frequency=3,
            max_precondition_dim=5,
            global_clipnorm=NORM,
        ),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.SOAP(
                ws, weight_decay=0.0, precondition_frequency=3, max_precondition_dim=5
            ),
            scheduled=True,
            norm=NORM,
        ),
    ),
    "SOAP | pytorch_optimizer.SOAP, axes up to 5, other betas, each step": Pair(
        lambda: kg.SOAP(
            0.02,
            beta_1=0.9,
            beta_2=0.99,
            shampoo_beta=0.8,
            weight_decay=None,
            precondition_frequency=1,
            max_precondition_dim=5,
        ),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.SOAP(
                ws,
                lr=0.02,
                betas=(0.9, 0.99),
                shampoo_beta=0.8,
                weight_decay=0.0,
                precondition_frequency=1,
                max_precondition_dim=5,
            )
        ),
    ),
    "SOAP | heavyball.SOAP, axes up to 5, other betas": Pair(
        lambda: kg.SOAP(
            0.02,
            beta_1=0.9,
            shampoo_beta=0.9,
            weight_decay=None,
            precondition_frequency=1,
            max_precondition_dim=5,
        ),
        lambda: heavyball_path(
            lr=0.02,
            betas=(0.9, 0.95),
            shampoo_beta=0.9,
            precondition_frequency=1,
            max_precond_dim=5,
        ),
    ),
    "SOAP | the paper in float64, axes up to 5, decay, schedule, clipping": Pair(
        lambda: kg.SOAP(
            RATE,
            weight_decay=DECAY,
            precondition_frequency=3,
            max_precondition_dim=5,
            global_clipnorm=NORM,
        ),
        lambda: numpy_path(soap, norm=NORM),
    ),
}
