"""Shipped data: the truth table, the prior and the odds made from it, the published catalogue."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

ODDS = Path(__file__).with_name("odds.json")


@functools.cache
def odds() -> dict[str, Any]:
    """How decisions of each tier have turned out.

    Per tier the parts of a `recommender.forecast.Calibration`, and under "record" what
    `recommender.rehearsal.outcomes` counts.
    """
    return _read("odds.json")


@functools.cache
def published() -> dict[str, Any]:
    """What `publish.py` wrote for readers that do not import Keras.

    Its keys: "versions", "optimizers" and "schedules" (catalogue entries), "settings" (names,
    state and Keras configs of whatever may be advised), "samples" (the tasks of `gradopt demo`).
    """
    return _read("published.json")


def state_multiple(method: str, config: Mapping[str, Any]) -> float | None:
    """Memory of an optimizer's state in multiples of the weights; None where it is not recorded.

    Args:
        method: Its name in the catalogue.
        config: Constructor arguments beside the learning rate.
    """
    known = published()["settings"]
    plain = [{**one, "method": one["name"], "config": {}} for one in published()["optimizers"]]
    for one in [*known, *plain]:
        if one["method"] == method and one["config"] == dict(config):
            return float(one["state_multiple"])
    return None


@functools.cache
def remedies() -> dict[str, list[dict[str, Any]]]:
    """Optimizers that are tried against an illness, by its code."""
    return _read("remedies.json")


def _read(name: str) -> dict[str, Any]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
