"""The probe engine on TensorFlow: a whole chunk of Keras train steps in one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recommender.population_keras import KerasPopulation

Tensor = Any


class TensorFlowPopulation(KerasPopulation):
    """Runs Keras' own `train_step` in a loop within the graph.

    Called step by step from Python, as `train_on_batch` is, small models spend most of their time
    between two steps.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._loops: dict[int, Callable[..., Tensor]] = {}

    def _restarted(self) -> None:
        super()._restarted()
        self._loops.clear()  # they hold the data

    def _steps(
        self, model: keras.Model, rates: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> list[float]:
        if id(model) not in self._loops:
            self._loops[id(model)] = self._loop(model)
        losses = self._loops[id(model)](tf.constant(rates), tf.constant(rows))
        return [float(loss) for loss in losses.numpy()]

    def _loop(self, model: keras.Model) -> Callable[..., Tensor]:
        problem = self.problem
        examples = keras.tree.map_structure(
            lambda v: None if v is None else tf.constant(v), problem.training
        )

        def step(losses: Tensor, i: Tensor, rates: Tensor, rows: Tensor) -> Tensor:
            model.optimizer.learning_rate = rates[i]
            model.reset_metrics()
            logs = model.train_step(tuple(_batch(examples, rows[i])))
            return losses.write(i, tf.cast(logs["loss"], tf.float32))

        # Any number of steps, so that one trace serves all chunks.
        signature = (
            tf.TensorSpec((None,), tf.float32),
            tf.TensorSpec((None, problem.batch_size), tf.int32),
        )

        @tf.function(input_signature=signature, autograph=False)
        def chunk(rates: Tensor, rows: Tensor) -> Tensor:
            count = tf.shape(rates)[0]
            _, losses = tf.while_loop(
                lambda i, _: i < count,
                lambda i, losses: (i + 1, step(losses, i, rates, rows)),
                (tf.constant(0), tf.TensorArray(tf.float32, count)),
                parallel_iterations=1,
            )
            return losses.stack()

        traced: Callable[..., Tensor] = chunk
        return traced


def _batch(data: Any, rows: Tensor) -> Any:
    return keras.tree.map_structure(lambda v: None if v is None else tf.gather(v, rows), data)
