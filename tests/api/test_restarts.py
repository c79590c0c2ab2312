"""A web process that is stopped and started again while it is asked all the time."""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from api.examples import DESCRIBED
from tests.api.release import sizes
from tests.api.server import DIGITS
from tests.api.web_process import web_process

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(sys.platform != "linux", reason="stops processes"),
]
CALLERS = 6
STEADY_SECONDS = 1.5
LEAST_RESTARTS = 3


class Caller(threading.Thread):
    """Asks until it is told to stop; each request has a connection of its own."""

    def __init__(self, address: str, job: str, stop: threading.Event) -> None:
        super().__init__()
        self._address, self._stop_asking = address, stop
        self._asks = (
            ("GET", "/livez", None),
            ("GET", f"/v1/recommendations/{job}", None),
            ("POST", "/v1/advice", DESCRIBED),
        )
        self.asked = 0
        self.failed: list[str] = []
        self.slowest = 0.0

    def run(self) -> None:
        """Ask."""
        while not self._stop_asking.is_set():
            method, path, body = self._asks[self.asked % len(self._asks)]
            began = time.monotonic()
            try:
                status, _ = ask(self._address, method, path, body)
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(f"{method} {path}: {error!r}")
            else:
                if status != http.client.OK:
                    self.failed.append(f"{method} {path}: {status}")
            self.asked += 1
            self.slowest = max(self.slowest, time.monotonic() - began)


def ask(address: str, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    """Status and content of an answer, on a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("requests", sizes(1000, 100_000))
def test_no_request_fails_while_the_web_process_is_restarted(requests: int, tmp_path: Path) -> None:
    limits = {"KGO_REQUESTS_PER_SECOND": "1000000", "KGO_REQUESTS_BURST": "1000000"}
    with web_process(tmp_path, **limits) as (address, start):
        process = start()
        job = str(json.loads(ask(address, "POST", "/v1/recommendations", DIGITS)[1])["id"])
        stop = threading.Event()
        callers = [Caller(address, job, stop) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        restarts = 0
        while restarts < LEAST_RESTARTS or sum(caller.asked for caller in callers) < requests:
            # It answers, so it has begun; a request waits at the open port until then.
            assert ask(address, "GET", "/livez")[0] == http.client.OK
            time.sleep(STEADY_SECONDS)
            process.terminate()
            assert process.wait(30) in (0, -signal.SIGTERM)
            process = start()
            restarts += 1
        stop.set()
        for caller in callers:
            caller.join()
        failed = [one for caller in callers for one in caller.failed]
        slowest = max(caller.slowest for caller in callers)
        print(f"{restarts} restarts, the slowest answer took {slowest:.1f} s")
        assert not failed
