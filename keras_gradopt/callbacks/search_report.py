"""SearchReport: ends a training whose optimizer finds no step any more, and says why."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from keras_gradopt import nested


class SearchReport(keras.callbacks.Callback):
    """Stops `fit` where no step of a whole epoch moved the weights, with the optimizer's reason.

    For optimizers that search by the loss: a minimum is reached to the last digit, or no step is
    found. The weights stay as they are. A hybrid whose first part has come to its end goes on with
    the other part instead. A bound model has this callback by itself.

    Raises:
        ValueError: The model's optimizer does not search.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=LBFGS(tolerance=1e9), loss="mse")
        >>> history = model.fit(x, y, verbose=0, epochs=5, callbacks=[SearchReport()])
        >>> len(history.history["loss"])
        1
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Counts the epoch's steps from here."""
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """One more step."""
        self._steps += 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stops where none of them moved anything."""
        optimizer = searching_optimizer(self.model)
        if optimizer is None:
            raise ValueError(
                "SearchReport needs an optimizer that searches by the loss, received "
                f"{type(self.model.optimizer).__name__}. Leave the callback out."
            )
        reason, is_failure = optimizer.verdict(self._steps)
        if reason is None:
            return
        if hasattr(optimizer, "hand_over") and optimizer.hand_over(search_ended=True):
            # What comes next may find more; the switch's own report says what happened.
            return
        self.model.stop_training = True
        message = f"{type(optimizer).__name__} stops after epoch {epoch + 1}: {reason}."
        if is_failure:
            warnings.warn(message, stacklevel=2)
        elif self.params.get("verbose"):
            print(message)


def searching_optimizer(model: Any) -> Any:
    """The model's optimizer, or the one inside it, that gives verdicts; None if there is none."""
    return nested.first(getattr(model, "optimizer", None), lambda o: hasattr(o, "verdict"))
