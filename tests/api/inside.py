"""The web application in this process, without a port and without a worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from api.app import create_app
from api.settings import Settings

ALL_SCOPES = ("advise", "read", "write", "admin")


class Inside:
    """The application, asked from any thread.

    Args:
        folder: Its data folder.
        settings: Settings, such as `keys="required"`.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.app = create_app(Settings(data_dir=folder, **settings))
        self.store = self.app.state.store
        self.store.migrate()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    def begin(self, method: str, path: str, **arguments: Any) -> Future[httpx.Response]:
        """Send a request; the answer comes when it is whole."""
        return asyncio.run_coroutine_threadsafe(
            self._client.request(method, path, **arguments), self._loop
        )

    def ask(self, method: str, path: str, key: str | None = None, **arguments: Any) -> Any:
        """Send a request with a key, and wait for the answer."""
        headers = dict(arguments.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return self.begin(method, path, headers=headers, **arguments).result(60)

    def key(self, tenant: str = "local", *scopes: str, days: int | None = None) -> str:
        """A key that works."""
        return str(self.app.state.keys.create(tenant, "test", scopes or ALL_SCOPES, days)[1])

    def close(self) -> None:
        """Let go of everything."""
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.store.close()


@contextmanager
def inside(folder: Path, **settings: Any) -> Iterator[Inside]:
    """The application for the time of a block."""
    made = Inside(folder, **settings)
    try:
        yield made
    finally:
        made.close()
