"""The configurations that every task of the truth table is trained under."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recommender.settings import Setting

# Raised when the configurations change: records of another version are not mixed with these.
VERSION = 1

Shape = Literal["constant", "late_cooldown", "linear", "cosine", "warmup_cosine"]
SHAPES: tuple[str, ...] = get_args(Shape)
# What one run at constant rate gives, with the cooldowns that branch off it.
OF_A_TRUNK: tuple[Shape, ...] = ("constant", "late_cooldown")

# Lengths, as shares of the full one, for which a late cooldown is made and validated.
HORIZONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.35, 0.5, 0.75, 1.0)
# A late cooldown takes this share of its length, warmup that share of the full length.
COOLDOWN, WARMUP = 0.25, 0.05
# A shorter training than this shows nothing.
LEAST_STEPS = 20
# Curves have so many equal steps, and early points where losses move fastest.
EQUAL, EARLY = 56, (0.0025, 0.005, 0.01)
# Seeds of every configuration, and further ones of the default.
SEEDS, DEFAULT_SEEDS = 2, 5

NESTEROV = (("momentum", 0.9), ("nesterov", True))


def _decayed(rate: float, weight_decay: float) -> Setting:
    return Setting("adamw", rate, (("weight_decay", weight_decay),))


DEFAULT = Setting("adam", 1e-3)
_ADAM = (Setting("adam", 3e-4), DEFAULT, Setting("adam", 3e-3), Setting("adam", 1e-2))
_PLAIN_ADAMW = Setting("adamw", 1e-3)


@dataclass(frozen=True)
class Choice:
    """An optimizer at a peak rate, and the shape of its schedule over the full length.

    Attributes:
        setting: Optimizer and peak rate.
        shape: How the rate moves.
    """

    setting: Setting
    shape: Shape

    @property
    def label(self) -> str:
        """The choice in a few words."""
        return f"{self.setting.label}, {self.shape.replace('_', ' ')}"


@dataclass(frozen=True)
class Grid:
    """What one task is trained under.

    Attributes:
        name: "full" or "small".
        trunks: Settings trained at a constant rate, each with a late cooldown at all `HORIZONS`.
        shaped: Choices that need a run of their own.
    """

    name: str
    trunks: tuple[Setting, ...]
    shaped: tuple[Choice, ...]

    @functools.cached_property
    def choices(self) -> tuple[Choice, ...]:
        """Every configuration: two for each trunk, then the shaped ones."""
        pairs = (Choice(s, shape) for s in self.trunks for shape in OF_A_TRUNK)
        return (*pairs, *self.shaped)

    @functools.cached_property
    def places(self) -> dict[Choice, tuple[str, int]]:
        """Where a configuration's curves are: its shape, and the row among trunks or shaped."""
        trunks = {
            Choice(setting, shape): (str(shape), row)
            for row, setting in enumerate(self.trunks)
            for shape in OF_A_TRUNK
        }
        return trunks | {c: ("shaped", i) for i, c in enumerate(self.shaped)}

    @functools.cached_property
    def settings(self) -> tuple[Setting, ...]:
        """Every setting that occurs, once."""
        return tuple(dict.fromkeys((*self.trunks, *(c.setting for c in self.shaped))))


FULL = Grid(
    "full",
    (
        *_ADAM,
        Setting("adam", 3e-2),
        _decayed(3e-3, 0.1),
        _decayed(1e-2, 0.1),
        _decayed(3e-3, 1.0),
        Setting("nadam", 3e-3),
        Setting("rmsprop", 1e-3),
        Setting("rmsprop", 3e-3),
        Setting("sgd", 1e-2, NESTEROV),
        Setting("sgd", 3e-2, NESTEROV),
        Setting("sgd", 1e-1, NESTEROV),
        Setting("sgd", 3e-1, NESTEROV),
        Setting("adagrad", 1e-1),
        Setting("lion", 3e-4),
        Setting("lion", 1e-3),
        Setting("muon", 2e-2),
        Setting("prodigy", 1.0),
    ),
    (
        Choice(DEFAULT, "cosine"),
        Choice(_PLAIN_ADAMW, "warmup_cosine"),
        Choice(_decayed(1e-2, 0.1), "warmup_cosine"),
        Choice(Setting("sgd", 3e-1, NESTEROV), "warmup_cosine"),
        Choice(DEFAULT, "linear"),
        Choice(Setting("adam", 3e-3), "linear"),
        Choice(Setting("adam", 1e-2), "linear"),
        Choice(Setting("adam", 3e-2), "linear"),
    ),
)
SMALL = Grid(
    "small",
    (
        *_ADAM,
        _decayed(3e-3, 0.1),
        Setting("sgd", 3e-2, NESTEROV),
        Setting("sgd", 1e-1, NESTEROV),
        Setting("lion", 3e-4),
        Setting("muon", 2e-2),
    ),
    (
        Choice(DEFAULT, "cosine"),
        Choice(_PLAIN_ADAMW, "warmup_cosine"),
        Choice(_decayed(1e-2, 0.1), "warmup_cosine"),
        Choice(DEFAULT, "linear"),
        Choice(Setting("adam", 3e-3), "linear"),
        Choice(Setting("adam", 1e-2), "linear"),
    ),
)
GRIDS = {grid.name: grid for grid in (FULL, SMALL)}

# The rates of the range test, one step each.
RANGE_TEST = np.geomspace(1e-5, 1.0, 100)


def points(full_steps: int) -> NDArray[np.int32]:
    """The steps at which curves are recorded; the last is the full length."""
    equal = [full_steps * (i + 1) / EQUAL for i in range(EQUAL)]
    early = [full_steps * share for share in EARLY]
    return np.unique(np.maximum(1, np.round(early + equal))).astype(np.int32)


def horizons(full_steps: int) -> dict[float, tuple[int, int]]:
    """Length and first cooled step of a late cooldown per share that is long enough."""
    found = {}
    for share in HORIZONS:
        length = round(share * full_steps)
        if length >= LEAST_STEPS:
            found[share] = (length, length - round(COOLDOWN * length))
    return found


def rates(shape: Shape, peak: float, full_steps: int) -> NDArray[np.float32]:
    """The rate of each step, by the package's own schedules; shape (full_steps,)."""
    from keras import ops

    steps = ops.convert_to_tensor(np.arange(full_steps, dtype=np.float32))
    values = schedule(shape, peak, full_steps).at(steps) if shape != "constant" else peak
    return np.broadcast_to(ops.convert_to_numpy(values), full_steps).astype(np.float32)


def schedule(shape: Shape, peak: float, full_steps: int) -> Any:
    """A shape over so many steps as a schedule of `keras_gradopt`; not for "constant"."""
    from keras_gradopt import schedules

    warm = max(1, round(WARMUP * full_steps))
    cool = round(COOLDOWN * full_steps)
    if shape == "late_cooldown":
        return schedules.WarmupStableDecay(peak, 0, full_steps - cool, cool)
    if shape == "linear":
        return schedules.LinearToZero(peak, full_steps)
    if shape == "cosine":
        return schedules.CosineDecay(peak, full_steps)
    return schedules.Warmup(schedules.CosineDecay(peak, full_steps - warm), warm)


def plain(setting: Setting) -> dict[str, Any]:
    """A setting as plain data, ready for JSON."""
    return {
        "method": setting.method,
        "learning_rate": setting.learning_rate,
        "config": dict(setting.config),
    }
