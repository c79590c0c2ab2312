"""Five real training tasks from data that the installed packages and Python itself ship."""

from __future__ import annotations

import pydoc_data.topics
import string
import sysconfig
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from recommender.errors import RequestError
from recommender.task import Data, Task


def _cross_entropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _split(x: NDArray[Any], y: NDArray[Any], validation: int, train: int | None = None) -> Data:
    order = np.random.default_rng(0).permutation(len(x))
    held, kept = order[:validation], order[validation:][:train]
    return x[kept], y[kept], x[held], y[held]


def _digits() -> Data:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = (data.data / 16.0).astype("float32")
    return _split(x, data.target.astype("int32"), 397)


def _digits_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    )


def _noisy_digits() -> Data:
    from sklearn.datasets import load_digits

    clean = (load_digits().images / 16.0).astype("float32")[..., None]
    noise = np.random.default_rng(1).normal(0.0, 0.3, clean.shape).astype("float32")
    return _split(clean + noise, clean, 397)


def _denoiser() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.Conv2D(12, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(24, activation="relu"),
            layers.Dense(192, activation="relu"),
            layers.Reshape((4, 4, 12)),
            layers.UpSampling2D(2),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        ]
    )


ALPHABET = "\n " + string.ascii_lowercase + string.digits + ".,;:!?'\"()[]-_=*/<>"


def _text() -> Data:
    prose = "\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    number = {character: i + 1 for i, character in enumerate(ALPHABET)}
    codes = np.array([number.get(c, 0) for c in " ".join(prose.lower().split())], np.int32)
    length = 25
    rows = codes[: len(codes) // length * length].reshape(-1, length)
    return _split(rows[:, :-1], rows[:, 1:], 400, 3200)


def _character_model() -> keras.Model:
    size = len(ALPHABET) + 1
    return keras.Sequential(
        [
            keras.Input((24,), dtype="int32"),
            layers.Embedding(size, 16),
            layers.GRU(48, return_sequences=True),
            layers.Dense(size),
        ]
    )


def _diabetes() -> Data:
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x, y = x / x.std(axis=0), (y - y.mean()) / y.std()
    return _split(x.astype("float32"), y[:, None].astype("float32"), 122)


def _regression_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(32, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(32, activation="relu"),
            layers.Dense(1),
        ]
    )


PACKAGES: tuple[str, ...] = (
    "asyncio",
    "concurrent",
    "ctypes",
    "email",
    "http",
    "importlib",
    "json",
    "logging",
)
PACKAGES += ("multiprocessing", "unittest", "urllib", "xml")
WORDS = 2048


def _words() -> Data:
    """Twelve lines of the standard library's source, as hashed words; which package is it from?"""
    import re
    import zlib

    library = Path(sysconfig.get_paths()["stdlib"])
    rows, labels = [], []
    for label, package in enumerate(PACKAGES):
        files = sorted((library / package).rglob("*.py"))
        lines = [
            line
            for file in files
            if "test" not in file.relative_to(library / package).parts
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.strip()
        ]
        for first in range(0, min(len(lines) - 12, 12 * 400), 12):
            words = re.findall(r"[a-z_]{3,}", " ".join(lines[first : first + 12]).lower())
            row = np.zeros(WORDS, np.float32)
            for word in words:
                row[zlib.crc32(word.encode()) % WORDS] = 1.0
            rows.append(row)
            labels.append(label)
    return _split(np.stack(rows), np.array(labels, np.int32), 600, 2400)


def _word_model() -> keras.Model:
    return keras.Sequential([keras.Input((WORDS,)), layers.Dense(len(PACKAGES))])


_ALL = (
    Task(
        "digits",
        "8x8 handwritten digits (scikit-learn), dense classifier with dropout",
        _digits, _digits_model, _cross_entropy, 32, 140,
    ),
    Task(
        "denoise",
        "noise removed from 8x8 digits (scikit-learn), convolutional autoencoder",
        _noisy_digits, _denoiser, keras.losses.MeanSquaredError, 32, 140,
    ),
    Task(
        "text",
        "next character of Python's help texts, recurrent language model",
        _text, _character_model, _cross_entropy, 32, 60,
    ),
    Task(
        "diabetes",
        "disease progression from ten measurements of 442 patients (scikit-learn), regression",
        _diabetes, _regression_model, keras.losses.MeanSquaredError, 16, 300,
    ),
    Task(
        "words",
        "which package a piece of Python's source is from: sparse bag of words, linear classifier",
        _words, _word_model, _cross_entropy, 32, 80,
    ),
)  # fmt: skip
TASKS = {task.name: task for task in _ALL}
DEFAULT_TASK = "digits"


def find(name: str) -> Task:
    """The task of this name.

    Raises:
        RequestError: When there is none.
    """
    if name not in TASKS:
        raise RequestError(
            f"task must be one of {', '.join(TASKS)}, received {name!r}.", code="unknown_task"
        )
    return TASKS[name]
