"""`gradopt serve` and `gradopt worker`, which the command line finds by their entry points."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from recommender.errors import RequestError

DataDir = Annotated[Path | None, typer.Option(help="Folder of the database and of uploads.")]


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; loopback only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    data_dir: DataDir = None,
    workers: Annotated[
        int,
        typer.Option(min=0, max=64, help="Worker processes; 0 where `gradopt worker` runs beside."),
    ] = 1,
) -> None:
    """Give advice over HTTP, with a page: the API and its workers, until Ctrl-C."""
    with _extra():
        from api.supervisor import serve as run
    settings = _settings(data_dir)
    if not _is_loopback(host):
        raise RequestError(
            f"--host {host}: without keys the service is open to everybody who can reach it, so "
            "it listens on loopback only (127.0.0.1, localhost, ::1). For another machine, take "
            "an ssh tunnel: ssh -L 8000:127.0.0.1:8000 THIS-MACHINE.",
            code="host_not_allowed",
        )
    run(settings, host, port, workers)


def worker(data_dir: DataDir = None) -> None:
    """Work on the jobs of a data folder, beside `gradopt serve` or alone, until SIGTERM."""
    with _extra():
        from api.worker import Worker
    _log()
    settings = _settings(data_dir)
    one = Worker(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: one.stop())
    one.run()


def web(descriptor: int, data_dir: DataDir = None) -> None:
    """Serve HTTP on an open socket; `gradopt serve` starts this."""
    import socket

    import uvicorn

    from api.app import create_app

    _log()
    listening = socket.socket(fileno=descriptor)
    config = uvicorn.Config(
        create_app(_settings(data_dir)),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
        h11_max_incomplete_event_size=16 * 1024,
    )
    uvicorn.Server(config).run(sockets=[listening])


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise RequestError(
            f"the service needs {error.name}, which is not installed: "
            "pip install 'keras-gradopt[api]'.",
            code="extra_missing",
        ) from error


def _settings(data_dir: Path | None) -> Any:
    from pydantic import ValidationError

    from api.settings import PREFIX, Settings

    named: dict[str, Any] = {} if data_dir is None else {"data_dir": data_dir.resolve()}
    try:
        return Settings(**named)
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise RequestError(f"{name}: {first['msg']}, received {first['input']!r}.") from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _log() -> None:
    level = os.environ.get("KGO_LOG_LEVEL", "INFO").upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
