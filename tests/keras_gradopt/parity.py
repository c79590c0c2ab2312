"""Our trajectories beside those of implementations that nobody here wrote.

    python -m tests.keras_gradopt.parity    writes docs/parity.md, from all three backends

The pairs are in `peers/`, one module per group of methods.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optax
import torch

import keras_gradopt as kg
from tests.keras_gradopt import peers
from tests.keras_gradopt.problems import gradients, start_weights, train

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "parity.md"
BACKENDS = ("jax", "tensorflow", "torch")
STEPS = 20
# 20 steps in float32, each rounding to 6e-8 of the weights and of the moments.
TOLERANCE = 1e-5
# Warmup, a constant stretch and a cooldown within 20 steps; `rate_at` is its closed form.
PEAK = 0.05
RATE = kg.schedules.WarmupStableDecay(PEAK, 5, 5, 10)
# The global norm to which gradients are clipped: below most gradients' of the problem.
NORM = 1.0
DECAY = 0.1

Trajectory = list[list[np.ndarray]]


def rate_at(step: int) -> float:
    """The value of RATE at a step (0 is the first), written out again."""
    factor = step / 5 if step < 5 else 1.0 if step < 10 else max(0.0, 1.0 - (step - 10) / 10)
    return PEAK * factor


@dataclasses.dataclass(frozen=True)
class Pair:
    """One of our optimizers and whom it follows.

    Attributes:
        ours: Makes the optimizer.
        peer: The other implementation's path: weights after each of `STEPS` steps.
        tolerance: Largest deviation, relative to the weights' largest entry.
        why: The reason for a tolerance above `TOLERANCE`.
        evaluated: Whether the weights to evaluate are compared, not those in training.
    """

    ours: Callable[[], Any]
    peer: Callable[[], Trajectory]
    tolerance: float = TOLERANCE
    why: str = ""
    evaluated: bool = False


def pairs() -> dict[str, Pair]:
    """All pairs by name: "Class | whom it follows, with which settings"."""
    found: dict[str, Pair] = {}
    for info in pkgutil.iter_modules(peers.__path__):
        module = importlib.import_module(f"{peers.__name__}.{info.name}")
        twice = set(module.PAIRS) & set(found)
        assert not twice, f"named twice: {twice}"
        found |= module.PAIRS
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def deviation(pair: Pair) -> float:
    """The largest deviation of any weight at any step, relative to its tensor's largest entry."""
    worst = 0.0
    path = train(pair.ours(), STEPS, evaluated=pair.evaluated)
    for ours, theirs in zip(path, pair.peer(), strict=True):
        for a, e in zip(ours, theirs, strict=True):
            difference = np.abs(np.asarray(a, np.float64) - np.asarray(e, np.float64)).max()
            worst = max(worst, float(difference / np.abs(e).max()))
    return worst


# --- how peers are run ---


def torch_path(
    make: Callable[[list], Any],
    *,
    scheduled: bool = False,
    norm: float | None = None,
) -> Trajectory:
    """The path of a torch optimizer on the same gradients.

    Args:
        make: From the parameters to the optimizer.
        scheduled: Whether its rate follows RATE.
        norm: Global norm to which gradients are clipped before each step.
    """
    ws = [torch.nn.Parameter(torch.tensor(w)) for w in start_weights()]
    optimizer = make(ws)
    path = []
    for step in range(STEPS):
        for w, g in zip(ws, gradients([w.detach().numpy() for w in ws], step), strict=True):
            w.grad = torch.tensor(g)
        if norm is not None:
            torch.nn.utils.clip_grad_norm_(ws, norm)
        if scheduled:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step)
        optimizer.step()
        path.append([w.detach().numpy().copy() for w in ws])
    return path


def optax_path(transform: optax.GradientTransformation) -> Trajectory:
    """The path of an optax transform on the same gradients."""
    ws = start_weights()
    state, path = transform.init(ws), []
    for step in range(STEPS):
        updates, state = transform.update(gradients(ws, step), state, ws)
        ws = [np.asarray(w) for w in optax.apply_updates(ws, updates)]
        path.append(ws)
    return path


def keras_path(optimizer: keras.optimizers.Optimizer) -> Trajectory:
    """The path of one of Keras' own optimizers."""
    return train(optimizer, STEPS)


def numpy_path(
    rule: Callable[[np.ndarray, np.ndarray, dict, int], np.ndarray],
    *,
    norm: float | None = None,
) -> Trajectory:
    """The path of a paper's equations in float64.

    Args:
        rule: `rule(w, g, state, t) -> w` for one variable; `state` is its own dict, empty at
            first, `t` is 1 at the first step.
        norm: Global norm to which gradients are clipped before each step.
    """
    ws = [w.astype(np.float64) for w in start_weights()]
    states: list[dict] = [{} for _ in ws]
    path = []
    for step in range(STEPS):
        gs = [g.astype(np.float64) for g in gradients([w.astype(np.float32) for w in ws], step)]
        if norm is not None:
            size = np.sqrt(sum(float((g * g).sum()) for g in gs))
            gs = [g * min(1.0, norm / size) for g in gs]
        ws = [rule(w, g, s, step + 1) for w, g, s in zip(ws, gs, states, strict=True)]
        path.append([w.copy() for w in ws])
    return path


# --- the page ---


def measured() -> dict[str, float]:
    """Every pair's deviation on the running backend."""
    return {name: deviation(pair) for name, pair in pairs().items()}


def page(results: dict[str, dict[str, float]]) -> str:
    """The page from the deviations by backend."""
    lines = [
        "# Parity",
        "",
        f"Largest deviation from another implementation over {STEPS} steps in float32.",
        "The problem: a matrix, a vector, a convolution kernel and an embedding table.",
        "Deviations are relative to the tensor's largest entry.",
        "Made by `python -m tests.keras_gradopt.parity`; the tests hold every row to its bound.",
        "",
        f"| method | follows | {' | '.join(BACKENDS)} | bound |",
        f"| --- | --- | {' | '.join('---' for _ in BACKENDS)} | --- |",
    ]
    notes = []
    for name, pair in pairs().items():
        method, _, peer = name.partition(" | ")
        cells = " | ".join(f"{results[b][name]:.1e}" for b in BACKENDS)
        mark = ""
        if pair.why:
            if pair.why not in notes:
                notes.append(pair.why)
            mark = f" ({notes.index(pair.why) + 1})"
        lines.append(f"| {method} | {peer} | {cells} | {pair.tolerance:.0e}{mark} |")
    lines += ["", *(f"{number}. {why}" for number, why in enumerate(notes, start=1))]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: Sequence[str]) -> None:
    """With `--here` print this backend's deviations, else write the page."""
    if "--here" in arguments:
        print(json.dumps(measured()))
        return
    results = {}
    for backend in BACKENDS:
        done = subprocess.run(
            [sys.executable, "-m", "tests.keras_gradopt.parity", "--here"],
            check=True,
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            text=True,
        )
        results[backend] = json.loads(done.stdout.splitlines()[-1])
    PAGE.write_text(page(results), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
