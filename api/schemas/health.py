"""What the service says of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from api.schemas.base import Given


class Version(Given):
    """What answers."""

    service: str
    api: Literal["v1"] = "v1"
    versions: dict[str, str] = Field(description="What every advice repeats.")


class Alive(Given):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(Given):
    """Whether requests can be served, check by check."""

    status: Literal["ready", "not_ready"]
    checks: dict[str, str]
