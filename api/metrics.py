"""Figures of the service for Prometheus, served on a port of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from api.settings import Settings
from api.store import Store, jobs, workers
from recommender.errors import RequestError

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
PROBE_SECONDS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

REQUEST_SECONDS = Histogram(
    "gradopt_http_request_seconds", "Time to answer, streams left out.", ["method", "route"],
    buckets=SECONDS, registry=REGISTRY,
)  # fmt: skip
REQUESTS = Counter(
    "gradopt_http_requests", "Answers.", ["method", "route", "status"], registry=REGISTRY
)
STREAMS = Gauge("gradopt_open_streams", "Streams that are followed now.", registry=REGISTRY)
DATABASE_ERRORS = Counter(
    "gradopt_database_errors", "Requests that the ledger could not serve.", registry=REGISTRY
)
PROBES = Counter(
    "gradopt_probes", "Probe processes, by how they ended.", ["outcome"], registry=REGISTRY
)
PROBES_SECONDS = Histogram(
    "gradopt_probe_seconds", "Time of a probe process on one job.", buckets=PROBE_SECONDS,
    registry=REGISTRY,
)  # fmt: skip


def request_answered(method: str, route: str, status: int, seconds: float, *, timed: bool) -> None:
    """Count an answer.

    Args:
        method: Of HTTP.
        route: The path's template.
        status: Of HTTP; 0 where the caller went away before.
        seconds: It took.
        timed: Whether the time says how fast the service is.
    """
    REQUESTS.labels(method, route, str(status)).inc()
    if timed:
        REQUEST_SECONDS.labels(method, route).observe(seconds)


def probe_ended(outcome: str, seconds: float) -> None:
    """Count a probe process.

    Args:
        outcome: The code of its end, such as "out_of_memory", or the job's status.
        seconds: It took.
    """
    PROBES.labels(outcome).inc()
    PROBES_SECONDS.observe(seconds)


def serve(settings: Settings, port: int, store: Store | None = None) -> None:
    """Serve the figures, in a thread.

    Args:
        settings: The service's.
        port: To listen on; 0 serves nothing.
        store: The ledger, where its figures are wanted too.

    Raises:
        RequestError: The port is taken.
    """
    if port == 0:
        return
    if store is not None:
        REGISTRY.register(Ledger(store))
    try:
        start_http_server(port, settings.metrics_host, REGISTRY)
    except OSError as error:
        raise RequestError(
            f"port {port} on {settings.metrics_host}, for metrics, cannot be opened: "
            f"{error.strerror}. Name another one, or 0 for none.",
            code="port_unavailable",
        ) from error


class Ledger(Collector):
    """What the ledger holds, read when it is asked for.

    Args:
        store: Where it is kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures; none where the ledger cannot be read."""
        retried = sa.func.sum(sa.func.max(jobs.c.attempt - 1, 0))
        by_end = sa.select(
            jobs.c.status, jobs.c.reason_code, sa.func.count(), sa.func.coalesce(retried, 0)
        ).group_by(jobs.c.status, jobs.c.reason_code)
        oldest = sa.select(sa.func.min(jobs.c.created_at)).where(jobs.c.status == "queued")
        since = time.time() - self._store.settings.lease_seconds
        alive = sa.select(sa.func.count()).select_from(workers).where(workers.c.seen_at > since)
        try:
            with self._store.read() as connection:
                rows = connection.execute(by_end).all()
                first = connection.scalar(oldest)
                working = connection.scalar(alive)
        except SQLAlchemyError:
            DATABASE_ERRORS.inc()
            return
        held = GaugeMetricFamily("gradopt_jobs", "Jobs.", labels=["status", "reason"])
        for status, reason, count, _ in rows:
            held.add_metric([status, reason or ""], count)
        yield held
        waiting = sum(count for status, _, count, _ in rows if status == "queued")
        age = 0.0 if first is None else max(0.0, time.time() - first)
        yield GaugeMetricFamily("gradopt_queue_depth", "Jobs that wait.", value=waiting)
        yield GaugeMetricFamily("gradopt_queue_oldest_seconds", "Longest wait.", value=age)
        yield GaugeMetricFamily(
            "gradopt_job_retries", "Attempts that followed a lost one, of the jobs that are kept.",
            value=sum(again for *_, again in rows),
        )  # fmt: skip
        yield GaugeMetricFamily("gradopt_workers", "Workers that are alive.", value=working or 0)
