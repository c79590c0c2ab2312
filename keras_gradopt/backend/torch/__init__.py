"""What only torch can say: gradients, the update engine, one train step with an Objective."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from keras import tree
from keras.src.backend import in_stateless_scope
from keras.src.backend.torch.core import get_device
from torch._utils import _flatten_dense_tensors

from keras_gradopt.backend import common
from keras_gradopt.backend import engine as common_engine
from keras_gradopt.backend.torch import engine, host

Tensor = Any
# Tensors of fewer entries take less time to copy together than to be called for one by one.
_SMALL = 16_384
_DTYPES = {"float32": torch.float32, "float64": torch.float64}

# What torch.func says of functions that it cannot map.
_NOT_TOGETHER = ("vmap", "functorch", "torch.func")

train_step = common.stateful_train_step
arithmetic = common.arithmetic


def run(
    rule: Any,
    ws: Sequence[Tensor],
    gs: Sequence[Tensor],
    slots: Sequence[tuple[Tensor, ...]],
    h: Any,
    members: Sequence[Hashable],
    factor: Tensor | None = None,
    *,
    donate: bool = False,
) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
    """`engine.run`, or in place where that may be: see `torch.engine.Engine.step`."""
    if not donate or in_stateless_scope() or torch.compiler.is_compiling():
        return common_engine.run(
            rule,
            ws,
            gs,
            slots,
            h,
            members,
            factor,
            pack_below=32_768,
            flatten=_flatten,
            unflatten=_unflatten,
        )
    with host.calling_directly():
        engine.engine_of(rule).step(rule, ws, gs, slots, h, members, factor)
    return list(ws), list(slots)


def _flatten(xs: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.reshape(-1) for x in xs])


def _unflatten(vector: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    pieces = vector.split([math.prod(shape) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def global_norm(xs: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all entries of all tensors, a scalar."""
    if len(xs) == 1:
        return torch.linalg.vector_norm(xs[0])
    small = [x for x in xs if x.numel() < _SMALL]
    large = [x for x in xs if x.numel() >= _SMALL]
    if len(small) > 1:
        small = [_flatten_dense_tensors(small)]
    norms = torch._foreach_norm([*large, *small])
    return torch.linalg.vector_norm(torch.stack(norms))


def known(condition: Tensor) -> bool | None:
    """A boolean scalar's value where the host may read it without waiting, else None."""
    if torch.compiler.is_compiling() or not host.reads(condition.device):
        return None
    return bool(condition)


def stepping_inner(optimizer: Any) -> contextlib.AbstractContextManager:
    """Nothing to change: Keras' own optimizers step their variables in place."""
    del optimizer
    return contextlib.nullcontext()


@torch.compiler.disable
def one_of(
    number: Tensor, functions: Sequence[Callable[[], None]], variables: Sequence[Any]
) -> None:
    """Runs one of several functions, and nothing of the others.

    Args:
        number: Which: an integer scalar. An accelerator is waited for.
        functions: They assign to variables.
        variables: All those that any of them may assign to.
    """
    del variables
    functions[int(number)]()


def replicas() -> int:
    """One program: torch's own wrappers copy the process."""
    return 1


def read(variables: Sequence[Any], dtypes: Sequence[str] | None = None) -> list[Tensor]:
    """The variables' own tensors, converted if other dtypes are given."""
    if in_stateless_scope() or get_device() == "meta":
        values = [v.value for v in variables]
    else:
        # Without Keras' checks for each of them.
        values = [v._value for v in variables]
    if dtypes is None:
        return values
    wanted = [_DTYPES[dtype] for dtype in dtypes]
    return [v if v.dtype is d else v.to(d) for v, d in zip(values, wanted, strict=True)]


