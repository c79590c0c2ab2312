"""The contract over HTTP, against a real server: answers, jobs, uploads, errors."""

from __future__ import annotations

import concurrent.futures
import io
import re
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from recommender.executors import held
from recommender.instant import DataFacts, family_facts, instant
from recommender.knowledge import published
from tests.api.server import (
    DIGITS,
    ENDLESS,
    NET,
    Server,
    assert_whole,
    gone,
    layer,
    network,
    npz,
    read_stream,
    regression,
    serving,
    until,
)

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "rec_00000000000000000000000000"
SUMMARY = {
    "model": {"kind": "summary", "family": "mlp", "units": [16]},
    "data": {"kind": "summary", "shape": [6], "classes": 3, "samples": 2000},
    "training": {"epochs": 50, "batch_size": 32},
}


@pytest.fixture(scope="module")
def finished(server: Server) -> tuple[str, Any]:
    """A job on a sample, when it has ended."""
    path = server.ask({**DIGITS, "label": "fixture <b>", "metadata": {"who": "test"}})
    return path, server.ended(path)


# --- the instant answer ---


def test_it_is_ready_within_three_seconds(server: Server) -> None:
    # Twice that on a machine that runs other tests beside it.
    assert server.seconds_to_ready < 6
    assert server.get("/livez") == {"status": "alive"}
    ready = server.get("/readyz")
    assert ready["checks"]["ledger"] == "ok"
    assert ready["checks"]["workers"] == "1"


@pytest.mark.skipif(held.refusal() is not None, reason="this system cannot jail a process")
def test_probes_are_jailed_wherever_it_is_started(server: Server) -> None:
    until(lambda: server.get("/readyz")["checks"]["sandbox"] != "being tried", "the trial's end")
    assert server.get("/readyz")["checks"]["sandbox"] == "ok"


def test_the_instant_answer_is_the_recommender_s_own(server: Server) -> None:
    response = server.post("/v1/advice", json=SUMMARY)
    assert response.status_code == 200
    mine = instant(
        family_facts("mlp", [16], [6], 3, batch_norm=False),
        DataFacts(2000, (6,), "classification", classes=3),
        batch_size=32,
        epochs=50,
    )
    theirs = response.json()
    assert theirs | {"cost": 0} == mine | {"cost": 0}
    assert theirs["recommended"]["total_steps"] == 50 * 63


