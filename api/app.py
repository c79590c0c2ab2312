"""The web application: routes, errors and what holds for every request."""

from __future__ import annotations

import importlib.util
import logging
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors, openapi, pages
from api.errors import ApiError
from api.methods import Methods
from api.observe import Observed
from api.routes import advice, catalog, health, recommendations, uploads
from api.settings import Settings
from api.store import Store
from recommender.knowledge import published

logger = logging.getLogger(__name__)

WEB = Path(__file__).parent / "web"
# Plotly sets styles on elements; nothing else is looser than it must be.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
ON_EVERY_ANSWER = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
# A browser that is shown another name's address must not be taken for somebody at this machine.
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
# What a form has beside its file.
FORM_OVERHEAD = 2**20

DESCRIPTION = """
Which optimizer, learning rate and schedule to train a Keras model with: at once from what won
elsewhere (`POST /v1/advice`), or measured on your model and data (`POST /v1/recommendations`).

Errors are `application/problem+json` with a stable `code`. Data sets named `sample:` are there
without an upload.
"""


def create_app(settings: Settings) -> FastAPI:
    """The application over one data folder.

    Args:
        settings: The service's.
    """
    store = Store(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        store.migrate()
        yield
        store.close()

    app = FastAPI(
        title="gradopt",
        summary="Measured advice on how to train a Keras model",
        description=DESCRIPTION,
        version=published()["versions"]["keras_gradopt"],
        lifespan=lifespan,
        docs_url=None,  # the usual page comes from a CDN; ours is made in pages.py
        redoc_url=None,
        redirect_slashes=False,
        servers=[{"url": "/"}],
        openapi_tags=openapi.TAGS,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    app.state.store = store
    errors.install(app)
    openapi.install(app)
    for module in (advice, catalog, recommendations, health):
        app.include_router(module.router, max_body_size=settings.max_json_bytes)
    with_files = settings.max_upload_bytes + FORM_OVERHEAD
    for router in (uploads.router, pages.router):
        app.include_router(router, max_body_size=with_files)
    plotly = plotly_script()

    @app.get("/static/plotly.min.js", include_in_schema=False)
    async def plotly_min_js() -> FileResponse:
        return FileResponse(
            plotly, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"}
        )

    app.mount("/static", StaticFiles(directory=WEB / "static"), name="static")
    app.add_middleware(Methods, routes=app.router.routes)
    app.add_middleware(AtTheDoor)
    app.add_middleware(Observed)
    return app


def plotly_script() -> Path:
    """The chart library's script, in the installed Python package."""
    spec = importlib.util.find_spec("plotly")
    assert spec is not None  # a dependency
    assert spec.origin is not None  # plotly is a package with files
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


class AtTheDoor:
    """What holds for every request: its id, whom it may come from, and headers of the answer.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, answer, and put the headers on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        name = asked if REQUEST_ID.fullmatch(asked) else secrets.token_hex(8)
        scope["request_id"] = name

        replaced = False

        async def send_with_headers(message: Message) -> None:
            nonlocal replaced
            if replaced:
                return
            if message["type"] == "http.response.start":
                if is_bare_413(message):
                    large = errors.problem(Request(scope), errors.too_large())
                    await large(scope, receive, send_with_headers)
                    replaced = True
                    return
                answer = MutableHeaders(scope=message)
                answer["X-Request-Id"] = name
                for key, value in ON_EVERY_ANSWER.items():
                    answer.setdefault(key, value)
            await send(message)

        refused = refusal(scope["method"], headers)
        if refused is not None:
            response = errors.problem(Request(scope), refused)
            await response(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def is_bare_413(message: Message) -> bool:
    """Whether an answer starts as Starlette's body limit gives it: as plain text, past handlers."""
    kind = Headers(raw=message["headers"]).get("content-type", "")
    return message["status"] == errors.STATUS["body_too_large"] and kind.startswith("text/plain")


def refusal(method: str, headers: Any) -> ApiError | None:
    """Why a request may not come in: a foreign name for this host, or another site's page.

    Without keys, everybody who can reach this machine's loopback is its user; what must be kept
    out is a page in that user's browser.
    """
    host = headers.get("host", "")
    if re.sub(r":\d+$", "", host) not in LOCAL_NAMES:
        return ApiError(
            "host_not_allowed",
            f"This service answers as {', '.join(sorted(LOCAL_NAMES))}, not as {host[:80]!r}.",
        )
    if method in SAFE_METHODS:
        return None
    origin = headers.get("origin")
    elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    if elsewhere or (origin is not None and urlsplit(origin).netloc != host):
        return ApiError("cross_origin", "Pages of another site may not ask for this.")
    return None
