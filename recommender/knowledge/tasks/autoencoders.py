"""Tasks that compress images and restore them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from recommender.knowledge.tasks import Data, MeasuredTask
from recommender.knowledge.tasks.images import (
    digits,
    digits_task,
    mnist,
    mnist_task,
    parted,
    patches,
    pixels,
)
from recommender.knowledge.tasks.losses import squared_error
from recommender.knowledge.tasks.reading import Array, package_file

register = keras.saving.register_keras_serializable(package="gradopt_tasks")


def codes_of(load: Any) -> Data:
    """The inputs of a task as their own targets."""
    x, _, x_val, _ = load()
    return x, x, x_val, x_val


def _picture(name: str) -> Array:
    if name in ("china.jpg", "flower.jpg"):
        return pixels(
            package_file("scikit-learn", "datasets", "images", name, module="sklearn"), "RGB"
        )
    return pixels(package_file("scikit-image", "data", name, module="skimage"), "RGB")


def photographs(
    names: Sequence[str], train: int, validation: int, *, grey: bool = False, noise: float = 0.0
) -> Data:
    """Patches of 8 x 8 of photographs, the right of each held out.

    Args:
        names: The pictures.
        train: Patches of each picture to train on.
        validation: Patches of each picture held out.
        grey: Rows of 64 grey values less their mean rather than coloured images.
        noise: Deviation of what is added to the input.
    """
    found: tuple[list[Array], list[Array]] = ([], [])
    for k, name in enumerate(names):
        for part, count, side in zip(
            parted(_picture(name)), (train, validation), found, strict=True
        ):
            side.append(patches(part, 8, count, seed=k))
    y, y_val = np.concatenate(found[0]), np.concatenate(found[1])
    if grey:
        y, y_val = (v.mean(axis=-1).reshape(len(v), -1) for v in (y, y_val))
        y, y_val = (4 * (v - v.mean(axis=1, keepdims=True)) for v in (y, y_val))
    rng = np.random.default_rng(0)
    x, x_val = (v + rng.normal(0.0, noise, v.shape).astype(np.float32) for v in (y, y_val))
    return x, y, x_val, y_val


def autoencoder(
    inputs: int, widths: Sequence[int], code: int, activation: str, last: str = "linear"
) -> keras.Model:
    """Dense layers down to a linear code and the same way back."""
    model = keras.Sequential([keras.Input((inputs,))])
    for width in widths:
        model.add(layers.Dense(width, activation=activation))
    model.add(layers.Dense(code))
    for width in reversed(widths):
        model.add(layers.Dense(width, activation=activation))
    model.add(layers.Dense(inputs, activation=last))
    return model


def conv_autoencoder(filters: tuple[int, int], code: int) -> keras.Model:
    """Coloured 8 x 8 patches through a dense code, with strided convolutions on both sides."""
    first, second = filters
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(first, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(second, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(code),
            layers.Dense(4 * second, activation="relu"),
            layers.Reshape((2, 2, second)),
            layers.Conv2DTranspose(first, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="sigmoid"),
        ]
    )


def denoiser(filters: int) -> keras.Model:
    """Coloured 8 x 8 patches halved and doubled again, with the finer level added back."""
    inputs = keras.Input((8, 8, 3))
    fine = layers.Conv2D(filters, 3, padding="same", activation="gelu")(inputs)
    x = layers.Conv2D(2 * filters, 3, strides=2, padding="same", activation="gelu")(fine)
    x = layers.Conv2DTranspose(filters, 3, strides=2, padding="same", activation="gelu")(x)
    x = layers.Add()([x, fine])
    return keras.Model(inputs, layers.Conv2D(3, 3, padding="same")(x))


@register
class SampledCode(layers.Layer):
    """Draws a code from a normal distribution while training; its mean otherwise."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator()

    def call(self, mean: Any, log_variance: Any, training: bool = False) -> Any:
        """A code for each mean and logarithm of a variance, (images, code) all three."""
        if not training:
            return mean
        drawn = keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self.generator)
        return mean + ops.exp(0.5 * log_variance) * drawn

    def compute_output_shape(self, mean_shape: Any, log_variance_shape: Any) -> Any:
        """That of the mean."""
        return mean_shape


