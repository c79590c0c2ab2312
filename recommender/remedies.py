"""Optimizers that are tried against an illness, from the shipped list."""

from __future__ import annotations

from recommender.knowledge import remedies
from recommender.settings import Setting, optimizer_class


def settings(code: str) -> list[Setting]:
    """Those that probes can run: they need gradients only."""
    return [
        Setting(e["method"], e["learning_rate"], tuple(sorted(e["config"].items())))
        for e in remedies()[code]
        if optimizer_class(e["method"]).needs == "gradient"
    ]


def class_names(code: str) -> str:
    """All of them by class name, as one list in words."""
    return ", ".join(optimizer_class(e["method"]).__name__ for e in remedies()[code])
