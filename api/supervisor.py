"""`gradopt serve`: opens the port, starts the web process and workers, and keeps them alive.

The port stays open here while the web process starts again, so nobody is refused meanwhile.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from api.settings import Settings
from api.store import Store
from recommender.errors import RequestError

logger = logging.getLogger(__name__)

BACKLOG = 128
# Seconds that a process gets to end by itself.
PATIENCE = 20.0
# A process that ends sooner than this after its start is started again ever more slowly.
STEADY_SECONDS = 10.0
LONGEST_PAUSE = 10.0


@dataclass
class Kept:
    """A process that is started again whenever it ends.

    Attributes:
        name: What it is called.
        command: How it is started.
        environment: Its environment.
        pass_fds: Open files that it gets.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    quick_ends: int = field(default=0)
    not_before: float = 0.0

    def look(self) -> None:
        """Start it if it is not there, and not too soon after it has ended."""
        now = time.monotonic()
        if self.process is not None:
            if self.process.poll() is None:
                return
            logger.warning("%s ended with %s", self.name, self.process.returncode)
            steady = now - self.started > STEADY_SECONDS
            self.quick_ends = 0 if steady else self.quick_ends + 1
            pause = 0.0 if self.quick_ends < 2 else 0.5 * 2.0 ** (self.quick_ends - 2)
            self.not_before = now + min(LONGEST_PAUSE, pause)
            self.process = None
        if now >= self.not_before:
            self.started = now
            self.process = subprocess.Popen(  # noqa: S603 - our own module in our own interpreter
                self.command,
                env=self.environment,
                pass_fds=self.pass_fds,
                stdin=subprocess.PIPE,  # ends with this process, and with it the child
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends all in order
            )
            logger.info("%s started as process %d", self.name, self.process.pid)

    def end(self, until: float) -> None:
        """Wait for it to end after SIGTERM, and end it by force where it does not."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("%s did not end in time", self.name)
            self.process.kill()
            self.process.wait()


def serve(settings: Settings, host: str, port: int, workers: int = 1) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: The service's.
        host: Loopback address.
        port: 0 takes a free one.
        workers: Worker processes; 0 where others work on the folder.

    Raises:
        RequestError: The port is taken, or the folder cannot be written.
    """
    listening = listen(host, port)
    _prepare(settings)
    environment = {**os.environ, **settings.to_environment()}
    # -P: what lies where somebody happens to start this is nothing to run, nor for probes to read.
    module = [sys.executable, "-P", "-m", "api"]
    kept = (
        Kept("web", [*module, "web", str(listening.fileno())], environment, (listening.fileno(),)),
        *(Kept("worker", [*module, "worker"], environment) for _ in range(workers)),
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    shown = f"[{host}]" if ":" in host else host
    console = Console(stderr=True)
    console.print(
        f"gradopt serves at http://{shown}:{listening.getsockname()[1]}/ (data in "
        f"{settings.data_dir}); Ctrl-C stops it.",
        highlight=False,
        soft_wrap=True,
    )
    while not stop.is_set():
        for one in kept:
            one.look()
        stop.wait(0.2)
    console.print("gradopt: stopping; unfinished jobs go on at the next start.", highlight=False)
    for one in kept:
        if one.process is not None and one.process.poll() is None:
            one.process.terminate()
    until = time.monotonic() + PATIENCE
    for one in kept:
        one.end(until)


def listen(host: str, port: int) -> socket.socket:
    """An open socket on which nobody is served yet.

    Raises:
        RequestError: The port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise RequestError(
            f"port {port} on {host} cannot be opened: {error.strerror}. Take another one: "
            "gradopt serve --port 8001, or --port 0 for any free one.",
            code="port_unavailable",
        ) from error
    opened.listen(BACKLOG)
    opened.set_inheritable(True)
    return opened


def _prepare(settings: Settings) -> None:
    """Make the folder and the tables before two processes want to."""
    try:
        store = Store(settings)
        store.migrate()
        store.close()
    except OSError as error:
        raise RequestError(
            f"the data folder {settings.data_dir} cannot be written: {error.strerror}. Name "
            "another: gradopt serve --data-dir DIR.",
            code="data_dir",
        ) from error
