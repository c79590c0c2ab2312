"""Shipped data: the portfolio of candidates with the script that measured it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def portfolio() -> dict[str, Any]:
    """The default, the choice without probes, and the ordered list of candidates."""
    text = resources.files(__package__).joinpath("portfolio.json").read_text(encoding="utf-8")
    listed: dict[str, Any] = json.loads(text)
    return listed
