"""Classes to tell apart, drawn from known distributions, each with a difficulty of its own."""

from __future__ import annotations

from functools import partial

import numpy as np
from keras import layers

from recommender.knowledge.tasks import Data
from recommender.knowledge.tasks.functions import dense_network, generated
from recommender.knowledge.tasks.generated import as_data, normalised_network
from recommender.knowledge.tasks.losses import binary_cross_entropy, cross_entropy
from recommender.knowledge.tasks.reading import Array, split, standardised


def _spirals() -> Data:
    """Two spirals of one turn and a half, 97 points each."""
    rng = np.random.default_rng(65)

    def arm(count: int) -> Array:
        turn = 3 * np.pi * np.sqrt(rng.random(count)) + 0.5
        points = turn[:, None] / 10 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        return points + 0.02 * rng.normal(size=points.shape)

    def both(count: int) -> tuple[Array, Array]:
        return np.concatenate([arm(count), -arm(count)]), np.repeat([[0.0], [1.0]], count, axis=0)

    return as_data(*both(97), *both(125))


def _parity() -> Data:
    """Whether three of sixteen bits have an odd sum."""
    rng = np.random.default_rng(66)
    bits = rng.integers(0, 2, (2300, 16))
    x, y = 2 * bits - 1, bits[:, [1, 4, 9]].sum(axis=1, keepdims=True) % 2
    return as_data(*split(x, y, 500))


def _zipf_clusters() -> Data:
    """A hundred overlapping clusters with frequencies 1/rank."""
    rng = np.random.default_rng(67)
    share = 1 / np.arange(1, 101)
    y = rng.choice(100, 4000, p=share / share.sum()).astype(np.int32)
    x = rng.normal(size=(100, 16))[y] + 0.7 * rng.normal(size=(len(y), 16))
    return split(x.astype(np.float32), y, 800)


def _land_cover() -> Data:
    """Seven unequal classes from skewed numbers and two categories; a fifth of labels are wrong."""
    rng = np.random.default_rng(68)
    rows = 3800
    height = rng.normal(size=rows)
    slope, water = rng.gamma(2, 0.7, rows), rng.exponential(1, rows) + 0.3 * np.abs(height)
    shade = np.sin(rng.uniform(0, 2 * np.pi, rows)) * np.minimum(slope, 3)
    noise = rng.normal(size=(rows, 4))
    area = (height + rng.normal(size=rows) > 0).astype(int) + 2 * (rng.random(rows) < 0.3)
    soil = np.clip(np.round(10 + 4 * height + 3 * rng.normal(size=rows)), 0, 19).astype(int)
    numeric = np.c_[height, slope, water, shade, height * slope, noise]
    hidden = np.c_[numeric[:, :5], np.eye(4)[area], np.eye(20)[soil]]
    scores = np.tanh(hidden @ rng.normal(size=(29, 16)) * 0.6) @ rng.normal(size=(16, 7))
    y = (scores + np.linspace(2.5, -1.5, 7)).argmax(axis=1).astype(np.int32)
    x, y, x_val, y_val = split(np.c_[numeric, np.eye(4)[area], np.eye(20)[soil]], y, 800)
    wrong = rng.random(len(y)) < 0.2
    y[wrong] = rng.integers(0, 7, wrong.sum())
    return standardised((x, y, x_val, y_val))


def _drift() -> Data:
    """A border that turns by a right angle from the first row to the last, as do the inputs."""
    rng = np.random.default_rng(69)
    age = np.concatenate([np.linspace(0, 1, 3000), np.ones(500)])
    x = rng.normal(size=(3500, 8)) + np.outer(age, rng.normal(size=8))
    old, new = rng.normal(size=(2, 8))
    turn = age * np.pi / 2
    score = np.cos(turn) * (x @ old) + np.sin(turn) * (x @ new) + 0.5 * x[:, 0] * x[:, 1] - 0.5
    y = (score + 0.3 * rng.normal(size=len(x)) > 0)[:, None]
    return as_data(x[:3000], y[:3000], x[3000:], y[3000:])


