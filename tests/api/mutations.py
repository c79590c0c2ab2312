"""Changes to valid uploads: of their bytes, of their containers and of what lies inside."""

from __future__ import annotations

import random
from typing import Any

from tests.api.uploads import LAMBDA


def mutated(value: Any, draw: random.Random) -> Any:
    """The JSON value with one of its parts replaced by something of another kind."""
    odd = (None, True, -1, 10**30, 0.5, "", "x", [], [[]], {}, {"class_name": []}, LAMBDA, [1, "a"])
    if draw.random() < 0.15 or not isinstance(value, (dict, list)) or not value:
        return draw.choice(odd)
    if isinstance(value, dict):
        key = draw.choice(list(value))
        return {**value, key: mutated(value[key], draw)}
    at = draw.randrange(len(value))
    return [*value[:at], mutated(value[at], draw), *value[at + 1 :]]
