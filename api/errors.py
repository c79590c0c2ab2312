"""Errors as `application/problem+json` (RFC 9457): the only module that knows their HTTP status."""

from __future__ import annotations

import errno
import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from api import metrics
from api.gate import Refused
from api.schemas.base import Problem
from api.settings import Settings

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
# Input is repeated in messages up to here.
LONGEST_ECHO = 200
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_WRITING = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})

STATUS: dict[str, int] = {
    "malformed_json": 400,
    "malformed_multipart": 400,
    "host_not_allowed": 400,
    "missing_key": 401,
    "invalid_key": 401,
    "cross_origin": 403,
    "insufficient_scope": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conflict_in_use": 409,
    "no_result": 409,
    "body_too_large": 413,
    "archive_too_large": 413,
    "unsupported_type": 415,
    "validation_failed": 422,
    "idempotency_key_reused": 422,
    "queue_full": 429,
    "rate_limited": 429,
    "quota_exceeded": 429,
    "internal": 500,
    "database_unavailable": 503,
    "storage_full": 507,
}
# Whatever the gate refuses for another reason than size or type cannot be processed.
REFUSED = 422
TITLES = {
    "malformed_json": "The body is not valid JSON",
    "malformed_multipart": "The form cannot be read",
    "host_not_allowed": "This host is not served here",
    "missing_key": "A key is needed",
    "invalid_key": "The key is not valid",
    "insufficient_scope": "The key may not do this",
    "cross_origin": "Another site's page asked for this",
    "not_found": "There is no such thing",
    "method_not_allowed": "This method is not allowed here",
    "request_timeout": "The body came too slowly",
    "conflict_in_use": "It is in use",
    "no_result": "The job has no result",
    "body_too_large": "The body is too large",
    "archive_too_large": "The archive unpacks to too much",
    "archive_suspicious": "The archive is not as it should be",
    "unsupported_type": "This kind of content is not taken",
    "validation_failed": "The request is not as it should be",
    "idempotency_key_reused": "The Idempotency-Key belongs to another request",
    "rate_limited": "Too many requests",
    "quota_exceeded": "More than one key or tenant may have",
    "storage_full": "The disk is full",
    "queue_full": "Too many jobs are waiting",
    "internal": "Something broke here",
    "database_unavailable": "The ledger cannot be reached now",
    "model_class_not_allowed": "The model holds a class that is not accepted",
    "model_too_large": "The model is too large",
    "dataset_object_dtype": "The data set holds something other than numbers",
    "dataset_shape_mismatch": "The arrays do not fit together",
    "dataset_incomplete": "The data set lacks an array",
    "impossible_budget": "Data and batch size do not fit together",
    "unknown_optimizer": "There is no such optimizer",
}


