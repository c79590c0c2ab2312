"""Signing in from a browser: a key for a cookie."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from api import errors
from api.access import COOKIE, address_of
from api.errors import ApiError
from api.keys import SESSION_SECONDS, Keys
from api.pages import render
from api.routes import TheSettings

router = APIRouter(include_in_schema=False)
# Only to a page of ours: no other host, no other scheme.
OWN_PATH = re.compile(r"/([A-Za-z0-9._~-][A-Za-z0-9/._~-]*)?")


@router.get("/session")
async def sign_in(
    request: Request,
    settings: TheSettings,
    where: Annotated[str, Query(alias="next", max_length=500)] = "/",
) -> Response:
    """The form."""
    if settings.keys != "required":
        return RedirectResponse("/", status_code=303)
    return render(request, "session.html", {"next": _own(where), "problem": None})


@router.post("/session")
async def begin_session(
    request: Request,
    key: Annotated[str, Form(max_length=200)] = "",
    where: Annotated[str, Form(alias="next", max_length=500)] = "/",
) -> Response:
    """Sign in."""
    keys: Keys = request.app.state.keys
    try:
        caller = await keys.recognise(key.strip(), address_of(request.scope))
    except ApiError as error:
        problem = {"title": errors.TITLES[error.code], "detail": error.detail}
        context = {"next": _own(where), "problem": problem}
        return render(request, "session.html", context, status=errors.STATUS[error.code])
    response = RedirectResponse(_own(where), status_code=303)
    response.set_cookie(
        COOKIE,
        keys.session(caller),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/session/end")
async def end_session() -> Response:
    """Sign out."""
    response = RedirectResponse("/session", status_code=303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _own(where: str) -> str:
    return where if OWN_PATH.fullmatch(where) else "/"
