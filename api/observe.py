"""What is seen of every request: one line in the log, and its part of the figures."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics, trace

logger = logging.getLogger("api.request")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Parts of a path that say what a request was about; all others stay out of the log.
SUBJECTS = {"recommendation_id": "job_id", "job": "job_id", "trial_id": "trial_id"}
STREAM = "text/event-stream"
# Where FastAPI keeps a request's OpenTelemetry, and what of it may hold a key in the wrong place.
TELEMETRY = "fastapi.telemetry"
PRIVATE = ("url.path", "url.query")


class Observed:
    """Counts and logs requests; neither bodies nor headers, cookies or queries are repeated.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, then note it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        if TELEMETRY in scope:
            hide_private()
        method = scope["method"] if scope["method"] in METHODS else "other"
        status, streams = 0, False

        async def noted(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                if Headers(raw=message["headers"]).get("content-type", "").startswith(STREAM):
                    streams = True
                    metrics.STREAMS.inc()
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - began
            if streams:
                metrics.STREAMS.dec()
            route = template(scope)
            metrics.request_answered(method, route, status, seconds, timed=not streams)
            if logger.isEnabledFor(logging.INFO):
                logger.info("request", extra=facts(scope, method, route, status, seconds))


def hide_private() -> None:
    """Keep out of the current span what the log does not say either; it has the route."""
    from opentelemetry.trace import get_current_span  # only where it is switched on

    span = get_current_span()
    for name in PRIVATE:
        span.set_attribute(name, "REDACTED")


def template(scope: Scope) -> str:
    """The path with names where it has values: "/v1/models/{model_id}"."""
    found = scope.get("route")
    path = getattr(found, "path", None)
    return path if isinstance(path, str) and path else "(none)"


def facts(
    scope: Scope, method: str, route: str, status: int, seconds: float
) -> dict[str, str | int | float]:
    """What the log says of a request."""
    told: dict[str, str | int | float] = {
        "request_id": scope.get("request_id", ""),
        "method": method,
        "route": route,
        "status": status,
        "seconds": round(seconds, 6),
    }
    for name, value in scope.get("path_params", {}).items():
        # Of what was refused, no part is repeated.
        if name in SUBJECTS and status < 400:
            told[SUBJECTS[name]] = str(value)
    return told | trace.facts(trace.traceparent(Headers(scope=scope)))
