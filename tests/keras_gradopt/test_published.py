"""Trajectories against implementations that nobody here wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import optax
import prodigyopt
import pytest
import pytorch_optimizer
import torch

import keras_gradopt as kg
from tests.keras_gradopt.problems import assert_close, gradients, start_weights, train

STEPS = 20
# 20 steps in float32, each rounding to 6e-8 of the weights and of the moments.
TOLERANCE = 1e-5


def torch_path(make: Callable[[list], Any], **kwargs: Any) -> list:
    """The path of a torch optimizer on the same gradients."""
    ws = [torch.nn.Parameter(torch.tensor(w)) for w in start_weights(**kwargs)]
    optimizer = make(ws)
    path = []
    for step in range(STEPS):
        for w, g in zip(ws, gradients([w.detach().numpy() for w in ws], step), strict=True):
            w.grad = torch.tensor(g)
        optimizer.step()
        path.append([w.detach().numpy().copy() for w in ws])
    return path


def optax_path(transform: optax.GradientTransformation) -> list:
    """The path of an optax transform on the same gradients."""
    ws = start_weights()
    state, path = transform.init(ws), []
    for step in range(STEPS):
        updates, state = transform.update(gradients(ws, step), state, ws)
        ws = [np.asarray(w) for w in optax.apply_updates(ws, updates)]
        path.append(ws)
    return path


def clipped(make: Callable[[list], Any], norm: float) -> Callable[[list], Any]:
    """A torch optimizer with its global norm clipped before each step."""

    def build(ws: list) -> Any:
        optimizer = make(ws)
        own_step = optimizer.step

        def step() -> None:
            torch.nn.utils.clip_grad_norm_(ws, norm)
            own_step()

        optimizer.step = step
        return optimizer

    return build


RATE = kg.schedules.WarmupStableDecay(0.05, 5, 5, 10)


def torch_scheduled(make: Callable[[list], Any]) -> Callable[[list], Any]:
    """A torch optimizer whose rate follows the closed form of RATE, written here again."""

    def build(ws: list) -> Any:
        optimizer = make(ws)
        own_step, count = optimizer.step, [0]

        def step() -> None:
            t = count[0]
            factor = t / 5 if t < 5 else 1.0 if t < 10 else 1.0 - (t - 10) / 10
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * factor
            own_step()
            count[0] += 1

        optimizer.step = step
        return optimizer

    return build


# Ours, and the peer's path. Where the peer keeps the rate outside the velocity, it is constant.
PEERS: dict[str, tuple[Callable[[], Any], Callable[[], list]]] = {
    "sgd-torch": (
        lambda: kg.SGD(0.02),
        lambda: torch_path(lambda ws: torch.optim.SGD(ws, lr=0.02)),
    ),
    "sgd-momentum-torch": (
        lambda: kg.SGD(0.02, momentum=0.9),
        lambda: torch_path(lambda ws: torch.optim.SGD(ws, lr=0.02, momentum=0.9)),
    ),
    "sgd-nesterov-torch": (
        lambda: kg.SGD(0.02, momentum=0.9, nesterov=True),
        lambda: torch_path(lambda ws: torch.optim.SGD(ws, lr=0.02, momentum=0.9, nesterov=True)),
    ),
    "sgd-nesterov-optax": (
        lambda: kg.SGD(0.02, momentum=0.9, nesterov=True),
        lambda: optax_path(optax.sgd(0.02, momentum=0.9, nesterov=True)),
    ),
    "sgd-scheduled-keras": (
        lambda: kg.SGD(RATE, momentum=0.9),
        lambda: train(keras.optimizers.SGD(RATE, momentum=0.9), STEPS),
    ),
    "sgd-averaged-keras": (
        lambda: kg.SGD(0.02, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3),
        lambda: train(
            keras.optimizers.SGD(0.02, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3),
            STEPS,
        ),
    ),
    "adam-torch": (
        lambda: kg.Adam(0.02, epsilon=1e-4),
        lambda: torch_path(lambda ws: torch.optim.Adam(ws, lr=0.02, eps=1e-4)),
    ),
    "adam-optax": (
        lambda: kg.Adam(0.02, epsilon=1e-4),
        lambda: optax_path(optax.adam(0.02, eps=1e-4)),
    ),
    "adam-amsgrad-optax": (
        lambda: kg.Adam(0.02, amsgrad=True),
        lambda: optax_path(optax.amsgrad(0.02, eps=1e-7)),
    ),
    "adamw-scheduled-clipped-torch": (
        lambda: kg.AdamW(RATE, weight_decay=0.1, global_clipnorm=1.0),
        lambda: torch_path(
            clipped(
                torch_scheduled(lambda ws: torch.optim.AdamW(ws, weight_decay=0.1, eps=1e-7)), 1.0
            )
        ),
    ),
    "adamw-optax": (
        lambda: kg.AdamW(0.02, weight_decay=0.1, global_clipnorm=1.0),
        lambda: optax_path(
            optax.chain(
                optax.clip_by_global_norm(1.0), optax.adamw(0.02, eps=1e-7, weight_decay=0.1)
            )
        ),
    ),
    "adagrad-torch": (
        lambda: kg.Adagrad(0.1, epsilon=1e-4),
        lambda: torch_path(
            lambda ws: torch.optim.Adagrad(ws, lr=0.1, initial_accumulator_value=0.1, eps=1e-4)
        ),
    ),
    "rmsprop-torch": (
        lambda: kg.RMSprop(0.01, epsilon=1e-4),
        lambda: torch_path(lambda ws: torch.optim.RMSprop(ws, lr=0.01, alpha=0.9, eps=1e-4)),
    ),
    "rmsprop-centered-momentum-torch": (
        lambda: kg.RMSprop(0.01, momentum=0.5, centered=True),
        lambda: torch_path(
            lambda ws: torch.optim.RMSprop(
                ws, lr=0.01, alpha=0.9, eps=1e-7, momentum=0.5, centered=True
            )
        ),
    ),
    "prodigy-prodigyopt": (
        lambda: kg.Prodigy(weight_decay=0.1, initial_distance=1e-2, bias_correction=True),
        lambda: torch_path(
            lambda ws: prodigyopt.Prodigy(ws, weight_decay=0.1, d0=1e-2, use_bias_correction=True)
        ),
    ),
    "prodigy-safeguard-prodigyopt": (
        lambda: kg.Prodigy(initial_distance=1e-2, safeguard_warmup=True, distance_coefficient=0.7),
        lambda: torch_path(
            lambda ws: prodigyopt.Prodigy(ws, d0=1e-2, safeguard_warmup=True, d_coef=0.7)
        ),
    ),
    "lookahead-pytorch-optimizer": (
        lambda: kg.Lookahead(kg.SGD(0.02, momentum=0.9), sync_period=5, slow_step_size=0.5),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.Lookahead(
                torch.optim.SGD(ws, lr=0.02, momentum=0.9), k=5, alpha=0.5
            )
        ),
    ),
    "lookahead-of-keras-adam": (
        lambda: kg.Lookahead(
            keras.optimizers.Adam(0.02, epsilon=1e-9), sync_period=5, slow_step_size=0.5
        ),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.Lookahead(
                torch.optim.Adam(ws, lr=0.02, eps=1e-9), k=5, alpha=0.5
            )
        ),
    ),
}


@pytest.mark.parametrize("pair", PEERS.values(), ids=PEERS)
def test_a_rule_follows_its_peer_step_for_step(pair: tuple) -> None:
    ours, peer = pair
    assert_close(train(ours(), STEPS), peer(), TOLERANCE)


def test_shampoo_follows_pytorch_optimizer() -> None:
    # The peer takes roots through an SVD, we through eigenvalues; where statistics have just been
    # started (one gradient in a space of up to 24 dimensions) both keep half the digits of float32.
    ours = train(kg.Shampoo(0.05, grafting=False, epsilon=1e-2), STEPS)
    peer = torch_path(lambda ws: pytorch_optimizer.Shampoo(ws, lr=0.05, matrix_eps=1e-2))
    assert_close(ours, peer, 2e-4)


@pytest.mark.parametrize("graft", [lambda: kg.SGD(1.0), lambda: kg.Adam(1.0), kg.Adagrad])
def test_shampoo_before_preconditioning_is_the_grafted_method(graft: Callable) -> None:
    shampoo = kg.Shampoo(0.02, grafting=graft(), start_preconditioning_step=100)
    reduced = graft()
    reduced.learning_rate = 0.02
    assert_close(train(shampoo, STEPS), train(reduced, STEPS), TOLERANCE)


def test_shampoo_with_grafting_keeps_the_grafted_method_s_step_size() -> None:
    shampoo, plain = kg.Shampoo(0.02, grafting=kg.SGD(1.0)), kg.SGD(0.02)
    (moved,), (reference,) = train(shampoo, 1), train(plain, 1)
    for start, a, b in zip(start_weights(), moved, reference, strict=True):
        assert np.linalg.norm(a - start) == pytest.approx(np.linalg.norm(b - start), rel=1e-4)


def test_adam_corrects_its_moments_exactly_at_the_first_step() -> None:
    """With float32 powers of 0.999 the first step would be off by 6e-6 of itself."""
    w = keras.Variable(np.zeros(3, "float32"))
    kg.Adam(1.0, epsilon=1e-30).apply([keras.ops.array([0.1, -2.0, 30.0])], [w])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(w.value), [-1.0, 1.0, -1.0], rtol=2e-7)