def test_the_instant_answer_knows_a_sample_s_length(server: Server) -> None:
    sample = next(one for one in published()["samples"] if one["name"] == "digits")
    answer = server.post("/v1/advice", json=DIGITS).json()
    steps = -(-sample["samples"] // sample["batch_size"]) * sample["epochs"]
    assert answer["recommended"]["total_steps"] == steps
    assert answer["evidence"]["description"]["parameters"] == 64 * 64 + 64 + 64 * 65 + 650


def test_the_web_process_imports_neither_keras_nor_a_framework(tmp_path: Path) -> None:
    program = f"""
import sys
from fastapi.testclient import TestClient
from api.app import create_app
from api.settings import Settings
with TestClient(create_app(Settings(data_dir={str(tmp_path)!r})), "http://127.0.0.1") as client:
    made = client.post("/v1/models", json={NET!r})
    assert made.status_code == 201, made.text
    asked = {{"model": {{"kind": "ref", "id": made.json()["id"]}},
             "data": {{"kind": "ref", "id": "sample:diabetes"}}}}
    assert client.post("/v1/advice", json=asked).status_code == 200
    assert client.post("/v1/recommendations", json=asked).status_code == 202
    for path in ("/", "/catalog", "/docs", "/v1/catalog/optimizers", "/openapi.json"):
        assert client.get(path).status_code == 200, path
heavy = {{"keras", "jax", "tensorflow", "torch", "sklearn", "plotly"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_catalogue_is_the_published_one(server: Server) -> None:
    listed = server.get("/v1/catalog/optimizers")["data"]
    assert listed == published()["optimizers"]
    assert server.get("/v1/catalog/schedules")["data"] == published()["schedules"]
    name = listed[0]["name"]
    assert server.get(f"/v1/catalog/optimizers/{name}") == listed[0]


# --- jobs ---


def test_a_job_on_a_sample_is_measured(finished: tuple[str, Any]) -> None:
    _, job = finished
    assert job["status"] == "succeeded"
    assert job["status_reason"] is None
    assert job["result"]["evidence"]["kind"] == "measured"
    assert 0 < job["result"]["cost"]["fraction_of_full"] <= 0.1
    assert set(job["result"]) == set(job["advice_before"])
    assert job["advice_before"]["evidence"]["kind"] == "prior"
    steps = job["advice_before"]["recommended"]["total_steps"]
    assert job["result"]["recommended"]["total_steps"] == steps
    assert job["progress"]["fraction"] == 1.0
    assert job["progress"]["trials_total"] == job["progress"]["trials_done"] == 4
    assert job["usage"]["cpu_seconds"] > 0
    assert job["request"]["metadata"] == {"who": "test"}
    assert "cancel" not in job["links"]


def test_the_trials_hold_what_the_evidence_holds(server: Server, finished: tuple[str, Any]) -> None:
    path, job = finished
    trials = server.get(f"{path}/trials", params={"curve": True})["data"]
    probes = job["result"]["evidence"]["probes"]
    assert [t["label"] for t in trials] == [p["candidate"] for p in probes]
    for trial, probe in zip(trials, probes, strict=True):
        assert trial["status"] in ("completed", "stopped_early")
        assert trial["stopped"] == probe["stopped"]
        judged = [[rung["step"], rung["val_loss"]] for rung in probe["rungs"]]
        assert trial["val_curve"] == [[s, pytest.approx(v, rel=1e-5)] for s, v in judged]
        steps = [step for step, _ in trial["loss_curve"]]
        assert steps == sorted(set(steps))
        # The run at constant rate ends where the last rung's cooldown began.
        if probe["rungs"]:
            length = probe["rungs"][-1]["step"]
            assert steps[-1] == trial["steps"] >= length - round(length / 4)
    assert all(t["loss_curve"] is None for t in server.get(f"{path}/trials")["data"])


def test_the_log_is_dense_and_tells_the_whole_story(
    server: Server, finished: tuple[str, Any]
) -> None:
    path, job = finished
    events = server.events(path)
    assert_whole(events)
    assert events[-1]["data"]["result"] == job["result"]
    kinds = {event["type"] for event in events}
    assert kinds >= {
        "status", "log", "trial.started", "trial.metric", "trial.judged", "trial.finished",
        "best", "progress", "done",
    }  # fmt: skip
    drawn: dict[str, list] = {}
    for event in events:
        if event["type"] == "trial.metric":
            drawn.setdefault(event["data"]["trial"], []).extend(event["data"]["points"])
    trials = server.get(f"{path}/trials", params={"curve": True})["data"]
    assert drawn == {t["id"]: t["loss_curve"] for t in trials if t["loss_curve"]}
    states = [e["data"]["status"] for e in events if e["type"] == "status"]
    assert states == ["queued", "running", "succeeded"]


def test_a_stream_resumes_behind_any_event_without_a_gap(
    server: Server, finished: tuple[str, Any]
) -> None:
    path, _ = finished
    log = [(e["seq"], e["type"], e["data"]) for e in server.events(path)]
    assert read_stream(server, path) == log
    for last in (0, 1, len(log) // 2, len(log) - 1):
        assert read_stream(server, path, last) == log[last:]
    ended = server.http.get(f"{path}/stream", headers={"Last-Event-ID": str(len(log))})
    assert ended.status_code == 204
    (reset,) = read_stream(server, path, len(log) + 7)
    assert reset[0] == len(log)
    assert reset[1] == "reset"
    assert reset[2]["job"]["status"] == "succeeded"


def test_a_stream_that_breaks_while_the_job_runs_is_put_together_again(server: Server) -> None:
    path = server.ask(DIGITS)
    pieces: list[tuple[int, str, Any]] = []
    while not pieces or pieces[-1][1] != "done":
        pieces += read_stream(server, path, pieces[-1][0] if pieces else None, most=4)
    assert pieces == [(e["seq"], e["type"], e["data"]) for e in server.events(path)]


def test_the_same_request_gives_the_same_answer(server: Server, finished: tuple[str, Any]) -> None:
    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if "seconds" not in k}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    again = server.ended(server.ask(DIGITS))
    assert timeless(again["result"]) == timeless(finished[1]["result"])


def test_descriptions_alone_are_probed_on_drawn_data(server: Server) -> None:
    job = server.ended(server.ask(SUMMARY))
    assert job["status"] == "succeeded", job["status_reason"]
    assert job["result"]["evidence"]["kind"] == "synthetic"


def test_an_uploaded_model_and_data_set_are_probed(server: Server, tmp_path: Path) -> None:
    import keras

    import keras_gradopt

    net = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(1)]
    )
    net.compile(loss="mae")
    net.save(tmp_path / "net.keras")
    file = (tmp_path / "net.keras").read_bytes()
    model = server.post("/v1/models", files={"file": ("net.keras", file)})
    assert model.status_code == 201, model.text
    assert model.json()["layers"] == {"Dense": 2}
    assert model.json()["loss"] == {"name": "mean_absolute_error", "from_logits": False}
    assert server.get(model.headers["location"]) == model.json()
    data = server.post("/v1/datasets", files={"file": ("d.npz", npz(**regression()))})
    assert data.status_code == 201, data.text
    assert data.json()["rows"] == 400
    assert server.get(data.headers["location"]) == data.json()
    asked = {
        "model": {"kind": "ref", "id": model.json()["id"]},
        "data": {"kind": "ref", "id": data.json()["id"]},
        "training": {"epochs": 250},
    }
    instant_answer = server.post("/v1/advice", json=asked).json()
    job = server.ended(server.ask(asked))
    assert job["status"] == "succeeded", job["status_reason"]
    result = job["result"]
    # A fifth of 400 rows is held out: 10 steps an epoch, by the instant answer too.
    assert result["recommended"]["total_steps"] == 2500
    assert instant_answer["recommended"]["total_steps"] == 2500
    assert result["evidence"]["description"]["parameters"] == 97
    names: dict[str, Any] = {}
    exec(result["recommended"]["code"], names)  # noqa: S102 - our own text is what is tested
    made = keras.optimizers.deserialize(result["recommended"]["optimizer"])
    assert isinstance(made, keras_gradopt.Optimizer)
    assert made.get_config() == names["optimizer"].get_config() | {"name": made.name}


def test_two_jobs_at_once_run_side_by_side(server: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first, second = pool.map(server.ask, [DIGITS, {**DIGITS, "seed": 1}])
    jobs = [server.ended(path) for path in (first, second)]
    assert [job["status"] for job in jobs] == ["succeeded", "succeeded"]
    assert max(j["started_at"] for j in jobs) < min(j["finished_at"] for j in jobs)
    for path in (first, second):
        assert_whole(server.events(path))


def test_a_running_job_is_cancelled_within_three_seconds(server: Server) -> None:
    path = server.ask(ENDLESS)
    server.probing(path)
    probe = server.pid("probe")
    began = time.monotonic()
    response = server.post(f"{path}/cancel")
    assert response.status_code == 202
    assert response.json()["status"] in ("cancelling", "cancelled")
    job = server.ended(path)
    assert time.monotonic() - began < 3
    until(lambda: gone(probe), "the probe ends")
    assert job["status"] == "cancelled"
    assert_whole(server.events(path))
    trials = server.get(f"{path}/trials", params={"curve": True})["data"]
    assert any(trial["loss_curve"] for trial in trials), "what was measured stays"
    assert not [t for t in trials if t["status"] in ("waiting", "running")]
    again = server.post(f"{path}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    assert again.json()["version"] == job["version"]


def test_a_job_that_waits_is_cancelled_at_once(server: Server) -> None:
    running = [server.ask(ENDLESS), server.ask(ENDLESS)]
    waiting = server.ask(DIGITS)
    response = server.post(f"{waiting}/cancel")
    assert response.json()["status"] == "cancelled"
    assert_whole(server.events(waiting))
    for path in running:
        server.post(f"{path}/cancel")
        assert server.ended(path)["status"] == "cancelled"


def test_polling_is_cheap(server: Server, finished: tuple[str, Any]) -> None:
    path, job = finished
    tag = server.http.get(path).headers["etag"]
    assert tag == f'"{job["version"]}"'
    unchanged = server.http.get(path, headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_the_list_is_cut_into_pages(server: Server) -> None:
    ids = []
    after: dict[str, str] = {}
    while True:
        page = server.get("/v1/recommendations", params={"limit": 2, **after})
        ids += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["next"]}
    assert ids == sorted(set(ids), reverse=True)
    assert len(ids) == len(server.get("/v1/recommendations", params={"limit": 100})["data"])


# --- jobs that cannot succeed end with a reason ---


def failed(server: Server, request: dict[str, Any]) -> dict[str, str]:
    path = server.ask(request)
    job = server.ended(path)
    assert job["status"] == "failed"
    assert job["result"] is None
    assert_whole(server.events(path))
    reason: dict[str, str] = job["status_reason"]
    return reason


def upload(server: Server, **arrays: Any) -> dict[str, Any]:
    response = server.post("/v1/datasets", files={"file": ("d.npz", npz(**arrays))})
    assert response.status_code == 201, response.text
    return {"kind": "ref", "id": response.json()["id"]}


def test_data_that_does_not_fit_the_model_ends_with_a_reason(server: Server) -> None:
    model = {"kind": "keras_config", "config": network(layer("Dense", units=1), inputs=5)}
    data = upload(server, **regression())
    reason = failed(
        server, {"model": model, "data": data, "training": {"loss": "mean_squared_error"}}
    )
    assert reason["code"] == "data_rejected"
    assert "(4,)" in reason["detail"]


def test_data_that_is_not_finite_ends_with_a_reason(server: Server) -> None:
    arrays = regression()
    arrays["x"][3, 1] = float("nan")
    model = {"kind": "keras_config", "config": NET}
    reason = failed(server, {"model": model, "data": upload(server, **arrays)})
    assert reason["code"] == "data_rejected"
    assert "[3, 1]" in reason["detail"]


def test_a_config_that_keras_cannot_build_ends_with_a_reason(server: Server) -> None:
    model = {
        "kind": "keras_config",
        "config": network(layer("Conv2D", filters=2, kernel_size=[3, 3])),
    }
    reason = failed(server, {"model": model, "data": upload(server, **regression())})
    assert reason["code"] == "model_rejected"


# --- errors ---

Call = tuple[str, str, dict[str, Any]]


def advise(**changes: Any) -> Call:
    return "POST", "/v1/advice", {"json": {**SUMMARY, **changes}}


def measure(**changes: Any) -> Call:
    return "POST", "/v1/recommendations", {"json": {**DIGITS, **changes}}


def raw(body: bytes, path: str = "/v1/advice", kind: str = "application/json") -> Call:
    return "POST", path, {"content": body, "headers": {"content-type": kind}}


def ref(name: str) -> dict[str, str]:
    return {"kind": "ref", "id": name}


def config(*layers: dict[str, Any]) -> Call:
    return "POST", "/v1/models", {"json": network(*layers)}


def file(path: str, content: bytes, name: str = "file") -> Call:
    return "POST", path, {"files": {name: ("upload", content)}}


def data_file(**arrays: Any) -> Call:
    return file("/v1/datasets", npz(**arrays))


def get(path: str, method: str = "GET") -> Call:
    return method, path, {}


JOB = f"/v1/recommendations/{NOWHERE}"
LAMBDA = layer("Lambda", function="f")
NAN = b'{"model":{"kind":"summary","family":"mlp","dropout":NaN},"data":{"shape":[2]}}'
HUGE = {"kind": "summary", "shape": [10**6, 10**6]}
INVALID = "validation_failed"
BAD: dict[str, tuple[Call, int, str, str]] = {
    "no json": (raw(b"{"), 400, "malformed_json", "JSON"),
    "deep json": (raw(b"[" * 100_000), 400, "malformed_json", ""),
    "large json": (raw(b" " * (2**20 + 1)), 413, "body_too_large", "larger"),
    "no content type": (("POST", "/v1/advice", {"content": b"{}"}), 422, INVALID, ""),
    "unknown field": (advise(url="http://169.254.169.254"), 422, INVALID, "/url"),
    "nan": (raw(NAN), 422, INVALID, "dropout"),
    "range": (advise(training={"epochs": 0}), 422, INVALID, "/training/epochs"),
    "logits": (advise(training={"from_logits": True}), 422, INVALID, "cross-entropy"),
    "batch": (advise(training={"batch_size": 2001}), 422, "impossible_budget", "2000"),
    "huge example": (advise(data=HUGE), 422, INVALID, "100000"),
    "no sample": (advise(data=ref("sample:x")), 404, "not_found", "sample:digits"),
    "no model": (advise(model=ref(f"mdl_{NOWHERE[4:]}")), 404, "not_found", "model"),
    "path as id": (advise(model=ref("../../etc")), 422, INVALID, "/model"),
    "tier": (measure(tier="fast"), 422, INVALID, "/tier"),
    "seconds": (measure(max_seconds=1), 422, INVALID, "/max_seconds"),
    "optimizer": (measure(include=["admw"]), 422, "unknown_optimizer", "Did you mean"),
    "wrapper": (measure(include=["lookahead"]), 422, "unknown_optimizer", "Leave it out"),
    "no job": (get(JOB), 404, "not_found", NOWHERE),
    "no job to follow": (get(f"{JOB}/stream"), 404, "not_found", NOWHERE),
    "no job to cancel": (get(f"{JOB}/cancel", "POST"), 404, "not_found", NOWHERE),
    "no id": (get("/v1/recommendations/nosuch"), 422, INVALID, ""),
    "no path": (get("/v1/nosuch"), 404, "not_found", "/docs"),
    "no method": (get("/v1/advice", "DELETE"), 405, "method_not_allowed", ""),
    "no optimizer": (get("/v1/catalog/optimizers/nosuch"), 404, "not_found", "nosuch"),
    "page size": (get("/v1/recommendations?limit=0"), 422, INVALID, "/limit"),
    "lambda": (config(LAMBDA), 422, "model_class_not_allowed", "Lambda"),
    "unknown class": (
        config({"module": "os", "class_name": "system", "config": {}}),
        422, "model_class_not_allowed", "system",
    ),
    "lambda in advice": (
        advise(model={"kind": "keras_config", "config": network(LAMBDA)}),
        422, "model_class_not_allowed", "Lambda",
    ),
    "text as model": (raw(b"x", "/v1/models", "text/plain"), 415, "unsupported_type", "text/plain"),
    "hdf5": (file("/v1/models", b"\x89HDF\r\n\x1a\n" + b"0" * 99), 415, "unsupported_type", ""),
    "no form": (
        raw(b"x", "/v1/datasets", "multipart/form-data"), 400, "malformed_multipart", "boundary",
    ),
    "no form of a model": (
        raw(b"x", "/v1/models", "multipart/form-data"), 400, "malformed_multipart", "boundary",
    ),
    "no file": (file("/v1/models", b"x", "other"), 422, INVALID, "file"),
    "pickle": (data_file(x=[{"a": 1}] * 9, y=[1] * 9), 422, "dataset_object_dtype", "numbers"),
    "no y": (data_file(x=[1.0] * 9), 422, "dataset_incomplete", "numpy.savez"),
    "rows": (data_file(x=[1.0] * 9, y=[1] * 10), 422, "dataset_shape_mismatch", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_problem_that_says_what_to_do(case: str, server: Server) -> None:
    (method, path, arguments), status, code, words = BAD[case]
    response = server.http.request(method, path, **arguments)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert words in problem["detail"] + str(problem.get("errors"))
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["instance"] == path.partition("?")[0]
    assert len(problem["detail"]) < 700
    assert "Traceback" not in response.text
    reference = server.http.get("/docs").text
    assert f'id="{code}"' in reference, "the type of a problem leads nowhere"


def test_the_request_s_id_is_kept(server: Server) -> None:
    mine = server.http.get("/livez", headers={"X-Request-Id": "my-request.1"})
    assert mine.headers["x-request-id"] == "my-request.1"
    bad = server.http.get("/livez", headers={"X-Request-Id": "a b"})
    assert re.fullmatch(r"[0-9a-f]{16}", bad.headers["x-request-id"])


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "host_not_allowed"),
        ({"Host": "127.0.0.1.evil.example:8000"}, "host_not_allowed"),
        ({"Origin": "https://evil.example"}, "cross_origin"),
        ({"Origin": "null"}, "cross_origin"),
        ({"Sec-Fetch-Site": "cross-site"}, "cross_origin"),
    ],
)
def test_another_site_s_page_is_kept_out(
    headers: dict[str, str], code: str, server: Server
) -> None:
    response = server.post("/v1/advice", json=SUMMARY, headers=headers)
    assert response.json()["code"] == code
    assert response.status_code in (400, 403)


def test_a_page_of_our_own_is_let_in(server: Server) -> None:
    own = f"{server.http.base_url.scheme}://{server.http.base_url.netloc.decode()}"
    headers = {"Origin": own, "Sec-Fetch-Site": "same-origin"}
    assert server.post("/v1/advice", json=SUMMARY, headers=headers).status_code == 200


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    with serving(tmp_path / "data", KGO_MAX_QUEUED="1") as small:
        running = small.ask(ENDLESS)
        until(lambda: small.get(running)["status"] == "running", "it runs")
        small.ask(DIGITS)
        refused = small.post("/v1/recommendations", json=DIGITS)
    assert refused.status_code == 429
    assert refused.json()["code"] == "queue_full"
    assert refused.headers["retry-after"] == "60"


def test_every_answer_is_described(server: Server) -> None:
    described = server.get("/openapi.json")
    routes = described["paths"]
    names = [op["operationId"] for path in routes.values() for op in path.values()]
    assert len(names) == len(set(names))
    for path, operations in routes.items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["tags"], (method, path)
    for name in ("AdviceRequest", "RecommendationRequest"):
        for example in described["components"]["schemas"][name]["examples"]:
            where = "/v1/advice" if name == "AdviceRequest" else "/v1/recommendations"
            response = server.post(where, json=example)
            assert response.status_code in (200, 202), (example, response.text)
            if response.status_code == 202:
                server.post(f"{response.headers['location']}/cancel")


def test_any_address_but_loopback_needs_a_key(tmp_path: Path) -> None:
    options = ["--host", "0.0.0.0", "--data-dir", str(tmp_path / "data")]  # noqa: S104 - is refused
    done = subprocess.run(
        [sys.executable, "-m", "recommender.cli", "serve", *options],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "gradopt keys create" in done.stderr
    assert "ssh -L" in done.stderr


def test_a_port_that_is_taken_is_said_at_once(server: Server, tmp_path: Path) -> None:
    port = str(server.http.base_url.port)
    options = ["--port", port, "--data-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "recommender.cli", "serve", *options],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr


def test_a_client_that_goes_away_leaves_no_trace(server: Server) -> None:
    path = server.ask(DIGITS)
    read_stream(server, path, most=1)
    address = (server.http.base_url.host, server.http.base_url.port)
    head = b"POST /v1/advice HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    for request in (head, head + b"Content-Length: 100\r\n\r\n{"):
        with socket.create_connection(address) as half:
            half.sendall(request)
    assert server.ended(path)["status"] == "succeeded"
    assert "Traceback" not in server.logged()


def test_the_commands_of_the_documentation_work(server: Server, tmp_path: Path) -> None:
    from tests.test_docs import blocks

    (tmp_path / "model.keras").write_bytes(_keras_file())
    (tmp_path / "data.npz").write_bytes(npz(**regression()))
    page = (ROOT / "docs" / "service.md").read_text("utf-8")
    script = "\n".join(line for b in blocks(page) if b.language == "sh" for line in b.lines)
    address = str(server.http.base_url).rstrip("/")
    assert script.count("curl ") >= 6
    script = script.replace("http://127.0.0.1:8000", address)
    done = subprocess.run(
        ["sh", "-e", "-c", script],  # noqa: S607 - as a reader types it
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "event: done" in done.stdout
    assert '"status":"succeeded"' in done.stdout
    assert done.stdout.count('"status":"ready"') == 2


def test_the_settings_of_the_documentation_are_the_settings() -> None:
    from api.settings import PREFIX, Settings

    page = (ROOT / "docs" / "service.md").read_text("utf-8")
    listed = set(re.findall(rf"^\| `({PREFIX}\w+)`", page, re.MULTILINE))
    assert listed == {PREFIX + n.upper() for n in Settings.model_fields} | {"KGO_LOG_LEVEL"}


def _keras_file() -> bytes:
    import json

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", json.dumps(NET))
        archive.writestr("metadata.json", "{}")
    return buffer.getvalue()
