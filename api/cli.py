"""`gradopt serve` and `gradopt worker`, which the command line finds by their entry points."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recommender.errors import RequestError

if TYPE_CHECKING:  # the settings need an extra that may not be installed
    from api.settings import Settings

DataDir = Annotated[Path | None, typer.Option(help="Folder of the database and of uploads.")]


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs keys.")
    ] = "127.0.0.1",
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
    guarded = _guarded(settings, host)
    if guarded.keys != settings.keys:
        # Whoever sets KGO_KEYS=required knows that keys are to be made, before or after.
        _must_have_a_key(settings, host)
    run(guarded, host, port, workers)


def worker(data_dir: DataDir = None) -> None:
    """Work on the jobs of a data folder, beside `gradopt serve` or alone, until SIGTERM."""
    with _extra():
        from api import gauges, logs
        from api.worker import Worker
    logs.configure()
    settings = _settings(data_dir)
    gauges.serve(settings, settings.worker_metrics_port)
    one = Worker(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: one.stop())
    one.run()


def web(descriptor: int, data_dir: DataDir = None) -> None:
    """Serve HTTP on an open socket; `gradopt serve` starts this."""
    import socket

    import uvicorn

    from api import gauges, logs
    from api.app import create_app
    from api.graceful import Graceful
    from api.patience import protocol

    logs.configure()
    listening = socket.socket(fileno=descriptor)
    settings = _guarded(_settings(data_dir), str(listening.getsockname()[0]))
    app = create_app(settings)
    gauges.serve(settings, settings.metrics_port, app.state.store)
    config = uvicorn.Config(
        app,
        http=protocol(settings),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    Graceful(config).run(sockets=[listening])


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


def _settings(data_dir: Path | None) -> Settings:
    from pydantic import ValidationError

    from api.settings import PREFIX, Settings

    named: dict[str, Any] = {} if data_dir is None else {"data_dir": data_dir.resolve()}
    try:
        return Settings(**named)
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise RequestError(f"{name}: {first['msg']}, received {first['input']!r}.") from error


def _guarded(settings: Settings, host: str) -> Settings:
    """The settings for an address: any but loopback needs keys."""
    if _is_loopback(host):
        return settings
    shown = f"[{host}]" if ":" in host else host
    return settings.model_copy(
        update={"keys": "required", "allowed_hosts": f"{settings.allowed_hosts},{shown}"}
    )


def _must_have_a_key(settings: Settings, host: str) -> None:
    from api.keys import keys_of

    with keys_of(settings) as keys:
        usable = keys.usable()
    if not usable:
        raise RequestError(
            f"--host {host}: this asks every caller for a key, and there is none yet. Make one "
            f"first: gradopt keys create --name NAME --data-dir {settings.data_dir}. Without keys "
            "the service listens on loopback only; for another machine, an ssh tunnel will do: "
            "ssh -L 8000:127.0.0.1:8000 THIS-MACHINE.",
            code="keys_needed",
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
