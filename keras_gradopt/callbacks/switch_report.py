"""SwitchReport: says when and why an optimizer went on with its next part."""

from __future__ import annotations

from typing import Any

import keras

from keras_gradopt import nested


class SwitchReport(keras.callbacks.Callback):
    """Prints each switch of a hybrid optimizer, at the end of the epoch in which it came.

    Silent with `verbose=0`. A bound model has this callback by itself; for others it is given to
    `fit`. The same is in `optimizer.switch_log()` afterwards.

    Raises:
        ValueError: The model's optimizer does not switch.

    Example:
        >>> model.compile(optimizer=Hybrid("sgd", "adam", switch=3), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=2, callbacks=[SwitchReport()])
    """

    def __init__(self) -> None:
        super().__init__()
        self._told = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """What was switched in a fit before is known."""
        self._told = len(self._log())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Prints what is new."""
        log = self._log()
        if self.params.get("verbose"):
            for record in log[self._told :]:
                print(f"Epoch {epoch + 1}: {record}")
        self._told = len(log)

    def _log(self) -> list[Any]:
        optimizer = switching_optimizer(self.model)
        if optimizer is None:
            raise ValueError(
                "SwitchReport needs an optimizer that switches, such as one of keras_gradopt's "
                f"hybrids, received {type(self.model.optimizer).__name__}. Leave the callback out."
            )
        return list(optimizer.switch_log())


def switching_optimizer(model: Any) -> Any:
    """The model's optimizer, or the one inside it, that keeps a log of switches; None without."""
    return nested.first(getattr(model, "optimizer", None), lambda o: hasattr(o, "switch_log"))
