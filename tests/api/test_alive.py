"""What a container engine's health check hears, and a server without workers of its own."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from api import alive
from api.leases import Leases
from api.settings import Settings
from api.store import Store, workers
from api.worker import Worker
from tests.api.server import child, until

pytestmark = pytest.mark.backend_free


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on loopback that answers everything with one status; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(b'{"status": "said"}')

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_web_process_that_is_ready_is_well() -> None:
    with answering(200) as port:
        assert alive.web(port) == ""


def test_a_web_process_that_is_not_ready_is_not_and_says_why() -> None:
    with answering(503) as port:
        assert re.search(r"503.*said", alive.web(port))


def test_a_port_that_nobody_listens_on_is_not_well() -> None:
    with socket.socket() as taken:  # bound and silent
        taken.bind(("127.0.0.1", 0))
        assert "nothing answers" in alive.web(taken.getsockname()[1])


def test_a_worker_is_well_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    assert "cannot be read" in alive.worker(tmp_path)
    settings = Settings(data_dir=tmp_path)
    store = Store(settings)
    store.migrate()
    jobs = Leases(store)
    jobs.beat("another-host-1-X")
    assert "no worker" in alive.worker(tmp_path)
    one = Worker(settings)
    jobs.beat(one.id)
    assert alive.worker(tmp_path) == ""
    long_ago = time.time() - alive.SILENCE_SECONDS - 1
    with store.write() as connection:
        connection.execute(sa.update(workers).values(seen_at=long_ago))
    assert "silent for 61 s" in alive.worker(tmp_path)
    store.close()


def test_the_check_tells_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KGO_DATA_DIR", str(tmp_path))
    assert alive.main(["worker"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert alive.main(["nobody"]) == 1
    assert "expected web or worker" in capsys.readouterr().err


def test_the_check_loads_nothing_but_the_standard_library() -> None:
    program = "import sys, api.alive; print(*{n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"fastapi", "sqlalchemy", "pydantic", "numpy", "keras"}
    assert "api" in loaded


def test_a_server_may_leave_the_work_to_others(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "recommender.cli", "serve", "--port", "0", "--workers", "0",
             "--data-dir", str(tmp_path / "data")],
            env={**os.environ, "KGO_POLL_SECONDS": "0.1"},
            stdin=subprocess.DEVNULL, stdout=written, stderr=written,
        )  # fmt: skip
    try:
        said = until(lambda: re.search(r"at (http://\S+?)/ ", log.read_text("utf-8")), "it serves")

        def ready() -> object:
            try:
                with urllib.request.urlopen(f"{said[1]}/readyz") as answer:  # noqa: S310 - ours
                    return json.load(answer)
            except OSError:
                return None

        answer = until(ready, "it is ready")
        assert answer["checks"]["workers"] == "0"
        assert child(process.pid, "api\0web")
        assert child(process.pid, "api\0worker") is None
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
