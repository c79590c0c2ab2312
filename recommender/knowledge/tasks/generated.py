"""Numbers to learn, drawn from known distributions, each with a difficulty of its own."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
from keras import layers

from recommender.knowledge.tasks import Data
from recommender.knowledge.tasks.functions import dense_network, generated
from recommender.knowledge.tasks.losses import squared_error
from recommender.knowledge.tasks.reading import Array, split


def as_data(*arrays: Array) -> Data:
    """The four arrays as float32."""
    x, y, x_val, y_val = (np.asarray(v, np.float32) for v in arrays)
    return x, y, x_val, y_val


def _friedman1() -> Data:
    """Friedman's first function with Student's noise; the values held out are free of it."""
    rng = np.random.default_rng(61)
    x = rng.random((2400, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    y = (y + 10 * x[:, 3] + 5 * x[:, 4] - 14.4) / 5
    noisy = y + 0.7 * rng.standard_t(3, len(y))
    x = 2 * x - 1
    return as_data(x[:1900], noisy[:1900, None], x[1900:], y[1900:, None])


def _teacher(seed: int, inputs: int, noise: float) -> Data:
    """A random tanh network of two hidden layers answers, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2500, inputs))
    h = np.tanh(x @ rng.normal(size=(inputs, 24)) * 1.5 / np.sqrt(inputs))
    h = np.tanh(h @ rng.normal(size=(24, 24)) * 2 / np.sqrt(24))
    y = h @ rng.normal(size=(24, 1)) / np.sqrt(24)
    y = y / y.std() + noise * rng.normal(size=y.shape)
    return as_data(*split(x, y, 500))


def _low_rank_map() -> Data:
    """A linear map of rank 4 from 16 inputs to 8 outputs, with a little noise."""
    rng = np.random.default_rng(63)
    x = rng.normal(size=(1600, 16))
    left, _ = np.linalg.qr(rng.normal(size=(16, 4)))
    right, _ = np.linalg.qr(rng.normal(size=(8, 4)))
    y = x @ (left * [4.0, 2.0, 1.0, 0.5]) @ right.T + 0.05 * rng.normal(size=(1600, 8))
    return as_data(*split(x, y, 400))


def _ill_conditioned() -> Data:
    """Least squares whose normal equations have condition number 1e6."""
    rng = np.random.default_rng(64)
    turn, _ = np.linalg.qr(rng.normal(size=(24, 24)))
    scales = np.logspace(0.5, -2.5, 24)
    latent = rng.normal(size=(1500, 24))
    x = latent * scales @ turn.T
    y = latent @ (rng.normal(size=(24, 1)) * np.sqrt(scales)[:, None]) + 0.05 * rng.normal(
        size=(1500, 1)
    )
    return as_data(*split(x, y, 400))


# Hidden structure


def _manifold() -> Data:
    """Smooth curves of three hidden coordinates in 24 dimensions; the inputs are the targets."""
    rng = np.random.default_rng(73)
    hidden = rng.uniform(-1, 1, (2300, 3))
    x = np.sin(hidden @ rng.normal(0, 1.5, (3, 24)) + rng.uniform(-np.pi, np.pi, 24))
    x = x + 0.03 * rng.normal(size=x.shape)
    return as_data(*split(x, x, 500))


def _ratings() -> Data:
    """Entries of a noisy matrix of rank 4; some rows and columns have many more than others."""
    rng = np.random.default_rng(74)
    rows, columns = rng.normal(size=(120, 4)), rng.normal(size=(80, 4))
    table = (
        rows @ columns.T / 2 + 0.5 * rng.normal(size=(120, 1)) + 0.2 * rng.normal(size=(120, 80))
    )
    often = np.outer(rng.gamma(2, 1, 120), rng.gamma(2, 1, 80)).ravel()
    known = rng.choice(120 * 80, 4000, replace=False, p=often / often.sum())
    x = np.stack(np.divmod(known, 80), axis=1).astype(np.int32)
    return split(x, table.ravel()[known].astype(np.float32)[:, None], 600)


