"""LearningRateFinder: a short training at rising rates, and what its loss says."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_gradopt.arguments import positive_int
from keras_gradopt.callbacks import (
    BatchLoss,
    Callback,
    Smoothed,
    Snapshot,
    exceeds,
    require_settable_rate,
)
from keras_gradopt.ranges import DECAY_RATE, LEARNING_RATE, POSITIVE, Range

logger = logging.getLogger(__name__)


class LearningRateFinder(Callback):
    r"""Finds a learning rate in one short training at rising rates.

    Use it before the real training, alone in a `fit` without validation data, when nobody knows a
    rate for this model and optimizer. Batch $k$ of $n$ is trained at the rate

    $$\eta_k = \eta_{\min} (\eta_{\max} / \eta_{\min})^{k / (n - 1)}, \quad k = 0, \dots, n - 1$$

    and its loss $l_k$ enters an exponential average $s_k$. The training ends after $n$ batches, or
    when $s_k$ exceeds `stop_factor` times its lowest value, or the loss is not finite. Then
    weights, optimizer state and learning rate are what they were before, bit for bit. Two rates
    are read from the curve before its lowest point: that of the steepest descent
    $\min_k ds_k / d\log\eta_k$, read as many steps earlier as the average lags behind, and a tenth
    of the rate at the lowest point.

    Keras calls no callback when a training is interrupted: after Ctrl-C or an exception call
    `restore()`, which puts back the same. Metrics keep what they counted, until the next `fit`
    resets them. The optimizer must have a number as its learning rate, no schedule. On a model of
    full batches with very unequal curvatures the curve may fall beyond the stable rate, because
    the steep directions have nothing left to lose; minibatches show the limit.

    Args:
        min_rate: First rate $\eta_{\min}$, above 0.
        max_rate: Last rate $\eta_{\max}$, above `min_rate`.
        steps: Batches $n$, at least 10. Give `fit` as many, by epochs, else the curve ends early.
        smoothing: Decay of the average, in [0, 1).
        stop_factor: Multiple of the lowest average that ends the test, above 1. Not asked before
            the average covers $1 / (1 - \beta)$ batches with $\beta$ its decay.

    Attributes:
        suggestion: The smaller of the two rates below; None before a run, and where the loss never
            fell.
        steepest_rate: Rate of the steepest descent.
        tenth_of_minimum: A tenth of the rate where the average is lowest.
        rates: The rates tried, with a finite loss.
        losses: The averages $s_k$, one per rate.
        batch_losses: The losses $l_k$, one per rate.

    Example:
        >>> model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
        >>> finder = LearningRateFinder(min_rate=1e-4, max_rate=10.0, steps=60)
        >>> _ = model.fit(x, y, batch_size=16, epochs=15, callbacks=[finder], verbose=0)
        >>> 1e-3 < finder.suggestion < 1.0
        True
        >>> show(model.optimizer.learning_rate)
        0.5

    References:
        Smith. Cyclical Learning Rates for Training Neural Networks. WACV 2017, Section 3.3. The
        paper raises the rate linearly and reads accuracy by eye; here the rate rises
        exponentially, since nobody knows its order of magnitude, and the loss is averaged, since
        that of one batch is noisy.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "min_rate": Range(0.0, low_included=False, scale="log", usual=LEARNING_RATE.usual).fixed(),
        "max_rate": POSITIVE.fixed(),
        "smoothing": DECAY_RATE.fixed(),
        "stop_factor": Range(1.0, low_included=False, usual="4 is usual.").fixed(),
    }

    def __init__(
        self,
        min_rate: float = 1e-6,
        max_rate: float = 10.0,
        steps: int = 100,
        smoothing: float = 0.9,
        stop_factor: float = 4.0,
    ) -> None:
        super().__init__()
        self.declare(
            min_rate=min_rate,
            max_rate=max_rate,
            steps=positive_int("steps", steps, least=10),
            smoothing=smoothing,
            stop_factor=stop_factor,
        )
        if self.max_rate <= self.min_rate:
            raise ValueError(
                f"max_rate must be above min_rate = {min_rate!r}, received {max_rate!r}. The test "
                "goes from rates that do nothing to rates that diverge, such as 1e-6 to 10."
            )
        self._before: Snapshot | None = None
        self._forget()

    def _forget(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.batch_losses: list[float] = []
        self._lags: list[float] = []
        self.suggestion: float | None = None
        self.steepest_rate: float | None = None
        self.tenth_of_minimum: float | None = None
        self._tried = 0
        self._stopped = False
        self._batch_loss = BatchLoss()
        self._average = Smoothed(self.smoothing)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Keeps the model's state, and forgets the last run."""
        super().on_train_begin(logs)
        require_settable_rate(self)
        self._forget()
        self._before = Snapshot(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras starts a new mean of the loss."""
        super().on_epoch_begin(epoch, logs)
        self._batch_loss.restart()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Sets the batch's learning rate."""
        self.model.optimizer.learning_rate = self._rate()

    def _rate(self) -> float:
        share = min(self._tried / (self.steps - 1), 1.0)
        return self.min_rate * (self.max_rate / self.min_rate) ** share

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Records the batch's loss, and ends the test when it has seen enough."""
        rate, loss = self._rate(), self._batch_loss.read(self, self.count(batch), logs)
        self._tried += 1
        if math.isfinite(loss):
            self.rates.append(rate)
            self.batch_losses.append(loss)
            self.losses.append(self._average.add(loss))
            self._lags.append(self._average.lag)
        filled = len(self.losses) * (1 - self.smoothing) >= 1
        diverged = not math.isfinite(loss) or (
            filled and exceeds(self.losses[-1], min(self.losses), self.stop_factor)
        )
        if diverged or self._tried >= self.steps:
            self._stopped = True
            self.model.stop_training = True

    def on_train_end(self, logs: dict | None = None) -> None:
        """Puts the model back, and reads the curve."""
        self.restore()
        if not self._stopped:
            logger.warning(
                "LearningRateFinder saw %d of its %d batches: give `fit` more epochs, or lower "
                "`steps`.",
                self._tried,
                self.steps,
            )
        self._read_curve()

    def restore(self) -> None:
        """Puts weights, optimizer state and learning rate back to what they were before `fit`.

        Done at the end of every complete `fit`; call it yourself after an interrupted one.
        """
        if self._before is not None:
            self._before.restore(self.model)
            self._before = None

    def _read_curve(self) -> None:
        rates, losses = np.log(self.rates), np.array(self.losses)
        # Slopes over as many steps as the average covers: neighbours differ by noise.
        reach = max(1, round(0.5 / (1 - self.smoothing)))
        lowest = int(np.argmin(losses)) if len(losses) else 0
        middles = np.arange(reach, min(lowest, len(losses) - 1 - reach) + 1)
        if len(middles):
            slopes = (losses[middles + reach] - losses[middles - reach]) / (
                rates[middles + reach] - rates[middles - reach]
            )
            steepest = int(middles[np.argmin(slopes)])
            if slopes.min() < 0:
                at = max(steepest - round(self._lags[steepest]), 0)
                self.steepest_rate = self.rates[at]
                self.tenth_of_minimum = self.rates[lowest] / 10
                self.suggestion = min(self.steepest_rate, self.tenth_of_minimum)
        if self.suggestion is None:
            logger.warning(
                "LearningRateFinder saw no rate at which the loss fell, among %d from %g on: begin "
                "at a lower min_rate, or look for an error in data, loss or model.",
                len(self.rates),
                self.min_rate,
            )

    def plot(self, path: str | Path | None = None) -> Any:
        """The loss against the rate, with the rates that were read from it.

        Args:
            path: Where to write the figure as an HTML page; None writes nothing.

        Returns:
            A `plotly.graph_objects.Figure`.

        Raises:
            ImportError: plotly is not installed.
            ValueError: There was no run yet.
        """
        if not self.rates:
            raise ValueError(
                "LearningRateFinder has nothing to plot before its first run: give it to `fit`, "
                "callbacks=[finder]."
            )
        try:
            import plotly.graph_objects as go
        except ImportError as error:
            raise ImportError(
                "LearningRateFinder.plot draws with plotly, which is not installed. Install it: "
                "pip install plotly. The curve itself is in `rates` and `losses`."
            ) from error
        figure = go.Figure()
        figure.add_scatter(x=self.rates, y=self.batch_losses, name="batch", opacity=0.35)
        figure.add_scatter(x=self.rates, y=self.losses, name="smoothed")
        for name, rate in (
            ("steepest descent", self.steepest_rate),
            ("tenth of the minimum", self.tenth_of_minimum),
        ):
            if rate is not None:
                figure.add_vline(x=rate, line_dash="dash", annotation_text=f"{name}: {rate:.2g}")
        figure.update_layout(
            title="Learning rate range test",
            xaxis_title="learning rate",
            yaxis_title="loss",
            xaxis_type="log",
            template="plotly_white",
        )
        if path is not None:
            figure.write_html(path)
        return figure
