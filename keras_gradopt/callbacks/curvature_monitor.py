"""CurvatureMonitor: how sharp the loss is, and how noisy its gradient, while a model trains."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from keras_gradopt.arguments import positive_int
from keras_gradopt.callbacks import Callback, Scalars
from keras_gradopt.curvature.data_landscape import DataLandscape
from keras_gradopt.curvature.eigenpairs import extreme
from keras_gradopt.curvature.hutchinson import trace
from keras_gradopt.curvature.noise import noise_scale
from keras_gradopt.curvature.stability import stability
from keras_gradopt.ranges import Range

logger = logging.getLogger(__name__)

What = Literal["sharpness", "smallest_eigenvalue", "trace", "noise_scale"]
_KNOWN = ("sharpness", "smallest_eigenvalue", "trace", "noise_scale")


class CurvatureMonitor(Callback):
    r"""Logs sharpness, trace and gradient noise while a model trains.

    Use it to see whether the learning rate is at its limit, and which batch size the gradient
    bears. On a fixed batch of training data, with the Hessian's eigenvalues $\lambda_i$, the rate
    $\eta$ and the gradients of rows with mean $G$ and covariance $\Sigma$ it measures

    $$\lambda_{\max}, \quad \lambda_{\max} \eta, \quad \sum_i \lambda_i, \quad
    \operatorname{tr} \Sigma / |G|^2.$$

    Full-batch gradient descent of rate $\eta$ sharpens until $\lambda_{\max} \eta$ is about 2, with
    momentum $\beta$ $2 (1 + \beta)$, and then stays there: well below it the rate may rise. The
    values go into the logs, so that `History`, `CSVLogger` and Keras' own `TensorBoard` have them
    with each epoch, under the names `sharpness`, `sharpness_x_learning_rate`,
    `smallest_eigenvalue`, `hessian_trace` and `gradient_noise_scale`; each epoch has the latest.

    A measurement takes some 10 to 60 Hessian-vector products of about three gradients each; nothing
    in the training changes by it. One that fails in the midst of a training is logged as NaN and
    warned of.

    Args:
        x: Inputs of the batch, as `fit` takes them: as many rows as make a good gradient, some
            hundreds.
        y: Its targets; None where the model needs none.
        frequency: Measure every so many batches, at least 1, or `"epoch"`: at the end of each.
        what: Of `"sharpness"`, `"smallest_eigenvalue"`, `"trace"`, `"noise_scale"`, at least one.
            The smallest eigenvalue takes as long as the sharpness again.
        training: Whether the loss is that of training, with BatchNormalization by the batch and
            dropout's masks held still, or that of evaluation: see `curvature.DataLandscape`.
        batch_size: Rows that are computed at a time, at least 1; it bounds the memory.
        tolerance: Residual of the eigenvalues, relative to the largest, in (0, 1).
        probes: Products for the trace, at least 2.
        max_products: Products for the eigenvalues at most, at least 4.
        log_dir: Folder for TensorBoard's scalars, which tensorboardX writes; None writes none.
        seed: Of what is drawn at random.

    Attributes:
        steps: The steps measured.
        history: Name to values, one per measurement.
        errors: Name to the values' errors: residuals or standard errors.

    Example:
        >>> model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
        >>> monitor = CurvatureMonitor(x, y, what=["sharpness"])
        >>> fitted = model.fit(x, y, epochs=2, verbose=0, callbacks=[monitor])
        >>> len(fitted.history["sharpness"])
        2
        >>> max(fitted.history["sharpness_x_learning_rate"]) < 2
        True

    References:
        Cohen, Kaur, Li, Kolter, Talwalkar. Gradient Descent on Neural Networks Typically Occurs at
        the Edge of Stability. ICLR 2021. McCandlish, Kaplan, Amodei, the OpenAI Dota team. An
        Empirical Model of Large-Batch Training. arXiv:1812.06162, 2018, Appendix A.1.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "tolerance": Range(
            0.0,
            1.0,
            low_included=False,
            high_included=False,
            scale="log",
            usual="1e-2 is usual.",
        ).fixed(),
    }

    def __init__(
        self,
        x: Any,
        y: Any = None,
        frequency: int | Literal["epoch"] = "epoch",
        what: Sequence[What] = ("sharpness", "trace", "noise_scale"),
        training: bool = True,
        batch_size: int = 256,
        tolerance: float = 1e-2,
        probes: int = 8,
        max_products: int = 60,
        log_dir: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(frequency, str) and frequency != "epoch":
            raise ValueError(
                f"frequency must be a number of batches or 'epoch', received {frequency!r}."
            )
        if frequency != "epoch":
            frequency = positive_int("frequency", frequency)
        asked = [what] if isinstance(what, str) else list(what)
        if not asked or any(name not in _KNOWN for name in asked):
            raise ValueError(
                f"what must be of {', '.join(map(repr, _KNOWN))}, at least one; received {what!r}."
            )
        self.declare(
            x=x,
            y=y,
            frequency=frequency,
            what=asked,
            training=training,
            batch_size=positive_int("batch_size", batch_size),
            tolerance=tolerance,
            probes=positive_int("probes", probes, least=2),
            max_products=positive_int("max_products", max_products, least=4),
            log_dir=log_dir,
            seed=positive_int("seed", seed, least=0),
        )
        self.steps: list[int] = []
        self.history: dict[str, list[float]] = {}
        self.errors: dict[str, list[float]] = {}
        self._scalars = Scalars(log_dir)
        self._landscape: DataLandscape | None = None
        self._start = np.zeros(0)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Prepares the loss, and fails here where it cannot be differentiated twice."""
        super().on_train_begin(logs)
        self._landscape = DataLandscape(
            self.model, self.x, self.y, batch_size=self.batch_size, training=self.training
        )
        if "noise_scale" in self.what and self._landscape.data.rows < 3:
            raise ValueError(
                f"The noise scale needs at least 3 rows, x has {self._landscape.data.rows}. Give "
                "more rows, or leave 'noise_scale' out of what."
            )
        self._start = np.random.default_rng(self.seed).normal(size=self._landscape.size)
        self._landscape.product(self._start)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Measures where the frequency is a number of batches."""
        before = self.step
        self.count(batch)
        if self.frequency != "epoch" and self.step // self.frequency > before // self.frequency:
            self._measure()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Measures where the frequency is the epoch, and puts the latest values into the logs."""
        if self.frequency == "epoch":
            self._measure()
        if logs is not None:
            logs.update({name: values[-1] for name, values in self.history.items()})

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the file; a next `fit` writes another one, which TensorBoard joins."""
        self._scalars.close()

    def _measure(self) -> None:
        assert self._landscape is not None
        # Asking for the model brings its variables up to date on JAX.
        self.model  # noqa: B018
        self._landscape.refresh()
        try:
            found = self._measured(self._landscape)
        except ValueError as error:
            logger.warning("CurvatureMonitor measured nothing at step %d: %s", self.step, error)
            found = dict.fromkeys(self._names(), (math.nan, math.nan))
        self.steps.append(self.step)
        for name, (value, within) in found.items():
            self.history.setdefault(name, []).append(value)
            self.errors.setdefault(name, []).append(within)
        self._scalars.write({f"curvature/{n}": v for n, (v, _) in found.items()}, self.step)

    def _names(self) -> list[str]:
        names = {
            "sharpness": ["sharpness", "sharpness_x_learning_rate"],
            "smallest_eigenvalue": ["smallest_eigenvalue"],
            "trace": ["hessian_trace"],
            "noise_scale": ["gradient_noise_scale"],
        }
        return [name for asked in self.what for name in names[asked]]

    def _measured(self, landscape: DataLandscape) -> dict[str, tuple[float, float]]:
        """Name to value and error."""
        landscape.value()  # says so if the training has diverged
        found: dict[str, tuple[float, float]] = {}
        if {"sharpness", "smallest_eigenvalue"} & set(self.what):
            found = self._ends(landscape)
        if "trace" in self.what:
            total = trace(landscape, probes=self.probes, seed=self.seed + self.step)
            found["hessian_trace"] = (total.value, total.standard_error)
        if "noise_scale" in self.what:
            grouped = landscape.in_groups(32)
            noise = noise_scale(grouped.gradients, grouped.data.sizes)
            found["gradient_noise_scale"] = (noise.value, noise.standard_error)
        return {name: found[name] for name in self._names()}

    def _ends(self, landscape: DataLandscape) -> dict[str, tuple[float, float]]:
        which: Literal["both", "largest"] = (
            "both" if "smallest_eigenvalue" in self.what else "largest"
        )
        product, limit = landscape.product, self.max_products
        pairs = extreme(landscape, product, self._start, 1, which, self.tolerance, limit)
        values, errors = pairs.values.tolist(), pairs.errors.tolist()
        # The sharpest direction turns slowly: the next search begins near it, with enough of all
        # others in the start to find one that has become sharper.
        drawn = np.random.default_rng(self.seed + self.step).normal(size=landscape.size)
        self._start = pairs.vectors[0] + drawn / np.linalg.norm(drawn)
        steadiness = stability(values[0], errors[0], self.model.optimizer)
        return {
            "sharpness": (values[0], errors[0]),
            "sharpness_x_learning_rate": (steadiness.product, steadiness.error),
            "smallest_eigenvalue": (values[-1], errors[-1]),
        }
