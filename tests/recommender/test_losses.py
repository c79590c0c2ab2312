"""Probes minimise exactly what `model.fit` minimises, whatever kind of training it is."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from recommender.budget import Budget
from recommender.errors import RequestError
from recommender.examples import take
from recommender.population import open_population
from recommender.problem import Problem, build
from recommender.request import Request, checked
from recommender.settings import Setting
from tests.recommender.kinds import KINDS, LABEL, NUMBER, Kind, X, two_outputs

RATE = 0.1
STEPS = 5


def asked(kind: Kind, **changes: Any) -> Problem:
    arguments = {"x": kind.x, "y": kind.y, "sample_weight": kind.weight, **kind.compiled}
    arguments |= {"epochs": 100, "batch_size": 16}
    return build(checked(Request(kind.model(), **(arguments | changes))))


def as_keras_trains(kind: Kind, problem: Problem) -> keras.Model:
    """The caller's own model, compiled as the caller would, at the probes' first weights."""
    net = kind.model()
    net.compile(optimizer=keras.optimizers.SGD(RATE), **kind.compiled)
    net(take(problem.x, slice(0, 2)))
    for ours, theirs in zip(net.variables, problem.model.variables, strict=True):
        ours.assign(keras.ops.convert_to_numpy(theirs))
    return net


def reported(logs: Any) -> float:
    return float(logs["loss"])


@pytest.mark.parametrize("name", KINDS)
def test_steps_and_validation_are_those_of_keras(name: str) -> None:
    kind = KINDS[name]
    problem = asked(kind)
    setting = Setting("sgd", RATE)
    population = open_population(problem, [setting], Budget("thorough", problem.full_steps))
    rows = problem.batch_indices(0, STEPS)
    rates = np.full(STEPS, RATE, np.float32)
    start = population.start(setting)
    first = population.validate(start, "test").mean()
    state, losses = population.train(start, rates, rows, "test")

    net = as_keras_trains(kind, problem)
    kept = take(problem.validation, np.sort(population._validation))
    seeds = [np.array(v) for v in net.non_trainable_variables]
    whole = net.evaluate(kept.x, kept.y, population.block_rows, 0, kept.weight, return_dict=True)
    if name != "a variational autoencoder":  # which draws anew for every block there
        assert first == pytest.approx(reported(whole), rel=1e-5)
    for v, value in zip(net.non_trainable_variables, seeds, strict=True):
        v.assign(value)
    expected = []
    for batch in rows:
        net.reset_metrics()
        x, y, weight = take(problem.training, batch)
        expected.append(reported(net.train_on_batch(x, y, weight, return_dict=True)))
    # Five float32 steps in two programs.
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for ours, theirs in zip(population.trained(state), net.trainable_variables, strict=True):
        np.testing.assert_allclose(ours, keras.ops.convert_to_numpy(theirs), rtol=1e-3, atol=1e-5)


def test_padded_steps_of_a_sequence_do_not_count() -> None:
    kind = KINDS["a masked sequence"]
    problem = asked(kind, validation_data=(kind.x[:16], kind.y[:16]))
    setting = Setting("sgd", RATE)
    population = open_population(problem, [setting], Budget("thorough", problem.full_steps))
    shown = population.validate(population.start(setting), "test")

    scores = np.asarray(keras.ops.convert_to_numpy(kind.model()(kind.x[:16])), np.float64)
    chances = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    loss = -np.log(np.take_along_axis(chances, kind.y[:16, :, None], -1))[..., 0]
    kept = kind.x[:16] != 0
    pairs = zip(
        loss.reshape(population.blocks, -1), kept.reshape(population.blocks, -1), strict=True
    )
    # Mean cross-entropy over the words that are there; float32 against float64.
    np.testing.assert_allclose(shown, [np.average(a, weights=b) for a, b in pairs], rtol=1e-5)


def test_several_losses_add_up_with_their_weights() -> None:
    problem = asked(KINDS["two outputs"])
    net = two_outputs()
    number, scores = (
        np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in net(problem.x_val)
    )
    y_number, y_label = problem.y_val
    chances = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    entropy = -np.log(chances[np.arange(len(y_label)), y_label])
    setting = Setting("sgd", RATE)
    population = open_population(problem, [setting], Budget("thorough", problem.full_steps))
    kept = np.sort(population._validation)
    expected = 2.0 * np.abs(number - y_number)[kept].mean() + 0.25 * entropy[kept].mean()
    shown = population.validate(population.start(setting), "test").mean()
    assert shown == pytest.approx(expected, rel=1e-5)


def test_class_weights_are_weights_of_the_training_examples_alone() -> None:
    weights = {0: 1.0, 2: 5.0}
    net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    request = Request(net, X, LABEL, batch_size=16, class_weight=weights)
    problem = build(checked(request))
    np.testing.assert_array_equal(problem.weight, np.array([1.0, 1.0, 5.0])[problem.y])
    assert problem.weight_val is None


def test_without_a_loss_every_output_gets_the_usual_one() -> None:
    problem = build(checked(Request(two_outputs(), X, [NUMBER, LABEL], batch_size=16)))
    assert [type(one).__name__ for one in problem.loss] == [
        "MeanSquaredError",
        "SparseCategoricalCrossentropy",
    ]
    assert problem.loss[1].get_config()["from_logits"]


def test_a_compiled_model_brings_its_losses_and_their_weights() -> None:
    net = two_outputs()
    net.compile("adam", loss=["mse", None], loss_weights=[3.0, 1.0])
    problem = build(checked(Request(net, X, [NUMBER, LABEL], batch_size=16)))
    assert problem.loss[1] is None
    assert problem.loss_weights == [3.0, 1.0]


class Doubled(keras.Model):
    """A subclass with a train step of its own: it reports twice the loss that it descends."""

    def train_step(self, *args: Any) -> Any:
        result = super().train_step(*args)
        logs, *state = result if isinstance(result, tuple) else (result,)
        logs = {**logs, "loss": 2 * logs["loss"]}
        return (logs, *state) if state else logs


def test_a_train_step_of_the_model_s_own_is_run_as_it_is() -> None:
    inputs = keras.Input((4,))
    net = Doubled(inputs, keras.layers.Dense(1)(inputs))
    problem = build(checked(Request(net, X, NUMBER, loss="mse", batch_size=16)))
    assert any("train_step" in note for note in problem.notes)
    setting = Setting("sgd", RATE)
    population = open_population(problem, [setting], Budget("thorough", problem.full_steps))
    rows = problem.batch_indices(0, 1)
    _, losses = population.train(population.start(setting), np.ones(1, np.float32), rows, "test")
    error = np.asarray(keras.ops.convert_to_numpy(net(problem.x[rows[0]]))) - problem.y[rows[0]]
    assert losses[0] == pytest.approx(2 * np.mean(error**2), rel=1e-5)


def wrong_outputs() -> dict[str, tuple[dict[str, Any], str, str]]:
    both = {"y": [NUMBER, LABEL]}
    return {
        "one target": ({"y": NUMBER}, "outputs_mismatch", "y is one array, the model has 2"),
        "three targets": ({"y": [NUMBER] * 3}, "outputs_mismatch", "y holds 3 entries"),
        "unknown target": (
            {"y": {"number": NUMBER, "lable": LABEL}},
            "outputs_mismatch",
            r"y names 'lable'; the model has 2 outputs \('number', 'label'\)",
        ),
        "missing target": (
            {"y": {"number": NUMBER}, "loss": "mse"},
            "outputs_mismatch",
            "y holds nothing for 'label'|y names nothing for 'label'",
        ),
        "unknown loss": (
            {**both, "loss": {"nmuber": "mse"}},
            "outputs_mismatch",
            "loss names 'nmuber'",
        ),
        "three losses": ({**both, "loss": ["mse"] * 3}, "outputs_mismatch", "loss holds 3"),
        "bad name": ({**both, "loss": ["mse", "mze"]}, "unknown_loss", "'mze' is not a Keras loss"),
        "one weight": ({**both, "loss_weights": 2.0}, "outputs_mismatch", "loss_weights is one"),
        "weights": ({**both, "sample_weight": [X[:, 0]] * 3}, "outputs_mismatch", "sample_weight"),
        "widths": (
            {"y": [np.hstack([NUMBER, NUMBER]), LABEL], "loss": "mse"},
            "shape_mismatch",
            r"y\['number'\] has rows of shape \(2,\)",
        ),
        "labels": (
            {"y": [NUMBER, LABEL + 1]},
            "label_range",
            "labels run from 1 to 3, but the model has 3 outputs",
        ),
        "rows": ({"y": [NUMBER, LABEL[:50]]}, "shape_mismatch", r"y\[1\] has 50"),
        "no targets": ({}, "shape_mismatch", "y is missing"),
        "classes": ({**both, "class_weight": {0: 2.0}}, "bad_class_weight", "one array of classes"),
        "class weights": ({**both, "class_weight": [1, 2]}, "bad_class_weight", "is a dict"),
        "both weights": (
            {**both, "class_weight": {0: 2.0}, "sample_weight": X[:, 0]},
            "bad_class_weight",
            "both given",
        ),
        "weight rows": ({**both, "sample_weight": np.ones(5)}, "shape_mismatch", "sample_weight"),
        "failing loss": (
            {**both, "loss": [lambda y, p: y @ p, None]},
            "loss_failed",
            "cannot be computed",
        ),
    }


@pytest.mark.parametrize("case", wrong_outputs())
def test_targets_and_losses_that_do_not_fit_are_refused(case: str) -> None:
    changes, code, message = wrong_outputs()[case]
    with pytest.raises(RequestError, match=message) as error:
        build(checked(Request(**({"model": two_outputs(), "x": X, "batch_size": 16} | changes))))
    assert error.value.code == code


def test_a_compute_loss_that_gives_no_number_is_refused() -> None:
    class Vector(keras.Model):
        def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            return keras.ops.square(y - y_pred)

    inputs = keras.Input((4,))
    net = Vector(inputs, keras.layers.Dense(1)(inputs))
    with pytest.raises(RequestError, match=r"returned shape \(2, 1\)") as error:
        build(checked(Request(net, X, NUMBER)))
    assert error.value.code == "loss_failed"


def test_a_compile_of_other_arguments_is_refused() -> None:
    class Pair(keras.Model):
        def compile(self, first: Any, second: Any) -> None:
            super().compile(first)

    inputs = keras.Input((4,))
    net = Pair(inputs, keras.layers.Dense(1)(inputs))
    with pytest.raises(RequestError, match="Pair.compile does not take") as error:
        build(checked(Request(net, X, NUMBER)))
    assert error.value.code == "unsupported_model"


def test_penalties_alone_are_no_loss_of_the_model_s_own() -> None:
    layers = [keras.Input((4,)), keras.layers.Dense(1, kernel_regularizer="l2")]
    with pytest.raises(RequestError, match="y is missing"):
        build(checked(Request(keras.Sequential(layers), X)))
