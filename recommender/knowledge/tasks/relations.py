"""Tasks on relations between things: facts of knowledge graphs, words that stand together."""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import Any

import keras
import numpy as np
from keras import layers

from recommender.knowledge.tasks import Data, MeasuredTask
from recommender.knowledge.tasks.losses import binary_cross_entropy, cross_entropy, squared_error
from recommender.knowledge.tasks.reading import Array, codes, package_file, split, text_of
from recommender.knowledge.tasks.texts import topics

COMMON = 250  # words


def facts(graph: str) -> tuple[Array, int]:
    """Facts (head, relation, tail) of a knowledge graph in pykeen, as numbers.

    Returns:
        The facts, those to train on first, and how many these are.
    """
    lines = [
        text_of(package_file("pykeen", "datasets", graph, f"{part}.txt")).splitlines()
        for part in ("train", "valid", "test")
    ]
    heads, relations, tails = zip(
        *(line.split("\t") for part in lines for line in part), strict=True
    )
    things = codes([*heads, *tails])
    return np.stack([things[: len(heads)], codes(relations), things[len(heads) :]], 1), len(
        lines[0]
    )


def tails(graph: str) -> Data:
    """Of what a relation holds for a thing."""
    found, train = facts(graph)
    held = found[train:][:1000]
    found = found[:train]
    return found[:, :2], found[:, 2], held[:, :2], held[:, 2]


def judged_facts(graph: str, train: int) -> Data:
    """Whether a relation holds between two things; what the graph doesn't state is false."""
    found, _ = facts(graph)
    things, relations = found[:, [0, 2]].max() + 1, found[:, 1].max() + 1
    truth = np.zeros((things, relations, things), np.float32)
    truth[tuple(found.T)] = 1.0
    x = np.argwhere(truth >= 0).astype(np.int32)
    return split(x, truth.reshape(-1, 1), 1000, train)


def neighbours(reach: int = 3) -> Data:
    """Logarithm of how often two common words stand near each other in Python's help."""
    words = re.findall(r"[a-z_]+", topics())
    common = {w: k for k, (w, _) in enumerate(Counter(words).most_common(COMMON))}
    row = np.array([common.get(w, -1) for w in words])
    counts = np.zeros((COMMON, COMMON), np.float32)
    for apart in range(1, reach + 1):
        left, right = row[:-apart], row[apart:]
        both = (left >= 0) & (right >= 0)
        np.add.at(counts, (left[both], right[both]), 1.0 / apart)
    pairs = np.argwhere(counts > 0).astype(np.int32)
    y = np.log(counts[tuple(pairs.T)])[:, None]
    return split(pairs, y, 1000, 8000)


def _vectors(inputs: Any, column: int, size: int, width: int) -> Any:
    return layers.Embedding(size, width)(inputs[:, column])


def bilinear_tails(things: int, relations: int, width: int, dropout: float = 0.0) -> keras.Model:
    """DistMult (Yang et al., 2015): head times relation, against each tail."""
    inputs = keras.Input((2,), dtype="int32")
    product = layers.Multiply()(
        [_vectors(inputs, 0, things, width), _vectors(inputs, 1, relations, width)]
    )
    if dropout:
        product = layers.Dropout(dropout)(product)
    return keras.Model(inputs, layers.Dense(things)(product))


def complex_tails(things: int, relations: int, width: int) -> keras.Model:
    """ComplEx (Trouillon et al., 2016): head times relation as complex numbers, against each tail.

    The tails have vectors of their own.
    """
    inputs = keras.Input((2,), dtype="int32")
    head, head_i = (_vectors(inputs, 0, things, width) for _ in range(2))
    relation, relation_i = (_vectors(inputs, 1, relations, width) for _ in range(2))
    times, add = layers.Multiply, layers.Add
    real = layers.Subtract()([times()([head, relation]), times()([head_i, relation_i])])
    imaginary = add()([times()([head, relation_i]), times()([head_i, relation])])
    return keras.Model(inputs, layers.Dense(things)(layers.Concatenate()([real, imaginary])))


def fact_network(things: int, relations: int, width: int, hidden: int) -> keras.Model:
    """The vectors of head, relation and tail side by side, and one hidden layer."""
    inputs = keras.Input((3,), dtype="int32")
    sizes = (things, relations, things)
    x = layers.Concatenate()([_vectors(inputs, k, size, width) for k, size in enumerate(sizes)])
    x = layers.Dense(hidden, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(1)(x))


def biased_product(rows: int, columns: int, width: int) -> keras.Model:
    """A matrix as the product of two tables, with a bias for each row and column."""
    inputs = keras.Input((2,), dtype="int32")
    product = layers.Dot(axes=1)(
        [_vectors(inputs, 0, rows, width), _vectors(inputs, 1, columns, width)]
    )
    biases = [_vectors(inputs, 0, rows, 1), _vectors(inputs, 1, columns, 1)]
    return keras.Model(inputs, layers.Add()([product, *biases]))


_graph_task = functools.partial(
    MeasuredTask, traits=("sparse",), packages=("pykeen",), licence="MIT (pykeen)"
)

TASKS = (
    _graph_task(
        name="kinships_complex",
        summary="Who is such a relative of whom, complex vectors of 16",
        load=functools.partial(tails, "kinships"),
        build=functools.partial(complex_tails, 104, 25, 16),
        loss=cross_entropy,
        batch_size=128,
        epochs=110,
        source="kinships",
        architecture="factorisation",
    ),
    _graph_task(
        name="umls_bilinear",
        summary="Medical notions that such a relation ties, products of vectors of 32 with dropout",
        load=functools.partial(tails, "umls"),
        build=functools.partial(bilinear_tails, 135, 46, 32, dropout=0.2),
        loss=cross_entropy,
        batch_size=64,
        epochs=90,
        source="umls",
        architecture="factorisation",
    ),
    _graph_task(
        name="nations_network",
        summary="Whether a relation holds between two nations, embeddings and a hidden layer",
        load=functools.partial(judged_facts, "nations", 4000),
        build=functools.partial(fact_network, 14, 55, 12, 32),
        loss=binary_cross_entropy,
        batch_size=32,
        epochs=60,
        source="nations",
        architecture="embedding",
    ),
    MeasuredTask(
        name="word_neighbours",
        summary="How often common words stand together, product of two tables of vectors of 6",
        load=neighbours,
        build=functools.partial(biased_product, COMMON, COMMON, 6),
        loss=squared_error,
        batch_size=64,
        epochs=80,
        source="python_help",
        architecture="factorisation",
        traits=("sparse",),
        licence="PSF-2.0",
    ),
)
