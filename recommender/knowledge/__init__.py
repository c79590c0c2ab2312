"""Shipped data: the portfolio, the table that judged it, and what is published without Keras."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def portfolio() -> dict[str, Any]:
    """The default, the choice without probes, and the ordered list of candidates."""
    return _read("portfolio.json")


@functools.cache
def published() -> dict[str, Any]:
    """What `publish.py` wrote for readers that do not import Keras.

    Its keys: "versions", "optimizers" and "schedules" (catalogue entries), "settings" (names and
    Keras configs of whatever the portfolio holds), "instant" (decision and forecast of the answer
    without probes), "samples" (the tasks of `gradopt demo`).
    """
    return _read("published.json")


@functools.cache
def remedies() -> dict[str, list[dict[str, Any]]]:
    """Optimizers that are tried against an illness, by its code."""
    return _read("remedies.json")


def _read(name: str) -> dict[str, Any]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
