"""What the service tells of itself: logs without secrets, figures on a port of their own."""

from __future__ import annotations

import json
import logging
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    NoOpTracer,
    Tracer,
    TracerProvider,
)
from prometheus_client.parser import text_string_to_metric_families

from api import gauges
from api.settings import Settings
from recommender.errors import RequestError
from tests.api.inside import inside
from tests.api.server import until
from tests.api.web import Web, web

pytestmark = pytest.mark.backend_free

ASKED = {
    "model": {"kind": "summary", "family": "mlp", "units": [16]},
    "data": {"kind": "summary", "shape": [6], "classes": 3, "samples": 2000},
}
PRIVATE = "kgo_s3cr3t"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(Settings(data_dir=tmp_path_factory.mktemp("observed"))) as running:
        yield running


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def figures(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples, by name and labels."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def port(running: Web) -> int:
    port = free_port()
    gauges.serve(running.store.settings, port, running.store)
    return port


# --- logs ---


def told(caplog: pytest.LogCaptureFixture, count: int) -> list[dict[str, Any]]:
    """So many lines about requests; each comes when its answer is out."""
    return until(
        lambda: (
            len(lines := [vars(r) for r in caplog.records if r.name == "api.request"]) == count
            and lines
        ),
        f"{count} lines",
    )


def test_a_request_is_one_line_without_what_it_carried(
    running: Web, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="api.request"):
        made = running.http.post(
            f"/v1/recommendations?token={PRIVATE}",
            json={**ASKED, "label": PRIVATE},
            headers={
                "Authorization": f"Bearer {PRIVATE}",
                "Cookie": f"session={PRIVATE}",
                "X-Request-Id": "my-request-7",
                "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            },
        )
        running.http.get(f"/v1/recommendations/{made.json()['id']}")
        posted, shown = told(caplog, 2)
    assert posted["request_id"] == made.headers["x-request-id"] == "my-request-7"
    assert (posted["method"], posted["route"], posted["status"]) == (
        "POST", "/v1/recommendations", 202,
    )  # fmt: skip
    assert posted["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert 0 < posted["seconds"] < 30
    assert shown["route"] == "/v1/recommendations/{recommendation_id}"
    assert shown["job_id"] == made.json()["id"]
    assert PRIVATE not in str(posted) + str(shown) + caplog.text


def test_what_a_refused_path_held_is_not_logged(
    running: Web, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="api.request"):
        assert running.http.get(f"/v1/recommendations/{PRIVATE}").status_code == 422
        assert running.http.get(f"/{PRIVATE}").status_code == 404
        assert running.http.get("/v1/version", headers={"traceparent": PRIVATE}).status_code == 200
        lines = told(caplog, 3)
    assert [line["status"] for line in lines] == [422, 404, 200]
    assert PRIVATE not in str(lines) + caplog.text


def test_lines_are_json_where_no_terminal_reads_them() -> None:
    program = """
import logging
from api import logs
logs.configure()
logging.getLogger("api.request").info("request", extra={"status": 200, "route": "/x"})
logging.getLogger("api.request").debug("too much")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("other").exception("it %s", "broke")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    request, broke = [json.loads(line) for line in done.stderr.splitlines()]
    assert (request["event"], request["status"], request["route"]) == ("request", 200, "/x")
    assert (request["level"], request["logger"]) == ("info", "api.request")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", request["timestamp"])
    assert broke["event"] == "it broke"
    assert broke["exception"][0]["exc_type"] == "ZeroDivisionError"


# --- figures ---


def test_answers_are_counted_by_route_and_status(running: Web, port: int) -> None:
    labels = (("method", "POST"), ("route", "/v1/advice"))
    counted = ("gradopt_http_requests_total", (*labels, ("status", "200")))
    refused = ("gradopt_http_requests_total", (*labels, ("status", "422")))
    timed = ("gradopt_http_request_seconds_count", labels)
    before = figures(port)
    for _ in range(3):
        assert running.http.post("/v1/advice", json=ASKED).status_code == 200
    assert running.http.post("/v1/advice", json={}).status_code == 422
    after = figures(port)
    assert after[counted] - before.get(counted, 0) == 3
    assert after[refused] - before.get(refused, 0) == 1
    assert after[timed] - before.get(timed, 0) == 4


def test_paths_that_nobody_serves_are_one_figure(running: Web, port: int) -> None:
    for number in range(3):
        running.http.get(f"/nothing/{number}")
    routes = [dict(labels).get("route") for _, labels in figures(port)]
    assert not [route for route in routes if route and "nothing" in route]


def test_the_queue_is_counted(running: Web, port: int) -> None:
    before = figures(port)[("gradopt_queue_depth", ())]
    made = [running.http.post("/v1/recommendations", json=ASKED).json()["id"] for _ in range(2)]
    running.http.post(f"/v1/recommendations/{made[0]}/cancel")
    after = figures(port)
    assert after[("gradopt_queue_depth", ())] - before == 1
    assert after[("gradopt_jobs", (("reason", "cancelled"), ("status", "cancelled")))] == 1
    assert 0 < after[("gradopt_queue_oldest_seconds", ())] < 600
    assert after[("gradopt_workers", ())] == 0


def test_open_streams_are_counted(running: Web, port: int) -> None:
    job = running.http.post("/v1/recommendations", json=ASKED).json()["id"]
    with running.http.stream("GET", f"/v1/recommendations/{job}/stream"):
        assert figures(port)[("gradopt_open_streams", ())] == 1


def test_the_figures_are_not_on_the_public_port(running: Web) -> None:
    assert running.http.get("/metrics").status_code == 404


def test_a_port_that_is_taken_is_told(running: Web, port: int) -> None:
    with pytest.raises(RequestError, match=f"port {port} on 127.0.0.1, for metrics"):
        gauges.serve(running.store.settings, port)


# --- spans ---


class Span(NonRecordingSpan):
    """Keeps what it is told."""

    def __init__(self, name: str, attributes: Any) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)
        self.name = name
        self.told = dict(attributes or {})

    def update_name(self, name: str) -> None:
        self.name = name

    def set_attribute(self, key: str, value: Any) -> None:
        self.told[key] = value

    def set_attributes(self, attributes: Any) -> None:
        self.told |= attributes


class Provider(TracerProvider):
    """Makes such spans for requests."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def get_tracer(self, *_: Any, **__: Any) -> Tracer:
        spans = self.spans

        class Traces(NoOpTracer):
            def start_span(self, name: str, *_: Any, **more: Any) -> Span:
                spans.append(Span(name, more.get("attributes")))
                return spans[-1]

        return Traces()


def test_spans_tell_no_more_than_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider()
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: provider)
    with inside(tmp_path) as service:
        for path in (f"/{PRIVATE}", f"/v1/version?token={PRIVATE}"):
            service.ask("GET", path, key=PRIVATE)
    lost, version = [span for span in provider.spans if "url.path" in span.told]
    assert (version.name, version.told["http.route"]) == ("GET /v1/version", "/v1/version")
    assert version.told["http.response.status_code"] == 200
    assert lost.told["http.response.status_code"] == 404
    assert lost.told["url.path"] == version.told["url.query"] == "REDACTED"
    assert PRIVATE not in str([vars(span) for span in provider.spans])
