"""HEAD, OPTIONS and the `Allow` header, which hold for every path alike (RFC 9110, section 9.3)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TRIED = ("GET", "POST", "PUT", "PATCH", "DELETE")
NOT_ALLOWED = 405


class Methods:
    """Answers HEAD as GET without its body, OPTIONS by what a path allows.

    Args:
        app: What answers.
        routes: Where paths lead.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, as GET where it is HEAD."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        else:
            await self._with_allow(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def without_body(message: Message) -> None:
            nonlocal answered
            if answered:
                return
            if message["type"] == "http.response.start":
                scope["method"] = "HEAD"  # the server writes no body by it
                await send(message)
                return
            answered = True
            await send({"type": "http.response.body", "body": b""})

        async def receive_until_answered() -> Message:
            # An endless answer, such as a stream, has nothing more to say.
            return {"type": "http.disconnect"} if answered else await receive()

        scope["method"] = "GET"
        await self._app(scope, receive_until_answered, without_body)

    async def _with_allow(self, scope: Scope, receive: Receive, send: Send) -> None:
        options = scope["method"] == "OPTIONS"
        asked = dict(scope)  # routes write into the other
        dropping = False

        async def with_allow(message: Message) -> None:
            nonlocal dropping
            if dropping:
                return
            if message["type"] == "http.response.start" and message["status"] == NOT_ALLOWED:
                allowed = self._allowed(asked)
                if options:
                    dropping = True
                    headers = Headers({"allow": allowed}).raw
                    await send({"type": message["type"], "status": 204, "headers": headers})
                    await send({"type": "http.response.body", "body": b""})
                    return
                MutableHeaders(scope=message)["allow"] = allowed
            await send(message)

        await self._app(scope, receive, with_allow)

    def _allowed(self, scope: Scope) -> str:
        found = [
            method
            for method in TRIED
            if any(
                route.matches({**scope, "method": method})[0] is Match.FULL
                and (method == "GET" or not isinstance(route, Mount))  # files are read only
                for route in self._routes
            )
        ]
        if "GET" in found:
            found.insert(1, "HEAD")
        return ", ".join([*found, "OPTIONS"])
