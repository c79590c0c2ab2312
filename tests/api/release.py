"""Sizes of the tests that are run before a release; `RELEASE_SHARE=0.1` takes a tenth of each."""

from __future__ import annotations

import os
from typing import Any

import pytest

SHARE = float(os.environ.get("RELEASE_SHARE", "1"))


def sizes(run: int, release: int) -> list[Any]:
    """A test's size in every run, and before a release."""
    long = max(1, round(release * SHARE))
    return [run, pytest.param(long, marks=pytest.mark.slow, id=f"release-{long}")]
