"""What a probe's process says: read within limits, and checked field by field.

Whoever speaks may hold somebody else's model, so a message that is not as it should be ends the
probe, and none reaches whoever listens.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Mapping
from typing import Any

from recommender.answer import Plain

# Why a probe failed, as far as it may say so itself.
CODES = frozenset(
    {
        "model_rejected",
        "data_rejected",
        "request_rejected",
        "backend_unavailable",
        "out_of_memory",
        "budget_exhausted_no_result",
        "storage_full",
        "internal",
    }
)
# A minibatch loss per step is more than a plot shows: a message holds at most this many.
POINTS = 16
LONGEST_LINE = 2**16
LONGEST_RESULT = 2**20
MOST_BYTES = 64 * 2**20
# Taken from the pipe in one look, so that an endless stream cannot hold whoever reads.
MOST_AT_ONCE = 2**21
# A probe says some hundred things a second at most; the first are for its beginning.
MESSAGES_FIRST, MESSAGES_A_SECOND = 5000, 500
MOST_TRIALS = 256
LARGEST_INTEGER = 2**53


class Misbehaved(Exception):
    """A probe said something that no probe says."""


Check = Callable[[Any], bool]


def _text(longest: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= longest


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST_INTEGER


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # which neither NaN nor infinity is


def _loss(value: Any) -> bool:
    return value is None or _number(value)


def _fields(**checks: Check) -> Check:
    return lambda value: (
        isinstance(value, dict)
        and value.keys() == checks.keys()
        and all(check(value[name]) for name, check in checks.items())
    )


def _list(each: Check, most: int) -> Check:
    return lambda value: (
        isinstance(value, list) and 0 < len(value) <= most and all(map(each, value))
    )


def _point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _count(value[0]) and _loss(value[1])


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


_USAGE = _fields(cpu_seconds=_number, peak_memory_bytes=_count)
_TRIAL = _fields(label=_text(500), method=_text(100), learning_rate=_number, config=_mapping)
# Kinds of messages with their fields; `trial` is checked against the plan as well.
KINDS: Mapping[str, Mapping[str, Check]] = {
    "ready": {},
    "said": {"text": _text(4000)},
    "planned": {"trials": _list(_TRIAL, MOST_TRIALS)},
    "working": {
        "trial": lambda value: value is None or _count(value),
        "label": _text(500),
        "key": _text(4000),
    },
    "worked": {"trial": _count, "seconds": lambda value: _number(value) and value >= 0},
    "trained": {"trial": _count, "points": _list(_point, POINTS), "rate": _number},
    "judged": {"trial": _count, "step": _count, "loss": _loss},
    "stopped": {"trial": _count, "reason": _text(1000)},
    "spent": {"fraction": lambda value: _number(value) and 0 <= value <= 1},
    "result": {"result": _mapping, "usage": _USAGE},
    "failed": {
        "code": lambda value: isinstance(value, str) and value in CODES,
        "detail": _text(4000),
        "usage": _USAGE,
    },
}


class Reader:
    """Reads the messages of one probe.

    Args:
        descriptor: The end of the pipe to read from; it is this object's to close.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._buffer = b""
        self._bytes = 0
        self._messages = 0
        self._trials: int | None = None
        self._since = time.monotonic()

    def read(self, seconds: float) -> tuple[list[Plain], bool]:
        """What has come since the last look, and whether nothing can come any more.

        Args:
            seconds: How long to wait for something.

        Raises:
            Misbehaved: The probe said too much, or what none says.
        """
        select.select([self._descriptor], [], [], seconds)
        closed = self._fill()
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > LONGEST_RESULT:
            raise Misbehaved(f"a line of more than {LONGEST_RESULT} bytes")
        if self._bytes > MOST_BYTES:
            raise Misbehaved(f"more than {MOST_BYTES} bytes")
        self._messages += len(lines)
        if self._messages > MESSAGES_FIRST + MESSAGES_A_SECOND * (time.monotonic() - self._since):
            raise Misbehaved(f"more than {MESSAGES_A_SECOND} messages a second")
        return [self._message(line) for line in lines], closed

    def close(self) -> None:
        """Close the pipe; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _fill(self) -> bool:
        """Take what the pipe holds; True at its end."""
        most = self._bytes + MOST_AT_ONCE
        while self._bytes < most:
            try:
                chunk = os.read(self._descriptor, 2**16)
            except BlockingIOError:
                return False
            if not chunk:
                return True
            self._bytes += len(chunk)
            self._buffer += chunk
        return False

    def _message(self, line: bytes) -> Plain:
        message = parsed(line)
        kind = message["kind"]
        if len(line) > LONGEST_LINE and kind != "result":
            raise Misbehaved(f"a line of {len(line)} bytes")
        if kind == "planned":
            if self._trials is not None:
                raise Misbehaved("two plans")
            self._trials = len(message["trials"])
        trial = message.get("trial")
        if trial is not None and trial >= (self._trials or 0):
            raise Misbehaved(f"trial {trial} of {self._trials or 0}")
        return message


def parsed(line: bytes) -> Plain:
    """One message.

    Args:
        line: Its JSON.

    Raises:
        Misbehaved: It is not JSON, of no known kind, or its fields are not as they should be.
    """
    try:
        message = json.loads(line)
        # Neither NaN nor half a character gets on: whoever stores the message could not.
        json.dumps(message, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Misbehaved(f"a line that is not JSON ({type(error).__name__})") from error
    kind = message.pop("kind", None) if isinstance(message, dict) else None
    checks = KINDS.get(kind) if isinstance(kind, str) else None
    if checks is None:
        raise Misbehaved("a message of no known kind")
    if not _fields(**checks)(message):
        raise Misbehaved(f"a message {kind} whose fields are not as they should be")
    return {"kind": kind, **message}
