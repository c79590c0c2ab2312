"""Probes train a copy that computes what the caller's model does, whatever its classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from recommender.copies import private_copy
from recommender.errors import RequestError

X = np.random.default_rng(0).normal(size=(6, 8)).astype("float32")


class Plain(keras.Model):
    """As tutorials write it: no arguments, no config."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = layers.Dense(4, activation="tanh")
        self.last = layers.Dense(1)

    def call(self, inputs: Any) -> Any:
        return self.last(self.hidden(inputs))


class Forgetful(keras.Model):
    """Keeps layers in lists and dicts, and nothing of what it was given."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.first = layers.Dense(width)
        self.blocks = [layers.Dense(width, activation="relu") for _ in range(depth)]
        self.heads = {"one": layers.Dense(width), "two": self.first}
        self.chosen = self.twice
        self.seen = keras.metrics.Mean()
        self.last = layers.Dense(width)

    def twice(self, inputs: Any) -> Any:
        return 2 * self.last(inputs)

    def call(self, inputs: Any) -> Any:
        hidden = self.first(inputs)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.chosen(self.heads["one"](hidden))


class Pair(keras.Model):
    """Is given models, as an autoencoder is."""

    def __init__(self, encoder: keras.Model, decoder: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encoder, self.decoder = encoder, decoder

    def call(self, inputs: Any) -> Any:
        return self.decoder(self.encoder(inputs))


class Block(layers.Layer):
    """A layer of layers without a config; its function cannot be saved."""

    def __init__(self, width: int, function: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = keras.Sequential([layers.Dense(width), layers.Dense(8)])
        self.norm = layers.LayerNormalization()
        self.after = function

    def call(self, inputs: Any) -> Any:
        return self.after(self.norm(inputs + self.inner(inputs)))


def of_layers(*parts: Any) -> keras.Model:
    return keras.Sequential([keras.Input((8,)), *parts])


MODELS: dict[str, Callable[[], keras.Model]] = {
    "no arguments": Plain,
    "forgotten arguments": lambda: Forgetful(8, 2),
    "models as arguments": lambda: Pair(of_layers(layers.Dense(3)), of_layers_of(3)),
    "a block without a config": lambda: of_layers(Block(5, lambda v: 3 * v), layers.Dense(1)),
    "a lambda": lambda: of_layers(layers.Dense(2), layers.Lambda(lambda v: v * v)),
    "a model inside": lambda: of_layers(of_layers(Block(5, ops.tanh)), layers.Dense(1)),
    "frozen parts": lambda: of_layers(layers.Dense(4, trainable=False), layers.Dense(1)),
}


def of_layers_of(width: int) -> keras.Model:
    return keras.Sequential([keras.Input((width,)), layers.Dense(8)])


@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
@pytest.mark.parametrize("name", MODELS)
def test_a_copy_computes_the_same_with_weights_of_its_own(name: str, trained: bool) -> None:
    net = MODELS[name]()
    expected = ops.convert_to_numpy(net(X))
    if trained:
        net.compile("sgd", "mse")
        net.fit(X, np.zeros_like(expected), verbose=0)
        expected = ops.convert_to_numpy(net(X))
    twin = private_copy(net, X)
    np.testing.assert_allclose(ops.convert_to_numpy(twin(X)), expected, rtol=1e-6)
    assert [v.trainable for v in twin.weights] == [v.trainable for v in net.weights]
    assert not {id(v) for v in twin.variables} & {id(v) for v in net.variables}
    for variable in twin.weights:
        variable.assign(np.zeros(variable.shape))
    np.testing.assert_array_equal(ops.convert_to_numpy(net(X)), expected)
    again = private_copy(private_copy(net, X), X)
    np.testing.assert_allclose(ops.convert_to_numpy(again(X)), expected, rtol=1e-6)


def test_a_model_that_holds_a_variable_itself_is_refused() -> None:
    class Own(keras.Model):
        def __init__(self, start: float) -> None:
            super().__init__()
            self.scale = keras.Variable(start)

        def call(self, inputs: Any) -> Any:
            return inputs * self.scale

    with pytest.raises(RequestError, match="Own.*cannot be copied.*get_config") as error:
        private_copy(Own(2.0), X)
    assert error.value.code == "unsupported_model"
    assert "\n" not in str(error.value)
