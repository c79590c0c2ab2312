"""Callbacks that find a learning rate, watch the gradients, and bring a diverged training back.

One file per callback. They work with every Keras optimizer, ours and Keras' own, on each backend.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradopt import nested, registry
from keras_gradopt.arguments import Arguments
from keras_gradopt.optimizer import Optimizer

Model = Any


class Callback(Arguments, keras.callbacks.Callback):
    """Base of the callbacks here: checks its arguments, and counts the batches.

    Attributes:
        epoch: The epoch in progress, 0 at first.
        step: Batches seen by this callback so far, over all epochs and all calls of `fit`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(package="keras_gradopt")(cls)

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self.step = 0
        self._last_batch = -1
        self._thread = threading.get_ident()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON."""
        return self.arguments_config()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Callback:
        """Makes the callback that `get_config` described."""
        return cls(**config)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Asks for a model whose variables exist, and makes the optimizer's."""
        self._thread = threading.get_ident()
        model = self.model
        if not model.built:
            raise ValueError(
                f"{type(self).__name__} needs the model's variables before the first step, but "
                f"{model.name!r} has none yet. Give it a keras.Input, or call it on a batch first."
            )
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Starts counting the epoch's batches."""
        self.epoch = epoch
        self._last_batch = -1

    def count(self, batch: int) -> int:
        """Counts up to a batch that has ended.

        Args:
            batch: Its number in this epoch, as Keras gives it.

        Returns:
            Batches since the last call: `steps_per_execution` as a rule.
        """
        if threading.get_ident() != self._thread:
            # Keras looks for callbacks like ours in lists and tuples only; one given alone it calls
            # from a thread, while the next step is already running (not on TensorFlow).
            raise ValueError(
                f"{type(self).__name__} changes or reads the model between two steps: give it to "
                "`fit` in a list, callbacks=[...]."
            )
        new, self._last_batch = batch - self._last_batch, batch
        self.step += new
        return new


class Scalars:
    """Writes numbers for TensorBoard, by tensorboardX; without a folder it writes nothing.

    Args:
        log_dir: The folder; None writes nothing.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    def __init__(self, log_dir: Any) -> None:
        self._log_dir = log_dir
        self._writer: Any = None
        if log_dir is not None:
            _summary_writer()  # says at once what is not installed

    def write(self, values: dict[str, float], step: int) -> None:
        """Writes one number under each name."""
        if self._log_dir is None:
            return
        if self._writer is None:
            self._writer = _summary_writer()(str(self._log_dir), flush_secs=10)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the file; more numbers go to another one, which TensorBoard joins."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _summary_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "log_dir asks for scalars for TensorBoard, which tensorboardX writes: install it with "
            "pip install tensorboardX, or leave log_dir out."
        ) from error
    return SummaryWriter


class BatchLoss:
    """Each batch's own loss, from the running mean of the epoch that Keras logs.

    Of $k$ equal batches with running means $m_k$ the last one's loss is $k m_k - (k-1) m_{k-1}$,
    which touches no variable: reading the model in a callback costs time on JAX. A last batch that
    is smaller comes out nearer to the mean than it was. A train step of one's own that logs the
    batch's loss itself, and leaves Keras' loss metric alone, is recognised.
    """

    def __init__(self) -> None:
        self._averaged: bool | None = None
        self.restart()

    def restart(self) -> None:
        """Begins a new mean, as Keras does at each epoch."""
        self._mean, self._batches = 0.0, 0

    def read(self, callback: Callback, new: int, logs: dict | None) -> float:
        """The mean loss of the batches since the last call.

        Args:
            callback: Whose model it is.
            new: How many batches these are, from `count`.
            logs: What Keras gave the callback at the end of the batch.
        """
        if not logs or "loss" not in logs:
            raise ValueError(
                f"{type(callback).__name__} watches the loss, but the train step logs "
                f"{sorted(logs or {})}. Return it under the name 'loss'."
            )
        mean = float(logs["loss"])
        if self._averaged is None:
            self._averaged = any(
                m.name == "loss" and float(ops.convert_to_numpy(m.count)) > 0
                for m in callback.model.metrics
                if hasattr(m, "count")
            )
        if not self._averaged:
            return mean
        batches = self._batches + new
        loss = (batches * mean - self._batches * self._mean) / new
        self._mean, self._batches = mean, batches
        return loss


class Smoothed:
    r"""An exponential average without the pull of its start.

    After $k$ values $x_i$ it is $\sum_i \beta^{k-i} x_i / \sum_i \beta^{k-i}$.

    Args:
        decay: $\beta$, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._sum = self._weight = self._ages = 0.0

    def add(self, value: float) -> float:
        """Takes one more value; returns the average."""
        self._ages = self._decay * (self._ages + self._weight)
        self._sum = self._decay * self._sum + value
        self._weight = self._decay * self._weight + 1.0
        return self.value

    @property
    def value(self) -> float:
        """The average; NaN of nothing."""
        return self._sum / self._weight if self._weight else math.nan

    @property
    def lag(self) -> float:
        """Steps by which the average is behind: the mean age of what it is made of."""
        return self._ages / self._weight if self._weight else 0.0