@register
class NegativeBound(layers.Layer):
    """Cross-entropy of the pixels and the code's divergence from a standard normal, in nats.

    (images, 1); the evidence lower bound of an image with its sign turned.
    """

    def call(self, pixels: Any, logits: Any, mean: Any, log_variance: Any) -> Any:
        """The bound of pixels in [0, 1], with logits of theirs."""
        missed = ops.sum(ops.softplus(logits) - pixels * logits, axis=-1, keepdims=True)
        apart = mean * mean + ops.exp(log_variance) - 1.0 - log_variance
        return missed + 0.5 * ops.sum(apart, axis=-1, keepdims=True)

    def compute_output_shape(
        self, pixels_shape: Any, logits_shape: Any, mean_shape: Any, log_variance_shape: Any
    ) -> Any:
        """One number for each image."""
        return (pixels_shape[0], 1)


@register
class BoundAsLoss(keras.losses.Loss):
    """The model's output is the loss already."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The outputs, one for each example."""
        return ops.mean(y_pred, axis=-1)


def variational_autoencoder(inputs: int, width: int, code: int) -> keras.Model:
    """Gives the negative bound of each image."""
    pixels = keras.Input((inputs,))
    hidden = layers.Dense(width, activation="relu")(pixels)
    mean, log_variance = layers.Dense(code)(hidden), layers.Dense(code)(hidden)
    drawn = SampledCode()(mean, log_variance)
    logits = layers.Dense(inputs)(layers.Dense(width, activation="relu")(drawn))
    return keras.Model(pixels, NegativeBound()(pixels, logits, mean, log_variance))


def unlabelled_mnist() -> Data:
    """MNIST digits in rows, with targets that nobody reads."""
    x, y, x_val, y_val = mnist(flat=True, train=2500)
    return x, np.zeros((len(y), 1), np.float32), x_val, np.zeros((len(y_val), 1), np.float32)


_photograph_task = functools.partial(
    MeasuredTask,
    source="sklearn_photographs",
    packages=("scikit-learn", "pillow"),
    licence="CC BY 2.0 (china.jpg, flower.jpg)",
)

TASKS = (
    digits_task(
        name="digits_autoencoder",
        summary="8 x 8 digits through 6 numbers, dense",
        load=functools.partial(codes_of, functools.partial(digits, flat=True)),
        build=functools.partial(autoencoder, 64, (48, 24), 6, "relu", "sigmoid"),
        loss=squared_error,
        batch_size=32,
        epochs=200,
        architecture="autoencoder",
    ),
    mnist_task(
        name="mnist_vae",
        summary="14 x 14 MNIST digits, a variational autoencoder with 8 latent numbers",
        load=unlabelled_mnist,
        build=functools.partial(variational_autoencoder, 196, 64, 8),
        loss=BoundAsLoss,
        batch_size=32,
        epochs=80,
        architecture="autoencoder",
        traits=("variational",),
    ),
    _photograph_task(
        name="photo_autoencoder",
        summary="Grey 8 x 8 patches of photographs through 16 numbers, tanh",
        load=functools.partial(photographs, ("china.jpg", "flower.jpg"), 1000, 200, grey=True),
        build=functools.partial(autoencoder, 64, (48,), 16, "tanh"),
        loss=squared_error,
        batch_size=32,
        epochs=150,
        architecture="autoencoder",
    ),
    _photograph_task(
        name="photo_conv_autoencoder",
        summary="Coloured 8 x 8 patches of photographs through 12 numbers, convolutions",
        load=functools.partial(photographs, ("china.jpg", "flower.jpg"), 800, 150),
        build=functools.partial(conv_autoencoder, (8, 16), 12),
        loss=squared_error,
        batch_size=32,
        epochs=50,
        architecture="conv_autoencoder",
    ),
    MeasuredTask(
        name="photo_denoising",
        summary="Noise taken off coloured 8 x 8 patches, convolutions with a skip",
        load=functools.partial(
            photographs, ("astronaut.png", "coffee.png", "chelsea.png"), 500, 100, noise=0.15
        ),
        build=functools.partial(denoiser, 8),
        loss=squared_error,
        batch_size=32,
        epochs=40,
        source="scikit_image_photographs",
        architecture="conv_autoencoder",
        traits=("denoising",),
        packages=("scikit-image", "pillow"),
        licence="CC0 and public domain (scikit-image)",
    ),
)
