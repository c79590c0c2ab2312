"""Sides: one step of each library, over variables of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from benchmarks.parts import floor
from benchmarks.parts.methods import Method
from benchmarks.parts.plan import WITHOUT_KERNEL
from benchmarks.parts.results import FLOOR, SCALED
from benchmarks.parts.sets import Shape

Step = Callable[[], Any]
Fresh = Callable[[], Step]
BACKEND = keras.backend.backend()


def _nothing() -> None:
    return


@dataclass
class Side:
    """One library's step.

    Args:
        fresh: Gives the step as it is before its first call, not yet traced.
        prepare: Runs before each step and is not timed.
        scale: What seconds are multiplied by.
    """

    fresh: Fresh
    prepare: Step = _nothing
    scale: float = 1.0
    step: Step = _nothing

    def renew(self) -> None:
        """Forgets what earlier calls have traced and compiled."""
        if BACKEND == "jax":
            # Else a side finds the traces of functions that the side before it has called.
            importlib.import_module("jax").clear_caches()
        self.step = self.fresh()


Make = Callable[[], Side]


def sides(
    key: str,
    method: Method,
    shapes: Sequence[Shape],
    mode: str,
    *,
    compiled: bool = False,
    only: Sequence[str] | None = None,
) -> dict[str, Side]:
    """All sides of one method, by name.

    Args:
        key: The method's key in `METHODS`.
        method: The method.
        shapes: Of the variables.
        mode: One of `plan.MODES`.
        compiled: Whether ours is also measured with `jit_compile=True`, on torch.
        only: Names of the sides to make; None is all.
    """
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype("float32") for shape in shapes]
    touched = floor.traffic(method.make_ours(), shapes)

    def of_keras(make: Callable[..., Any], **arguments: Any) -> Side:
        optimizer = make(**arguments)
        # torch would share an array's memory, and with it what lies in the caches.
        variables = [keras.Variable(a.copy()) for a in arrays]
        optimizer.build(variables)
        return Side(STEPS[mode](optimizer, variables, _gradients(arrays)))

    makers = {"ours": partial(of_keras, method.make_ours)}
    if compiled and BACKEND == "torch":
        makers["ours, compiled"] = partial(of_keras, method.make_ours, jit_compile=True)
    if method.keras:
        makers["keras"] = partial(of_keras, method.make_keras)
    makers["ordinary"] = partial(of_keras, method.make_ordinary)
    if BACKEND == "jax":
        makers |= _of_optax(key, arrays)
    elif BACKEND == "torch":
        makers |= _of_torch(key, arrays, touched.bytes)
    makers[FLOOR] = lambda: _of_floor(touched)
    return {name: make() for name, make in makers.items() if only is None or name in only}


def _gradients(arrays: list[np.ndarray]) -> list:
    return [ops.convert_to_tensor(0.01 * a) for a in arrays]


def _of_floor(touched: floor.Traffic) -> Side:
    one_pass = floor.one_pass(touched)
    return Side(lambda: one_pass)


# ---------------------------------------------------------------------- Keras' optimizers, ours too


def _on_jax(optimizer: Any, variables: list, gradients: list) -> Fresh:
    def apply(state: list, gradients: list, weights: list) -> tuple[Any, Any]:
        weights, state = optimizer.stateless_apply(state, gradients, weights)
        return state, weights

    state = [v.value for v in optimizer.variables]
    return _jitted(apply, state, gradients, [v.value for v in variables])


def _jitted(apply: Callable, state: Any, gradients: list, weights: list) -> Fresh:
    """`state, weights = apply(state, gradients, weights)`, compiled at the first call."""
    import jax

    now = [state, weights]

    def fresh() -> Step:
        call: list = []

        def step() -> None:
            if not call:
                jitted = jax.jit(apply, donate_argnums=(0, 2))
                call.append(jitted.lower(now[0], gradients, now[1]).compile())
            now[:] = call[0](now[0], gradients, now[1])
            jax.block_until_ready(now)

        return step

    return fresh


def _on_tensorflow(xla: bool) -> Callable[[Any, list, list], Fresh]:
    def fresh_of(optimizer: Any, variables: list, gradients: list) -> Fresh:
        import tensorflow as tf

        # It warns of steps that are traced anew, which is what is measured.
        tf.get_logger().setLevel("ERROR")
        return lambda: tf.function(lambda: optimizer.apply(gradients, variables), jit_compile=xla)

    return fresh_of


def _on_torch(optimizer: Any, variables: list, gradients: list) -> Fresh:
    import torch

    def step() -> None:
        with torch.no_grad():
            optimizer.apply(gradients, variables)

    return lambda: step


# For each mode, what gives the step of a Keras optimizer over built variables.
STEPS: dict[str, Callable[[Any, list, list], Fresh]] = {
    "jit": _on_jax,
    "xla": _on_tensorflow(xla=True),
    "graph": _on_tensorflow(xla=False),
    "eager": _on_torch,
}


# ---------------------------------------------------------------------- other libraries


def _of_optax(key: str, arrays: list) -> dict[str, Make]:
    import optax

    from benchmarks.parts import optax_peers

    def make() -> Side:
        method = optax_peers.PEERS[key]()

        def apply(state: Any, gradients: list, weights: list) -> tuple[Any, Any]:
            updates, state = method.update(gradients, state, weights)
            return state, optax.apply_updates(weights, updates)

        weights = [ops.convert_to_tensor(a) for a in arrays]
        return Side(_jitted(apply, method.init(weights), _gradients(arrays), weights))

    return {"optax": make} if key in optax_peers.PEERS else {}


def _of_torch(key: str, arrays: list, moved: int) -> dict[str, Make]:
    from benchmarks.parts import torch_peers

    makers: dict[str, Make] = {
        name: partial(_torch_side, peer, arrays) for name, peer in torch_peers.peers(key).items()
    }
    if key in WITHOUT_KERNEL:
        foreach = torch_peers.peers("adam")["torch foreach"]
        scale = moved / (28 * sum(a.size for a in arrays))
        makers[SCALED] = partial(_torch_side, foreach, arrays, scale)
    return makers


def _torch_side(make: Callable[[list], Any], arrays: list, scale: float = 1.0) -> Side:
    import torch

    weights = [torch.nn.Parameter(torch.tensor(a)) for a in arrays]
    kept = [torch.tensor(0.01 * a) for a in arrays]
    optimizer = make(weights)
    consumes = getattr(optimizer, "consumes_gradients", False)

    def prepare() -> None:
        # Clipping scales gradients in place, to no effect after the first time.
        for w, g in zip(weights, kept, strict=True):
            w.grad = g.clone() if consumes else g

    return Side(lambda: optimizer.step, prepare, scale)
