"""Probes as jobs: asked for, watched, cancelled."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import PlainTextResponse
from sqlalchemy import Row
from sse_starlette import EventSourceResponse

from api import present
from api.errors import ApiError, not_found, responses
from api.etag import is_current
from api.jobs import InUse, Jobs, QueueFull, QuotaExceeded
from api.library import Also, Library
from api.once import Created
from api.resolve import resolve
from api.routes import TheJobs, TheLibrary, TheOnce, ThePage, TheSettings, TheStreams
from api.schemas.asked import RecommendationRequest
from api.schemas.base import RecommendationId, Status, TrialId
from api.schemas.recommendations import Events, Recommendation, Recommendations, Trial, Trials
from api.settings import Backend, Settings
from api.snippet import snippet
from api.stream import finished
from api.transitions import ENDED

router = APIRouter(prefix="/v1/recommendations", tags=["recommendations"])
Id = Annotated[RecommendationId, Path(alias="recommendation_id")]
Curve = Annotated[bool, Query(description="Whether to give the loss curves.")]
MaxPoints = Annotated[int, Query(ge=2, le=500, description="Of each curve.")]
# One event of a stream; `data` is the JSON of an entry of the log, in one string.
EVENT = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string"},
        "retry": {"type": "integer"},
    },
}
# Seconds after which asking again is worth it.
RETRY_AFTER = "2"


class Python(PlainTextResponse):
    """A file of Python."""

    media_type = "text/x-python"


@router.post(
    "",
    status_code=202,
    response_model=Recommendation,
    summary="Measure which optimizer to take",
    responses=responses(
        "malformed_json",
        "not_found",
        "body_too_large",
        "validation_failed",
        "idempotency_key_reused",
        "queue_full",
        "quota_exceeded",
        "storage_full",
    ),
)
def create_recommendation(
    asked: RecommendationRequest,
    once: TheOnce,
    jobs: TheJobs,
    library: TheLibrary,
    settings: TheSettings,
) -> Response:
    """Short probe trainings of the model on the data; the instant answer is there already."""
    return once.create(
        asked.model_dump_json().encode(),
        lambda also: start(asked, jobs, library, settings, also),
        _accepted,
    )


def _accepted(row: Row[Any]) -> Created:
    where = {"Location": f"/v1/recommendations/{row.id}", "Retry-After": RETRY_AFTER}
    return Created(202, Recommendation, present.recommendation(row), where)


def start(
    asked: RecommendationRequest,
    jobs: Jobs,
    library: Library,
    settings: Settings,
    also: Also = None,
) -> Row[Any]:
    """Put a request into the queue.

    Args:
        asked: The request.
        jobs: The caller's.
        library: The caller's.
        settings: The service's.
        also: What is done with the job's row in the same transaction.

    Raises:
        ApiError: It cannot be answered, or the queue is full.
        Refused: A model's config is not let in.
    """
    resolved = resolve(asked, library)
    try:
        job = jobs.create(
            asked.model_dump(),
            resolved.spec(asked),
            asked.training.backend or settings.backend,
            resolved.advice(),
            also,
        )
    except QueueFull:
        raise ApiError(
            "queue_full",
            f"{settings.max_queued} jobs are waiting, and no more may. Ask again in a minute.",
            headers={"Retry-After": "60"},
        ) from None
    except QuotaExceeded:
        raise ApiError(
            "quota_exceeded",
            f"{settings.live_jobs_per_key} jobs of this key have not ended, and no more may be. "
            "Wait for one, or cancel it.",
            headers={"Retry-After": "10"},
        ) from None
    return found(jobs, job)


def found(jobs: Jobs, job: str) -> Row[Any]:
    """A job's row.

    Raises:
        ApiError: There is none.
    """
    row = jobs.get(job)
    if row is None:
        raise not_found("recommendation", job)
    return row


@router.get(
    "",
    response_model=Recommendations,
    summary="List jobs",
    responses=responses("validation_failed"),
)
def list_recommendations(
    jobs: TheJobs,
    page: ThePage,
    status: Annotated[Status | None, Query(description="Only jobs in this state.")] = None,
) -> dict[str, Any]:
    """The newest first."""
    return page.of(lambda limit, before: jobs.newest(limit, before, status), present.recommendation)


@router.get(
    "/{recommendation_id}",
    response_model=Recommendation,
    summary="Show a job",
    responses={304: {"description": "Unchanged."}, **responses("not_found", "validation_failed")},
)
def get_recommendation(
    job: Id,
    response: Response,
    jobs: TheJobs,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Any:
    """The job as it stands; `result` is there once it has succeeded."""
    row = found(jobs, job)
    tag = f'"{row.version}"'
    if is_current(if_none_match, tag):
        return Response(status_code=304, headers={"ETag": tag})
    response.headers["ETag"] = tag
    if row.status not in ENDED:
        response.headers["Retry-After"] = RETRY_AFTER
    return present.recommendation(row)


@router.get(
    "/{recommendation_id}/trials",
    response_model=Trials,
    summary="Show a job's probes",
    responses=responses("not_found", "validation_failed"),
)
def list_trials(
    job: Id, jobs: TheJobs, curve: Curve = False, max_points: MaxPoints = 500
) -> dict[str, Any]:
    """One entry per candidate, in order of prior."""
    found(jobs, job)
    shown = [present.trial(one, curve=curve, points=max_points) for one in jobs.trials(job)]
    return {"data": shown}


@router.get(
    "/{recommendation_id}/trials/{trial_id}",
    response_model=Trial,
    summary="Show one probe of a job",
    responses=responses("not_found", "validation_failed"),
)
def get_trial(
    job: Id,
    trial: Annotated[TrialId, Path(alias="trial_id")],
    jobs: TheJobs,
    curve: Curve = False,
    max_points: MaxPoints = 500,
) -> dict[str, Any]:
    """One candidate's probe."""
    found(jobs, job)
    one = next((one for one in jobs.trials(job) if one["id"] == trial), None)
    if one is None:
        raise not_found("trial", trial)
    return present.trial(one, curve=curve, points=max_points)


