"""How a learning rate changes with the batch size."""

from __future__ import annotations

import math
from typing import Literal

from keras_gradopt.arguments import is_number, positive_int
from keras_gradopt.ranges import LEARNING_RATE


def large_batch_scale(
    learning_rate: float,
    batch_size: int,
    base_batch_size: int,
    rule: Literal["linear", "sqrt"] = "linear",
) -> float:
    r"""The learning rate for another batch size, from one that works at a known batch size.

    Use it when the batch grows (or shrinks) with the number of devices: `"linear"` for SGD, with a
    warmup of some epochs in front, `"sqrt"` for Adam and its relatives. Both are good up to some
    critical batch size, which differs from problem to problem. With rate $\eta$ at batch size $B_0$
    and the batch size $B$:

    $$\eta\, B / B_0 \quad \text{(linear)}, \qquad \eta \sqrt{B / B_0} \quad \text{(sqrt)}$$

    Args:
        learning_rate: Rate $\eta$ that works at `base_batch_size`, at least 0.
        batch_size: New batch size $B$ over all devices, at least 1.
        base_batch_size: Batch size $B_0$ that `learning_rate` is for, at least 1.
        rule: `"linear"` keeps the step per example, `"sqrt"` the variance of a step.

    Returns:
        The learning rate for `batch_size`.

    Raises:
        ValueError: An argument lies outside its range.

    Example:
        >>> large_batch_scale(0.1, 8192, 256)
        3.2
        >>> large_batch_scale(0.001, 1024, 256, rule="sqrt")
        0.002

    References:
        Goyal and others. Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour. 2017,
        section 2.1 (linear).
        Krizhevsky. One weird trick for parallelizing convolutional neural networks. 2014
        (square root).
        Malladi, Lyu, Panigrahi, Arora. On the SDEs and Scaling Rules for Adaptive Gradient
        Algorithms. NeurIPS 2022 (square root for Adam).
    """
    if not is_number(learning_rate):
        raise ValueError(
            f"learning_rate must be a number in {LEARNING_RATE}, received {learning_rate!r}. To "
            "scale a schedule, scale the rates it is made from."
        )
    LEARNING_RATE.check("learning_rate", float(learning_rate))
    if rule not in ("linear", "sqrt"):
        raise ValueError(f"rule must be 'linear' or 'sqrt', received {rule!r}.")
    ratio = positive_int("batch_size", batch_size) / positive_int(
        "base_batch_size", base_batch_size
    )
    return float(learning_rate) * (ratio if rule == "linear" else math.sqrt(ratio))
