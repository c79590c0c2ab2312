"""Figures of the ledger for Prometheus, and the port on which all figures are served."""

from __future__ import annotations

import time
from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client import start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from api.metrics import DATABASE_ERRORS, REGISTRY
from api.settings import Settings
from api.store import Store, jobs, workers
from recommender.errors import RequestError


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
