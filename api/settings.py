"""Settings of the service, from the environment: `KGO_DATA_DIR`, `KGO_MAX_QUEUED` and so on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, cast, get_args

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "KGO_"
Backend = Literal["jax", "tensorflow", "torch"]


def default_backend() -> Backend:
    """The backend that Keras is told to take in this environment, else the fastest for probes."""
    named = os.environ.get("KERAS_BACKEND", "")
    return cast("Backend", named) if named in get_args(Backend) else "jax"


class Settings(BaseSettings):
    """Every limit of the service; each may be set as `KGO_<NAME>`.

    Attributes:
        data_dir: Folder of the database and of uploads; made if missing, on a local disk.
        backend: Keras backend of probes where a request names none.
        slots: Probes at a time.
        probe_memory_mb: Resident memory of one probe, in MiB.
        probe_grace_seconds: Seconds beyond `max_seconds`, for importing and compiling.
        sandbox: "auto" takes nobody's model or data where probes cannot be jailed; "off" takes it
            and jails nothing.
        lease_seconds: A worker that is silent for so long is taken for dead.
        poll_seconds: Between two looks at the database, by workers and by streams.
        attempts: How often a job is begun before it is given up.
        max_queued: Jobs that may wait.
        max_json_bytes: Largest JSON body.
        max_upload_bytes: Largest upload.
        max_head_bytes: Largest head of a request: its first line and its headers.
        head_seconds: Within which the head of a request must be whole.
        body_seconds: In each stretch of so long, a body must go on.
        body_bytes_per_second: What it must bring meanwhile, unless it ends.
        ping_seconds: Between two signs of life on a silent stream.
        keys: "required" asks every caller for a key; "auto" does so unless the service listens
            on loopback only.
        allowed_hosts: Names that the service answers to beside those of loopback, with commas.
        secret_file: What keys and cookies are signed with; left out, `<data_dir>/secret`.
        requests_per_second: Advice and reading, per key.
        requests_burst: As many of them may come at once.
        writes_per_minute: Uploads, jobs, cancelling and deleting, per key; as many at once.
        guesses_per_minute: Wrong keys, per address.
        live_jobs_per_key: Jobs that wait or run.
        streams_per_key: Streams open at a time.
        stored_bytes_per_tenant: Uploads that are kept.
        keep_days: What is older is deleted, unless it is in use; 0 keeps everything.
        metrics_port: Where the web process gives figures to Prometheus; 0 is nowhere.
        worker_metrics_port: The same of the worker.
        metrics_host: Address of both.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    data_dir: Path = Field(default_factory=lambda: Path.home() / ".gradopt")
    backend: Backend = Field(default_factory=default_backend)
    slots: int = Field(default=1, ge=1, le=64)
    probe_memory_mb: int = Field(default=4096, ge=256)
    probe_grace_seconds: float = Field(default=60.0, ge=0)
    sandbox: Literal["auto", "off"] = "auto"
    lease_seconds: float = Field(default=15.0, gt=0)
    poll_seconds: float = Field(default=0.25, gt=0, le=5)
    attempts: int = Field(default=3, ge=1)
    max_queued: int = Field(default=100, ge=1)
    max_json_bytes: int = Field(default=2**20, ge=1024)
    max_upload_bytes: int = Field(default=256 * 2**20, ge=1024)
    max_head_bytes: int = Field(default=16 * 1024, ge=1024)
    head_seconds: float = Field(default=30.0, gt=0)
    body_seconds: float = Field(default=30.0, gt=0)
    body_bytes_per_second: float = Field(default=16 * 1024, ge=0)
    ping_seconds: float = Field(default=15.0, gt=0)
    keys: Literal["auto", "required"] = "auto"
    allowed_hosts: str = ""
    secret_file: Path | None = None
    requests_per_second: float = Field(default=60.0, gt=0)
    requests_burst: int = Field(default=120, ge=1)
    writes_per_minute: int = Field(default=10, ge=1)
    guesses_per_minute: int = Field(default=20, ge=1)
    live_jobs_per_key: int = Field(default=2, ge=1)
    streams_per_key: int = Field(default=20, ge=1)
    stored_bytes_per_tenant: int = Field(default=2**30, ge=1024)
    keep_days: float = Field(default=7.0, ge=0)
    metrics_port: int = Field(default=0, ge=0, le=65535)
    worker_metrics_port: int = Field(default=0, ge=0, le=65535)
    metrics_host: str = "127.0.0.1"

    @property
    def database_url(self) -> str:
        """Where the ledger is."""
        return f"sqlite:///{self.data_dir / 'ledger.sqlite3'}"

    @property
    def blobs(self) -> Path:
        """Where uploaded data sets are kept, by their SHA-256."""
        return self.data_dir / "blobs"

    @property
    def scratch(self) -> Path:
        """Where probes and uploads have their temporary files."""
        return self.data_dir / "scratch"

    def to_environment(self) -> dict[str, str]:
        """The environment variables that give another process the same settings."""
        named = {k: v for k, v in self.model_dump().items() if v is not None}
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in named.items()}
