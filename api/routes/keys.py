"""Keys of the caller's tenant."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from api import present
from api.errors import not_found, responses
from api.keys import Keys
from api.routes import TheCaller, ThePage
from api.schemas.base import KeyId
from api.schemas.keys import FreshKey, KeyList, KeyRequest

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post(
    "",
    status_code=201,
    response_model=FreshKey,
    summary="Make a key",
    responses=responses("malformed_json", "body_too_large", "validation_failed"),
)
def create_key(asked: KeyRequest, request: Request, caller: TheCaller) -> dict[str, Any]:
    """For the caller's own tenant; the answer is the only place where the key itself stands."""
    keys: Keys = request.app.state.keys
    row, key = keys.create(caller.tenant, asked.name, asked.scopes, asked.days)
    return {**present.key(row), "key": key}


@router.get(
    "",
    response_model=KeyList,
    summary="List keys",
    responses=responses("validation_failed"),
)
def list_keys(request: Request, caller: TheCaller, page: ThePage) -> dict[str, Any]:
    """Of the caller's tenant, the newest first; those that were revoked too."""
    keys: Keys = request.app.state.keys
    return page.of(lambda limit, before: keys.newest(caller.tenant, limit, before), present.key)


@router.delete(
    "/{key_id}",
    status_code=204,
    summary="Revoke a key",
    responses=responses("not_found", "validation_failed"),
)
def revoke_key(key_id: Annotated[KeyId, Path()], request: Request, caller: TheCaller) -> None:
    """At once; it stays in the list."""
    keys: Keys = request.app.state.keys
    if not keys.revoke(key_id, caller.tenant):
        raise not_found("key", key_id)
