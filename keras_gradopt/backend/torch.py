"""What only torch can say: gradients, the update engine, one train step with an Objective."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from keras.src.backend import in_stateless_scope
from keras.src.backend.torch.core import get_device

from keras_gradopt.backend import common, engine

Tensor = Any

# Each operation costs some microseconds to start: packing tensors below 32k entries pays.
train_step = common.stateful_train_step


def _flatten(xs: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.reshape(-1) for x in xs])


def _unflatten(vector: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    pieces = vector.split([math.prod(shape) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


run = partial(engine.run, pack_below=32_768, flatten=_flatten, unflatten=_unflatten)


def stepping_inner(optimizer: Any) -> contextlib.AbstractContextManager:
    """Nothing to change: Keras' own optimizers step their variables in place."""
    del optimizer
    return contextlib.nullcontext()


def replicas() -> int:
    """One program: torch's own wrappers copy the process."""
    return 1


def read(variables: Sequence[Any], dtypes: Sequence[str] | None = None) -> list[Tensor]:
    """The variables' values, in other dtypes if given, without Keras' checks for each of them."""
    values = [v.value.detach() for v in variables]
    if dtypes is None:
        return values
    return [v.to(getattr(torch, dtype)) for v, dtype in zip(values, dtypes, strict=True)]


def write(optimizer: Any, targets: Sequence[Any], values: Sequence[Tensor]) -> None:
    """Copies values into variables, all in one call where Keras is not recording them."""
    if in_stateless_scope():
        for target, value in zip(targets, values, strict=True):
            optimizer.assign(target, value)
        return
    # A value may be a view of a target (an unchanged slot): copying it onto itself is harmless.
    torch._foreach_copy_([t.value.data for t in targets], list(values))


def no_gradient() -> contextlib.AbstractContextManager:
    """Keeps torch from recording the update."""
    return torch.no_grad()


def building() -> contextlib.AbstractContextManager:
    """State is created at once."""
    return contextlib.nullcontext()


def beside(variable: Any) -> contextlib.AbstractContextManager:
    """Nothing to place: Keras creates variables on the device in scope."""
    del variable
    return contextlib.nullcontext()


def densify(gradient: Any) -> Any:
    """A sparse gradient of an embedding as a dense tensor."""
    if isinstance(gradient, torch.Tensor) and gradient.is_sparse:
        return gradient.to_dense()
    return gradient


is_rows = common.is_rows


def apply(step: Callable, grads: list, variables: list) -> None:
    """Runs the step; torch's own wrappers reduce gradients before they arrive here."""
    step(grads, variables)


def normal(shape: tuple[int, ...], seed: int, step: Any, number: int) -> Tensor:
    """Standard normal numbers that follow from seed, step and number."""
    generator = torch.Generator(device=get_device())
    # Three odd multipliers keep neighbouring seeds, steps and numbers apart.
    mixed = seed * 0x9E3779B97F4A7C15 + int(step) * 0xC2B2AE3D27D4EB4F + number * 0x165667B19E3779F9
    generator.manual_seed(mixed % 2**63)
    return torch.randn(shape, generator=generator, device=generator.device)


def value_and_grad(f: Callable[[list], Tensor], ws: list) -> tuple[Tensor, list]:
    """A scalar function's value and gradients at `ws`."""
    with torch.enable_grad():
        leaves = [w.detach().requires_grad_(True) for w in ws]
        value = f(leaves)
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    gradients = [
        torch.zeros_like(w) if g is None else g.detach() for g, w in zip(gradients, ws, strict=True)
    ]
    return value.detach(), gradients


def hvp(f: Callable[[list], Tensor], ws: list, vs: list) -> list:
    """The Hessian of `f` at `ws` times `vs`, reverse over reverse."""
    with torch.enable_grad():
        leaves = [w.detach().requires_grad_(True) for w in ws]
        gs = torch.autograd.grad(f(leaves), leaves, create_graph=True, allow_unused=True)
        along = sum((g * v.detach()).sum() for g, v in zip(gs, vs, strict=True) if g is not None)
        products = torch.autograd.grad(along, leaves, allow_unused=True)
    return [
        torch.zeros_like(w) if p is None else p.detach() for p, w in zip(products, ws, strict=True)
    ]


def frozen(variables: Sequence[Any]) -> list:
    """Copies of the variables' present values, which later assignments leave alone."""
    return [v.value.detach().clone() for v in variables]


def random_state() -> list[Tensor]:
    """The global generators' state: Dropout layers without a seed draw from them."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    return states


@contextlib.contextmanager
def replayed(state: list[Tensor]) -> Iterator[None]:
    """Runs with the random state of `random_state`, and puts the present one back after it."""
    with torch.random.fork_rng():
        torch.set_rng_state(state[0])
        if len(state) > 1:
            torch.cuda.set_rng_state_all(state[1:])
        yield