def exceeds(loss: float, reference: float, factor: float) -> bool:
    """Whether a loss is more than `factor` times a reference, or as far above a negative one."""
    return loss > reference + (factor - 1.0) * abs(reference)


class Snapshot:
    """A model's variables and its optimizer's, learning rate included, copied to host memory."""

    def __init__(self, model: Model, step: int = 0) -> None:
        self.step = step
        self._values = [_on_host(v) for v in _variables(model)]
        self._weights = len(model.variables)

    @property
    def finite(self) -> bool:
        """Whether the model's variables are all finite numbers."""
        return all(bool(np.all(np.isfinite(v))) for v in self._values[: self._weights])

    def restore(self, model: Model) -> None:
        """Puts everything back, bit for bit."""
        for variable, value in zip(_variables(model), self._values, strict=True):
            # A copy each: a backend may keep the array as its own memory, and write into it.
            variable.assign(np.array(value))


def _variables(model: Model) -> list:
    return [*model.variables, *model.optimizer.variables]


def _on_host(variable: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(variable.value), copy=True)


def require_settable_rate(callback: Callback) -> None:
    """Raises `ValueError` where the learning rate is not a number that a callback can set."""
    optimizer = callback.model.optimizer
    if not isinstance(optimizer.learning_rate, keras.Variable):
        raise ValueError(
            f"{type(callback).__name__} sets the learning rate, but {optimizer.name!r} was made "
            "with a schedule, which the compiled step follows. Compile the model with a number as "
            "learning_rate."
        )


def innermost(optimizer: Any) -> Any:
    """The optimizer inside all wrappers: Keras' loss scaling, and ours."""
    while (inner := getattr(optimizer, "inner_optimizer", None)) is not None:
        optimizer = inner
    return optimizer


def require_free_clipping(callback: Callback) -> None:
    """Raises `ValueError` where Keras' own optimizer clips already: it knows one way at a time."""
    for optimizer in nested.leaves(callback.model.optimizer):
        if isinstance(optimizer, Optimizer):
            continue
        taken = [n for n in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(optimizer, n)]
        if taken:
            raise ValueError(
                f"clip must be None where the optimizer clips already: {optimizer.name!r} has "
                f"{taken[0]}={getattr(optimizer, taken[0])!r}. Leave out one of the two."
            )


def clip_from_now_on(model: Model, norm: float) -> None:
    """Makes all later steps clip the gradients' joint norm; the step is compiled anew.

    Args:
        model: A compiled model.
        norm: The bound, above 0.
    """
    for optimizer in nested.leaves(model.optimizer):
        if isinstance(optimizer, Optimizer):
            clip = keras.saving.get_registered_object("keras_gradopt>ClipByGlobalNorm")(norm)
            optimizer.gradient_transforms = (*optimizer.gradient_transforms, clip)
        else:
            optimizer.global_clipnorm = norm
    model.make_train_function(force=True)


__getattr__, __dir__ = registry.lazy_members(__name__)
