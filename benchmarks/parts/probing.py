"""Probing: many short trainings by our engine and by the loops that people write, in turn."""

from __future__ import annotations

import gc
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import optuna
from keras import layers

from benchmarks.parts.cells import rounded
from recommender.budget import Budget
from recommender.cache import VARIABLE
from recommender.population import open_population
from recommender.problem import Problem, build
from recommender.request import Request, checked
from recommender.settings import Setting

AGAIN = "ours, compiled by an earlier process"
OURS, NAIVE, OPTUNA, TUNER = "ours", "build + compile + fit", "Optuna", "KerasTuner"
BATCH_SIZE, STEPS, CLASSES = 32, 256, 10
# Rule, its further arguments, and the class that the other loops take.
RULES: tuple[tuple[str, tuple[tuple[str, Any], ...], str], ...] = (
    ("adam", (), "Adam"),
    ("sgd", (("momentum", 0.9), ("nesterov", True)), "SGD"),
    ("rmsprop", (), "RMSprop"),
    ("adamw", (("weight_decay", 0.01),), "AdamW"),
)
RATES = tuple(float(rate) for rate in np.geomspace(1e-4, 3e-2, 8))
Loss = keras.losses.SparseCategoricalCrossentropy


@dataclass(frozen=True)
class Model:
    """A model to probe.

    Args:
        title: What tables call it.
        build: Makes it.
        inputs: Shape of one sample.
    """

    title: str
    build: Callable[[], keras.Model]
    inputs: tuple[int, ...]


def _mlp() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(CLASSES),
        ]
    )


def _gru() -> keras.Model:
    return keras.Sequential([keras.Input((32, 8)), layers.GRU(32), layers.Dense(CLASSES)])


def _cnn() -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    for filters, stride in ((16, 1), (32, 2), (32, 2)):
        x = layers.Conv2D(filters, 3, stride, padding="same")(x)
        x = layers.Activation("relu")(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


MODELS = {
    "mlp": Model("MLP", _mlp, (64,)),
    "gru": Model("GRU", _gru, (32, 8)),
    "cnn": Model("CNN", _cnn, (16, 16, 3)),
}


def measured(
    name: str, *, candidates: int, others: int, tell: Callable[[str], Any] = lambda _: None
) -> dict[str, Any]:
    """CPU seconds of each candidate on every side, ready for JSON.

    Args:
        name: A key of `MODELS`.
        candidates: Of our engine; its first one compiles.
        others: Candidates of the other sides, which cost the same each time.
        tell: Is told what goes on.
    """
    model = MODELS[name]
    problem = _problem(model)
    settings = [Setting(rule, rate, more) for rate in RATES for rule, more, _ in RULES]
    settings = settings[:candidates]
    tell("warming up")
    for side in (_naive(problem, model), _optuna(problem, model), _ours(problem, settings[:1])):
        next(side)
    ours, *loops = (
        (OURS, _ours(problem, settings)),
        (NAIVE, _naive(problem, model)),
        (OPTUNA, _optuna(problem, model)),
    )
    seconds: dict[str, list[float]] = {OURS: [], NAIVE: [], OPTUNA: []}
    gc.collect()
    every = max(1, candidates // others)
    for number in range(candidates):
        turn = [ours, *(loops if number % every == 0 else [])]
        for side, runs in turn if number % 2 else reversed(turn):
            tell(f"{number + 1} of {candidates}, {side}")
            seconds[side].append(next(runs))
    if keras.config.backend() == "jax":
        seconds[AGAIN] = _again(problem, settings)
    if importlib.util.find_spec("keras_tuner") is not None:
        tell(TUNER)
        seconds[TUNER] = _tuner(problem, model, others)
    return {
        "model": name,
        "title": model.title,
        "parameters": problem.model.count_params(),
        "candidates": candidates,
        "steps": STEPS,
        "seconds": {side: rounded(values) for side, values in seconds.items()},
    }


def _problem(model: Model) -> Problem:
    rng = np.random.default_rng(0)
    rows = BATCH_SIZE * STEPS
    x = rng.normal(size=(rows + 1024, *model.inputs)).astype("float32")
    y = rng.integers(CLASSES, size=rows + 1024).astype("int32")
    held = (x[rows:], y[rows:])
    asked = Request(
        model.build(), x[:rows], y[:rows], held, Loss(from_logits=True),
        epochs=1, batch_size=BATCH_SIZE,
    )  # fmt: skip
    return build(checked(asked))


def _timed(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _ours(problem: Problem, settings: list[Setting]) -> Iterator[float]:
    budget = Budget("thorough", 10**9)
    began = time.process_time()
    population = open_population(problem, settings, budget)
    opening = time.process_time() - began
    for setting in settings:

        def work(setting: Setting = setting) -> None:
            trunk = population.trunk(setting)
            trunk.advance(STEPS, "probe")
            population.validate(trunk.state, "probe")
            population.stop(setting)

        yield _timed(work) + opening
        opening = 0.0


def _again(problem: Problem, settings: list[Setting]) -> list[float]:
    """Ours where the cache of compiled programs has what it takes."""
    off = os.environ[VARIABLE]
    with tempfile.TemporaryDirectory() as folder:
        os.environ[VARIABLE] = folder
        try:
            next(_ours(problem, settings))
            return [*_ours(problem, settings)]
        finally:
            os.environ[VARIABLE] = off


def _trained(problem: Problem, model: Model, kind: str, rate: float) -> float:
    made = model.build()
    made.compile(getattr(keras.optimizers, kind)(rate), Loss(from_logits=True))
    made.fit(problem.x, problem.y, batch_size=BATCH_SIZE, epochs=1, verbose=0)
    return float(made.evaluate(problem.x_val, problem.y_val, batch_size=128, verbose=0))


def _naive(problem: Problem, model: Model) -> Iterator[float]:
    while True:
        for rate in RATES:
            for _, _, kind in RULES:
                yield _timed(lambda kind=kind, rate=rate: _trained(problem, model, kind, rate))


def _optuna(problem: Problem, model: Model) -> Iterator[float]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))

    def work() -> None:
        trial = study.ask()
        kind = trial.suggest_categorical("kind", [kind for _, _, kind in RULES])
        rate = trial.suggest_float("rate", RATES[0], RATES[-1], log=True)
        study.tell(trial, _trained(problem, model, kind, rate))

    while True:
        yield _timed(work)


def _tuner(problem: Problem, model: Model, trials: int) -> list[float]:
    """The mean of all trials, as often: a tuner runs them in one go."""
    import keras_tuner

    def make(hp: Any) -> keras.Model:
        made = model.build()
        kind = hp.Choice("kind", [kind for _, _, kind in RULES])
        rate = hp.Float("rate", RATES[0], RATES[-1], sampling="log")
        made.compile(getattr(keras.optimizers, kind)(rate), Loss(from_logits=True))
        return made

    class Quiet(keras_tuner.RandomSearch):
        def _configure_tensorboard_dir(self, *_: Any) -> None:
            """Its own imports TensorBoard, whether anybody logs or not."""

    with tempfile.TemporaryDirectory() as folder:

        def work() -> None:
            tuner = Quiet(make, "val_loss", max_trials=trials, seed=0, directory=folder)
            held = (problem.x_val, problem.y_val)
            tuner.search(
                problem.x, problem.y, batch_size=BATCH_SIZE, validation_data=held, verbose=0
            )

        return [_timed(work) / trials] * trials
