"""The processes that `gradopt serve` starts: `python -m api web FD` and `python -m api worker`."""

from __future__ import annotations

import os
import signal
import threading

import typer

from api.cli import web, worker


def end_with_supervisor() -> None:
    """Stop in order when standard input ends: the supervisor has been killed."""

    def watch() -> None:
        # Not through sys.stdin: a thread that holds its lock makes Python abort at its end.
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_supervisor()
    app = typer.Typer(add_completion=False)
    app.command()(web)
    app.command()(worker)
    app()
