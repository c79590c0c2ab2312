"""Bad input gets one clear error with a stable code, before anything is trained."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from recommender import RequestError, recommend
from recommender.problem import build
from recommender.request import Request, checked
from tests.recommender.problems import data, model

X, Y = data(80)


def nan_rows() -> np.ndarray:
    x = X.copy()
    x[3, 1] = np.nan
    x[7, 2] = np.inf
    return x


def frozen() -> keras.Model:
    net = model()
    net.trainable = False
    return net


def two_outputs() -> keras.Model:
    inputs = keras.Input((4,))
    return keras.Model(inputs, [keras.layers.Dense(1)(inputs), keras.layers.Dense(1)(inputs)])


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "lengths": ({"y": Y[:50]}, "shape_mismatch", "x has 80 examples and y has 50"),
    "width": ({"x": X[:, :3]}, "shape_mismatch", "does not accept the data"),
    "target": ({"y": np.hstack([Y, Y])}, "shape_mismatch", "needs rows of shape"),
    "nan": (
        {"x": nan_rows()},
        "not_finite",
        r"2 NaN or infinite values in 2 of 80 rows, the first at index \[3, 1\]",
    ),
    "text": ({"x": X.astype(str)}, "not_numeric", "Encode text"),
    "few": ({"x": X[:4], "y": Y[:4]}, "shape_mismatch", "at least 8"),
    "frozen": ({"model": frozen()}, "no_trainable_weights", "trainable = True"),
    "outputs": ({"model": two_outputs()}, "outputs_mismatch", "the model has 2 outputs"),
    "model": ({"model": 3}, "unsupported_model", "received int"),
    "family": ({"model": {"family": "tree"}}, "unsupported_model", "linear, mlp, cnn"),
    "loss": ({"loss": "nosuch"}, "unknown_loss", "'nosuch' is not a Keras loss"),
    "tier": ({"tier": "fast"}, "unknown_tier", "instant, quick, standard, thorough"),
    "seconds": ({"max_seconds": -1}, "impossible_budget", "above 0"),
    "epochs": ({"epochs": 0}, "impossible_budget", "epochs must be a whole number"),
    "batch": ({"batch_size": 1000}, "impossible_budget", "only 64 training examples"),
    "objective": ({"objective": "accuracy"}, "unknown_objective", "val_loss"),
    "backend": ({"backend": "numpy"}, "unknown_backend", "jax, tensorflow, torch"),
    "include": ({"include": ["adamm"]}, "unknown_optimizer", "Did you mean Adam"),
    "bind": ({"include": ["svrg"]}, "needs_bind", r"keras_gradopt\.bind"),
    "wrapper": ({"include": ["lookahead"]}, "unsupported_optimizer", "wraps another"),
    "summary": ({"x": {"samples": 10}, "y": None}, "bad_summary", "needs shape"),
    "summary value": (
        {"x": {"shape": [4], "noise": 3}, "y": None},
        "bad_summary",
        "noise of the data summary",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_it_is_refused(case: str) -> None:
    changes, code, message = BAD[case]
    arguments = {"model": model(), "x": X, "y": Y, "loss": "mse", "progress": False} | changes
    with pytest.raises(RequestError, match=message) as error:
        recommend(**arguments)
    assert error.value.code == code
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)


def test_labels_beyond_the_outputs_are_refused() -> None:
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(RequestError, match="labels run from 0 to 3, but the model has 3 outputs"):
        recommend(net, X, np.arange(80) % 4, loss=loss, progress=False)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(RequestError, match="seed must be at least 0"):
        recommend(model(), X, Y, seed=-1, progress=False)


LABELS = np.arange(80) % 4


@pytest.mark.parametrize(
    ("last", "activation", "y", "expected", "logits"),
    [
        (4, None, LABELS, "SparseCategoricalCrossentropy", True),
        (4, "softmax", LABELS, "SparseCategoricalCrossentropy", False),
        (1, "sigmoid", LABELS % 2, "BinaryCrossentropy", False),
        (1, None, LABELS[:, None] % 2, "BinaryCrossentropy", True),
        (1, None, LABELS, "MeanSquaredError", None),
        (1, None, LABELS.astype("float32"), "MeanSquaredError", None),
    ],
)
def test_without_a_loss_the_targets_and_outputs_tell(
    last: int, activation: str | None, y: np.ndarray, expected: str, logits: bool | None
) -> None:
    layers = [keras.Input((4,)), keras.layers.Dense(last, activation=activation)]
    x = np.random.default_rng(0).normal(size=(80, 4)).astype("float32")
    loss = build(checked(Request(keras.Sequential(layers), x, y, batch_size=8))).loss
    assert type(loss).__name__ == expected
    assert loss.get_config().get("from_logits") == logits


def test_a_large_vocabulary_is_drawn_in_little_memory() -> None:
    summary = {"shape": [20], "vocabulary": 10**6, "samples": 4096}
    assert build(checked(Request({"family": "mlp"}, summary))).x.shape == (3276, 20)  # four fifths