def _separable() -> Data:
    """Two classes with a gap between them."""
    rng = np.random.default_rng(70)
    x = rng.normal(size=(2400, 20))
    score = x @ rng.normal(size=(20, 1)) / np.sqrt(20)
    clear = np.abs(score[:, 0]) > 0.2
    x, y = x[clear][:1500], (score > 0)[clear][:1500]
    return as_data(*split(x, y, 400))


def _rare_features() -> Data:
    """Four hundred features, each present with a chance that falls as 1/rank, as words are."""
    rng = np.random.default_rng(71)
    chance = np.minimum(0.5, 4 / np.arange(1, 401))
    x = rng.random((3500, 400)) < chance
    score = x @ rng.normal(0, 1.5, (400, 1)) + 0.3
    y = rng.random(score.shape) < 1 / (1 + np.exp(-score))
    return as_data(*split(x, y, 700))


def _hypercube() -> Data:
    """Four classes of three clusters each at corners of a cube, among useless features."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        n_samples=3000, n_features=24, n_informative=8, n_redundant=4, n_classes=4,
        n_clusters_per_class=3, flip_y=0.05, class_sep=1.2, random_state=72,
    )  # fmt: skip
    scale = 10.0 ** np.random.default_rng(72).uniform(-2, 2, 24)  # left to the normalisation
    return split((x * scale).astype(np.float32), y.astype(np.int32), 600)


classes = partial(generated, loss=cross_entropy, batch_size=32)
yes_or_no = partial(generated, loss=binary_cross_entropy, batch_size=32)

TASKS = (
    yes_or_no(
        name="spirals_tiny",
        summary="Two spirals of 97 points each, by a tanh network",
        load=_spirals,
        build=partial(dense_network, 2, (32, 32), 1, "tanh"),
        epochs=1000,
        source="two_spirals",
        architecture="mlp",
        traits=("tiny",),
    ),
    yes_or_no(
        name="parity_of_three",
        summary="Parity of three of sixteen bits",
        load=_parity,
        build=partial(dense_network, 16, (48,), 1),
        epochs=120,
        source="sparse_parity",
        architecture="mlp",
        traits=("plateau",),
    ),
    classes(
        name="zipf_hundred_classes",
        summary="A hundred overlapping clusters with frequencies 1/rank",
        load=_zipf_clusters,
        build=partial(dense_network, 16, (48,), 100),
        epochs=15,
        source="zipf_clusters",
        architecture="mlp",
        traits=("imbalanced", "many_classes"),
    ),
    classes(
        name="land_cover_flipped",
        summary="Seven classes of land from mixed features, a fifth of the labels wrong",
        load=_land_cover,
        build=partial(dense_network, 33, (48, 48), 7),
        epochs=64,
        source="synthetic_land_cover",
        architecture="mlp",
        traits=("label_noise", "imbalanced"),
    ),
    yes_or_no(
        name="drifting_border",
        summary="A border between classes that turns while the data are gathered",
        load=_drift,
        build=partial(dense_network, 8, (32, 32), 1),
        epochs=20,
        source="drifting_border",
        architecture="mlp",
        traits=("drift",),
    ),
    yes_or_no(
        name="separable_logistic",
        summary="Logistic regression of two classes with a gap between them",
        load=_separable,
        build=partial(dense_network, 20, (), 1),
        epochs=30,
        source="separable_classes",
        architecture="linear",
        traits=("convex", "separable"),
    ),
    yes_or_no(
        name="rare_features_logistic",
        summary="Logistic regression on 400 features, most of them rare",
        load=_rare_features,
        build=partial(dense_network, 400, (), 1),
        epochs=70,
        source="rare_features",
        architecture="linear",
        traits=("convex", "sparse"),
    ),
    classes(
        name="hypercube_batch_norm",
        summary="Clusters at a cube's corners in unscaled features, with batch normalisation",
        load=_hypercube,
        build=partial(normalised_network, 24, 4, 48, layers.BatchNormalization),
        epochs=80,
        source="hypercube_clusters",
        architecture="normalised_mlp",
        traits=("unscaled",),
    ),
)
