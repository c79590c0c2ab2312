"""What is counted of the service for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

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
