"""Tasks on text: language models and bags of words."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import layers

from recommender.knowledge.tasks import Data, MeasuredTask
from recommender.knowledge.tasks.losses import cross_entropy
from recommender.knowledge.tasks.reading import Array, python_file, split, text_of
from recommender.knowledge.tasks.transformers import token_model

PROSE = "abcdefghijklmnopqrstuvwxyz ,.;:()[]'`\"*_=-<>/\\+|{}#@!?%&^~0123456789\n"
PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))

MODULES = ("argparse", "calendar", "configparser", "difflib", "doctest", "inspect", "optparse")
HELD_OUT_MODULES = ("shutil", "textwrap")
PACKAGES = (
    "asyncio", "concurrent", "ctypes", "email", "html", "http", "importlib", "json", "logging",
    "multiprocessing", "sqlite3", "unittest", "urllib", "xml",
)  # fmt: skip

WORDS = 2048  # hashed
CHUNK = 10  # lines of source


def tokens(text: str, alphabet: str) -> Array:
    """Letters as numbers: 0 for those outside the alphabet, then in its order."""
    numbers = {letter: k + 1 for k, letter in enumerate(alphabet)}
    return np.array([numbers.get(letter, 0) for letter in text], np.int32)


def hashed(word: str, size: int) -> int:
    """A place for a word, the same on every machine."""
    return zlib.crc32(word.encode()) % size


def bag(words: Sequence[str], size: int) -> Array:
    """Logarithms of the counts of hashed words, of length 1."""
    counts = np.zeros(size, np.float32)
    for word in words:
        counts[hashed(word, size)] += 1.0
    weights = np.log1p(counts)
    return weights / max(float(np.linalg.norm(weights)), 1e-6)


def next_letters(text: str, alphabet: str, length: int, count: int) -> tuple[Array, Array]:
    """So many rows of letters, evenly spread over a text, and each letter's successor."""
    codes = tokens(text, alphabet)
    starts = np.linspace(0, len(codes) - length - 1, count).astype(int)
    rows = np.stack([codes[s : s + length + 1] for s in starts])
    return rows[:, :-1], rows[:, 1:]


def topics() -> str:
    """What Python's help says about the language, in lower case."""
    from pydoc_data.topics import topics as found

    return "\n".join(found[name] for name in sorted(found)).lower()


def prose_letters(length: int = 16) -> Data:
    """The next letter in the prose of Python's help; its end is held out."""
    text = re.sub(r" +", " ", topics())
    cut = int(len(text) * 0.9)
    x, y = next_letters(text[:cut], PROSE, length, 3200)
    return *shuffled(x, y), *next_letters(text[cut:], PROSE, length, 400)


def source_letters(length: int = 32) -> Data:
    """The next letter in modules of Python's library; other modules are held out."""

    def joined(names: Sequence[str]) -> str:
        return "\n".join(text_of(python_file(f"{name}.py")) for name in names)

    x, y = next_letters(joined(MODULES), PRINTABLE, length, 2400)
    held = next_letters(joined(HELD_OUT_MODULES), PRINTABLE, length, 300)
    return *shuffled(x, y), *held


def shuffled(x: Array, y: Array) -> tuple[Array, Array]:
    """The rows in another order."""
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], y[order]


def source_chunks(package: str, limit: int = 250) -> Iterator[list[str]]:
    """The words of every ten lines of a package of Python's library."""
    found = 0
    for path in sorted(python_file(package).rglob("*.py")):
        if "test" in path.parts or "tests" in path.parts:
            continue
        lines = text_of(path).splitlines()
        for start in range(0, len(lines), CHUNK):
            words = re.findall(r"[a-z_]{2,}", " ".join(lines[start : start + CHUNK]).lower())
            if len(words) >= 8:
                yield words
                found += 1
            if found == limit:
                return


def source_packages(*, ids: int = 0) -> Data:
    """From which package ten lines of source are.

    Args:
        ids: Give so many numbers of words rather than one hashed bag of words.
    """
    rows, names = [], []
    for k, package in enumerate(PACKAGES):
        for words in source_chunks(package):
            if ids:
                row = np.array([1 + hashed(w, WORDS - 1) for w in words[:ids]], np.int32)
                rows.append(np.pad(row, (0, ids - len(row))))
            else:
                rows.append(bag(words, WORDS))
            names.append(k)
    return split(np.stack(rows), np.array(names, np.int32), 500)


def bag_classifier(size: int, classes: int) -> keras.Model:
    """Logistic regression."""
    return keras.Sequential([keras.Input((size,)), layers.Dense(classes)])


def mean_embedding(length: int, words: int, width: int, classes: int) -> keras.Model:
    """The mean of the words' vectors, and one layer; number 0 is no word."""
    return keras.Sequential(
        [
            keras.Input((length,), dtype="int32"),
            layers.Embedding(words, width, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(classes),
        ]
    )


def letter_gru(
    length: int, letters: int, width: int, units: int, outputs: int, *, each: bool = False
) -> keras.Model:
    """Letters' vectors through a GRU, to one answer for the row or one for each letter."""
    return keras.Sequential(
        [
            keras.Input((length,), dtype="int32"),
            layers.Embedding(letters, width),
            layers.GRU(units, return_sequences=each),
            layers.Dense(outputs),
        ]
    )


_task = functools.partial(MeasuredTask, loss=cross_entropy)
_source_task = functools.partial(_task, source="python_source", licence="PSF-2.0")

TASKS = (
    _source_task(
        name="source_linear",
        summary="Package of ten lines of Python, logistic regression on 2048 hashed words",
        load=source_packages,
        build=functools.partial(bag_classifier, WORDS, len(PACKAGES)),
        batch_size=32,
        epochs=80,
        architecture="linear",
        traits=("sparse",),
    ),
    _source_task(
        name="source_embedding",
        summary="Package of ten lines of Python, mean of the vectors of 24 words",
        load=functools.partial(source_packages, ids=24),
        build=functools.partial(mean_embedding, 24, WORDS, 16, len(PACKAGES)),
        batch_size=32,
        epochs=80,
        architecture="embedding",
        traits=("sparse",),
    ),
    _source_task(
        name="source_transformer",
        summary="Next letter of Python source, one pre-norm block over 32 letters",
        load=source_letters,
        build=functools.partial(token_model, 32, len(PRINTABLE) + 1, 32, blocks=1, heads=4),
        batch_size=32,
        epochs=14,
        architecture="attention",
        traits=("language_model",),
    ),
    _task(
        name="prose_gru",
        summary="Next letter of the prose of Python's help, GRU over 16 letters",
        load=prose_letters,
        build=functools.partial(letter_gru, 16, len(PROSE) + 1, 12, 24, len(PROSE) + 1, each=True),
        batch_size=32,
        epochs=26,
        source="python_help",
        architecture="recurrent",
        traits=("language_model",),
        licence="PSF-2.0",
    ),
)
