"""The methods as libraries for torch have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import heavyball
import pytorch_optimizer
import torch
from torch import optim

# Its functions read this at every call: None leaves torch.compile out.
heavyball.utils.compile_mode = None

Make = Callable[[list], Any]
KINDS: dict[str, dict[str, bool]] = {
    "torch loop": {"foreach": False, "fused": False},
    "torch foreach": {"foreach": True, "fused": False},
    "torch fused": {"foreach": False, "fused": True},
}


class Clipped:
    """An optimizer after clipping by torch's own function."""

    def __init__(self, optimizer: Any, weights: list) -> None:
        self.optimizer, self.weights = optimizer, weights

    def step(self) -> None:
        """Clips and steps."""
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()


class Consuming:
    """A heavyball optimizer, which keeps no gradient that it has seen."""

    consumes_gradients = True

    def __init__(self, optimizer: Any, weights: list, *, clips: bool = False) -> None:
        self.optimizer = Clipped(optimizer, weights) if clips else optimizer

    def step(self) -> None:
        """Steps."""
        self.optimizer.step()


class MatricesApart:
    """torch's Muon, which takes matrices only, beside its AdamW for vectors."""

    def __init__(self, weights: list) -> None:
        matrices = [w for w in weights if w.ndim == 2]
        vectors = [w for w in weights if w.ndim != 2]
        self.optimizers = [optim.Muon(matrices), optim.AdamW(vectors, foreach=True)]

    def step(self) -> None:
        """Steps both."""
        for optimizer in self.optimizers:
            optimizer.step()


def peers(key: str) -> dict[str, Make]:
    """Makers of the optimizers of one method, by the name of the side."""
    return PEERS.get(key, {})


def _kinds(make: Callable[..., Any]) -> dict[str, Make]:
    return {
        name: lambda ws, kind=kind: make(ws, **kind)  # type: ignore[misc]
        for name, kind in KINDS.items()
    }


def _muons(weights: list) -> list[dict[str, Any]]:
    """The groups that pytorch-optimizer wants."""
    return [
        {"params": [w for w in weights if w.ndim == 2], "use_muon": True},
        {"params": [w for w in weights if w.ndim != 2], "use_muon": False},
    ]


PEERS: dict[str, dict[str, Make]] = {
    "adam": {
        **_kinds(optim.Adam),
        "heavyball": lambda ws: Consuming(heavyball.AdamW(ws), ws),
    },
    "adamw_clipped": {
        **_kinds(lambda ws, **kind: Clipped(optim.AdamW(ws, **kind), ws)),
        "heavyball": lambda ws: Consuming(heavyball.AdamW(ws, weight_decay=0.004), ws, clips=True),
    },
    "sgd_momentum": {
        **_kinds(lambda ws, **kind: optim.SGD(ws, momentum=0.9, **kind)),
        "heavyball": lambda ws: Consuming(heavyball.SGD(ws), ws),
    },
    "adabelief": {"pytorch-optimizer": pytorch_optimizer.AdaBelief},
    "lion": {"pytorch-optimizer": pytorch_optimizer.Lion},
    "adan": {"pytorch-optimizer": pytorch_optimizer.Adan},
    "lamb": {"pytorch-optimizer": pytorch_optimizer.Lamb},
    "lars": {"pytorch-optimizer": pytorch_optimizer.LARS},
    "adafactor": {
        "torch loop": lambda ws: optim.Adafactor(ws, foreach=False),
        "torch foreach": lambda ws: optim.Adafactor(ws, foreach=True),
        "pytorch-optimizer": pytorch_optimizer.AdaFactor,
    },
    "muon": {
        "torch loop": MatricesApart,
        "pytorch-optimizer": lambda ws: pytorch_optimizer.Muon(_muons(ws)),
        "heavyball": lambda ws: Consuming(heavyball.MuonAdamW(ws), ws),
    },
    "shampoo": {"pytorch-optimizer": pytorch_optimizer.Shampoo},
    "soap": {
        "pytorch-optimizer": pytorch_optimizer.SOAP,
        "heavyball": lambda ws: Consuming(
            heavyball.SOAP(
                ws, precondition_frequency=10, merge_dims=False, use_precond_schedule=False
            ),
            ws,
        ),
    },
}
