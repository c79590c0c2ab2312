r"""Rules that were trained themselves: what they get to see, and how they carry their weights.

A learned rule subclasses `LearnedRule`, declares the `shapes` of its network's arrays, and defines
`proposal`. `meta_train` trains any of them; `keras_gradopt.learned.meta_train` is found here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.learned import network
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.slot import Slot

Tensor = Any

__all__ = ["LearnedRule", "meta_train"]


class LearnedRule(Optimizer):
    r"""Base of rules whose formula is a trained network, applied to each coordinate alone.

    It sees the gradient of one coordinate and its own memory of that coordinate, which lies in the
    slots. It sees neither the weight nor its place, nor the loss: the same network fits any model.
    `proposal` gives $u$, and the weight moves by $\eta u$.

    Args:
        learning_rate: Factor $\eta$ of what the network proposes, at least 0: a number or a
            schedule. Networks are trained with 0.1.
        weights: Name of a shipped set, path of a file, or arrays by name.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Raises:
        ValueError: `weights` is none of these, or does not fit.
    """

    compiles = True
    # The network's arrays, by name, in the order in which `proposal` takes them.
    shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(self, learning_rate: Any = 0.1, weights: Any = None, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        text, arrays = network.read(weights, self.shapes)
        self.declare(weights=text)
        # A tuple: Keras would wrap a dict.
        self._arrays = tuple(arrays.values())

    @classmethod
    def memory(cls, shape: tuple[int, ...]) -> Sequence[Slot]:
        """What the network remembers of the coordinates of a variable of this shape."""
        raise NotImplementedError(f"{cls.__name__} must define memory(shape).")

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The network's memory."""
        return self.memory(shape)

    @classmethod
    def proposal(cls, arrays: Sequence[Tensor], g: Tensor, *slots: Tensor) -> tuple:
        """What the network proposes for each coordinate, and its memory after it.

        Args:
            arrays: The network's arrays, in the order of `shapes`.
            g: Gradient, of any shape.
            *slots: Memory, as `slots` declares it.

        Returns:
            `(u, *slots)`, `u` of the gradient's shape.
        """
        raise NotImplementedError(f"{cls.__name__} must define proposal(arrays, g, *slots).")

    @classmethod
    def untrained(cls, rng: np.random.Generator) -> list[np.ndarray]:
        """Arrays from which `meta_train` starts, in the order of `shapes`."""
        raise NotImplementedError(f"{cls.__name__} must define untrained(rng).")

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        arrays = [ops.convert_to_tensor(a, dtype=w.dtype) for a in self._arrays]
        u, *kept = self.proposal(arrays, g, *slots)
        return (w + h.learning_rate * u, *kept)


def __getattr__(name: str) -> Any:
    # Nobody who only trains with a learned rule needs what trains the rule.
    if name == "meta_train":
        from keras_gradopt import meta_training

        return meta_training.meta_train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