class ApiError(Exception):
    """An error that the caller is told.

    Args:
        code: Stable identifier, a key of `STATUS` or of the gate's.
        detail: What came, what is allowed, what to do.
        errors: Places in the body, each with pointer, code and detail.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})


def not_found(what: str, name: str) -> ApiError:
    """The error for an id that leads nowhere."""
    return ApiError("not_found", f"There is no {what} {name[:LONGEST_ECHO]!r}.")


def error_at(pointer: str, code: str, detail: str) -> ApiError:
    """An error that one place of the body is to blame for."""
    return ApiError(code, detail, [{"pointer": pointer, "code": code, "detail": detail}])


def too_large() -> ApiError:
    """The error for a body over its limit."""
    return ApiError(
        "body_too_large",
        "The body is larger than this service takes. JSON may have a mebibyte; data goes to "
        "POST /v1/datasets as a file, and some thousand examples are enough for probes.",
    )


def too_slow(settings: Settings) -> HTTPException:
    """The error for a body that does not keep coming; FastAPI lets no other kind out of reading."""
    seconds, rate = settings.body_seconds, settings.body_bytes_per_second
    return HTTPException(
        STATUS["request_timeout"],
        f"The body came too slowly: until it ends, each {seconds:g} s must bring "
        f"{rate * seconds:g} bytes. Send less, or over a faster line.",
        headers={"Connection": "close"},
    )


def unavailable(error: OperationalError | OSError) -> ApiError:
    """The error for a ledger, or its folder, that does not answer or cannot be written."""
    logger.error("database: %s", error)
    metrics.DATABASE_ERRORS.inc()
    return ApiError(
        "database_unavailable",
        "The ledger is locked, or its disk is full or cannot be written. Nothing was changed; try "
        "again.",
        headers={"Retry-After": "2"},
    )


def problem(request: Request, error: ApiError) -> JSONResponse:
    """The answer for an error."""
    status = STATUS.get(error.code, REFUSED)
    body: dict[str, Any] = {
        "type": f"/docs#{error.code}",
        "title": TITLES.get(error.code, http.HTTPStatus(status).phrase),
        "status": status,
        "detail": error.detail,
        "instance": request.url.path,
        "code": error.code,
        "request_id": request.scope.get("request_id", ""),
    }
    if error.errors:
        body["errors"] = error.errors
    return JSONResponse(body, status, error.headers, media_type=MEDIA_TYPE)


def from_refusal(refused: Refused) -> ApiError:
    """What the gate said, as an error of a request."""
    places = (
        [{"pointer": refused.pointer, "code": refused.code, "detail": refused.detail}]
        if refused.pointer
        else []
    )
    return ApiError(refused.code, refused.detail, places)


def from_validation(error: RequestValidationError) -> ApiError:
    """What pydantic said, place by place; input is not repeated."""
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        reason = found[0].get("ctx", {}).get("error", "")
        return ApiError("malformed_json", f"The body is not valid JSON: {reason}."[:LONGEST_ECHO])
    places = [
        {
            "pointer": "/" + "/".join(str(part) for part in one["loc"][1:]),
            "code": one["type"],
            "detail": one["msg"],
        }
        for one in found[:20]
    ]
    first = places[0]
    where = first["pointer"] if first["pointer"] != "/" else "the body"
    return ApiError("validation_failed", f"{where}: {first['detail']}.", places)


def _from_http(request: Request, error: HTTPException) -> ApiError:
    form = request.headers.get("content-type", "").startswith("multipart/")
    codes = {
        400: "malformed_multipart" if form else "malformed_json",
        404: "not_found",
        405: "method_not_allowed",
        408: "request_timeout",
        413: "body_too_large",  # of a body that did not say how long it is
        415: "unsupported_type",
    }
    code = codes.get(error.status_code, "internal" if error.status_code >= 500 else "not_found")
    details = {
        "body_too_large": too_large().detail,
        "not_found": "Nothing is served at this path. See /docs.",
        "malformed_json": "The body cannot be read.",
        "malformed_multipart": "The form cannot be read: send multipart/form-data with its "
        "boundary, as curl -F and browsers do.",
    }
    return ApiError(code, details.get(code, str(error.detail)), headers=error.headers)


def install(app: FastAPI) -> None:
    """Answer every error of the application as a problem."""

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> JSONResponse:
        return problem(request, error)

    @app.exception_handler(Refused)
    async def on_refusal(request: Request, refused: Refused) -> JSONResponse:
        return problem(request, from_refusal(refused))

    @app.exception_handler(RequestValidationError)
    async def on_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(request, from_validation(error))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        return problem(request, _from_http(request, error))

    @app.exception_handler(OperationalError)
    async def on_database(request: Request, error: OperationalError) -> JSONResponse:
        return problem(request, unavailable(error))

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        # Not the path itself: somebody may have put a key there.
        route = getattr(request.scope.get("route"), "path", "unknown")
        logger.error("request %s", route, exc_info=error)
        return problem(request, ApiError("internal", "This is a fault of the service, not yours."))

    @app.exception_handler(OSError)
    async def on_system(request: Request, error: OSError) -> JSONResponse:
        if error.errno in NO_WRITING:
            return problem(request, unavailable(error))
        if error.errno not in NO_SPACE:
            return await on_bug(request, error)
        logger.error("no space: %s", error)
        detail = "The disk is full. Nothing was kept; try again when some is free."
        return problem(request, ApiError("storage_full", detail, headers={"Retry-After": "60"}))


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """What a route declares of its errors in OpenAPI."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status = STATUS.get(code, REFUSED)
        known = found.setdefault(
            status,
            {
                "model": Problem,
                "description": "",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        )
        known["description"] = ", ".join(filter(None, [known["description"], f"`{code}`"]))
    return found