def write(optimizer: Any, targets: Sequence[Any], values: Sequence[Tensor]) -> None:
    """Copies values into variables, all in one call where Keras is not recording them."""
    if in_stateless_scope():
        for target, value in zip(targets, values, strict=True):
            optimizer.assign(target, value)
        return
    pairs = [(t._value, v) for t, v in zip(targets, values, strict=True) if t._value is not v]
    if pairs:
        # A value may be a view of a target (an unchanged slot): copying it onto itself is harmless.
        torch._foreach_copy_([t for t, _ in pairs], [v for _, v in pairs])


without_waiting = host.without_waiting


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


def dense(gradients: Sequence[Any], *, keeps_rows: bool) -> list[Any]:
    """All gradients as dense tensors; None stays."""
    del keeps_rows
    return [densify(g) for g in gradients]


is_rows = common.is_rows


def apply(step: Callable, grads: list, variables: list) -> None:
    """Runs the step; torch's own wrappers reduce gradients before they arrive here."""
    with host.calling_directly():
        step(grads, variables)


def normal(shape: tuple[int, ...], seed: Any, step: Any, number: Any) -> Tensor:
    """Standard normal numbers that follow from seed, step and number."""
    generator = torch.Generator(device=get_device())
    # Three odd multipliers keep neighbouring seeds, steps and numbers apart.
    numbers = (int(seed), int(step), int(number))
    odd = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
    mixed = sum(map(operator.mul, numbers, odd))
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


def value_and_grads_at_taps(f: Callable[..., tuple], ws: list) -> tuple[Tensor, list, dict, Any]:
    """A scalar function's value and its gradients at `ws` and at tensors on the way to it.

    Args:
        f: `f(ws, tap) -> (value, more)`; it goes on with what `tap(key, tensor)` returns.
        ws: Where to differentiate.

    Returns:
        The value, the gradients at `ws`, those at the tapped tensors by key, and `more`.
    """
    taps: dict[Any, Tensor] = {}

    def tap(key: Any, x: Tensor) -> Tensor:
        taps[key] = x
        return x

    with torch.enable_grad():
        leaves = [w.detach().requires_grad_(True) for w in ws]
        value, more = f(leaves, tap)
        at = [*leaves, *taps.values()]
        found = torch.autograd.grad(value, at, allow_unused=True)
    gradients = [
        torch.zeros_like(x) if g is None else g.detach() for g, x in zip(found, at, strict=True)
    ]
    more = tree.map_structure(lambda x: x.detach(), more)
    return (
        value.detach(),
        gradients[: len(ws)],
        dict(zip(taps, gradients[len(ws) :], strict=True)),
        more,
    )


def nesting() -> Any:
    """How deep in functions of torch.func this is; a map is one."""
    return torch._C._functorch.maybe_current_level()


def hessian_at(f: Callable[[list], Tensor], ws: list) -> Callable[[list], list]:
    """The Hessian of `f` at `ws` as a function of vectors; what all products share is done once."""
    with torch.enable_grad():
        leaves = [w.detach().requires_grad_(True) for w in ws]
        gs = torch.autograd.grad(f(leaves), leaves, create_graph=True, allow_unused=True)
    return lambda vs: _pulled(gs, leaves, vs)


def _pulled(ys: Sequence[Tensor | None], xs: Sequence[Tensor], vs: Sequence[Tensor]) -> list:
    """Gradients of `ys` in `xs` times `vs`, zeros where nothing depends."""
    pairs = [
        (y, v.detach()) for y, v in zip(ys, vs, strict=True) if y is not None and y.requires_grad
    ]
    found: Sequence[Tensor | None] = [None] * len(xs)
    if pairs:
        found = torch.autograd.grad(
            [y for y, _ in pairs], xs, [v for _, v in pairs], retain_graph=True, allow_unused=True
        )
    return [
        torch.zeros_like(x) if g is None else g.detach() for g, x in zip(found, xs, strict=True)
    ]


def compiled(f: Callable) -> Callable:
    """The function itself: compiling takes torch longer than some hundred calls."""
    return f


