"""Functions fitted from coordinates: waves, surfaces, steps, a photograph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from recommender.knowledge.tasks import Data, DataMissing, MeasuredTask
from recommender.knowledge.tasks.losses import squared_error
from recommender.knowledge.tasks.reading import Array, split, standardised

register = keras.saving.register_keras_serializable(package="gradopt_tasks")
generated = partial(MeasuredTask, licence="none needed (generated)")


def dense_network(
    inputs: int, widths: Sequence[int], outputs: int, activation: Any = "relu"
) -> keras.Model:
    """Dense layers of these widths and a linear last one."""
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            *(layers.Dense(width, activation=activation) for width in widths),
            layers.Dense(outputs),
        ]
    )


@register
def sine_10(values: Any) -> Any:
    """The activation of SIREN (Sitzmann et al. 2020), 10 in place of 30 for a small picture."""
    return ops.sin(10.0 * values)


@register
class Octaves(layers.Layer):
    """Sines and cosines of the coordinates at frequencies pi, 2 pi, 4 pi, ... (as in NeRF).

    Args:
        octaves: How many frequencies.
    """

    def __init__(self, octaves: int, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.octaves = octaves

    def call(self, x: Any) -> Any:
        """(rows, coordinates) -> (rows, coordinates * (2 octaves + 1))."""
        waves = [x * (np.pi * 2.0**k) for k in range(self.octaves)]
        return ops.concatenate([x, *map(ops.sin, waves), *map(ops.cos, waves)], axis=-1)

    def compute_output_shape(self, shape: Any) -> Any:
        """As `call` says."""
        return (shape[0], shape[1] * (2 * self.octaves + 1))

    def get_config(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {**super().get_config(), "octaves": self.octaves}


def _sampled(function: Any, dimensions: int, train: int, noise: float, seed: int) -> Data:
    """Noisy values at random points of [-1, 1]^d; the 300 held out are free of noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (train + 300, dimensions)).astype(np.float32)
    y = function(x).astype(np.float32)[:, None]
    noisy = y[:train] + rng.normal(0, noise, (train, 1)).astype(np.float32)
    return x[:train], noisy, x[train:], y[train:]


def _sinusoids(x: Array) -> Array:
    t = np.pi * x[:, 0]
    return 0.6 * np.sin(2 * t) + 0.4 * np.sin(5 * t + 1) + 0.3 * np.sin(9 * t + 2)


def _franke(x: Array) -> Array:
    a, b = (9 * (x + 1) / 2).T
    return (
        0.75 * np.exp(-((a - 2) ** 2 + (b - 2) ** 2) / 4)
        + 0.75 * np.exp(-((a + 1) ** 2) / 49 - (b + 1) / 10)
        + 0.5 * np.exp(-((a - 7) ** 2 + (b - 3) ** 2) / 4)
        - 0.2 * np.exp(-((a - 4) ** 2) - (b - 7) ** 2)
    )


def _runge_steps(x: Array) -> Array:
    t = x[:, 0]
    return 1 / (1 + 25 * t**2) + 0.5 * np.tanh(80 * (t - 0.55)) - 0.7 * (t < -0.6)


def _photograph(name: str, top: int, left: int, size: int) -> Data:
    """Row and column in [-1, 1] -> grey value of a crop, a fifth of the pixels held out."""
    from sklearn.datasets import load_sample_image

    try:
        image = load_sample_image(name)[top : top + size, left : left + size]
    except ImportError as error:  # scikit-learn reads JPEG files through Pillow
        raise DataMissing("pillow") from error
    grey = image.mean(axis=-1).astype(np.float32).reshape(-1, 1)
    axis = np.linspace(-1, 1, size)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    x, y, x_val, y_val = split(x.astype(np.float32), grey, size * size // 5)
    _, y, _, y_val = standardised((x, y, x_val, y_val), target=True)
    return x, y, x_val, y_val


def _sine_network() -> keras.Model:
    """Two hidden layers of sines, started as the paper says: (-1/n, 1/n), then sqrt(6/n)/10."""
    width = 32

    def within(limit: float) -> Any:
        return keras.initializers.RandomUniform(-limit, limit)

    hidden = partial(layers.Dense, width, activation=sine_10)
    return keras.Sequential(
        [
            keras.Input((2,)),
            hidden(kernel_initializer=within(1 / 2)),
            hidden(kernel_initializer=within(np.sqrt(6 / width) / 10)),
            layers.Dense(1, kernel_initializer=within(np.sqrt(6 / width) / 10)),
        ]
    )


def _octave_network() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((2,)),
            Octaves(5),
            layers.Dense(48, activation="relu"),
            layers.Dense(48, activation="relu"),
            layers.Dense(1),
        ]
    )


photograph = partial(
    MeasuredTask,
    loss=squared_error,
    source="sklearn_photographs",
    architecture="coordinate",
    licence="CC BY 2.0 (sklearn/datasets/images/README.txt)",
    packages=("scikit-learn", "pillow"),
)

TASKS = (
    generated(
        name="sinusoids_tanh",
        summary="Sum of three sines on a line, noisy, by a tanh network",
        load=partial(_sampled, _sinusoids, 1, 512, 0.1, 31),
        build=partial(dense_network, 1, (48, 48), 1, "tanh"),
        loss=squared_error,
        batch_size=32,
        epochs=1250,
        source="sinusoids",
        architecture="coordinate",
    ),
    generated(
        name="franke_gelu",
        summary="Franke's surface of four bumps from 400 noisy points, by a GELU network",
        load=partial(_sampled, _franke, 2, 400, 0.03, 32),
        build=partial(dense_network, 2, (32, 32), 1, "gelu"),
        loss=squared_error,
        batch_size=32,
        epochs=800,
        source="franke",
        architecture="coordinate",
    ),
    generated(
        name="runge_steps_relu",
        summary="Runge's function with a jump and a steep front, by a deep ReLU network",
        load=partial(_sampled, _runge_steps, 1, 640, 0.02, 33),
        build=partial(dense_network, 1, (32, 32, 32), 1),
        loss=squared_error,
        batch_size=32,
        epochs=400,
        source="runge_steps",
        architecture="coordinate",
        traits=("discontinuous",),
    ),
    photograph(
        name="flower_crop_sines",
        summary="Grey values of a 40x40 crop of a flower from coordinates, by sines (SIREN)",
        load=partial(_photograph, "flower.jpg", 180, 280, 40),
        build=_sine_network,
        batch_size=32,
        epochs=150,
    ),
    photograph(
        name="china_crop_octaves",
        summary="Grey values of a 48x48 crop of a temple from Fourier features of coordinates",
        load=partial(_photograph, "china.jpg", 120, 300, 48),
        build=_octave_network,
        batch_size=64,
        epochs=200,
    ),
)
