"""BatchSizeSchedule: minibatches whose size follows a schedule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_gradopt.arguments import is_number, positive_int
from keras_gradopt.sampling import Minibatches, batch_size_in, equal_sizes, power_of_two_times

Rounding = str | int | None


class BatchSizeSchedule(Minibatches):
    r"""Lets the batch grow while the learning rate stays, for fewer and larger steps.

    Use it in place of a decaying learning rate where larger batches run faster: near the optimum
    of a quadratic, SGD's noise scale is $g \approx \epsilon N / B$ for learning rate $\epsilon$,
    $N$ examples and batch size $B$, so that multiplying $B$ by a number does what dividing
    $\epsilon$ by it does, in as many times fewer steps. With a schedule $s$ at epoch (or step) $t$,

    $$B_t = \mathrm{round}(s(t)), \quad 1 \le B_t \le N$$

    Every example is seen once in each epoch, in an order that is shuffled anew; an epoch's last
    batch holds what is left. XLA, and so JAX, compiles the step once for each size, and for each
    rest, so values of a schedule are rounded to few sizes. Keras counts the batches of each epoch
    correctly, in its progress bar too.

    Args:
        model: The compiled model, whose optimizer's steps are counted.
        x: Inputs: an array, or a dict or list of them, with one row per example.
        y: Targets, likewise; None where the model needs none.
        batch_size: The sizes: a schedule of `keras_gradopt.schedules` or any function of a number;
            a list of pairs `(from, size)`, of which the first begins at 0 and the sizes are taken
            as they are; or one size.
        sample_weight: Weights of the examples, likewise; None are ones.
        by: What the schedule is a function of: `"epoch"`, or `"step"`, the optimizer's steps so
            far, with the sizes changing within an epoch.
        rounding: `"power_of_two"`, to the nearest by ratio; a number, to a multiple of it, of at
            least 1 time; None, to whole numbers.
        initial_epoch: Epoch to begin with, at least 0, where a training goes on.
        seed: Of the order of the examples, at least 0.

    Raises:
        ValueError: Lengths differ, a size is none or above the examples, or `by` or `rounding` are
            unknown.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> batches = BatchSizeSchedule(model, x, y, [(0, 8), (1, 16), (2, 32)])
        >>> sizes = []
        >>> for _ in range(3):
        ...     sizes.append([len(y) for _, y in batches])
        >>> [len(each) for each in sizes]
        [8, 4, 2]
        >>> history = model.fit(batches, epochs=2, verbose=0)

    References:
        Smith, Kindermans, Ying, Le. Don't Decay the Learning Rate, Increase the Batch Size. ICLR
        2018, Sections 2 and 3. The rounding is ours.
    """

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        batch_size: Any = 32,
        sample_weight: Any = None,
        by: Literal["epoch", "step"] = "epoch",
        rounding: Rounding = "power_of_two",
        initial_epoch: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(model, x, y, sample_weight, initial_epoch, seed)
        if by not in ("epoch", "step"):
            raise ValueError(f"by must be 'epoch' or 'step', received {by!r}.")
        if isinstance(rounding, str) and rounding != "power_of_two":
            raise ValueError(
                f"rounding must be 'power_of_two', a whole number or None, received {rounding!r}."
            )
        if rounding is not None and not isinstance(rounding, str):
            rounding = positive_int("rounding", rounding)
        self.declare(batch_size=batch_size, by=by, rounding=rounding)
        self._size_at = self._schedule(batch_size)

    def sizes(self) -> Sequence[int]:
        """How many examples each batch of this epoch has."""
        if self.by == "epoch":
            return equal_sizes(self.examples, self._size_at(self.epoch))
        found: list[int] = []
        step, left = self.steps(), self.examples
        while left:
            found.append(min(self._size_at(step), left))
            step, left = step + 1, left - found[-1]
        return found

    def _schedule(self, given: Any) -> Callable[[int], int]:
        if is_number(given):
            size = batch_size_in("batch_size", given, self.examples)
            return lambda at: size
        if isinstance(given, list | tuple):
            return self._piecewise(given)
        if not callable(given) or hasattr(given, "observed"):
            raise ValueError(
                "batch_size must be a schedule of the step or epoch alone, a list of pairs (from, "
                f"size) or a whole number, received {type(given).__name__}."
            )
        return lambda at: self._rounded(at, float(ops.convert_to_numpy(given(at))))

    def _piecewise(self, pairs: Sequence[Any]) -> Callable[[int], int]:
        if not pairs or any(not isinstance(p, list | tuple) or len(p) != 2 for p in pairs):
            raise ValueError(
                f"batch_size must be a list of pairs (from, size), as in [(0, 32), (10, 64)]; "
                f"received {list(pairs)!r}."
            )
        starts = [positive_int(f"batch_size[{i}][0]", p[0], 0) for i, p in enumerate(pairs)]
        sizes = [
            batch_size_in(f"batch_size[{i}][1]", p[1], self.examples) for i, p in enumerate(pairs)
        ]
        if starts[0] != 0 or any(a >= b for a, b in itertools.pairwise(starts)):
            raise ValueError(
                f"batch_size's pairs must begin at 0 and go up, received the beginnings {starts}."
            )
        return lambda at: next(
            size for start, size in zip(starts[::-1], sizes[::-1], strict=True) if start <= at
        )

    def _rounded(self, at: int, size: float) -> int:
        if not math.isfinite(size) or size < 0.5:
            raise ValueError(
                f"batch_size must be at least 1 everywhere, but at {self.by} {at} the schedule "
                f"gives {size:g}."
            )
        if self.rounding is None:
            rounded = round(size)
        elif self.rounding == "power_of_two":
            rounded = power_of_two_times(1, size)
        else:
            rounded = max(round(size / self.rounding), 1) * self.rounding
        return min(rounded, self.examples)