def jacobian_at(
    f: Callable[[list], list], ws: list
) -> tuple[list, Callable[[list], list], Callable[[list], list]]:
    r"""The values of `f` at `ws`, and its Jacobian $J$ there as two functions.

    $Jv$ is the gradient of $u \mapsto \langle J^T u, v \rangle$.

    Returns:
        `f(ws)`, the function $v \mapsto Jv$ and the function $u \mapsto J^T u$.
    """
    with torch.enable_grad():
        leaves = [w.detach().requires_grad_(True) for w in ws]
        ys = f(leaves)
        us = [torch.zeros_like(y).requires_grad_(True) for y in ys]
        pulled = torch.autograd.grad(ys, leaves, us, create_graph=True, allow_unused=True)
    return (
        [y.detach() for y in ys],
        lambda vs: _pulled(pulled, us, vs),
        lambda us: _pulled(ys, leaves, us),
    )


def mapped(f: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`f` of each row, stacked."""
    return torch.stack([f(row) for row in rows])


def values(f: Callable[[list], Tensor], population: list) -> Tensor:
    """A scalar function at several points, which lie along the first axes; some at a time.

    One after the other where it reads values on its way, which `torch.func` cannot follow.
    """
    together = torch.func.vmap(lambda *ws: f(list(ws)), randomness="same", chunk_size=32)
    try:
        return together(*population)
    except RuntimeError as error:
        if not any(word in str(error) for word in _NOT_TOGETHER):
            raise
        return torch.stack([f([w[i] for w in population]) for i in range(len(population[0]))])


def losses_step(model: Any) -> Callable:
    """`common.losses_step`, of which torch is to record nothing."""
    return torch.no_grad()(common.losses_step(model))


def eagerly(f: Callable) -> Callable:
    """The function outside of `torch.compile`, which cannot follow loops that read values."""
    return torch.compiler.disable(f)


def on_host(f: Callable, like: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """A function of NumPy arrays, called at once.

    Args:
        f: From arrays to a sequence of arrays; the same for the same.
        like: Tensors of the results' shapes, dtypes and devices.
        inputs: What it gets.
    """
    found = f(*(x.detach().cpu().numpy() for x in inputs))
    return [
        torch.as_tensor(np.asarray(r), dtype=x.dtype, device=x.device).reshape(x.shape)
        for r, x in zip(found, like, strict=True)
    ]


def draw_anew(seeds: Sequence[Any]) -> None:
    """`common.draw_anew`, and one draw from the global generators: see `random_state`."""
    common.draw_anew(seeds)
    torch.rand(())
    if torch.cuda.is_available():
        torch.rand((), device="cuda")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """`common.seeded`: layers without a seed draw from the global generators here."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def frozen(variables: Sequence[Any]) -> list:
    """Copies of the variables' present values, which later assignments leave alone."""
    return [v.value.detach().clone() for v in variables]


def present(model: Any, last: Any = None) -> tuple[list[Tensor], list[Tensor]]:
    """The values that a model has now, until it steps: trainable variables', and the others'."""
    del last
    groups = model.trainable_variables, model.non_trainable_variables
    trainable, non_trainable = ([v.value.detach() for v in group] for group in groups)
    return trainable, non_trainable


def random_state() -> list[Tensor]:
    """The global generators' state: Dropout layers without a seed draw from them."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    return states


@contextlib.contextmanager
def replayed(state: list[Tensor], *, double: bool = False) -> Iterator[None]:
    """Runs with the random state of `random_state`, and puts the present one back after it.

    Args:
        state: From `random_state`.
        double: Whether float64 stays what it is: see `common.keeping_double`.
    """
    with torch.random.fork_rng(), common.keeping_double() if double else contextlib.nullcontext():
        torch.set_rng_state(state[0])
        if len(state) > 1:
            torch.cuda.set_rng_state_all(state[1:])
        yield
