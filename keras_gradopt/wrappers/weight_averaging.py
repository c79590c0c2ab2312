"""WeightAveraging: trains with one optimizer, evaluates an average of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.ranges import DECAY_RATE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.wrappers import Wrapper

Tensor = Any


class WeightAveraging(Wrapper):
    r"""Evaluates and saves an average of the weights along the way, which is calmer than their end.

    Use it to gain what a decay of the rate would bring, without choosing when to decay: the
    exponential average with a constant rate, the plain average (SWA) over the last epochs at a high
    rate. With the inner optimizer's weights $w_t$ and the average $\bar w$ of $n$ of them:

    $$\bar w_t = d_n \bar w_{t-1} + (1 - d_n)\, w_t, \quad
      d_n = \min(d, (1 + n) / (10 + n)) \quad \text{(EMA)}$$
    $$\bar w_t = \bar w_{t-1} + (w_t - \bar w_{t-1}) / (n + 1) \quad \text{(SWA)}$$

    The first average is $w$ itself. The average is in the model at the end of `fit`, and around
    evaluations and at the end of each epoch where the model is bound (`keras_gradopt.bind`) or
    has the callback `EvaluationWeights`; a shared slot says which of the two is in. A model with
    BatchNormalization wants `keras_gradopt.update_batch_norm(model, x)` before it is used: its
    statistics belong to the other weights.

    Args:
        inner: The optimizer that trains: an optimizer not used before, a name, or a config.
        average: `"ema"`, the exponential average, or `"swa"`, the plain one.
        decay: $d$ of the exponential average, in [0, 1): a number or a schedule.
        ramp: Whether $d_n$ grows to $d$ as above, so that a short training forgets its start; else
            it is $d$ from the second on.
        start_step: Steps before the first that counts, at least 0; until then the average is $w$.
        frequency: Steps from one that counts to the next, at least 1; an epoch's is usual for SWA.
        **kwargs: `name` and `loss_scale_factor`; everything else goes to the inner optimizer.

    Example:
        >>> w = keras.Variable([4.0])
        >>> optimizer = WeightAveraging(SGD(0.25), average="swa")
        >>> for _ in range(3):
        ...     optimizer.apply([2 * w], [w])      # 2, 1, 0.5
        >>> optimizer.put_evaluation_weights([w])
        >>> show(w)
        [1.1667]

    References:
        Polyak, Juditsky. Acceleration of Stochastic Approximation by Averaging. SIAM Journal on
        Control and Optimization 30(4), 1992. Izmailov, Podoprikhin, Garipov, Vetrov, Wilson.
        Averaging Weights Leads to Wider Optima and Better Generalization. UAI 2018, Algorithm 1.
        Step for step as torch.optim.swa_utils.AveragedModel, but for the ramp, which is that of
        TensorFlow's ExponentialMovingAverage.
    """

    averages_weights = True
    ranges: ClassVar[dict[str, Range]] = {"decay": DECAY_RATE}

    def __init__(
        self,
        inner: Any,
        average: Literal["ema", "swa"] = "ema",
        decay: Any = 0.999,
        ramp: bool = True,
        start_step: int = 0,
        frequency: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(inner, **kwargs)
        if average not in ("ema", "swa"):
            raise ValueError(f"average must be 'ema' or 'swa', received {average!r}.")
        self.declare(
            average=average,
            decay=decay,
            ramp=bool(ramp),
            start_step=positive_int("start_step", start_step, least=0),
            frequency=positive_int("frequency", frequency),
        )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The average; the weights in training while it is in the model."""
        return (Slot("average", initial=lambda w: w),)

    def shared_slots(self) -> Sequence[Slot]:
        """How many weights the average holds."""
        return (Slot("averaged", shape=()),)

    def after(
        self,
        old: list[Tensor],
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """Takes the new weights into the average."""
        n = shared["averaged"]
        since = h.step - (self.start_step + 1.0)
        due = (since >= 0) & ops.equal(ops.mod(since, float(self.frequency)), 0.0)
        if self.average == "swa":
            share = 1.0 / (n + 1.0)
        elif self.ramp:
            share = 1.0 - ops.minimum(h.decay, (1.0 + n) / (10.0 + n))
        else:
            share = 1.0 - h.decay
        # Before the first that counts the average is the weights, and the first is taken whole.
        share = ops.where(n > 0, ops.where(due, share, 0.0), 1.0)
        slots = [
            (mean + ops.cast(share, w.dtype) * (w - mean),)
            for w, (mean,) in zip(ws, slots, strict=True)
        ]
        return ws, slots, {**shared, "averaged": n + ops.cast(due, n.dtype)}

    def evaluation_weights(self, w: Tensor, *slots: Tensor) -> tuple:
        """The average, with the weights in training in its place."""
        (average,) = slots
        return average, w

    def training_weights(self, w: Tensor, *slots: Tensor) -> tuple:
        """The weights in training, with the average in its place again."""
        (trained,) = slots
        return trained, w
