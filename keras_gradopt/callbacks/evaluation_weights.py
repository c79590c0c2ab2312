"""EvaluationWeights: the averaged weights are in the model whenever it is not being trained."""

from __future__ import annotations

from typing import Any

import keras

from keras_gradopt import nested


class EvaluationWeights(keras.callbacks.Callback):
    """Puts an optimizer's averaged weights into the model for evaluation, checkpoints and the end.

    For optimizers that train one set of weights and are judged by another (`averages_weights`:
    Schedule-Free ones, `WeightAveraging`). The average is in from the first evaluation, or from the
    end of the epoch, until the next minibatch is trained. A bound model has this callback by
    itself. Without either, only the end of `fit` puts the average in; then the first step of a
    second `fit` takes its gradient at the average.

    Give it before callbacks that save or compare weights. A checkpoint within an epoch
    (`save_freq` in batches) holds the weights in training; loaded and trained on it continues.

    Raises:
        ValueError: The model's optimizer does not average weights.

    Example:
        >>> model.compile(optimizer=WeightAveraging("adam"), loss="mse")
        >>> history = model.fit(x, y, verbose=0, callbacks=[EvaluationWeights()])
    """

    def __init__(self) -> None:
        super().__init__()
        # Unknown at first; putting in what is in already changes nothing.
        self._averaged_in: bool | None = None

    def _put(self, *, averaged: bool) -> None:
        if self._averaged_in is averaged:
            return
        model = self.model
        optimizer = averaging_optimizer(model)
        if optimizer is None:
            raise ValueError(
                "EvaluationWeights needs an optimizer that averages weights, such as one of "
                "keras_gradopt with averages_weights; received "
                f"{type(model.optimizer).__name__}. Leave the callback out."
            )
        known = model.trainable_variables
        if optimizer.built:
            if averaged:
                optimizer.put_evaluation_weights(known)
            else:
                optimizer.put_training_weights(known)
        self._averaged_in = averaged

    def on_train_begin(self, logs: Any = None) -> None:
        """Nothing is known of what a fit before left in the model."""
        self._averaged_in = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Gradients are taken at the weights in training."""
        self._put(averaged=False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Checkpoints hold the average."""
        self._put(averaged=True)

    def on_test_begin(self, logs: Any = None) -> None:
        """The average is what is evaluated."""
        self._put(averaged=True)

    def on_predict_begin(self, logs: Any = None) -> None:
        """The average is what predicts."""
        self._put(averaged=True)


def averaging_optimizer(model: Any) -> Any:
    """The model's optimizer, or the one inside it, that averages weights; None if there is none."""
    return nested.first(
        getattr(model, "optimizer", None), lambda o: getattr(o, "averages_weights", False)
    )
