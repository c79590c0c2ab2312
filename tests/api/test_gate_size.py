"""The size of a model by the arithmetic of its config, against what Keras builds of it."""

from __future__ import annotations

import json
from typing import Any

import keras
import pytest
from keras import layers

from api.gate import Refused, check_model_config, size
from tests.api.server import layer, network

pytestmark = pytest.mark.backend_free


def kept(model: keras.Model) -> dict[str, Any]:
    return check_model_config(json.loads(model.to_json())).config


def dense() -> keras.Model:
    return keras.Sequential([keras.Input((7,)), layers.Dense(5, "relu"), layers.Dense(3)])


def images() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((17, 13, 2)),
            layers.Conv2D(4, (3, 2), strides=2),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Conv2D(6, 3, padding="same"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def sequences() -> keras.Model:
    tokens = keras.Input((9,))
    words = layers.Embedding(50, 8)(tokens)
    read = layers.LSTM(6, return_sequences=True)(words)
    last = layers.GRU(4)(read)
    return keras.Model(tokens, layers.Dense(2)(last))


def nested() -> keras.Model:
    return keras.Sequential([keras.Input((7,)), dense(), layers.Dropout(0.1), layers.Dense(2)])


def branches() -> keras.Model:
    x = keras.Input((6,))
    joined = layers.Concatenate()([layers.Dense(4)(x), layers.Dense(5)(x)])
    return keras.Model(x, layers.Dense(1)(joined))


@pytest.mark.parametrize("made", [dense, images, sequences, nested])
def test_where_every_shape_is_known_it_is_what_keras_counts(made: Any) -> None:
    model = made()
    parameters, _, shape = size._model(kept(model), None)
    biases = sum(int(w.shape[-1]) for w in model.weights if "bias" in w.path)
    recurrent = sum(
        w.shape[0] * w.shape[1] for w in model.weights if "bias" in w.path and w.ndim == 2
    )
    assert shape == model.output_shape[1:]
    assert model.count_params() - biases - recurrent <= parameters <= model.count_params()


def test_where_a_shape_is_not_known_it_is_less_than_keras_counts() -> None:
    model = branches()
    parameters, _, _ = size._model(kept(model), None)
    assert 0.5 * model.count_params() < parameters <= model.count_params()


@pytest.mark.parametrize("length", [{"module": "keras"}, [3], "3", 2.5, True, -3, None])
def test_what_is_no_length_counts_as_one(length: Any) -> None:
    shape = [None, length, length, length]
    config = {"name": "net", "layers": [layer("InputLayer", batch_shape=shape), *FLAT]}
    model = {"module": "keras", "class_name": "Sequential", "config": config}
    assert check_model_config(model).layers == {"Dense": 1, "Flatten": 1}
    assert size._model(model, None)[0] == (1 + 1) * 5


FLAT = [layer("Flatten"), layer("Dense", units=5)]
LARGE = {
    "dense": [layer("Dense", units=20_000), layer("Dense", units=20_000)],
    "embedding": [layer("Embedding", input_dim=10**6, output_dim=1000)],
    "recurrent": [layer("Reshape", target_shape=[2, 2]), layer("LSTM", units=9_000)],
    "kernel": [
        layer("Reshape", target_shape=[2, 2, 1]),
        layer("Conv2D", filters=10**5, kernel_size=[90, 90]),
    ],
}


@pytest.mark.parametrize("name", LARGE)
def test_too_many_parameters_are_refused_before_anything_is_built(name: str) -> None:
    with pytest.raises(Refused, match="parameters") as caught:
        check_model_config(network(*LARGE[name]))
    assert caught.value.code == "model_too_large"


def test_too_large_an_example_is_refused() -> None:
    wide = layer("InputLayer", batch_shape=[None, 9_000, 9_000, 1])
    config = {"name": "net", "layers": [wide, layer("Conv2D", filters=64, kernel_size=[1, 1])]}
    with pytest.raises(Refused, match="GiB"):
        check_model_config({"module": "keras", "class_name": "Sequential", "config": config})
