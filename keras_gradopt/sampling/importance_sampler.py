"""ImportanceSampler: minibatches of the examples that teach most, without bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import keras
import numpy as np

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import DECAY_RATE, FRACTION, NON_NEGATIVE, Range
from keras_gradopt.readings import Score
from keras_gradopt.sampling import Minibatches, batch_size_in


class ImportanceSampler(Minibatches):
    r"""Draws hard examples more often and weighs them down, so that gradients vary less.

    Use it where most examples are learnt early and a few, rare or hard, make up the gradient; it
    does nothing for examples that are all alike. Of $B$ examples drawn uniformly it computes scores
    $s_i$ by one forward pass, draws the $b$ of the minibatch with probabilities $p_i$, and gives
    them the sample weights $w_i$, times those of their own:

    $$p_i = (1 - \lambda) \frac{s_i}{\sum_{j=1}^{B} s_j} + \frac{\lambda}{B}, \quad
      w_i = \frac{1}{B p_i}, \quad
      E\left[\frac{1}{b} \sum_{i=1}^{b} w_i g_i\right] = \frac{1}{N} \sum_{i=1}^{N} g_i$$

    The expected gradient is that of uniform batches whatever the scores are; they only tell how
    much it varies. The score is the example's loss, or the norm of the loss' gradient with respect
    to what enters the last layer's activation, which bounds the norm of the whole gradient up to a
    factor. Batches are uniform, and each example comes once in an epoch, until drawing begins to
    pay: with $\tau$ the factor by which uniform batches had to be larger to vary as little,

    $$\tau = \Big(B \sum_{i=1}^{B} p_i^2\Big)^{1/2} > \frac{B + 3b}{3b}$$

    in an average over the steps so far, a forward pass counting 1 and a step on an example 3.

    How fresh the scores are. `score_at="step"` scores each minibatch's candidates with the present
    weights as Keras asks for the batch: on torch, and on JAX on a CPU, those that the step starts
    from; on JAX on an accelerator, those of one step before; on TensorFlow, whose data come from a
    thread that runs ahead, those of a few steps before, so that a training there is not repeated
    bit for bit. Where JAX has them out of reach (the second and further of `steps_per_execution`)
    the batch is uniform. `score_at="epoch"` scores all examples at the beginning of each epoch and
    draws from all: cheaper per step, the same on each backend and repeatable, and as old as the
    epoch is long, which `batches_per_epoch` shortens.

    Losses that are means or sums over examples are re-weighted exactly. BatchNormalization is not:
    its statistics become those of the drawn, harder examples, which trains worse than uniform
    batches do. The paper's authors advise LayerNormalization in its place, and none of Dropout,
    which scores know nothing of. Metrics other than `weighted_metrics` see the drawn examples as
    they are.

    Args:
        model: The compiled model, whose weights and loss score the examples.
        x: Inputs: an array, or a dict or list of them, with one row per example.
        y: Targets, likewise; None where the model needs none.
        batch_size: $b$, at least 1 and at most the examples.
        by: `"gradient_norm"` or `"loss"`. Losses below 0 count as 0.
        sample_weight: Weights of the examples, likewise; None are ones. Class weights go in here:
            `fit` takes none beside sample weights.
        presample: $B / b$, at least 1, as far as there are examples; 3 to 10 is usual. With
            `score_at="epoch"` it says how many are scored to tell whether drawing pays.
        score_at: `"step"` or `"epoch"`.
        threshold: $\tau$ above which examples are drawn, at least 0; None is the bound above, in
            which $B$ are the examples scored per step. 0 draws from the second batch on.
        tau_decay: Decay of the average of $\tau$ over steps, in [0, 1).
        smoothing: Share $\lambda$ of uniform drawing, in [0, 1]; no weight exceeds $1 / \lambda$.
        batches_per_epoch: How many batches make an epoch, at least 1; None, as many as hold all
            examples.
        initial_epoch: Epoch to begin with, at least 0, where a training goes on.
        seed: Of all drawing, at least 0.

    Attributes:
        tau: The average of $\tau$ so far, 0 at first.

    Raises:
        ValueError: Lengths differ, a size is none or above the examples, `by` or `score_at` are
            unknown; in `fit`, the model is not compiled, or its loss divides by the weights' sum.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> batches = ImportanceSampler(model, x, y, batch_size=8, threshold=0.0)
        >>> history = model.fit(batches, epochs=2, verbose=0)
        >>> inputs, targets, weights = batches[0]
        >>> weights.shape
        (8,)

    References:
        Katharopoulos, Fleuret. Not All Samples Are Created Equal: Deep Learning with Importance
        Sampling. ICML 2018, Algorithm 1, Sections 3.2 (the bound) and 3.3 ($\tau$, and from where
        on it pays). The share $\lambda$ of uniform drawing is ours: it bounds the weights where
        scores are old or 0. So are scores once per epoch, and uniform batches that are shuffled
        through where the paper's are drawn.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "threshold": NON_NEGATIVE.fixed(),
        "tau_decay": DECAY_RATE.fixed(),
        "smoothing": FRACTION.fixed(),
    }

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        by: Score = "gradient_norm",
        sample_weight: Any = None,
        presample: int = 3,
        score_at: Literal["step", "epoch"] = "step",
        threshold: float | None = None,
        tau_decay: float = 0.9,
        smoothing: float = 0.1,
        batches_per_epoch: int | None = None,
        initial_epoch: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(model, x, y, sample_weight, initial_epoch, seed)
        if by not in ("loss", "gradient_norm"):
            raise ValueError(f"by must be 'loss' or 'gradient_norm', received {by!r}.")
        if score_at not in ("step", "epoch"):
            raise ValueError(f"score_at must be 'step' or 'epoch', received {score_at!r}.")
        self.declare(
            batch_size=batch_size_in("batch_size", batch_size, self.examples),
            by=by,
            presample=positive_int("presample", presample),
            score_at=score_at,
            threshold=threshold,
            tau_decay=tau_decay,
            smoothing=smoothing,
            batches_per_epoch=(
                None
                if batches_per_epoch is None
                else positive_int("batches_per_epoch", batches_per_epoch)
            ),
        )
        self.tau = 0.0
        self._candidates = min(self.presample * self.batch_size, self.examples)
        self._probabilities: np.ndarray | None = None

    def sizes(self) -> Sequence[int]:
        """How many examples each batch of this epoch has: always the same."""
        count = self.batches_per_epoch or math.ceil(self.examples / self.batch_size)
        return [self.batch_size] * count

    def rows(self, index: int) -> np.ndarray:
        """The examples of a uniform batch; the last one takes from the front what it lacks."""
        start = index * self.batch_size
        return self._order[np.arange(start, start + self.batch_size) % self.examples]

    def __getitem__(self, index: int) -> Any:
        """One batch: (x, y, sample_weight)."""
        rows, factor = self._drawn(self.place(index)) if self._within else (self.rows(index), None)
        return self.batch(rows, np.ones(self.batch_size) if factor is None else factor)

    def look(self, *, fresh: bool) -> None:
        """Scores all examples, if once per epoch is asked for and drawing pays."""
        values = self._readings.values()
        if values is None:
            return
        some = self.random(1).permutation(self.examples)[: self._candidates]
        if fresh:
            self._readings.require_linear_weights(values, self.examples_at(some[:8]))
        if self.score_at == "step":
            if fresh:
                # Compiled here and not in TensorFlow's thread, where the train step's own
                # compilation may be under way.
                for count in {self.batch_size, self._candidates}:
                    self._scores(values, some[:count])
            return
        self.tau = _tau(self._probabilities_of(self._scores(values, some)))
        self._probabilities = None
        if self.tau > self._bound():
            # In pieces of one size, so that one compilation does; the last is filled up.
            filled = np.arange(math.ceil(self.examples / len(some)) * len(some)) % self.examples
            pieces = [self._scores(values, rows) for rows in filled.reshape(-1, len(some))]
            self._probabilities = self._probabilities_of(np.concatenate(pieces)[: self.examples])

    def _drawn(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        random = self.random(2, index)
        if self.score_at == "epoch":
            if self._probabilities is None:
                return self.rows(index), None
            return self._resampled(np.arange(self.examples), self._probabilities, random)
        values = self._readings.values()
        if values is None:
            return self.rows(index), None
        # Decided by the steps before: what these candidates' scores are has no say in it.
        draws = self.tau > self._bound()
        candidates = (
            random.choice(self.examples, self._candidates, replace=False)
            if draws
            else self.rows(index)
        )
        probabilities = self._probabilities_of(self._scores(values, candidates))
        self.tau = self.tau_decay * self.tau + (1.0 - self.tau_decay) * _tau(probabilities)
        return self._resampled(candidates, probabilities, random) if draws else (candidates, None)

    def _resampled(
        self, candidates: np.ndarray, probabilities: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        chosen = random.choice(len(candidates), self.batch_size, p=probabilities)
        return candidates[chosen], 1.0 / (len(candidates) * probabilities[chosen])

    def _scores(self, values: Any, rows: np.ndarray) -> np.ndarray:
        return self._readings.scores(values, self.examples_at(rows), self.by)

    def _probabilities_of(self, scores: np.ndarray) -> np.ndarray:
        total = scores.sum()
        uniform = np.full(len(scores), 1.0 / len(scores))
        if not np.isfinite(total) or total <= 0.0:
            return uniform
        return (1.0 - self.smoothing) * scores / total + self.smoothing * uniform

    def _bound(self) -> float:
        if self.threshold is not None:
            return self.threshold
        scored = self._candidates if self.score_at == "step" else self.examples / len(self)
        return (scored + 3 * self.batch_size) / (3 * self.batch_size)


def _tau(probabilities: np.ndarray) -> float:
    return float(np.sqrt(len(probabilities) * np.sum(probabilities**2)))
