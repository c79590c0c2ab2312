"""DivergenceGuard: back to the last good state, on with a smaller rate."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.callbacks import (
    BatchLoss,
    Callback,
    Smoothed,
    Snapshot,
    clip_from_now_on,
    exceeds,
    require_free_clipping,
    require_settable_rate,
)
from keras_gradopt.ranges import DECAY_RATE, POSITIVE, Range


class DivergenceGuard(Callback):
    r"""Brings a diverged training back to its last good state, at a smaller rate.

    Use it on long trainings that nobody watches, and where a rate is taken as large as will do.
    With batch losses $l_t$ and their average $s_{t-1}$ over the good batches before, a batch is bad
    when

    $$l_t \notin \mathbb{R} \quad \text{or} \quad l_t > c\, s_{t-1}$$

    or when a weight is no finite number. Then weights, other variables and optimizer state become
    those of the last good snapshot, and the learning rate $\eta \leftarrow r \eta$. A snapshot
    counts as good once the batch after it had a good loss. After `max_restores` the next bad batch
    brings the good state back and ends the training. Each event is one printed line.

    Snapshots lie in host memory, two at most. The optimizer must have a number as its learning
    rate: a schedule is part of the compiled step. Metrics start anew after a restore, so the
    epoch's logs cover the batches after it; a bad last batch of an epoch stays in its logs.

    Args:
        factor: Multiple $c$ of the average at which a loss is bad, above 1; None asks only for
            finite numbers. Near a loss of 0 single batches differ much: take it larger there.
        rate_factor: $r$, in (0, 1]: what the learning rate is multiplied by.
        snapshot_frequency: Steps between two snapshots, at least 1. A snapshot copies everything.
        max_restores: Restores before the training is given up, at least 0.
        smoothing: Decay of the average, in [0, 1).
        clip: Joint norm to which gradients are clipped from the first restore on, above 0; None is
            no clipping. The train step is compiled anew for it, once, and the optimizer keeps the
            clipping after the training. Keras' own optimizers must not clip already.

    Attributes:
        events: What happened, a list of `DivergenceEvent`.

    Example:
        >>> model.compile(optimizer=keras.optimizers.SGD(100.0), loss="mse")
        >>> guard = DivergenceGuard(rate_factor=0.01)
        >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[guard])  # doctest: +ELLIPSIS
        DivergenceGuard: epoch 0, step 2: the loss ... Back to step 0, learning rate 100 -> 1...
        >>> history.history["loss"][-1] < 100
        True

    References:
        Chowdhery et al. PaLM: Scaling Language Modeling with Pathways. JMLR 2023, Section 5.1:
        back to a checkpoint before a spike of the loss. The paper skips the batches around it;
        here the rate is lowered, which also helps where no batch is to blame. Clipping follows
        Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural networks.
        ICML 2013, Algorithm 1.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "factor": Range(1.0, low_included=False, usual="3 to 10 is usual.").fixed(),
        "rate_factor": Range(0.0, 1.0, low_included=False, usual="0.1 to 0.5 is usual.").fixed(),
        "smoothing": DECAY_RATE.fixed(),
        "clip": POSITIVE.fixed(),
    }

    def __init__(
        self,
        factor: float | None = 10.0,
        rate_factor: float = 0.3,
        snapshot_frequency: int = 100,
        max_restores: int = 5,
        smoothing: float = 0.9,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        self.declare(
            factor=factor,
            rate_factor=rate_factor,
            snapshot_frequency=positive_int("snapshot_frequency", snapshot_frequency),
            max_restores=positive_int("max_restores", max_restores, least=0),
            smoothing=smoothing,
            clip=clip,
        )
        self.events: list[DivergenceEvent] = []
        self._good: Snapshot | None = None
        self._pending: Snapshot | None = None
        self._clips = False

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Takes the first snapshot."""
        super().on_train_begin(logs)
        require_settable_rate(self)
        if self.clip is not None and not self._clips:
            require_free_clipping(self)
        self.events = []
        self._good, self._pending = Snapshot(self.model, self.step), None
        self._batch_loss, self._average = BatchLoss(), Smoothed(self.smoothing)
        self._metrics_spoiled = False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Keras starts a new mean of the loss."""
        super().on_epoch_begin(epoch, logs)
        self._batch_loss.restart()
        self._metrics_spoiled = False

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Clears the metrics of what a bad batch put into them."""
        if self._metrics_spoiled:
            # Only now: an epoch that ends with a bad batch must not log a loss of nothing.
            self.model.reset_metrics()
            self._batch_loss.restart()
            self._metrics_spoiled = False

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Judges the batch."""
        loss = self._batch_loss.read(self, self.count(batch), logs)
        average = self._average.value
        if not math.isfinite(loss):
            self._restore(loss, f"the loss {loss:g} is not finite")
        elif self.factor is not None and exceeds(loss, average, self.factor):
            self._restore(loss, f"the loss {loss:.4g} is far above its average {average:.4g}")
        else:
            self._average.add(loss)
            self._keep(loss)

    def _keep(self, loss: float) -> None:
        # The loss just seen was computed at the weights before this step: those of the snapshot.
        if self._pending is not None:
            self._good, self._pending = self._pending, None
        assert self._good is not None
        if self.step - self._good.step >= self.snapshot_frequency:
            taken = Snapshot(self.model, self.step)
            if taken.finite:
                self._pending = taken
            else:
                self._restore(loss, "a weight is not finite")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Looks at the weights: no batch has shown yet what the last step did to them."""
        if not _finite(self.model):
            self._restore(math.nan, "a weight is not finite")

    def on_train_end(self, logs: dict | None = None) -> None:
        """Frees the snapshots."""
        self._good = self._pending = None

    def _restore(self, loss: float, reason: str) -> None:
        model, restores = self.model, len(self.events)
        assert self._good is not None
        rate = float(ops.convert_to_numpy(model.optimizer.learning_rate))
        self._good.restore(model)
        self._pending, self._metrics_spoiled = None, True
        action: Literal["restored", "stopped"] = "restored"
        if restores >= self.max_restores:
            action, new_rate = "stopped", rate
            model.stop_training = True
        else:
            new_rate = rate * self.rate_factor
        # The snapshot holds the rate of its time; others may have lowered it since.
        model.optimizer.learning_rate = new_rate
        if self.clip is not None and not self._clips:
            clip_from_now_on(model, self.clip)
            self._clips = True
        event = DivergenceEvent(
            epoch=self.epoch,
            step=self.step,
            loss=loss,
            reason=reason,
            action=action,
            restored_step=self._good.step,
            old_rate=rate,
            new_rate=new_rate,
            clip=self.clip,
            restores_left=max(self.max_restores - restores - 1, 0),
        )
        self.events.append(event)
        print(event)


@dataclasses.dataclass(frozen=True)
class DivergenceEvent:
    """One bad batch, and what was done about it.

    Attributes:
        epoch: From 0.
        step: Batches so far.
        loss: The bad batch's; NaN where none was computed.
        reason: What was bad, in words.
        action: "restored", or "stopped" where no restores were left.
        restored_step: The step whose state is in the model now.
        old_rate: Learning rate so far.
        new_rate: Learning rate from now on.
        clip: Bound of the gradients' norm from now on, or None.
        restores_left: How often the training may still go on.
    """

    epoch: int
    step: int
    loss: float
    reason: str
    action: Literal["restored", "stopped"]
    restored_step: int
    old_rate: float
    new_rate: float
    clip: float | None
    restores_left: int

    def __str__(self) -> str:
        where = f"DivergenceGuard: epoch {self.epoch}, step {self.step}: {self.reason}. "
        if self.action == "stopped":
            return where + (
                f"No restores are left: the model is back at step {self.restored_step}, and "
                "training stops. Look for bad values in the data, or start at a smaller rate than "
                f"{self.new_rate:g}."
            )
        clip = "" if self.clip is None else f", gradients clipped to norm {self.clip:g}"
        return where + (
            f"Back to step {self.restored_step}, learning rate {self.old_rate:g} -> "
            f"{self.new_rate:g}{clip}; {self.restores_left} restores left."
        )


def _finite(model: Any) -> bool:
    return all(bool(ops.all(ops.isfinite(v.value))) for v in model.trainable_variables)
