"""The probe engine on torch: Keras' own train steps, without what surrounds them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from recommender.examples import take
from recommender.population_keras import KerasPopulation


class TorchPopulation(KerasPopulation):
    """Calls `train_step` itself: what `train_on_batch` checks and converts costs as much."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._data: Any = None

    def _restarted(self) -> None:
        super()._restarted()
        self._data = None

    def _steps(
        self, model: keras.Model, rates: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> list[float]:
        examples = self._tensors()
        losses, last = [], None
        for rate, batch in zip(rates, rows, strict=True):
            if rate != last:
                model.optimizer.learning_rate = last = float(rate)
            model.reset_metrics()
            given = take(examples, keras.ops.convert_to_tensor(batch))
            logs = model.train_step(tuple(given))
            losses.append(keras.ops.convert_to_numpy(logs["loss"]))
        return [float(loss) for loss in losses]

    def _tensors(self) -> Any:
        """The training data where the framework takes them from."""
        if self._data is None:
            self._data = keras.tree.map_structure(
                lambda v: None if v is None else keras.ops.convert_to_tensor(v),
                self.problem.training,
            )
        return self._data
