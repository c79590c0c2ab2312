"""Torch's own fused kernels, for the rules that they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from keras_gradopt.backend.torch import host
from keras_gradopt.backend.torch.blocks import cut
from keras_gradopt.kernel import Kernel, Moments, SquaredSum, Velocity

Tensor = Any
_DTYPES = (torch.float32, torch.float64)
_DEVICES = ("cpu", "cuda")


# Moves lists of tensors `(ws, gs, *columns of slots)` in place.
Move = Callable[..., None]


class Native:
    """A fused kernel with the numbers of one step."""

    def __init__(self, move: Move, factor: Tensor | None, block: int) -> None:
        self._move, self._factor, self._block = move, factor, block
        self._gathered: list[list[Tensor]] = []

    def takes(self, ws: list[Tensor], gs: list[Tensor]) -> bool:
        """Whether these variables may wait for one call: as they lie, and not to be scaled."""
        as_they_lie = all(t.is_contiguous() for t in (*ws, *gs))
        return as_they_lie and (self._factor is None or len(ws) > 1)

    def gather(self, ws: list[Tensor], gs: list[Tensor], columns: list[list[Tensor]]) -> None:
        """Notes variables of any shapes to be moved in place by `finish`.

        Args:
            ws: Weights.
            gs: Gradients.
            columns: The first slots of all, the second, and so on.
        """
        if self._factor is not None:
            # Small ones: scaled together, moved while they are in cache.
            self._move(ws, list(torch._foreach_mul(gs, self._factor)), *columns)
            return
        if not self._gathered:
            self._gathered = [[] for _ in range(2 + len(columns))]
        for noted, more in zip(self._gathered, (ws, gs, *columns), strict=True):
            noted.extend(more)

    def finish(self) -> None:
        """Moves what was gathered."""
        if self._gathered:
            self._move(*self._gathered)
        self._gathered = []

    def __call__(self, *vectors: Tensor) -> None:
        """Moves contiguous vectors `(w, g, *slots)` in place."""
        if self._factor is None:
            self._move(*([v] for v in vectors))
            return
        # A kernel takes longer to start than an operation, so its blocks are longer.
        pieces = cut(vectors, 4 * self._block)
        scratch = torch.empty_like(pieces[0][1])
        for w, g, *slots in pieces:
            scaled = torch.mul(g, self._factor, out=scratch[: len(g)])
            self._move([w], [scaled], *([s] for s in slots))


def native(
    kernel: Kernel,
    h: Any,
    member: Any,
    dtype: torch.dtype,
    device: torch.device,
    factor: Tensor | None,
    block: int,
) -> Native | None:
    """The fused kernel for one step.

    Args:
        kernel: Which one, and its numbers.
        h: Hyper-parameters of the step.
        member: The variables' group.
        dtype: Of the variables.
        device: Where they lie.
        factor: What the gradients are multiplied by; None is 1.
        block: Entries that are multiplied at a time.

    Returns:
        None where the kernel does not know these numbers: the host must not wait for a device, and
        of tensors there the kernels take the rate at most.
    """
    if dtype not in _DTYPES or device.type not in _DEVICES:
        return None

    def number(value: Any) -> Any:
        """A number where the host knows it or may read it without waiting, else the tensor."""
        if isinstance(value, torch.Tensor) and not host.reads(value.device):
            return value
        return None if value is None else float(value)

    decay = getattr(h, "weight_decay", None)
    settings = _Settings(
        numbers={name: number(value) for name, value in vars(kernel).items()},
        rate=number(h.learning_rate),
        rate_factor=member.learning_rate,
        decay=None if decay is None else number(decay * member.weight_decay),
        step=torch.as_tensor(h.step, dtype=torch.float32, device=device),
    )
    if any(isinstance(v, torch.Tensor) for v in (*settings.numbers.values(), settings.decay)):
        return None
    move = _KERNELS[type(kernel)](settings)
    return None if move is None else Native(move, factor, block)


@dataclass(frozen=True)
class _Settings:
    """Numbers of one step; the rate is a tensor where the host does not know it."""

    numbers: dict[str, Any]
    rate: Any
    rate_factor: float
    decay: float | None
    step: Tensor


def _moments(settings: _Settings) -> Move:
    kernel = torch._fused_adam_ if settings.decay is None else torch._fused_adamw_
    call = partial(
        kernel,
        lr=settings.rate * settings.rate_factor,
        beta1=settings.numbers["beta_1"],
        beta2=settings.numbers["beta_2"],
        weight_decay=settings.decay or 0.0,
        eps=settings.numbers["epsilon"],
        amsgrad=False,
        maximize=False,
    )
    return lambda ws, gs, ms, vs: call(ws, gs, ms, vs, [], [settings.step] * len(ws))


def _velocity(settings: _Settings) -> Move | None:
    """Torch's velocity is `momentum u + (1 - dampening) g`, its step `-lr u`."""
    if settings.decay is not None or isinstance(settings.rate, torch.Tensor):
        return None
    return partial(
        torch._fused_sgd_,
        weight_decay=0.0,
        momentum=settings.numbers["momentum"],
        lr=-settings.rate_factor,
        dampening=1.0 + settings.rate,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


def _squared_sum(settings: _Settings) -> Move | None:
    if settings.decay is not None or isinstance(settings.rate, torch.Tensor):
        return None
    call = partial(
        torch._fused_adagrad_,
        lr=settings.rate * settings.rate_factor,
        lr_decay=0.0,
        weight_decay=0.0,
        eps=settings.numbers["epsilon"],
        maximize=False,
    )
    return lambda ws, gs, sums: call(ws, gs, sums, [settings.step] * len(ws))


_KERNELS: dict[type, Callable[[_Settings], Move | None]] = {
    Moments: _moments,
    Velocity: _velocity,
    SquaredSum: _squared_sum,
}
