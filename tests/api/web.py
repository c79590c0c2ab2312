"""The web application alone, without a worker: in a thread of the tests, asked over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from api.app import create_app
from api.patience import protocol
from api.settings import Settings
from api.store import Store


class Web:
    """A running application.

    Attributes:
        http: A client.
        store: Its ledger.
    """

    def __init__(self, http: httpx.Client, store: Store) -> None:
        self.http = http
        self.store = store


@contextmanager
def web(settings: Settings) -> Iterator[Web]:
    """The application for the time of a block."""
    app = create_app(settings)
    http = protocol(settings)
    config = uvicorn.Config(app, http=http, port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "it ended at its start"
        assert time.monotonic() < end, "it did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            yield Web(http, app.state.store)
    finally:
        server.should_exit = True
        thread.join(30)