@router.get(
    "/{recommendation_id}/snippet",
    summary="Show the advice as Python",
    response_class=Python,
    responses=responses("not_found", "no_result", "validation_failed"),
)
def get_snippet(
    job: Id,
    jobs: TheJobs,
    backend: Annotated[Backend | None, Query(description="Left out: as probed.")] = None,
) -> Response:
    """Python that makes the optimizer, on the backend of your choice."""
    return Python(snippet(found(jobs, job), backend))


@router.get(
    "/{recommendation_id}/events",
    response_model=Events,
    summary="Read a job's log",
    responses=responses("not_found", "validation_failed"),
)
def list_events(
    job: Id,
    jobs: TheJobs,
    after: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> dict[str, Any]:
    """What the stream is made of, as plain JSON."""
    found(jobs, job)
    rows = jobs.events(job, after, limit + 1)
    page = rows[:limit]
    return {
        "data": [present.event(row) for row in page],
        "next": page[-1].seq if page else after,
        "has_more": len(rows) > limit,
    }


@router.get(
    "/{recommendation_id}/stream",
    summary="Follow a job",
    response_class=EventSourceResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": EVENT}}},
        204: {"description": "The job has ended and you have every event."},
        **responses("not_found", "validation_failed"),
    },
)
def stream_events(
    job: Id,
    jobs: TheJobs,
    settings: TheSettings,
    streams: TheStreams,
    after: Annotated[int, Query(ge=0, le=2**31)] = 0,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**31)] = None,
) -> Response:
    """Server-sent events; `Last-Event-ID` (or `after`) resumes behind that event, without a gap."""
    row = found(jobs, job)
    last = after if last_event_id is None else last_event_id
    if finished(row, last):
        return Response(status_code=204)
    return EventSourceResponse(
        streams.follow(row, last),
        ping=settings.ping_seconds,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.post(
    "/{recommendation_id}/cancel",
    status_code=202,
    response_model=Recommendation,
    summary="Cancel a job",
    responses={
        200: {"description": "It had ended already; nothing changed.", "model": Recommendation},
        **responses("not_found", "validation_failed"),
    },
)
def cancel_recommendation(job: Id, response: Response, jobs: TheJobs) -> dict[str, Any]:
    """At once where it waits, within seconds where it runs; what was measured stays."""
    ended = found(jobs, job).status in ENDED
    jobs.cancel(job)
    if ended:
        response.status_code = 200
    return present.recommendation(found(jobs, job))


@router.delete(
    "/{recommendation_id}",
    status_code=204,
    summary="Delete a job",
    responses=responses("not_found", "conflict_in_use", "validation_failed"),
)
def delete_recommendation(job: Id, jobs: TheJobs) -> None:
    """With its trials and its log, once it has ended; deleting is not cancelling."""
    try:
        there = jobs.delete(job)
    except InUse:
        raise ApiError(
            "conflict_in_use", f"The job {job!r} has not ended. Cancel it or wait for it."
        ) from None
    if not there:
        raise not_found("recommendation", job)
