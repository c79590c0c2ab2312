"""Many short trainings of one family side by side, by any rule, at any rate, in one program."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_gradopt.meta_training.tasks import Task

# Steps that are compiled as one program; their data lie in memory.
CHUNK = 50


class Runner:
    """A rule on a task: compiled once for all rates, problems and lengths.

    Args:
        task: Whose problems are trained side by side.
        rule: An optimizer with a pure step.
    """

    def __init__(self, task: Task, rule: Any) -> None:
        import jax
        from keras import ops

        self._task, self._rule = task, rule

        def losses(ws: list, data: list) -> tuple[Any, Any]:
            found = task.losses(ws, data)
            return ops.sum(found), found

        def step(carry: tuple, data: list) -> tuple[tuple, Any]:
            ws, slots, shared, rate, number = carry
            (_, found), gs = jax.value_and_grad(losses, has_aux=True)(ws, data)
            h = rule.hyperparameters(number, learning_rate=rate)
            ws, slots, shared = rule.transition(ws, gs, slots, shared, h)
            return (ws, slots, shared, rate, number + 1), found

        self._chunk = jax.jit(lambda carry, data: jax.lax.scan(step, carry, data))

    def train(self, rate: float, seed: int, steps: int) -> np.ndarray:
        """Losses before each step, (steps, problems).

        Args:
            rate: Learning rate.
            seed: Of problems and minibatches: the same for all rules.
            steps: A multiple of `CHUNK`.
        """
        import jax.numpy as jnp

        assert steps % CHUNK == 0
        start, draw = self._task.start(np.random.default_rng(seed))
        ws = [jnp.asarray(w) for w in start]
        state = self._rule.initial_slots(ws), self._rule.initial_shared(ws)
        carry = (ws, *state, jnp.float32(rate), jnp.int32(1))
        found = []
        for _ in range(steps // CHUNK):
            carry, losses = self._chunk(carry, [jnp.asarray(d) for d in draw(CHUNK)])
            found.append(np.asarray(losses))
        return np.concatenate(found)
