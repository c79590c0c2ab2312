"""Entity tags: whether a caller has already what it asks for (RFC 9110, section 13.1.2)."""

from __future__ import annotations

import hashlib


def tag_of(body: bytes) -> str:
    """A tag that changes with the body."""
    return f'"{hashlib.sha256(body).hexdigest()[:24]}"'


def is_current(asked: str | None, tag: str) -> bool:
    """Whether `If-None-Match` names the tag; weak tags count as equal.

    Args:
        asked: The header's value; None where there is none.
        tag: The tag of what would be sent.
    """
    named = [one.strip().removeprefix("W/") for one in (asked or "").split(",")]
    return tag in named or named == ["*"]
