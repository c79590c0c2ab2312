"""What a choice is worth on a recorded task, in the project's figures of merit."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recommender.knowledge import grid
from recommender.knowledge.grid import Choice
from recommender.knowledge.table import Record

# Normalised regrets outside are cut off, so that no single task decides a mean.
REGRET_RANGE = (-0.5, 3.0)
# Where losses pass through 0 (likelihoods of densities), differences are taken relative to at
# least this share of what the default gained.
LEAST_SCALE = 0.05
# An excess loss of this size is no harm yet.
HARMLESS = 0.02
# The default's seeds have to differ by less than half the gain of the oracle.
NOISE = 2.0
DEFAULT = Choice(grid.DEFAULT, "constant")


@dataclass(frozen=True)
class Score:
    """One choice on one task.

    Attributes:
        task: The task's name.
        choice: What was scored.
        loss: Best validation loss, mean over the seeds it was scored on.
        excess: (loss - default's) / |default's| with the default's loss on the same seeds, which
            share first weights and batches: 0.01 is one per cent worse, below 0 better.
        regret: (loss - oracle's) / (default's - oracle's), cut off at `REGRET_RANGE`; NaN where
            there is nothing to gain.
        time_ratio: Steps to the default's best loss per step that the default needed; infinite
            when it never gets there.
        stretched_ratio: The same for the shortest training planned for its own length (a late
            cooldown at one of `grid.HORIZONS`); the time ratio where only one length is known.
    """

    task: str
    choice: Choice
    loss: float
    excess: float
    regret: float
    time_ratio: float
    stretched_ratio: float


def score(record: Record, choice: Choice, seeds: Sequence[int]) -> Score:
    """Judge a choice by trainings that it was not chosen on.

    Args:
        record: The task.
        choice: The configuration that was advised.
        seeds: The trainings to score it on.
    """
    loss = mean_best(record, choice, seeds)
    default, oracle = record.target, oracle_loss(record)
    gain = default - oracle
    regret = math.nan
    if worthwhile(record):
        regret = float(np.clip((loss - oracle) / gain, *REGRET_RANGE))
    firsts = [record.first(record.curve(choice, seed)) for seed in seeds]
    stretched = [_shortest(record, choice, seed) for seed in seeds]
    return Score(
        record.name,
        choice,
        loss,
        excess(record, loss, mean_best(record, DEFAULT, seeds)),
        regret,
        float(np.median(firsts)) / record.default_steps,
        float(np.median(np.minimum(firsts, stretched))) / record.default_steps,
    )


def penalty(record: Record, found: Score) -> float:
    """What a choice misses, on one scale for all tasks: 0 is the best of all, 1 the default.

    The normalised regret; where nothing can be gained, the default's 1 and one more for each
    `HARMLESS` by which the loss lies above the default's.

    Args:
        record: The task.
        found: The choice's score there.
    """
    if worthwhile(record):
        return found.regret
    return float(np.clip(1 + found.excess / HARMLESS, *REGRET_RANGE))


def excess(record: Record, loss: float, default: float | None = None) -> float:
    """By which share of the default's best loss this one lies above it; infinite if diverged.

    Args:
        record: The task.
        loss: A best validation loss.
        default: The default's; None for its median over all its seeds.
    """
    if not math.isfinite(loss):
        return math.inf
    base = record.target if default is None else default
    first = float(record.arrays["initial"].mean())
    scale = max(abs(record.target), LEAST_SCALE * (first - record.target))
    return (loss - base) / scale


def mean_best(record: Record, choice: Choice, seeds: Sequence[int]) -> float:
    """The best validation loss, mean over seeds; infinite if one of them never had any."""
    return float(np.mean([np.min(record.curve(choice, seed)) for seed in seeds]))


@functools.cache
def oracle(record: Record, seed: int) -> Choice:
    """What was best on one seed."""
    choices = record.grid.choices
    return choices[int(np.argmin([mean_best(record, choice, [seed]) for choice in choices]))]


@functools.cache
def oracle_loss(record: Record) -> float:
    """The best configuration's loss, chosen on each seed and read off the others.

    The lowest loss of the table itself would be too good: it is partly luck.
    """
    every = range(record.seeds)
    losses = [
        mean_best(record, oracle(record, seed), [other for other in every if other != seed])
        for seed in every
    ]
    return float(np.mean(losses))


@functools.cache
def default_noise(record: Record) -> float:
    """Standard deviation of the default's best loss over its seeds."""
    return float(record.arrays["default_validation"].min(axis=1).std(ddof=1))


def worthwhile(record: Record) -> bool:
    """Whether anything can be gained: the oracle beats the default by twice the seeds' noise."""
    return record.target - oracle_loss(record) > NOISE * default_noise(record)


def _shortest(record: Record, choice: Choice, seed: int) -> float:
    """Steps of the shortest training with a late cooldown that ends at the target."""
    if choice.shape != "late_cooldown":
        return math.inf
    for share, (length, _) in sorted(grid.horizons(record.full_steps).items()):
        blocks = record.branch(choice.setting, seed, share)
        if blocks is not None and float(blocks.mean()) <= record.target:
            return float(length)
    return math.inf
