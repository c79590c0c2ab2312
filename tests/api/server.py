"""A real server for tests: `gradopt serve` in a process of its own, asked over HTTP."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

# A job of some seconds on a loaded machine, imports and compiling included.
PATIENCE = 180.0
ENDED = ("succeeded", "failed", "timed_out", "cancelled")
DIGITS = {
    "model": {"kind": "ref", "id": "sample:digits"},
    "data": {"kind": "ref", "id": "sample:digits"},
}
# Goes on until it is stopped, as far as a test is concerned.
ENDLESS = {
    **DIGITS,
    "training": {"epochs": 100_000},
    "tier": "standard",
    "max_seconds": 600,
}


class Server:
    """`gradopt serve` on a folder.

    Args:
        folder: Its data folder.
        environment: Settings, such as `{"KGO_LEASE_SECONDS": "1"}`.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        # Until its tests end, a job that waits for a dead worker's lease costs only time.
        settings = {"KGO_LEASE_SECONDS": "2", "KGO_POLL_SECONDS": "0.1", **environment}
        self._environment = {**os.environ, **settings}
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        began = time.monotonic()
        self.log = self.folder.parent / f"{self.folder.name}.log"
        before = len(self.logged())
        options = ["--port", "0", "--data-dir", str(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "recommender.cli", "serve", *options],
                cwd=self.folder.parent,  # where a user may be; nothing of it is the service's
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        said = until(
            lambda: re.search(r"serves at (http://\S+?)/ ", self.logged()[before:]),
            "the server says where it is",
        )
        self.http = httpx.Client(base_url=said[1], timeout=30)
        until(lambda: self.http.get("/readyz").status_code == 200, "it is ready")
        self.seconds_to_ready = time.monotonic() - began

    def logged(self) -> str:
        """What it has written."""
        return self.log.read_text("utf-8", errors="replace") if self.log.exists() else ""

    def pid(self, name: str) -> int:
        """The process "web", "worker" or "probe"; the supervisor is `process.pid`."""
        if name == "probe":
            return until(lambda: child(self.pid("worker"), "executors.child"), "a probe runs")
        return until(lambda: child(self.process.pid, f"api\0{name}"), f"{name} runs")

    def kill(self, name: str) -> int:
        """`kill -9` of a process; returns its id."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def post(self, path: str, **arguments: Any) -> httpx.Response:
        """POST, whatever the answer is."""
        return self.http.post(path, **arguments)

    def get(self, path: str, **arguments: Any) -> Any:
        """The JSON of a path that is there."""
        response = self.http.get(path, **arguments)
        assert response.status_code == 200, response.text
        return response.json()

    def ask(self, request: Mapping[str, Any]) -> str:
        """Start a job; returns its path."""
        response = self.post("/v1/recommendations", json=request)
        assert response.status_code == 202, response.text
        return response.headers["location"]

    def ended(self, path: str) -> Any:
        """The job, once it has ended."""
        return until(
            lambda: (job := self.get(path))["status"] in ENDED and job, f"{path} ends", PATIENCE
        )

    def probing(self, path: str) -> None:
        """Wait until the job's probes have made steps."""
        until(
            lambda: any(e["type"] == "trial.metric" for e in self.events(path)), "steps", PATIENCE
        )

    def events(self, path: str) -> list[Any]:
        """The job's whole log."""
        return self.get(f"{path}/events", params={"limit": 1000})["data"]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it, and wait until it is gone."""
        self.http.close()
        self.process.send_signal(number)
        self.process.wait(30)


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Server]:
    """A server for the time of a block; its log is shown where the block fails."""
    server = Server(folder, **environment)
    try:
        yield server
    except BaseException:
        print(server.logged()[-4000:])
        raise
    finally:
        if server.process.poll() is None:
            server.stop()


def until(look: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Look until there is something; fails with what was waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = look()
        except httpx.TransportError:
            found = None
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:g} s in vain: {what}")


def child(parent: int, words: str) -> int | None:
    """The child process whose command line holds these words."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_text("utf-8", errors="replace")
                above = int(
                    (folder / "stat")
                    .read_text("ascii", errors="replace")
                    .rpartition(")")[2]
                    .split()[1]
                )
            except OSError:
                continue
            if above == parent and words in command:
                return int(folder.name)
    return None


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return True
    return state.rpartition(")")[2].split()[0] == "Z"


def assert_whole(events: list[Any]) -> None:
    """The numbers of a finished job's events are dense, and it ends exactly once."""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events].count("done") == 1
    assert events[-1]["type"] == "done"


def read_stream(
    server: Server, path: str, last: int | None = None, most: int | None = None
) -> list[tuple[int, str, Any]]:
    """Events of a stream: (number, type, data); breaks off after `most` of them."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    found: list[tuple[int, str, Any]] = []
    with server.http.stream("GET", f"{path}/stream", headers=headers, timeout=PATIENCE) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
                continue
            if "data" in fields:
                found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
            fields = {}
            if len(found) == most:
                break
    return found


def npz(**arrays: Any) -> bytes:
    """A .npz file's bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def regression(rows: int = 400) -> dict[str, np.ndarray]:
    """A nonlinear regression of four inputs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)).astype("float32")
    y = np.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3]
    return {"x": x, "y": y.astype("float32")}


def layer(name: str, **config: Any) -> dict[str, Any]:
    """A layer as Keras serialises it."""
    return {"module": "keras.layers", "class_name": name, "config": config}


def network(*layers: dict[str, Any], inputs: int = 4) -> dict[str, Any]:
    """A sequential model as Keras serialises it."""
    first = layer("InputLayer", batch_shape=[None, inputs])
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "net", "layers": [first, *layers]},
    }


NET = network(layer("Dense", units=16, activation="tanh"), layer("Dense", units=1))
