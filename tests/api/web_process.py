"""The web process alone, without a worker, for tests that kill it or look at pages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from api.supervisor import listen

ROOT = Path(__file__).resolve().parents[2]
Starter = Callable[[], subprocess.Popen[bytes]]


@contextmanager
def web_process(folder: Path, **environment: str) -> Iterator[tuple[str, Starter]]:
    """The web process on a port that stays open while it is killed.

    Args:
        folder: Its data folder.
        environment: Settings, such as `KGO_KEYS="required"`.

    Yields:
        Its address, and what starts it, also again.
    """
    listening = listen("127.0.0.1", 0)
    number = listening.fileno()
    running: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "api", "web", str(number), "--data-dir", str(folder)]
        running.append(
            subprocess.Popen(
                command,
                pass_fds=(number,),
                stdin=subprocess.PIPE,
                cwd=ROOT,
                env={**os.environ, **environment},
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        )
        return running[-1]

    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", start
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
            process.wait(30)
            assert process.stdin is not None
            process.stdin.close()
        listening.close()
