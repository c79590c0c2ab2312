"""A learned rule at work on a task for some steps, as a function that can be differentiated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from keras import ops

from keras_gradopt import backend
from keras_gradopt.backend.engine import flatten, unflatten
from keras_gradopt.learned import LearnedRule
from keras_gradopt.meta_training.tasks import Arrays, Task

Tensor = Any
# The factor of proposals in training, which is the rules' default rate.
RATE = 0.1
# So that a problem that is solved does not weigh without limit.
_LEAST_LOSS = 1e-6
Objective = Literal["sum", "log"]


@dataclass
class Episode:
    """Problems of a task in the middle of their training.

    Attributes:
        stretch: What each coordinate is multiplied by before the task sees it, per variable.
        weights: All weights as one vector, before the stretch.
        memory: The rule's.
        draw: From a number of steps to their data.
    """

    stretch: Arrays
    weights: Tensor
    memory: list[Tensor]
    draw: Callable[[int], Arrays]


def begin(
    task: Task, rule: type[LearnedRule], rng: np.random.Generator, random_scaling: float = 0.0
) -> Episode:
    """Fresh problems.

    Args:
        task: Where they come from.
        rule: Class of the rule that will train them.
        rng: Draws them and their data.
        random_scaling: Coordinates are stretched by exp(u), u uniform between minus this and this.
    """
    ws, draw = task.start(rng)
    stretch = [
        np.exp(rng.uniform(-random_scaling, random_scaling, size=w.shape)).astype("float32")
        for w in ws
    ]
    flat = np.concatenate([(w / s).ravel() for w, s in zip(ws, stretch, strict=True)])
    memory = [np.zeros(slot.shape or (), "float32") for slot in rule.memory(flat.shape)]
    return Episode(stretch, flat, memory, draw)


# Compiling takes longer than a short training: the same task again finds it done.
@functools.lru_cache(maxsize=8)
def steps_of(rule: type[LearnedRule], task: Task, objective: Objective | None) -> Callable:
    r"""Some steps of a rule on a task, compiled.

    The gradients $g_t$ that the network sees count as constants. As $g_t$ is also the derivative of
    the loss at $w_t$, the derivative of the sum of losses $\sum_t f(w_t)$ in the network's arrays
    is that of $\sum_t \langle g_t, w_t \rangle$, where $w_t$ alone depends on them: the task
    itself is differentiated once only. For the sum of logarithms $g_t$ is divided by the loss.

    Args:
        rule: Class of the rule.
        task: The task.
        objective: Of which losses the gradient is wanted; None is none.

    Returns:
        `f(arrays, weights, memory, stretch, data) -> (losses, gradients, weights, memory)`: weights
        and stretch per variable, (problems, ...); losses (steps, problems), before each step.
    """

    def evaluated(w: Tensor, stretch: list[Tensor], data: list[Tensor]) -> tuple:
        def loss(ws: list[Tensor], _: Any) -> tuple[Tensor, Tensor]:
            losses = task.losses([w * s for w, s in zip(ws, stretch, strict=True)], data)
            return ops.sum(losses), losses

        cut = unflatten(ops.stop_gradient(w), [tuple(s.shape) for s in stretch])
        _, gs, _, losses = backend.value_and_grads_at_taps(loss, cut)
        return ops.stop_gradient(losses), [ops.stop_gradient(g) for g in gs]

    def unrolled(
        arrays: list[Tensor],
        w: Tensor,
        memory: list[Tensor],
        stretch: list[Tensor],
        data: list[Tensor],
    ) -> tuple:
        total, losses = 0.0, []
        for step in range(int(data[0].shape[0])):
            found, gs = evaluated(w, stretch, [d[step] for d in data])
            losses.append(found)
            g = flatten(gs)
            slope = flatten(_per_loss(gs, found)) if objective == "log" else g
            total = total + ops.sum(slope * w)
            u, *memory = rule.proposal(arrays, g, *memory)
            w = w + RATE * u
        return total / task.problems, (ops.stack(losses), w, list(memory))

    def with_gradients(arrays: list[Tensor], *rest: Any) -> tuple:
        _, gradients, _, (losses, w, memory) = backend.value_and_grads_at_taps(
            lambda arrays, _: unrolled(arrays, *rest), list(arrays)
        )
        return losses, gradients, w, memory

    def alone(arrays: list[Tensor], *rest: Any) -> tuple:
        _, (losses, w, memory) = unrolled(list(arrays), *rest)
        return losses, [], w, memory

    return backend.compiled(alone if objective is None else with_gradients)


def _per_loss(gs: list[Tensor], losses: Tensor) -> list[Tensor]:
    """The derivatives of the losses' logarithms: gradients over the loss of their problem."""
    each = 1.0 / (losses + _LEAST_LOSS)
    return [g * ops.reshape(each, (-1, *([1] * (len(g.shape) - 1)))) for g in gs]


def run(
    f: Callable, arrays: Sequence[Any], episode: Episode, steps: int
) -> tuple[np.ndarray, list[Tensor]]:
    """The next steps of an episode, which goes on from there.

    Args:
        f: From `steps_of`.
        arrays: The network's.
        episode: Changed in place.
        steps: How many.

    Returns:
        The losses (steps, problems), and gradients in the arrays.
    """
    losses, gradients, episode.weights, episode.memory = f(
        [ops.convert_to_tensor(a) for a in arrays],
        ops.convert_to_tensor(episode.weights),
        [ops.convert_to_tensor(m) for m in episode.memory],
        [ops.convert_to_tensor(s) for s in episode.stretch],
        [ops.convert_to_tensor(d) for d in episode.draw(steps)],
    )
    return np.array(ops.convert_to_numpy(losses)), list(gradients)
