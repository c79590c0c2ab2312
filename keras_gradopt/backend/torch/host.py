"""Which tensors the host may read without waiting for a device."""

from __future__ import annotations

import torch


def reads(device: torch.device) -> bool:
    """Whether numbers that lie there are at hand."""
    return device.type == "cpu"
