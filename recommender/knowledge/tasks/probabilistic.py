"""Outputs that are distributions: mixtures, unknown variances, counts, scores, label chains."""

from __future__ import annotations

import io
import tokenize
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from recommender.knowledge.tasks import Data, MeasuredTask
from recommender.knowledge.tasks.functions import dense_network
from recommender.knowledge.tasks.losses import squared_error
from recommender.knowledge.tasks.reading import Array, python_file, split, standardised, text_of

register = keras.saving.register_keras_serializable(package="gradopt_tasks")

LENGTH = 20  # characters in a chain
KINDS = ("other", "name", "number", "operator", "string", "comment")
MODULES = ("textwrap.py", "heapq.py", "shlex.py", "calendar.py", "fractions.py", "bisect.py")
COMPONENTS = 5
SMALLEST_LOG_DEVIATION = -6.0  # keeps likelihoods finite where a point is met exactly


def mean_of_outputs(y_true: Any, y_pred: Any) -> Any:  # noqa: ARG001
    """The loss of models whose outputs are losses already; targets are not looked at."""
    return y_pred


def gaussian(y_true: Any, y_pred: Any) -> Any:
    """Negative log-likelihood without its constant; outputs are mean and log deviation."""
    mean, log_deviation = y_pred[:, :1], ops.maximum(y_pred[:, 1:], SMALLEST_LOG_DEVIATION)
    z = (y_true - mean) * ops.exp(-log_deviation)
    return 0.5 * z * z + log_deviation


def mixture(y_true: Any, y_pred: Any) -> Any:
    """Negative log-likelihood without its constant of a mixture of Gaussians.

    Outputs are the components' logits, means and log deviations.
    """
    logits, mean, log_deviation = ops.split(y_pred, 3, axis=-1)
    log_deviation = ops.maximum(log_deviation, SMALLEST_LOG_DEVIATION)
    z = (y_true - mean) * ops.exp(-log_deviation)
    joint = ops.log_softmax(logits) - 0.5 * z * z - log_deviation
    return -ops.logsumexp(joint, axis=-1)


def poisson(y_true: Any, y_pred: Any) -> Any:
    """Negative log-likelihood of counts, without the term of y alone; outputs are log rates."""
    return ops.exp(y_pred) - y_true * y_pred


@register
class ChainLikelihood(layers.Layer):
    """Negative log-likelihood per place of labels under a linear-chain random field.

    References:
        Lafferty, McCallum and Pereira, Conditional Random Fields, ICML 2001.
    """

    def build(self, potentials_shape: Any, labels_shape: Any) -> None:
        """Potentials of pairs of neighbours and of the first label, all 0."""
        kinds = potentials_shape[-1]
        self.pairs = self.add_weight(shape=(kinds, kinds), initializer="zeros", name="pairs")
        self.first = self.add_weight(shape=(kinds,), initializer="zeros", name="first")

    def call(self, potentials: Any, labels: Any) -> Any:
        """(rows, length, kinds) and (rows, length) -> (rows, 1)."""
        chosen = ops.one_hot(labels, potentials.shape[-1], dtype=potentials.dtype)
        pairs = ops.matmul(chosen[:, :-1], self.pairs) * chosen[:, 1:]
        score = ops.sum(potentials * chosen, axis=(1, 2)) + ops.sum(pairs, axis=(1, 2))
        score = score + ops.sum(self.first * chosen[:, 0], axis=-1)

        def forward(alpha: Any, here: Any) -> tuple[Any, None]:
            return ops.logsumexp(alpha[:, :, None] + self.pairs, axis=1) + here, None

        begin = self.first + potentials[:, 0]
        alpha, _ = ops.scan(forward, begin, ops.moveaxis(potentials[:, 1:], 1, 0))
        return ((ops.logsumexp(alpha, axis=-1) - score) / potentials.shape[1])[:, None]

    def compute_output_shape(self, potentials_shape: Any, labels_shape: Any) -> Any:
        """One number a row."""
        return (potentials_shape[0], 1)


def _kind(token: tokenize.TokenInfo) -> int:
    names = {
        tokenize.NAME: "name",
        tokenize.NUMBER: "number",
        tokenize.OP: "operator",
        tokenize.STRING: "string",
        tokenize.COMMENT: "comment",
    }
    return KINDS.index(names.get(token.type, "other"))


def _labelled(source: str) -> tuple[Array, Array]:
    """Characters (0 to 95, ASCII less 32) of a module and what kind of token each belongs to."""
    lines = source.splitlines(keepends=True)
    kinds = [np.zeros(len(line), np.int32) for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, begin), (last, end) = token.start, token.end
        for r in range(row, min(last, len(lines)) + 1):
            here = slice(begin if r == row else 0, end if r == last else None)
            kinds[r - 1][here] = _kind(token)
    characters = np.frombuffer(source.encode("ascii", "replace"), np.uint8).astype(np.int32)
    return np.clip(characters - 32, 0, 95), np.concatenate(kinds)


