"""seeded(...): fresh weights and dropout masks that follow from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Layers made inside draw reproducibly; the caller's generator is left alone.

    Initialisers and dropout without a seed take theirs from Python's own generator when made.

    Args:
        seed: At least 0.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
