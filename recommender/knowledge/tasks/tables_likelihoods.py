"""Tasks whose outputs are a distribution's parameters, from tables."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from recommender.knowledge.tasks import Data, MeasuredTask
from recommender.knowledge.tasks.columns import indicators, matrix, matrix_without, side_by_side
from recommender.knowledge.tasks.models import mlp
from recommender.knowledge.tasks.reading import (
    Array,
    numbers,
    package_file,
    split,
    standardised,
    table_of,
)


@keras.saving.register_keras_serializable(package="gradopt_tasks")
class PoissonDeviance(keras.losses.Loss):
    """Half the Poisson deviance of counts from the logarithm of a rate; at least 0."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One value per row."""
        counts = ops.cast(y_true, y_pred.dtype)
        fitted = counts * ops.log(ops.maximum(counts, 1.0))  # 0 log 0 is 0
        return ops.mean(ops.exp(y_pred) - counts * y_pred + fitted - counts, axis=-1)


@keras.saving.register_keras_serializable(package="gradopt_tasks")
def normal_likelihood(y_true: Any, y_pred: Any) -> Any:
    """Negative log-likelihood of numbers under normal distributions, one value per row.

    Args:
        y_true: (rows, 1).
        y_pred: (rows, 2): the mean, and what softplus makes the standard deviation of.
    """
    deviation = ops.softplus(y_pred[:, 1]) + 0.05  # no likelihood without bound
    away = (y_true[:, 0] - y_pred[:, 0]) / deviation
    return 0.5 * away * away + ops.log(deviation) + 0.5 * math.log(2 * math.pi)


def _normal() -> Any:
    return normal_likelihood


def _split_by_group(x: Array, y: Array, groups: Array, held: int) -> Data:
    """Hold out all rows of so many groups."""
    chosen = np.random.default_rng(0).permutation(np.unique(groups))[:held]
    out = np.isin(groups, chosen)
    return x[~out], y[~out], x[out], y[out]


def _bicycles() -> Data:
    table = table_of(package_file("ISLP", "data", "Bikeshare.csv"))
    weather = matrix(table, "temp", "atemp", "hum", "windspeed", "holiday", "workingday")
    x = side_by_side(weather, indicators(table, "hr", "mnth", "weekday", "weathersit"))
    days = numbers(table["day"])
    return _split_by_group(x, numbers(table["bikers"])[:, None], days, 36)


def _doctors() -> Data:
    table = table_of(package_file("statsmodels", "datasets", "randhie", "randhie.csv"))
    x = matrix_without(table, "mdvis")
    return standardised(split(x, numbers(table["mdvis"])[:, None], 1000, 8000))


def _flares() -> Data:
    table = table_of(package_file("river", "datasets", "solar-flare.csv.zip"))
    known = [name for name in table if not name.endswith("-flares")]
    return split(indicators(table, *known), numbers(table["c-class-flares"])[:, None], 266)


def _wages() -> Data:
    table = table_of(package_file("ISLP", "data", "Wage.csv"))
    words = ("maritl", "race", "education", "jobclass", "health", "health_ins")
    x = side_by_side(matrix(table, "year", "age"), indicators(table, *words))
    return standardised(split(x, numbers(table["wage"])[:, None], 600), target=True)


def _chicks() -> Data:
    table = table_of(package_file("river", "datasets", "chick-weights.csv"))
    x = side_by_side(matrix(table, "time"), indicators(table, "diet"))
    # Inputs do not say which chick it is, so weighings of one chick may lie on both sides.
    # In 20 g: as standardised numbers their likelihood's logarithm crosses 0.
    return standardised(split(x, matrix(table, "weight") / 20.0, 128))


TASKS = (
    MeasuredTask(
        name="bicycles_poisson",
        summary="Bicycles hired in an hour from weather and calendar, a Poisson rate",
        load=_bicycles,
        build=partial(mlp, 53, (64, 32)),
        loss=PoissonDeviance,
        batch_size=64,
        epochs=60,
        source="bikeshare",
        architecture="probabilistic",
        licence="BSD-3-Clause (ISLP); data CC BY 4.0 (UCI)",
        traits=("counts", "large_targets"),
        packages=("ISLP",),
    ),
    MeasuredTask(
        name="doctors_poisson",
        summary="Visits to a doctor in a year from insurance and health: a Poisson rate",
        load=_doctors,
        build=partial(mlp, 9, (32, 32)),
        loss=PoissonDeviance,
        batch_size=128,
        epochs=100,
        source="randhie",
        architecture="probabilistic",
        licence="public domain (statsmodels)",
        traits=("counts", "heavy_tails"),
        packages=("statsmodels",),
    ),
    MeasuredTask(
        name="flares_poisson",
        summary="Flares of a sunspot in a day from its class, a rate by exponential output",
        load=_flares,
        build=partial(mlp, 31, (16,), dropout=0.2, last="exponential"),
        loss=keras.losses.Poisson,
        batch_size=16,
        epochs=120,
        source="solar_flare",
        architecture="probabilistic",
        licence="BSD-3-Clause (river); data CC BY 4.0 (UCI)",
        traits=("counts", "categorical", "dropout"),
        packages=("river",),
    ),
    MeasuredTask(
        name="wages_normal",
        summary="A worker's wage with its spread: a normal distribution with two outputs",
        load=_wages,
        build=partial(mlp, 22, (48, 24), 2, dropout=0.2),
        loss=_normal,
        batch_size=32,
        epochs=90,
        source="wage",
        architecture="probabilistic",
        licence="BSD-3-Clause (ISLP); US census, public domain",
        traits=("heteroscedastic", "outliers", "categorical", "dropout"),
        packages=("ISLP",),
    ),
    MeasuredTask(
        name="chicks_normal",
        summary="A chick's weight and its spread, which grows with age, from age and diet",
        load=_chicks,
        build=partial(mlp, 5, (24, 24), 2, activation="tanh"),
        loss=_normal,
        batch_size=16,
        epochs=240,
        source="chick_weights",
        architecture="probabilistic",
        licence="BSD-3-Clause (river); data public (Crowder and Hand 1990)",
        traits=("heteroscedastic",),
        packages=("river",),
    ),
)
