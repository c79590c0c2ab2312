"""Bayesian optimisation on two functions: our regret, scikit-optimize's and random search's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks.parts.boxes import BOXES, Box, regrets

# By record_scikit_optimize.py there, in an environment of its own.
PEER_FILE = (
    Path(__file__).parents[2]
    / "tests/keras_gradopt/gradient_free_peers/recorded/scikit_optimize.json"
)
OURS, PEER, RANDOM = "ours", "scikit-optimize", "random search"


def curves(name: str, seeds: Iterable[int], *, ours_too: bool = True) -> dict[str, np.ndarray]:
    """Simple regret after each evaluation, each started at the centre of the box.

    Args:
        name: A key of `BOXES`.
        seeds: Of ours and of random search; the peer's are those on record.
        ours_too: Whether ours is run as well.

    Returns:
        By method, shape (seeds, evaluations).
    """
    seeds, box = list(seeds), BOXES[name]
    recorded = json.loads(PEER_FILE.read_text("utf-8"))["curves"][name]
    own = {OURS: np.array([ours(box, seed) for seed in seeds])} if ours_too else {}
    return {
        **own,
        PEER: np.array(recorded),
        RANDOM: np.array([random_search(box, seed) for seed in seeds]),
    }


def ours(box: Box, seed: int) -> np.ndarray:
    """Our regret after each evaluation."""
    import keras_gradopt as kg

    losses: list[float] = []

    def loss(u: Any) -> float:
        losses.append(box.loss(u))
        return losses[-1]

    optimizer = kg.BayesianOptimization(radius=0.5, seed=seed)
    optimizer.minimize(loss, [0.5] * box.dimensions, box.evaluations)
    return regrets(losses, box)


def random_search(box: Box, seed: int) -> np.ndarray:
    """The regret of points drawn evenly, after the centre."""
    drawn = np.random.default_rng(seed).uniform(size=(box.evaluations - 1, box.dimensions))
    return regrets([box.loss([0.5] * box.dimensions), *map(box.loss, drawn)], box)


HEADINGS = (
    "function",
    "method",
    "seeds",
    "median regret at half",
    "median regret at the end",
    "worst",
    "p against ours",
)


def rows(name: str, found: dict[str, np.ndarray]) -> list[tuple[str, ...]]:
    """A line per method: medians over seeds, the worst, and a two-sided Mann-Whitney test.

    Args:
        name: A key of `BOXES`.
        found: From `curves`.
    """
    ends = {method: regret[:, -1] for method, regret in found.items()}
    return [
        (
            BOXES[name].title,
            method,
            str(len(regret)),
            f"{np.median(regret[:, regret.shape[1] // 2 - 1]):.2g}",
            f"{np.median(ends[method]):.2g}",
            f"{ends[method].max():.2g}",
            "" if method == OURS else f"{p_value(ends[OURS], ends[method]):.2g}",
        )
        for method, regret in found.items()
    ]


def p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Of the two-sided Mann-Whitney test that two samples are alike."""
    return float(mannwhitneyu(a, b, alternative="two-sided").pvalue)
