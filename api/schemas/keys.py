"""Keys: asked for, and shown."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from api.schemas.base import Asked, Given, Scope


class KeyRequest(Asked):
    """What a key is to be."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=120)]
    scopes: list[Scope] = Field(
        default=["advise", "read", "write"], min_length=1, max_length=4, description="What it may."
    )
    days: int | None = Field(default=365, ge=1, le=3650, description="Valid so long; null: always.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "notebook", "scopes": ["advise", "read"]}]}
    )


class Key(Given):
    """A key, without what opens anything."""

    id: str
    object: Literal["key"] = "key"
    name: str
    tenant: str
    scopes: list[Scope]
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class FreshKey(Key):
    """A key that has just been made."""

    key: str = Field(description="The key itself; it is shown this once.")


class KeyList(Given):
    """A page of keys, the newest first."""

    data: list[Key]
    next: str | None
    has_more: bool
