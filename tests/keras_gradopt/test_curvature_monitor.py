"""CurvatureMonitor: what it logs is true of the weights it saw, and training goes on as without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_gradopt as kg
from keras_gradopt.callbacks import CurvatureMonitor
from tests.keras_gradopt import curved
from tests.keras_gradopt.problems import values

BACKEND = keras.backend.backend()
ALL = ["sharpness", "smallest_eigenvalue", "trace", "noise_scale"]
NAMES = {
    "sharpness",
    "sharpness_x_learning_rate",
    "smallest_eigenvalue",
    "hessian_trace",
    "gradient_noise_scale",
}


def weights_of(model: keras.Model) -> np.ndarray:
    return np.concatenate([v.reshape(-1) for v in values(model.trainable_variables)])


class Path_(keras.callbacks.Callback):  # noqa: N801 - pathlib's name is taken
    """Keeps the weights after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seen.append(weights_of(self.model))


def test_values_are_those_of_the_weights_at_the_epoch_s_end() -> None:
    x, y = curved.data()
    model = curved.compiled(optimizer=keras.optimizers.SGD(0.05))
    monitor = CurvatureMonitor(x, y, what=ALL, probes=30, tolerance=1e-3)
    path = Path_()
    history = model.fit(x, y, epochs=3, batch_size=10, verbose=0, callbacks=[path, monitor])
    assert set(history.history) == {"loss", *NAMES}
    assert monitor.steps == [2, 4, 6]
    for i, w in enumerate(path.seen):
        dense = curved.hessian(w.astype("float64"))
        truth = np.linalg.eigvalsh(dense)
        read = {name: history.history[name][i] for name in NAMES}
        off = {name: monitor.errors[name][i] for name in NAMES}
        assert read == {name: monitor.history[name][i] for name in NAMES}
        assert read["sharpness"] == pytest.approx(truth[-1], rel=1e-3)
        assert read["sharpness_x_learning_rate"] == pytest.approx(0.05 * truth[-1], rel=1e-3)
        assert abs(read["smallest_eigenvalue"] - truth[0]) <= 2e-3 * truth[-1]
        assert off["sharpness"] < 2e-3 * truth[-1]
        assert abs(read["hessian_trace"] - np.trace(dense)) <= 3 * off["hessian_trace"]
        rows = curved.row_gradients(w.astype("float64"))
        variance = np.sum((rows - rows.mean(0)) ** 2) / (len(rows) - 1)
        signal = np.sum(rows.mean(0) ** 2) - variance / len(rows)
        expected = variance / signal if signal > 0 else np.inf
        assert read["gradient_noise_scale"] == pytest.approx(expected, rel=1e-2)


def test_training_goes_on_as_without_it_dropout_and_statistics_included() -> None:
    x, y = curved.data()
    found = []
    for watched in (False, True):
        keras.utils.set_random_seed(0)
        layers = [
            keras.layers.Dense(4, kernel_initializer="ones"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5, seed=3),
            keras.layers.Dense(1, kernel_initializer="ones"),
        ]
        model = keras.Sequential([keras.Input((3,)), *layers])
        model.compile(optimizer=kg.SGD(0.05, momentum=0.9), loss="mse")
        monitor = CurvatureMonitor(x, y, frequency=1, what=["sharpness"])
        callbacks = [monitor] if watched else []
        model.fit(x, y, epochs=2, batch_size=10, shuffle=False, verbose=0, callbacks=callbacks)
        found.append(np.concatenate([v.reshape(-1) for v in values(model.variables)]))
    np.testing.assert_array_equal(*found)


def test_it_measures_every_so_many_batches_and_epochs_log_the_latest() -> None:
    x, y = curved.data()
    model = curved.compiled()
    monitor = CurvatureMonitor(x, y, frequency=3, what=["trace"], probes=2)
    history = model.fit(x, y, epochs=4, batch_size=10, verbose=0, callbacks=[monitor]).history
    assert monitor.steps == [3, 6]
    first, second = monitor.history["hessian_trace"]
    # Batch 3 is the first of the second epoch, 6 the last of the third; the first epoch has none.
    assert history["hessian_trace"] == [first, second, second]


def test_full_batch_descent_goes_to_the_edge_of_stability() -> None:
    """Cohen 2021: sharpness x rate rises to about 2 and stays, while the loss falls."""
    x, y = curved.data()
    model = curved.compiled(0.5 * curved.weights(), optimizer=keras.optimizers.SGD(0.4))
    monitor = CurvatureMonitor(x, y, frequency=40, what=["sharpness"])
    before = model.evaluate(x, y, verbose=0)
    # All rows in each of 400 batches.
    often = (np.tile(x, (400, 1)), np.tile(y, (400, 1)))
    model.fit(*often, batch_size=20, shuffle=False, verbose=0, callbacks=[monitor])
    late = monitor.history["sharpness_x_learning_rate"][-3:]
    assert np.mean(late) == pytest.approx(2.0, abs=0.3)
    assert model.evaluate(x, y, verbose=0) < 0.5 * before


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow reads what was written")
def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    import tensorflow as tf

    x, y = curved.data()
    monitor = CurvatureMonitor(x, y, what=["sharpness"], log_dir=tmp_path / "run")
    curved.compiled().fit(x, y, epochs=2, batch_size=20, verbose=0, callbacks=[monitor])
    (path,) = (tmp_path / "run").glob("*tfevents*")
    read: dict[str, list[tuple[int, float]]] = {}
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            read.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert set(read) == {"curvature/sharpness", "curvature/sharpness_x_learning_rate"}
    steps, found = zip(*read["curvature/sharpness"], strict=True)
    assert steps == (1, 2)
    np.testing.assert_allclose(found, monitor.history["sharpness"], rtol=1e-6)


def test_a_diverged_training_is_logged_as_nan_and_goes_on(caplog: Any) -> None:
    x, y = curved.data()
    model = curved.compiled(optimizer=keras.optimizers.SGD(1e30))
    monitor = CurvatureMonitor(x, y)
    history = model.fit(x, y, epochs=3, verbose=0, callbacks=[monitor]).history
    assert len(history["loss"]) == 3
    assert np.isnan(history["sharpness"][-1])
    assert "measured nothing at step" in caplog.text


def test_bad_arguments_are_refused() -> None:
    x, y = curved.data()
    for arguments, message in (
        ({"frequency": "batch"}, "frequency must be"),
        ({"frequency": 0}, "frequency must be"),
        ({"what": []}, "what must be of"),
        ({"what": ["flatness"]}, "what must be of 'sharpness'.*flatness"),
        ({"tolerance": 0.0}, "tolerance must be"),
        ({"probes": 1}, "probes must be"),
    ):
        with pytest.raises(ValueError, match=message):
            CurvatureMonitor(x, y, **arguments)
    with pytest.raises(ValueError, match="at least 3 rows, x has 2"):
        curved.compiled().fit(x, y, verbose=0, callbacks=[CurvatureMonitor(x[:2], y[:2])])
