"""The web application: routes, errors and what holds for every request."""

from __future__ import annotations

import importlib.util
import logging
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors, openapi, pages
from api.access import Access
from api.janitor import Janitor
from api.keys import Keys
from api.methods import Methods
from api.observe import Observed
from api.patience import LATE
from api.rates import Rates
from api.routes import advice, catalog, health, recommendations, session, uploads
from api.routes import keys as keys_
from api.sandbox import Sandbox
from api.settings import Settings
from api.signing import signer
from api.store import Store
from api.stream import Streams
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
# Ids go to logs, where a key that is sent in the wrong place must not be.
REQUEST_ID = re.compile(r"(?!kgo_)[A-Za-z0-9._-]{8,64}")
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
    signs = signer(settings)
    rates = Rates(settings)
    keys = Keys(store, signs, rates.guesses)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        store.migrate()
        janitor = Janitor(store)
        janitor.start()
        yield
        janitor.stop()
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
    app.state.sandbox = Sandbox(settings)
    app.state.signer = signs
    app.state.rates = rates
    app.state.keys = keys
    app.state.streams = Streams(store)
    errors.install(app)
    openapi.install(app)
    for module in (advice, catalog, recommendations, keys_, health, session):
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
    app.add_middleware(Access, settings=settings, keys=keys, signer=signs, rates=rates)
    app.add_middleware(AtTheDoor, settings=settings)
    app.add_middleware(Observed)
    return app


def plotly_script() -> Path:
    """The chart library's script, in the installed Python package."""
    spec = importlib.util.find_spec("plotly")
    assert spec is not None  # a dependency
    assert spec.origin is not None  # plotly is a package with files
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


class AtTheDoor:
    """What holds for every request: its id, that its body keeps coming, headers of the answer.

    Args:
        app: What answers.
        settings: The service's.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and put the headers on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        name = asked if REQUEST_ID.fullmatch(asked) else secrets.token_hex(8)
        scope["request_id"] = name

        async def receive_in_time() -> Message:
            message = await receive()
            if LATE in scope:
                raise errors.too_slow(self._settings)
            return message

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
                scope.pop(LATE, None)  # what is received from here on is no part of the body
                answer = MutableHeaders(scope=message)
                answer["X-Request-Id"] = name
                for key, value in ON_EVERY_ANSWER.items():
                    answer.setdefault(key, value)
            await send(message)

        await self._app(scope, receive_in_time, send_with_headers)


def is_bare_413(message: Message) -> bool:
    """Whether an answer starts as Starlette's body limit gives it: as plain text, past handlers."""
    kind = Headers(raw=message["headers"]).get("content-type", "")
    return message["status"] == errors.STATUS["body_too_large"] and kind.startswith("text/plain")
