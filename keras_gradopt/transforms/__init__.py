"""Gradient transforms: what happens to gradients before any rule sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from keras_gradopt import registry
from keras_gradopt.arguments import Arguments, Hyperparameters
from keras_gradopt.slot import Slot

Tensor = Any


class Transform(Arguments):
    """Base of gradient transforms: a pure function of gradients, weights and its own state.

    Given to any optimizer as `gradient_transforms=[...]`, applied in order, before the clipping
    that Keras' own arguments ask for.
    """

    # True where the gradients could as well be one long vector: the engine may then pack them.
    sees_one_vector: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(package="keras_gradopt")(cls)

    def shared_slots(self) -> Sequence[Slot]:
        """State kept once per optimizer."""
        return ()

    def apply(
        self,
        gs: list[Tensor],
        ws: list[Tensor],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """New gradients and new state.

        Args:
            gs: Gradients, float32.
            ws: Weights, of the same shapes.
            shared: The transform's state, by name.
            h: Its own hyper-parameters at this step, and `step`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define apply(gs, ws, shared, h).")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON."""
        return self.arguments_config()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Transform:
        """Makes the transform that `get_config` described."""
        return cls(**config)


class CommonFactor(Transform):
    """A transform that multiplies all gradients by one number, which engines do on their way."""

    def factor(
        self, gs: list[Tensor], shared: dict[str, Tensor], h: Hyperparameters
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The number, and new state.

        Args:
            gs: Gradients, float32.
            shared: The transform's state, by name.
            h: Its own hyper-parameters at this step, and `step`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define factor(gs, shared, h).")

    def apply(
        self,
        gs: list[Tensor],
        ws: list[Tensor],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Scales `gs` together."""
        del ws
        factor, shared = self.factor(gs, shared, h)
        return [g * ops.cast(factor, g.dtype) for g in gs], shared


__getattr__, __dir__ = registry.lazy_members(__name__)
