"""What one text, number, shape, tensor or array of a config may be."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from api.gate import allowed
from api.gate.limits import MAX_ARRAY_TEXT, MAX_INTEGER, MAX_PRODUCT
from api.gate.records import Place, Refused
from api.gate.refusals import ADVISE, kind_of, malformed, not_allowed, pointer, quote


def check_text(value: Any, path: Place, key: str = "") -> str:
    """The text, which must be a known name where Keras would look it up."""
    if not isinstance(value, str):
        raise malformed(f"A key is {kind_of(value)}, not text.", path)
    if not value.isascii() and re.search(r"[\ud800-\udfff]", value):
        raise malformed("A text holds half of a surrogate pair.", path)
    if key == "vocabulary":
        raise not_allowed("a vocabulary by path", path)
    if key == "name" and not re.fullmatch(r"(?!\.+$)[^/\\\x00-\x1f\x7f]*", value):
        raise not_allowed(f"the name {quote(value)}, which could be a path", path)
    for suffix, names in allowed.TEXT_BY_KEY.items():
        if (key == suffix or key.endswith("_" + suffix)) and value not in names:
            raise not_allowed(f"the {suffix} {quote(value)}", path)
    return value


def check_number(value: int | float, path: Place, key: str) -> int | float:
    """The number, finite and small enough to be a size unless its key says it is a value."""
    if isinstance(value, float) and not math.isfinite(value):
        raise malformed("A number is not finite.", path)
    whole = isinstance(value, int) or value.is_integer()
    limit = 2**63 if isinstance(value, int) else math.inf
    if key not in allowed.VALUE_KEYS:
        limit = MAX_INTEGER
    if whole and abs(value) > limit:
        raise Refused(
            "model_too_large",
            f"{quote(key)} holds a number above {limit}, which is the limit. Send a smaller "
            f"model, {ADVISE}.",
            pointer(path),
        )
    return value


def check_product(value: list[Any] | tuple[Any, ...], path: Place, key: str) -> None:
    """Bounds the elements that a shape or a kernel size stands for."""
    if not key.endswith(("shape", "size")):
        return
    product = 1
    for item in value:
        if isinstance(item, int) and item > 1:
            product *= min(item, MAX_PRODUCT + 1)
        if product > MAX_PRODUCT:
            raise Refused(
                "model_too_large",
                f"{quote(key)} stands for more than {MAX_PRODUCT} elements, which is the "
                f"limit. Send a smaller model, {ADVISE}.",
                pointer(path),
            )


def check_tensor(config: Any, path: Place) -> None:
    """A tensor between two layers: its shape, its dtype and where it comes from."""
    if not isinstance(config, dict) or config.keys() != {"shape", "dtype", "keras_history"}:
        raise malformed("A __keras_tensor__ has shape, dtype and keras_history.", path)
    history = config["keras_history"]
    if not isinstance(history, list) or [type(item) for item in history] != [str, int, int]:
        raise malformed("A keras_history names a layer and two numbers.", path)


def check_array(config: Any, path: Place) -> None:
    """An array written out in the config: numbers only, and few."""
    if not isinstance(config, dict) or config.keys() != {"value", "dtype"}:
        raise malformed("An array in a config has value and dtype.", path)
    if not allowed.is_in(config["dtype"], allowed.DTYPES):
        raise not_allowed(f"the dtype {quote(config['dtype'])}", path, "dtype")
    text = json.dumps(config["value"])
    if len(text) > MAX_ARRAY_TEXT or '"' in text:
        raise not_allowed(f"an array of more than {MAX_ARRAY_TEXT} bytes or of text", path, "value")
