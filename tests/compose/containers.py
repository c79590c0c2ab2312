"""The service's containers as docker-compose starts them, and what is found out about them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.compose.engine import BASE_IMAGE, Engine, run

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "gradopt-test"


class Containers:
    """The containers, and how many checks have held.

    Args:
        engine: Where they run.
        address: What DOCKER_HOST has to be.
        compose: The program docker-compose.

    Attributes:
        secret: Where a file of one's own lies for `docker-compose.secret.yml`.
    """

    def __init__(self, engine: Engine, address: str, compose: Path) -> None:
        self.passed = self.failed = 0
        self.engine = engine
        self.headers = {"Content-Type": "application/json"}
        self._compose = [str(compose), "--project-name", PROJECT]
        self._port = free_port()
        self.secret = engine.folder / "secret"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("KGO_")}
        self._environment = {
            **inherited,
            "DOCKER_HOST": address,
            "BASE_IMAGE": BASE_IMAGE,
            "API_PORT": str(self._port),
            "SECRET_FILE": str(self.secret),
            "WORKER_CPUS": str(min(2, os.cpu_count() or 1)),
        }

    def check(self, what: str, held: object, found: object = "") -> None:
        """Count and say whether something holds, and what was found."""
        self.passed += bool(held)
        self.failed += not held
        said = "ok    " if held else "FAILED"
        print(f"  {said} {what}{f': {found}' if found != '' else ''}", flush=True)

    def compose(
        self, *arguments: str, files: tuple[str, ...] = ("docker-compose.yml",)
    ) -> subprocess.CompletedProcess[str]:
        """What `docker-compose` says, and how it ends."""
        named = [word for name in files for word in ("-f", str(ROOT / name))]
        return run(*self._compose, *named, *arguments, environment=self._environment)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, self.headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def events(self, path: str) -> list[Any]:
        """The log of a job."""
        return list(self.ask("GET", f"{path}/events?limit=1000")[1]["data"])

    def pid(self, service: str) -> int:
        """The first process of a service's container, as this machine numbers it; 0 if none."""
        found = self._inspect(service, "{{.State.Pid}}")
        return int(found) if found.isdecimal() else 0

    def healthy(self, service: str) -> bool:
        """Whether the engine takes a service's container for healthy."""
        return self._inspect(service, "{{.State.Health.Status}}") == "healthy"

    def inside(self, service: str, program: str) -> str:
        """What a line of Python prints in a service's container."""
        done = self.compose("exec", "-T", service, "python", "-c", program)
        return (done.stdout + done.stderr).strip()

    def end(self) -> None:
        """Remove the containers, whatever has happened; show their logs if checks failed."""
        if self.failed:
            print(self.compose("logs", "--tail", "60").stdout[-6000:])
        self.compose("down", "-v", "-t", "5")

    def _inspect(self, service: str, form: str) -> str:
        name = self.compose("ps", "-q", service).stdout.strip()
        return self.engine.podman("inspect", "--format", form, name).stdout.strip()


def until(look: Callable[[], object], seconds: float) -> bool:
    """Look until something is so; whether it was in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if look():
                return True
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            pass  # what answers is on its way up
        time.sleep(0.5)
    return False


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])
