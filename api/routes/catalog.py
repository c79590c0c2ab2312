"""The catalogue of optimizers and schedules."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import JSONResponse

from api.errors import not_found, responses
from api.etag import is_current, tag_of
from api.preview import preview, query
from api.schemas.catalog import OptimizerEntry, Optimizers, Preview, ScheduleEntry, Schedules
from recommender.knowledge import published

router = APIRouter(prefix="/v1/catalog", tags=["catalog"])
Name = Annotated[str, Path(pattern="^[a-z0-9_]{1,64}$", description="As the list gives it.")]
IfNoneMatch = Annotated[
    str | None, Header(max_length=1000, description="The `ETag` of what you have.")
]
PreviewQuery = query()
# It changes with the release alone.
CACHE = {"Cache-Control": "public, max-age=3600"}
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "You have it already."}}


@router.get(
    "/optimizers",
    response_model=Optimizers,
    summary="List the optimizers",
    responses={**UNCHANGED, **responses("validation_failed")},
)
async def list_optimizers(if_none_match: IfNoneMatch = None) -> Response:
    """Every optimizer with equations, hyper-parameters, cost and source."""
    return _answer("optimizers", None, if_none_match)


@router.get(
    "/optimizers/{name}",
    response_model=OptimizerEntry,
    summary="Show an optimizer",
    responses={**UNCHANGED, **responses("not_found", "validation_failed")},
)
async def get_optimizer(name: Name, if_none_match: IfNoneMatch = None) -> Response:
    """One optimizer, by the name that the list gives."""
    return _answer("optimizers", name, if_none_match)


@router.get(
    "/schedules",
    response_model=Schedules,
    summary="List the schedules",
    responses={**UNCHANGED, **responses("validation_failed")},
)
async def list_schedules(if_none_match: IfNoneMatch = None) -> Response:
    """Every schedule with equations, arguments and source."""
    return _answer("schedules", None, if_none_match)


@router.get(
    "/schedules/{name}",
    response_model=ScheduleEntry,
    summary="Show a schedule",
    responses={**UNCHANGED, **responses("not_found", "validation_failed")},
)
async def get_schedule(name: Name, if_none_match: IfNoneMatch = None) -> Response:
    """One schedule, by the name that the list gives."""
    return _answer("schedules", name, if_none_match)


@router.get(
    "/schedules/{name}/preview",
    response_model=Preview,
    summary="Draw a schedule",
    responses=responses("not_found", "validation_failed"),
)
async def preview_schedule(
    name: Name,
    asked: Annotated[PreviewQuery, Query()],  # type: ignore[valid-type]
    response: Response,
) -> dict[str, Any]:
    """Its values over a training, at most 512; arguments as in the catalogue."""
    given = asked.model_dump(exclude_none=True)  # type: ignore[attr-defined]
    response.headers.update(CACHE)
    return preview(name, given, given.pop("steps"), given.pop("points"))


def _answer(what: str, name: str | None, asked: str | None) -> Response:
    body, tag = _body(what, name)
    headers = {**CACHE, "ETag": tag}
    if is_current(asked, tag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


@functools.lru_cache(maxsize=256)
def _body(what: str, name: str | None) -> tuple[bytes, str]:
    """A part of the catalogue as it is sent, and its tag."""
    entries = published()[what]
    found = {"data": entries} if name is None else _entry(entries, what.removesuffix("s"), name)
    body = bytes(JSONResponse(found).body)
    return body, tag_of(body)


def _entry(entries: Sequence[dict[str, Any]], what: str, name: str) -> dict[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise not_found(what, name)
