"""JSON that cannot exhaust whoever parses it."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from api.gate.limits import MAX_CONFIG_BYTES, MAX_DEPTH, MAX_DIGITS, MAX_NODES
from api.gate.records import Place, Refused
from api.gate.refusals import ADVISE, malformed, pointer, quote


def parse_json(data: bytes) -> object:
    """Parse JSON that cannot exhaust anything: 1 MiB, 64 levels and 200 000 values at most.

    Raises:
        Refused: When it is larger than that, not UTF-8, or not JSON as RFC 8259 has it, with
            unique keys and finite numbers.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise Refused(
            "model_too_large",
            f"The JSON has {len(data)} bytes; at most {MAX_CONFIG_BYTES} are read. Send the config "
            f"of a smaller model, {ADVISE}.",
        )
    _scan_json(data)
    try:
        parsed: object = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_not_finite,
            parse_float=_finite,
            parse_int=_integer,
        )
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")  # fails on half of a surrogate pair
    except UnicodeError as error:
        raise malformed("The text is not UTF-8, or has half of a surrogate pair.") from error
    except ValueError as error:
        position = error.pos if isinstance(error, json.JSONDecodeError) else 0
        raise malformed(f"The text is not JSON, from character {position} on.") from error
    return parsed


# Strings as a whole, closed or not, so that brackets inside them do not count.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]|,', re.DOTALL)


def _scan_json(data: bytes) -> None:
    depth, nodes = 0, 1
    for match in _TOKEN.finditer(data):
        token = match[0]
        if token in b"[{":
            depth += 1
        elif token in b"]}":
            depth -= 1
        elif token != b",":
            continue
        nodes += token not in b"]}"
        bound(depth, nodes)


def bound(depth: int, nodes: int, path: Place = ()) -> None:
    """Refuses JSON of more levels or values than are read, as text or parsed."""
    if depth > MAX_DEPTH:
        raise Refused(
            "model_too_large",
            f"The JSON is nested more than {MAX_DEPTH} levels deep, which is the limit. Send a "
            f"model with fewer models inside models, {ADVISE}.",
            pointer(path),
        )
    if nodes > MAX_NODES:
        raise Refused(
            "model_too_large",
            f"The JSON holds more than {MAX_NODES} values, which is the limit. Send a smaller "
            f"model, {ADVISE}.",
            pointer(path),
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise malformed("An object names the same key twice.")
    return found


def _not_finite(text: str) -> NoReturn:
    raise malformed(f"{quote(text)} is not a JSON number.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise malformed("A number is beyond the range of 64-bit floats.")
    return number


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise malformed(f"An integer has {len(text)} digits; at most {MAX_DIGITS} are read.")
    return int(text)