# Networks that are more than a stack of dense layers


def _residual() -> keras.Model:
    x = keras.Input((10,))
    h = layers.Dense(24)(x)
    for _ in range(4):
        inner = layers.Dense(24, activation="relu")(h)
        h = layers.Add()([h, layers.Dense(24)(inner)])
    return keras.Model(x, layers.Dense(1)(layers.Activation("relu")(h)))


def normalised_network(
    inputs: int, outputs: int, width: int, kind: type[layers.Layer]
) -> keras.Model:
    """Two hidden layers, each normalised before its ReLU; batch normalisation of the inputs too."""
    network = keras.Sequential([keras.Input((inputs,))])
    if kind is layers.BatchNormalization:
        network.add(kind())
    for _ in range(2):
        network.add(layers.Dense(width))
        network.add(kind())
        network.add(layers.Activation("relu"))
    network.add(layers.Dense(outputs))
    return network


def _factors() -> keras.Model:
    x = keras.Input((2,), dtype="int32")
    row, column = (layers.Embedding(count, 6)(x[:, k]) for k, count in enumerate((120, 80)))
    of_row, of_column = (layers.Embedding(count, 1)(x[:, k]) for k, count in enumerate((120, 80)))
    return keras.Model(x, layers.Add()([layers.Dot(1)([row, column]), of_row, of_column]))


regression = partial(generated, loss=squared_error, batch_size=32)

TASKS = (
    regression(
        name="friedman1_heavy_noise",
        summary="Friedman's first function under Student's noise of three degrees of freedom",
        load=_friedman1,
        build=partial(dense_network, 10, (32, 32), 1),
        epochs=120,
        source="friedman1",
        architecture="mlp",
        traits=("label_noise", "heavy_tails"),
    ),
    regression(
        name="teacher_residual",
        summary="A tanh network's answers learnt by four residual blocks",
        load=partial(_teacher, 62, 10, 0.1),
        build=_residual,
        epochs=100,
        source="teacher_network",
        architecture="residual_mlp",
    ),
    regression(
        name="teacher_eight_layers",
        summary="A tanh network's answers learnt by eight plain ReLU layers",
        load=partial(_teacher, 62, 10, 0.1),
        build=partial(dense_network, 10, (24,) * 8, 1),
        epochs=100,
        source="teacher_network",
        architecture="deep_mlp",
    ),
    regression(
        name="teacher_layer_norm",
        summary="A wider tanh network's answers learnt with layer normalisation",
        load=partial(_teacher, 75, 20, 0.3),
        build=partial(normalised_network, 20, 1, 32, layers.LayerNormalization),
        epochs=100,
        source="teacher_network",
        architecture="normalised_mlp",
        traits=("label_noise",),
    ),
    regression(
        name="deep_linear",
        summary="A linear map of rank 4 learnt by the product of six matrices",
        load=_low_rank_map,
        build=partial(dense_network, 16, (16,) * 5, 8, None),
        epochs=160,
        source="low_rank_map",
        architecture="deep_mlp",
        traits=("saddle",),
    ),
    regression(
        name="least_squares_ill_conditioned",
        summary="Least squares with condition number 1e6",
        load=_ill_conditioned,
        build=partial(dense_network, 24, (), 1),
        epochs=570,
        source="ill_conditioned_least_squares",
        architecture="linear",
        traits=("convex", "ill_conditioned"),
    ),
    regression(
        name="manifold_autoencoder",
        summary="Curves of three hidden coordinates in 24 dimensions, through a bottleneck of 3",
        load=_manifold,
        build=partial(dense_network, 24, (24, 3, 24), 24, "tanh"),
        epochs=140,
        source="smooth_manifold",
        architecture="autoencoder",
    ),
    regression(
        name="matrix_completion",
        summary="Missing entries of a noisy matrix of rank 4, by factors of length 6",
        load=_ratings,
        build=_factors,
        epochs=60,
        source="low_rank_matrix",
        architecture="factorisation",
        traits=("sparse_gradients",),
    ),
)
