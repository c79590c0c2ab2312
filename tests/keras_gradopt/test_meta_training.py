"""meta_train: its gradient, that it learns, repeats itself, and loses nothing when interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt.learned import meta_train, network
from keras_gradopt.meta_training import Quadratics, Task, digits, unrolling

SHAPES = kg.LearnedOptimizer.shapes
SHORT = {"episode_steps": 12, "truncation": 3, "progress": False}


class Slopes(Task):
    """Planes, whose gradient is the same everywhere: no second derivative is left out."""

    def start(self, rng: np.random.Generator) -> tuple[list, Callable]:
        slope = rng.normal(size=(self.problems, 3)).astype("float32")
        start = np.zeros((self.problems, 3), "float32")
        return [start], lambda steps: [np.broadcast_to(slope, (steps, *slope.shape))]

    def losses(self, ws: Sequence[Any], data: Sequence[Any]) -> Any:
        return 10.0 + ops.sum(ws[0] * data[0], axis=-1)


@pytest.mark.parametrize("objective", ["sum", "log"])
@pytest.mark.parametrize("random_scaling", [0.0, 1.0])
def test_the_gradient_is_that_of_finite_differences(objective: Any, random_scaling: float) -> None:
    task, rule, steps = Slopes(2), kg.LearnedOptimizer, 4
    rng = np.random.default_rng(3)
    start = [(0.5 * rng.normal(size=s)).astype("float32") for s in SHAPES.values()]
    direction = [rng.normal(size=s).astype("float32") for s in SHAPES.values()]
    learning = unrolling.steps_of(rule, task, objective)
    alone = unrolling.steps_of(rule, task, None)

    def outcome(f: Callable, along: float) -> tuple[float, list]:
        moved = [a + np.float32(along) * d for a, d in zip(start, direction, strict=True)]
        episode = unrolling.begin(task, rule, np.random.default_rng(5), random_scaling)
        losses, found = unrolling.run(f, moved, episode, steps)
        losses = losses.astype("float64")
        total = (np.log(losses + 1e-6) if objective == "log" else losses).sum() / 2
        return float(total), found

    _, found = outcome(learning, 0.0)
    slope = sum(
        float((np.asarray(ops.convert_to_numpy(g), "float64") * d).sum())
        for g, d in zip(found, direction, strict=True)
    )
    h = 1e-2
    expected = (outcome(alone, h)[0] - outcome(alone, -h)[0]) / (2 * h)
    # Central differences over 0.02 of float32 losses of order ten.
    assert slope == pytest.approx(expected, rel=2e-2)
    assert abs(expected) > 1e-3


def test_it_learns_and_repeats_itself_with_the_same_seed(tmp_path: Path) -> None:
    lines: list[str] = []
    given = {"episodes": 10, "learning_rate": 0.02, **SHORT}
    file, task = tmp_path / "mine.npz", Quadratics(problems=8)
    first = meta_train(task, path=file, report=lines.append, **given)
    assert first.history[0][0] == 0
    assert first.score == min(score for _, score in first.history)
    # A logarithm: the losses at the end of an episode fall by a fifth at least.
    assert first.score < first.history[0][1] - 0.2
    assert len(lines) == len(first.history)
    _, read = network.read(file, SHAPES)
    for name, array in first.weights.items():
        np.testing.assert_array_equal(read[name], array)
    second = meta_train(task, **given)
    assert second.history == first.history
    for name, array in first.weights.items():
        np.testing.assert_array_equal(second.weights[name], array)
    other = meta_train(task, seed=1, **{**given, "episodes": 1})
    assert other.history[0] != first.history[0]
    # What comes out is what the rule takes, and it may be trained on.
    assert kg.LearnedOptimizer(weights=first.weights).built is False
    again = meta_train(task, weights=file, **{**given, "episodes": 1})
    assert again.history[0][1] == pytest.approx(first.score, abs=1e-5)


def test_several_tasks_take_turns() -> None:
    tasks = [Quadratics(size=3, problems=8), digits(hidden=(2,), problems=8, batch_size=4)]
    found = meta_train(tasks, episodes=2, **{**SHORT, "episode_steps": 3})
    assert [number for number, _ in found.history] == [0, 1, 2]
    assert np.all(np.isfinite([score for _, score in found.history]))


def test_an_interruption_leaves_the_best_so_far(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if "episode     2" in line:
            raise KeyboardInterrupt

    file = tmp_path / "mine.npz"
    found = meta_train(
        Quadratics(size=3, problems=8), episodes=50, path=file, report=interrupt,
        **{**SHORT, "episode_steps": 3},
    )  # fmt: skip
    assert found.interrupted
    assert found.history[-1][0] == 2
    assert found.weights
    network.read(file, SHAPES)
    assert [f.name for f in tmp_path.iterdir()] == ["mine.npz"]


def test_networks_lose_what_keras_says() -> None:
    task = digits(hidden=(5,), problems=2, batch_size=6)
    ws, draw = task.start(np.random.default_rng(0))
    x, y = draw(1)
    found = ops.convert_to_numpy(task.losses([ops.convert_to_tensor(w) for w in ws], [x[0], y[0]]))
    for k in range(2):
        model = keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(5, activation="sigmoid"),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
        model.set_weights([w[k] for w in ws])
        loss = keras.losses.SparseCategoricalCrossentropy()(y[0, k], model(x[0, k]))
        assert found[k] == pytest.approx(float(ops.convert_to_numpy(loss)), rel=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": []}, "at least one task"),
        (
            {"tasks": Quadratics(), "episode_steps": 30},
            "a multiple of truncation, received 1 tasks",
        ),
        ({"tasks": Quadratics(), "episodes": 0}, "episodes must be a whole number >= 1"),
        ({"tasks": Quadratics(), "learning_rate": -1.0}, "must be in"),
    ],
)
def test_bad_arguments_are_named(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        meta_train(**given)
    with pytest.raises(ValueError, match="problems must be a whole number >= 1"):
        Quadratics(problems=0)