def _token_chains() -> Data:
    """Windows of Python source, characters and labels side by side; whole modules held apart."""
    windows = []
    for module in MODULES:
        both = np.stack(_labelled(text_of(python_file(module))))
        count = both.shape[1] // LENGTH
        cut = both[:, : count * LENGTH].reshape(2, count, LENGTH)
        windows.append(np.concatenate([cut[0], cut[1]], axis=1))
    rng = np.random.default_rng(41)
    train, held = rng.permutation(np.concatenate(windows[:-2]))[:2000], windows[-2]
    held = rng.permutation(np.concatenate([held, windows[-1]]))[:500]
    return train, np.zeros((len(train), 1), np.float32), held, np.zeros((len(held), 1), np.float32)


def _chain_field() -> keras.Model:
    both = keras.Input((2 * LENGTH,), dtype="int32")
    z = layers.Embedding(96, 8)(both[:, :LENGTH])
    z = layers.Conv1D(16, 5, padding="same", activation="relu")(z)
    potentials = layers.Dense(len(KINDS))(z)
    return keras.Model(both, ChainLikelihood()(potentials, both[:, LENGTH:]))


def _inverse_sine() -> Data:
    """Bishop's inverse problem: t = s + 0.3 sin(2 pi s) + noise, and s is asked for."""
    rng = np.random.default_rng(42)
    s = rng.random((1900, 1))
    t = s + 0.3 * np.sin(2 * np.pi * s) + rng.uniform(-0.1, 0.1, s.shape)
    return split((2 * t - 1).astype(np.float32), s.astype(np.float32), 400)


def _unequal_noise() -> Data:
    rng = np.random.default_rng(43)
    x = rng.normal(size=(2500, 6))
    mean = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2]
    deviation = 0.1 + np.log1p(np.exp(1.5 * x[:, 3] - 1))
    y = mean + deviation * rng.normal(size=len(x))
    return split(x.astype(np.float32), y.astype(np.float32)[:, None], 500)


def _counts() -> Data:
    """Claims a policy: most have none, rates differ a hundredfold."""
    rng = np.random.default_rng(44)
    x = rng.normal(size=(3500, 10))
    log_rate = (
        -0.8 + 0.7 * x[:, 0] - 0.5 * x[:, 1] + 0.6 * np.abs(x[:, 2]) + 0.4 * x[:, 3] * x[:, 4]
    )
    y = rng.poisson(np.exp(np.minimum(log_rate, 3.5)))
    return split(x.astype(np.float32), y.astype(np.float32)[:, None], 700)


def _noised_moons() -> Data:
    """Points of two moons with noise of random strength added: the noise is asked for."""
    from sklearn.datasets import make_moons

    rng = np.random.default_rng(45)
    points, _ = make_moons(3000, noise=0.05, random_state=45)
    points, _, _, _ = standardised((points, points[:, :1], points, points[:, :1]))
    log_strength = rng.uniform(np.log(0.05), np.log(2.0), (len(points), 1))
    noise = rng.normal(size=points.shape)
    noised = (points + np.exp(log_strength) * noise) / np.sqrt(1 + np.exp(2 * log_strength))
    x = np.concatenate([noised, log_strength], axis=1)
    return split(x.astype(np.float32), noise.astype(np.float32), 500)


likely = partial(MeasuredTask, architecture="probabilistic", licence="none needed (generated)")

TASKS = (
    MeasuredTask(
        name="token_kinds_crf",
        summary="Kinds of tokens of characters of Python source, by convolution and random field",
        load=_token_chains,
        build=_chain_field,
        loss=lambda: mean_of_outputs,
        batch_size=32,
        epochs=40,
        source="python_tokens",
        architecture="probabilistic",
        licence="PSF-2.0",
        traits=("python_version",),
    ),
    likely(
        name="inverse_sine_mixture",
        summary="Bishop's inverse problem of several answers, by a mixture density network",
        load=_inverse_sine,
        build=partial(dense_network, 1, (32, 32), 3 * COMPONENTS, "tanh"),
        loss=lambda: mixture,
        batch_size=32,
        epochs=160,
        source="inverse_sine",
    ),
    likely(
        name="unequal_noise_gaussian",
        summary="Mean and deviation of a number whose noise depends on its inputs",
        load=_unequal_noise,
        build=partial(dense_network, 6, (32, 32), 2),
        loss=lambda: gaussian,
        batch_size=32,
        epochs=100,
        source="unequal_noise",
        traits=("label_noise",),
    ),
    likely(
        name="claim_counts_poisson",
        summary="Counts with rates that differ a hundredfold, by an ELU network of log rates",
        load=_counts,
        build=partial(dense_network, 10, (24,), 1, "elu"),
        loss=lambda: poisson,
        batch_size=64,
        epochs=40,
        source="claim_counts",
        traits=("heavy_tails",),
    ),
    likely(
        name="moons_denoising",
        summary="Noise added to points of two moons, for a diffusion model in two dimensions",
        load=_noised_moons,
        build=partial(dense_network, 3, (64, 64), 2, "silu"),
        loss=squared_error,
        batch_size=64,
        epochs=160,
        source="noised_moons",
        traits=("label_noise",),
    ),
)
