"""W3C trace contexts: which trace of somebody else's a request belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Version, trace, span, flags; a trace or span of zeros is none, and there is no version ff.
TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def traceparent(headers: Mapping[str, str]) -> str | None:
    """A request's `traceparent`, if it is one."""
    sent = headers.get("traceparent", "")
    return sent if TRACEPARENT.fullmatch(sent) else None


def facts(context: str | None) -> dict[str, str]:
    """What the log says of a trace context; nothing where there is none."""
    found = TRACEPARENT.fullmatch(context or "")
    return {} if found is None else {"trace_id": found[1]}
