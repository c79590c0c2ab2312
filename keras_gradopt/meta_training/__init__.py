"""Trains learned rules: a network becomes an optimizer by training many small problems with it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from keras_gradopt import backend
from keras_gradopt.arguments import positive_int
from keras_gradopt.gradient.adam import Adam
from keras_gradopt.learned import LearnedRule, network
from keras_gradopt.learned.learned_optimizer import LearnedOptimizer
from keras_gradopt.meta_training import unrolling
from keras_gradopt.meta_training.tasks import Classifiers, Quadratics, Task, digits
from keras_gradopt.meta_training.unrolling import Objective
from keras_gradopt.schedules.cosine_decay import CosineDecay

Tensor = Any

__all__ = ["Classifiers", "MetaTraining", "Quadratics", "Task", "digits", "meta_train"]

# Held-out problems that a network is judged by, at least, and how often it is.
_HELD_OUT = 8
_JUDGEMENTS = 25
# A loss of zero has no logarithm.
_LEAST_LOSS = 1e-12


@dataclass
class MetaTraining:
    """What came out of `meta_train`.

    Attributes:
        weights: The best network, for the `weights` of its rule.
        score: Its mean log-loss over the last fifth of held-out episodes; lower is better.
        history: Episodes trained, and the score after them.
        interrupted: Whether Ctrl-C ended it.
    """

    weights: dict[str, np.ndarray] = field(default_factory=dict)
    score: float = math.inf
    history: list[tuple[int, float]] = field(default_factory=list)
    interrupted: bool = False

    def is_better(self, number: int, score: float, learner: _Learner) -> bool:
        """Takes a judgement down, and the network where it is the best so far."""
        self.history.append((number, score))
        if self.weights and not score < self.score:
            return False
        self.score, self.weights = score, learner.named()
        return True


def meta_train(
    tasks: Task | Sequence[Task],
    rule: type[LearnedRule] = LearnedOptimizer,
    *,
    episodes: int = 600,
    episode_steps: int = 100,
    truncation: int = 20,
    learning_rate: float = 0.01,
    objective: Objective = "log",
    random_scaling: float = 0.0,
    weights: Any = None,
    seed: int = 0,
    path: str | Path | None = None,
    report: Callable[[str], Any] | None = None,
    progress: bool = True,
) -> MetaTraining:
    r"""Trains the network of a learned rule on tasks.

    An episode is a training of fresh problems by the rule. After every `truncation` of its steps
    Adam moves the network along the gradient of these steps' losses, clipped to a norm of 1, with a
    rate that falls to zero as a cosine. The gradients that the network sees are taken as constants,
    as in the paper. Now and then the network trains held-out problems, always the same; the best is
    kept.

    Args:
        tasks: What to train on: a task, or several that take turns.
        rule: Class of the learned rule.
        episodes: How many, at least 1.
        episode_steps: Steps of an episode, a multiple of `truncation`.
        truncation: Steps through which gradients are taken, at least 1.
        learning_rate: Adam's at the start, above 0.
        objective: `"sum"` is the paper's sum of the losses, which early steps dominate; `"log"` the
            sum of their logarithms, in which every halving counts alike.
        random_scaling: Each coordinate of a problem is multiplied by exp(u), u uniform between
            minus this number and this number; 0 is not at all. It makes the rule less dependent on
            scales.
        weights: Where to start, as in the rule; None is at random.
        seed: Of the first network and all problems. The same seed gives the same network on the
            same machine.
        path: File for the best network so far (.npz), whole at any moment; None writes none.
        report: Called with a line of text at each judgement; None is nobody.
        progress: Whether to show a bar on stderr.

    Returns:
        The best network and how it came about; what there is so far after Ctrl-C.

    Raises:
        ValueError: A number is out of range, or there is no task.

    Example:
        >>> trained = meta_train(Quadratics(problems=8), episodes=1, progress=False)
        >>> optimizer = LearnedOptimizer(weights=trained.weights)

    References:
        Andrychowicz, Denil, Gomez, Hoffman, Pfau, Schaul, Shillingford, de Freitas. Learning to
        learn by gradient descent by gradient descent. NeurIPS 2016, section 2.1 and equation (3)
        with all weights 1. Lv, Jiang, Li. Learning Gradient Descent: Better Generalization and
        Longer Horizons. ICML 2017, section 4.1 (random scaling).
    """
    tasks = [tasks] if isinstance(tasks, Task) else list(tasks)
    episodes = positive_int("episodes", episodes)
    truncation = positive_int("truncation", truncation)
    if not tasks or positive_int("episode_steps", episode_steps) % truncation:
        raise ValueError(
            "tasks must hold at least one task and episode_steps be a multiple of truncation, "
            f"received {len(tasks)} tasks, {episode_steps} and {truncation}."
        )
    rng = np.random.default_rng([seed, 0])
    start = rule.untrained(rng)
    if weights is not None:
        start = list(network.read(weights, rule.shapes)[1].values())
    segments = episode_steps // truncation
    learner = _Learner(rule, start, learning_rate, episodes * segments)
    students = [_Student(task, rule, objective, truncation, segments) for task in tasks]
    every = max(1, episodes // _JUDGEMENTS)
    found, began = MetaTraining(), time.monotonic()
    try:
        for number in _counted(episodes + 1, shown=progress):
            if number % every == 0 or number == episodes:
                score = float(np.mean([s.score(learner.arrays, seed) for s in students]))
                if found.is_better(number, score, learner) and path is not None:
                    network.write(path, found.weights)
                if report is not None:
                    passed = time.monotonic() - began
                    report(
                        f"episode {number:5d}   {passed:6.0f} s   score {score:8.4f}   "
                        f"best {found.score:8.4f}"
                    )
            if number < episodes:
                students[number % len(students)].teach(learner, rng, random_scaling)
    except KeyboardInterrupt:
        found.interrupted = True
    return found


class _Learner:
    """A network and the Adam that trains it."""

    def __init__(
        self, rule: type[LearnedRule], start: Sequence[np.ndarray], rate: float, steps: int
    ) -> None:
        self._names = list(rule.shapes)
        self.arrays = [ops.convert_to_tensor(a) for a in start]
        adam = Adam(CosineDecay(rate, steps), global_clipnorm=1.0)
        self._state = adam.initial_slots(self.arrays), adam.initial_shared()
        self._steps = 0
        self._moved = backend.compiled(
            lambda ws, gs, slots, shared, step: adam.transition(
                ws, gs, slots, shared, adam.hyperparameters(step)
            )
        )

    def step(self, gradients: list[Tensor]) -> None:
        """One step of Adam."""
        self._steps += 1
        step = ops.convert_to_tensor(self._steps, "int32")
        self.arrays, *state = self._moved(self.arrays, gradients, *self._state, step)
        self._state = (state[0], state[1])

    def named(self) -> dict[str, np.ndarray]:
        """The network as it is now."""
        values = [np.array(ops.convert_to_numpy(a)) for a in self.arrays]
        return dict(zip(self._names, values, strict=True))


class _Student:
    """A task, and the compiled functions that train its problems."""

    def __init__(
        self,
        task: Task,
        rule: type[LearnedRule],
        objective: Objective,
        truncation: int,
        segments: int,
    ) -> None:
        self._task, self._rule = task, rule
        self._truncation, self._segments = truncation, segments
        # mypy asks of the class what it would of an instance: to be hashable.
        steps_of: Any = unrolling.steps_of
        self._learning = steps_of(rule, task, objective)
        self._alone = steps_of(rule, task, None)

    def teach(self, learner: _Learner, rng: np.random.Generator, random_scaling: float) -> None:
        """One episode of fresh problems, in which the network learns."""
        episode = unrolling.begin(self._task, self._rule, rng, random_scaling)
        for _ in range(self._segments):
            _, gradients = unrolling.run(self._learning, learner.arrays, episode, self._truncation)
            learner.step(gradients)

    def score(self, arrays: list[Tensor], seed: int) -> float:
        """The mean log-loss over the last fifth of held-out episodes."""
        ends = []
        for number in range(math.ceil(_HELD_OUT / self._task.problems)):
            rng = np.random.default_rng([seed, 1, number])
            episode = unrolling.begin(self._task, self._rule, rng)
            losses = np.concatenate(
                [
                    unrolling.run(self._alone, arrays, episode, self._truncation)[0]
                    for _ in range(self._segments)
                ]
            )
            ends.append(losses[-max(1, len(losses) // 5) :])
        mean = float(np.mean(np.log(np.maximum(ends, _LEAST_LOSS))))
        return mean if math.isfinite(mean) else math.inf


def _counted(number: int, *, shown: bool) -> Any:
    """Whole numbers from 0, with a bar on stderr."""
    columns = (BarColumn(30), MofNCompleteColumn(), TextColumn("episodes"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bar:
        yield from bar.track(range(number))
