"""Where compiled probe programs are kept from process to process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

# Names another folder; "off" keeps nothing.
VARIABLE = "GRADOPT_CACHE"
MOST_BYTES = 256 * 2**20


def compile_cache() -> contextlib.AbstractContextManager[None]:
    """Programs compiled inside are kept, where the running backend can do that."""
    from keras_gradopt import backend

    found = folder(os.environ)
    if found is None:
        return contextlib.nullcontext()
    kept: contextlib.AbstractContextManager[None] = backend.compile_cache(str(found), MOST_BYTES)
    return kept


def folder(own: Mapping[str, str]) -> Path | None:
    """The folder that an environment names; None for none.

    Args:
        own: `GRADOPT_CACHE` is a folder or "off"; without it the user's cache folder is taken,
            which is `XDG_CACHE_HOME` or `~/.cache`.
    """
    named = own.get(VARIABLE, "")
    if named.lower() == "off":
        return None
    if named:
        return Path(named)
    home = own.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "gradopt" / "compiled"
