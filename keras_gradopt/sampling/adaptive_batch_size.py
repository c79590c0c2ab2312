"""AdaptiveBatchSize: minibatches as large as the gradient's noise calls for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import DECAY_RATE, Range
from keras_gradopt.readings import squared_norm
from keras_gradopt.sampling import Minibatches, batch_size_in, equal_sizes, power_of_two_times
from keras_gradopt.sampling.noise_scale import noise_and_signal, noise_scale


class AdaptiveBatchSize(Minibatches):
    r"""Measures how noisy the gradients are, and makes the batches as large as that pays.

    Use it where nobody knows the batch size, or where the best one grows in training: early on the
    gradient stands out of the noise and small batches learn most per example, later it does not.
    Before an epoch, the gradients of `measured_batches` minibatches of `minimum` examples and
    their mean give $|G_b|^2$ and $|G_B|^2$, and these the trace of the gradients' covariance and
    the squared gradient; averages $\langle\cdot\rangle$ over the measurements of both give the
    noise scale, at which a step on twice the examples begins to pay less than two steps:

    $$B_\mathrm{simple} = \frac{\langle \mathrm{tr}(\Sigma) \rangle}{\langle |G|^2 \rangle}, \quad
      B = \mathrm{minimum} \cdot 2^k \approx B_\mathrm{simple}, \quad
      \mathrm{minimum} \le B \le \mathrm{maximum}$$

    Powers of two times the minimum are few sizes, for each of which XLA, and so JAX, compiles the
    step once. Every example is seen once in each epoch, in an order that is shuffled anew. The
    learning rate stays as it is: for SGD it may grow with the batch, for Adam with its root, see
    `keras_gradopt.schedules.large_batch_scale`.

    A measurement costs the gradients of `minimum * measured_batches` examples. It is made between
    two epochs, with the weights of that moment on each backend. Dropout masks are the same in all
    of its minibatches, so their noise does not count.

    Args:
        model: The compiled model.
        x: Inputs: an array, or a dict or list of them, with one row per example.
        y: Targets, likewise; None where the model needs none.
        minimum: Smallest batch size, at least 1, which is also the size measured with.
        maximum: Largest batch size, at least `minimum`; None is a quarter of the examples.
        sample_weight: Weights of the examples, likewise; None are ones.
        measured_batches: Minibatches to a measurement, at least 2, as far as there are examples.
        frequency: Measure before every so many epochs, at least 1.
        smoothing: Decay of the averages, in [0, 1): weight of the past at each measurement. They
            are free of the pull of their start, but not of gradients that were far larger: with 0.5
            a squared norm 1000 times as large is forgotten after 10 measurements.
        initial_epoch: Epoch to begin with, at least 0, where a training goes on.
        seed: Of the order of the examples, at least 0.

    Attributes:
        history: What was measured, a list of `NoiseMeasurement`.
        batch_size: Size in this epoch.

    Raises:
        ValueError: Lengths differ, sizes do not fit, or there are fewer than two batches.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> batches = AdaptiveBatchSize(model, x, y, minimum=4, maximum=32)
        >>> history = model.fit(batches, epochs=3, verbose=0)
        >>> len(batches.history)
        3
        >>> all(m.batch_size in (4, 8, 16, 32) for m in batches.history)
        True

    References:
        McCandlish, Kaplan, Amodei, OpenAI Dota Team. An Empirical Model of Large-Batch Training.
        arXiv:1812.06162, 2018, Section 2.2, Appendices A.1 (the estimates) and D (varying the
        batch). The paper reads both norms off data-parallel training; here they are measured
        between epochs, so that nothing in the step changes.
    """

    ranges: ClassVar[dict[str, Range]] = {"smoothing": DECAY_RATE.fixed()}

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        minimum: int = 32,
        maximum: int | None = None,
        sample_weight: Any = None,
        measured_batches: int = 16,
        frequency: int = 1,
        smoothing: float = 0.5,
        initial_epoch: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(model, x, y, sample_weight, initial_epoch, seed)
        minimum = batch_size_in("minimum", minimum, self.examples)
        if 2 * minimum > self.examples:
            raise ValueError(
                f"The noise is measured on at least two batches of minimum={minimum}, received "
                f"{self.examples} examples. Lower `minimum`."
            )
        if maximum is None:
            maximum = max(self.examples // 4, minimum)
        maximum = batch_size_in("maximum", maximum, self.examples)
        if maximum < minimum:
            raise ValueError(f"maximum must be at least minimum={minimum}, received {maximum}.")
        self.declare(
            minimum=minimum,
            maximum=maximum,
            measured_batches=positive_int("measured_batches", measured_batches, 2),
            frequency=positive_int("frequency", frequency),
            smoothing=smoothing,
        )
        self.batch_size = minimum
        self.history: list[NoiseMeasurement] = []
        self._trace = self._signal = self._weight = 0.0

    def sizes(self) -> Sequence[int]:
        """How many examples each batch of this epoch has."""
        return equal_sizes(self.examples, self.batch_size)

    def look(self, *, fresh: bool) -> None:
        """Measures, if the epoch is one of those, and sets its batch size."""
        # Keras may begin an epoch twice, the first time to build the model.
        known = self.history and self.history[-1].epoch == self.epoch
        if not known and self.epoch % self.frequency == 0:
            self._measure()

    def _measure(self) -> None:
        values = self._readings.values()
        if values is None:
            return
        count = min(self.measured_batches, self.examples // self.minimum)
        drawn = self.random(1).permutation(self.examples)[: count * self.minimum]
        squares, total = [], [0.0] * len(values[0])
        for rows in drawn.reshape(count, self.minimum):
            squared, gradients = self._readings.gradient(values, self.examples_at(rows))
            squares.append(squared)
            total = [t + g for t, g in zip(total, gradients, strict=True)]
        mean = squared_norm([ops.cast(t, "float32") / count for t in total])
        trace, signal = noise_and_signal(
            squares, ops.convert_to_numpy(mean), self.minimum, count * self.minimum
        )
        if math.isfinite(trace) and math.isfinite(signal):
            decay = self.smoothing
            self._trace = decay * self._trace + trace
            self._signal = decay * self._signal + signal
            self._weight = decay * self._weight + 1.0
            self._follow(noise_scale(self._trace, self._signal))
        self.history.append(
            NoiseMeasurement(
                epoch=self.epoch,
                trace=trace,
                squared_gradient=signal,
                noise_scale=noise_scale(self._trace, self._signal),
                batch_size=self.batch_size,
            )
        )

    def _follow(self, scale: float) -> None:
        if math.isnan(scale):
            return  # neither gradient nor noise: nothing speaks for another size
        highest = self.minimum * 2 ** int(math.log2(self.maximum / self.minimum))
        self.batch_size = min(power_of_two_times(self.minimum, min(scale, highest)), highest)


@dataclasses.dataclass(frozen=True)
class NoiseMeasurement:
    r"""What one measurement of the gradients' noise found.

    Attributes:
        epoch: Before which it was made, from 0.
        trace: $\mathrm{tr}(\Sigma)$ of this measurement alone.
        squared_gradient: $|G|^2$ of this measurement alone; below 0 where noise outweighs it.
        noise_scale: $B_\mathrm{simple}$, of the averages so far, in examples.
        batch_size: What was made of it.
    """

    epoch: int
    trace: float
    squared_gradient: float
    noise_scale: float
    batch_size: int
