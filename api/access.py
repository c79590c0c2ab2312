"""Who may come in: names of this host, pages of other sites, keys, scopes and rates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from sqlalchemy.exc import OperationalError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.caller import ANYBODY_HERE, Caller
from api.errors import ApiError
from api.keys import Keys, missing_key
from api.rates import Rates
from api.schemas.base import Scope as KeyScope
from api.settings import Settings
from api.signing import Signer

# A browser that is shown another name's address must not be taken for somebody at this machine.
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
COOKIE = "gradopt_session"
CSRF_HEADER = "x-csrf-token"

# These tell nothing of anybody, and need no key; everything that is not named here needs one.
OPEN = re.compile(
    r"/(livez|readyz|openapi\.json|docs|catalog|session|v1/version)|/(static|session|v1/catalog)/.*"
)
# Reading needs "read" and everything else "write", but for these.
SCOPES: tuple[tuple[re.Pattern[str], KeyScope], ...] = (
    (re.compile(r"/v1/advice/?"), "advise"),
    (re.compile(r"/v1/keys(/.*)?"), "admin"),
)
# The form gives the instant answer, and `begin_writing` where it does more.
FORM = "/"
STREAM = re.compile(r"/v1/recommendations/[^/]+/stream")
NOBODY = Caller("", None, frozenset())


class Access:
    """Lets a request in with its caller as `request.state.caller`, or answers why not.

    Args:
        app: What answers those who come in.
        settings: The service's.
        keys: Recognises keys.
        signer: Signs what pages send back.
        rates: How often somebody may ask.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, keys: Keys, signer: Signer, rates: Rates
    ) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._signer = signer
        self._rates = rates
        named = (name.strip() for name in settings.allowed_hosts.split(","))
        self._hosts = LOCAL_NAMES | {name for name in named if name}
        self._streams: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it in, or answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        state["caller"] = NOBODY
        try:
            refuse_strangers(scope["method"], headers, self._hosts)
            told = await self._admit(scope, headers, state)
        except ApiError as error:
            await _refused(scope, headers, error)(scope, receive, send)
            return
        except OperationalError as error:
            busy = errors.problem(Request(scope), errors.unavailable(error))
            await busy(scope, receive, send)
            return

        async def send_with_rates(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(told)
            await send(message)

        key = state["caller"].key
        if key is None:
            await self._app(scope, receive, send)
        elif STREAM.fullmatch(scope["path"]):
            await self._stream(key, scope, receive, send_with_rates)
        else:
            await self._app(scope, receive, send_with_rates)

    async def _admit(
        self, scope: Scope, headers: Headers, state: dict[str, Any]
    ) -> Mapping[str, str]:
        """Find out who asks and whether they may; returns headers of their rate."""
        if self._settings.keys != "required":
            state["caller"] = ANYBODY_HERE
            return {}
        method, path = scope["method"], scope["path"]
        address = address_of(scope)
        needs = needed(method, path)
        kind, _, key = headers.get("authorization", "").partition(" ")
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        if needs is None:
            if cookie is not None:
                await self._look_at(cookie, address, state)
            return {}
        if kind.lower() == "bearer":
            caller = await self._keys.recognise(key.strip(), address)
        elif cookie is not None:
            caller = await self._keys.of_session(cookie, address)
            state["csrf"] = self._signer.sign("csrf", cookie)
            if method not in SAFE_METHODS:
                refuse_unknown_pages(headers, state["csrf"])
        else:
            raise missing_key()
        state["caller"] = caller
        caller.must(needs)
        assert caller.key is not None  # it was recognised by it
        writes = method not in SAFE_METHODS and needs != "advise"
        rate = self._rates.writes if writes else self._rates.requests
        return rate.take(caller.key)

    async def _look_at(self, cookie: str, address: str, state: dict[str, Any]) -> None:
        """Pages that are open to all still show whether somebody is signed in."""
        try:
            state["caller"] = await self._keys.of_session(cookie, address)
        except ApiError:
            return
        state["csrf"] = self._signer.sign("csrf", cookie)

    async def _stream(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        most = self._settings.streams_per_key
        if self._streams[key] >= most:
            error = ApiError(
                "quota_exceeded",
                f"{most} streams are open with this key, and no more may be. Close one.",
                headers={"Retry-After": "5"},
            )
            await errors.problem(Request(scope), error)(scope, receive, send)
            return
        self._streams[key] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._streams[key] -= 1
            if not self._streams[key]:
                del self._streams[key]


def needed(method: str, path: str) -> KeyScope | None:
    """The scope that a key needs for a request; None where no key is needed."""
    if OPEN.fullmatch(path):
        return None
    for pattern, scope in SCOPES:
        if pattern.fullmatch(path):
            return scope
    if method in SAFE_METHODS:
        return "read"
    return "advise" if path == FORM else "write"


def begin_writing(request: Request) -> None:
    """Ask for what writing needs, where a route turns out to write that need not.

    Raises:
        ApiError: The key may not, or not so often.
    """
    caller: Caller = request.state.caller
    caller.must("write")
    if caller.key is not None:
        request.app.state.rates.writes.take(caller.key)


def address_of(scope: Scope) -> str:
    """From where a request comes; one household has all addresses of an IPv6 network."""
    client = scope.get("client")
    host = str(client[0]) if client else ""
    return ":".join(host.split(":")[:4]) if ":" in host else host


def refuse_strangers(method: str, headers: Headers, hosts: frozenset[str]) -> None:
    """Refuse a foreign name for this host, and what another site's page asks for.

    Without keys, everybody who can reach this machine's loopback is its user, and with a cookie
    a browser is; what must be kept out is any other page in that browser.

    Raises:
        ApiError: It is such a request.
    """
    host = headers.get("host", "")
    if re.sub(r":\d+$", "", host).lower() not in hosts:
        raise ApiError(
            "host_not_allowed",
            f"This service answers as {', '.join(sorted(hosts))}, not as {host[:80]!r}. Further "
            "names are given by KGO_ALLOWED_HOSTS.",
        )
    if method in SAFE_METHODS:
        return
    origin = headers.get("origin")
    elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    if elsewhere or (origin is not None and urlsplit(origin).netloc != host):
        raise cross_origin()


def refuse_unknown_pages(headers: Headers, csrf: str) -> None:
    """With a cookie alone, a browser must say from which page a request comes, or its token.

    Raises:
        ApiError: It says neither.
    """
    said = "origin" in headers or "sec-fetch-site" in headers
    if not said and headers.get(CSRF_HEADER) != csrf:
        raise cross_origin()


def cross_origin() -> ApiError:
    """The error for what another site's page asks for."""
    return ApiError("cross_origin", "Pages of another site may not ask for this.")


def _refused(scope: Scope, headers: Headers, error: ApiError) -> Response:
    """The error; somebody who wants a page and has no key is led to where one is given."""
    nobody = error.code in ("missing_key", "invalid_key")
    if nobody and "text/html" in headers.get("accept", "") and scope["method"] == "GET":
        where = quote(scope["path"], safe="/")
        return RedirectResponse(f"/session?next={where}", status_code=303)
    return errors.problem(Request(scope), error)
