"""What the host may do without waiting for a device."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from keras.src.backend.torch.core import get_device
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode,
    _pop_mode_temporarily,
)


def reads(device: torch.device) -> bool:
    """Whether numbers that lie there are at hand."""
    return device.type == "cpu"


class _Filling(TorchFunctionMode):
    """Makes tensors of numbers on the device itself; a copy there waits for all that goes on."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.as_tensor, torch.tensor) and isinstance(args[0], bool | int | float):
            return torch.full((), args[0], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def without_waiting() -> contextlib.AbstractContextManager:
    """Python's numbers become tensors without a copy from the host."""
    is_on = isinstance(_get_current_function_mode(), _Filling)
    if is_on or torch.compiler.is_compiling() or reads(torch.device(get_device())):
        return contextlib.nullcontext()
    return _Filling()


def calling_directly() -> contextlib.AbstractContextManager:
    """Leaves `without_waiting`, which each call costs time, where no numbers become tensors."""
    if isinstance(_get_current_function_mode(), _Filling):
        return _pop_mode_temporarily()
    return contextlib.nullcontext()
