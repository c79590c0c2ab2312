"""Tasks about what people buy, owe and do, from surveys and customers' records."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
from keras import layers

from recommender.knowledge.tasks import Data, MeasuredTask
from recommender.knowledge.tasks.columns import (
    indicator,
    indicators,
    matrix,
    matrix_without,
    side_by_side,
)
from recommender.knowledge.tasks.losses import binary_cross_entropy
from recommender.knowledge.tasks.models import linear, mlp
from recommender.knowledge.tasks.reading import (
    codes,
    numbers,
    package_file,
    split,
    standardised,
    table_of,
)


def _caravan() -> Data:
    table = table_of(package_file("ISLP", "data", "Caravan.csv"))
    return standardised(
        split(matrix_without(table, "Purchase"), indicator(table["Purchase"], "Yes"), 1000)
    )


def _default() -> Data:
    table = table_of(package_file("ISLP", "data", "Default.csv"))
    dollars = matrix(table, "balance", "income")
    x = side_by_side(dollars / 1000.0, indicator(table["student"], "Yes"))
    return split(x, indicator(table["default"], "Yes"), 1000)


def _orange_juice() -> Data:
    table = table_of(package_file("ISLP", "data", "OJ.csv"))
    amounts = matrix_without(table, "Purchase", "StoreID", "Store7", "STORE")
    x = side_by_side(amounts, indicators(table, "StoreID"))
    return standardised(split(x, indicator(table["Purchase"], "MM"), 250))


def _marriages() -> Data:
    table = table_of(package_file("statsmodels", "datasets", "fair", "fair.csv"))
    affair = (numbers(table.pop("affairs")) > 0).astype(np.float32)
    columns, first = [], 0
    for column in table.values():
        columns.append(codes(column) + first)
        first = int(columns[-1].max()) + 1
    return split(np.stack(columns, axis=1), affair[:, None], 1000)


def _embedded_marriages() -> keras.Model:
    """Every answer of every question has a vector."""
    return keras.Sequential(
        [
            keras.Input((8,), dtype="int32"),
            layers.Embedding(46, 8),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(1),
        ]
    )


TASKS = (
    MeasuredTask(
        name="caravan_batch_norm",
        summary="Who buys caravan insurance (6 %) from 85 traits of a household's area, BatchNorm",
        load=_caravan,
        build=partial(mlp, 85, (64, 32), dropout=0.3, norm="batch"),
        loss=binary_cross_entropy,
        batch_size=64,
        epochs=80,
        source="caravan",
        architecture="normalised_mlp",
        licence="BSD-3-Clause (ISLP); data: CoIL 2000, research use",
        traits=("imbalanced", "batch_norm", "dropout"),
        packages=("ISLP",),
    ),
    MeasuredTask(
        name="default_logistic",
        summary="Defaults on credit cards (3 %) by logistic regression on thousands of dollars",
        load=_default,
        build=partial(linear, 3),
        loss=binary_cross_entropy,
        batch_size=128,
        epochs=140,
        source="default",
        architecture="linear",
        licence="BSD-3-Clause (ISLP); data simulated by the book's authors",
        traits=("imbalanced", "convex", "badly_scaled"),
        packages=("ISLP",),
    ),
    MeasuredTask(
        name="orange_juice_layer_norm",
        summary="Which of two orange juices is bought, from prices and loyalty, LayerNorm",
        load=_orange_juice,
        build=partial(mlp, 19, (48, 48), norm="layer", dropout=0.1),
        loss=binary_cross_entropy,
        batch_size=32,
        epochs=240,
        source="orange_juice",
        architecture="normalised_mlp",
        licence="BSD-3-Clause (ISLP)",
        traits=("layer_norm", "collinear"),
        packages=("ISLP",),
    ),
    MeasuredTask(
        name="marriages_embedding",
        summary="Affairs from eight questions to 5366 wives, a vector for each answer",
        load=_marriages,
        build=_embedded_marriages,
        loss=binary_cross_entropy,
        batch_size=64,
        epochs=80,
        source="fair",
        architecture="embedding",
        licence="public domain (statsmodels)",
        traits=("categorical", "dropout"),
        packages=("statsmodels",),
    ),
)
