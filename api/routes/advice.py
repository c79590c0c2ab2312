"""The instant answer."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool

from api.errors import responses
from api.resolve import resolve
from api.routes import TheLibrary
from api.schemas.advice import Advice
from api.schemas.asked import AdviceRequest

router = APIRouter(tags=["advice"])


@router.post(
    "/v1/advice",
    response_model=Advice,
    summary="Answer at once, without training",
    responses=responses("malformed_json", "not_found", "body_too_large", "validation_failed"),
)
async def give_advice(asked: AdviceRequest, library: TheLibrary) -> Response:
    """The choice that does best on recorded tasks when nothing can be measured."""
    if "ref" in (asked.model.kind, asked.data.kind):
        resolved = await run_in_threadpool(resolve, asked, library)  # may ask the ledger
    else:
        resolved = resolve(asked, library)
    # Plain data already: going by way of the response's model would only check it again.
    text = to_json(resolved.advice(), inf_nan_mode="null")
    return Response(text, media_type="application/json")
