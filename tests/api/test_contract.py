"""What the contract says beside advice and jobs: catalogue, previews, code, trials, methods."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.leases import Claim, Leases, Notes
from api.settings import Settings
from recommender.knowledge import published
from tests.api.web import Web, web

pytestmark = pytest.mark.backend_free

NOWHERE = "rec_00000000000000000000000000"
ASKED = {
    "model": {"kind": "summary", "family": "mlp", "units": [16]},
    "data": {"kind": "summary", "shape": [6], "classes": 3, "samples": 2000},
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(Settings(data_dir=tmp_path_factory.mktemp("contract"))) as running:
        yield running


@pytest.fixture
def client(running: Web) -> httpx.Client:
    return running.http


@pytest.fixture
def jobs(running: Web) -> Leases:
    return Leases(running.store)


@pytest.fixture
def job(client: httpx.Client) -> str:
    """A job that waits."""
    return client.post("/v1/recommendations", json=ASKED).json()["id"]


def taken(jobs: Leases, job: str) -> Claim:
    """The job as a worker holds it."""
    while (claim := jobs.claim("someone")) is not None:
        if claim.id == job:
            return claim
    raise AssertionError(f"{job} does not wait")


def assert_problem(response: Any, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code


# --- the catalogue ---


@pytest.mark.parametrize("path", ["optimizers", "optimizers/adam", "schedules", "schedules/cyclic"])
def test_the_catalogue_is_sent_once(client: httpx.Client, path: str) -> None:
    first = client.get(f"/v1/catalog/{path}")
    assert first.status_code == 200
    assert first.headers["cache-control"] == "public, max-age=3600"
    tag = first.headers["etag"]
    for asked in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = client.get(f"/v1/catalog/{path}", headers={"If-None-Match": asked})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = client.get(f"/v1/catalog/{path}", headers={"If-None-Match": '"other"'})
    assert other.json() == first.json()


def test_the_version_is_the_package_s(client: httpx.Client) -> None:
    assert client.get("/v1/version").json() == {
        "service": published()["versions"]["keras_gradopt"],
        "api": "v1",
        "versions": published()["versions"],
    }


# --- previews ---


def test_a_preview_is_what_the_formula_says(client: httpx.Client) -> None:
    asked = {"peak": 0.1, "warmup_steps": 10, "stable_steps": 70, "decay_steps": 20}
    answer = client.get(
        "/v1/catalog/schedules/warmup_stable_decay/preview",
        params={**asked, "steps": 101, "points": 11},
    ).json()
    expected = [0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0]
    assert answer["points"] == [[10 * n, pytest.approx(v)] for n, v in enumerate(expected)]
    assert answer["arguments"] == {**asked, "final": 0.0}


def test_lists_are_given_by_repeating_them(client: httpx.Client) -> None:
    asked = {"boundaries": [2, 4], "values": [1.0, 0.5, 0.25], "steps": 6}
    answer = client.get("/v1/catalog/schedules/piecewise_constant/preview", params=asked).json()
    assert [value for _, value in answer["points"]] == [1, 1, 1, 0.5, 0.5, 0.25]


def test_a_preview_has_at_most_512_points(client: httpx.Client) -> None:
    path = "/v1/catalog/schedules/constant/preview"
    many = client.get(path, params={"value": 1, "steps": 10**9, "points": 512}).json()
    assert len(many["points"]) == 512
    assert many["points"][-1] == [10**9 - 1, 1.0]
    assert_problem(client.get(path, params={"value": 1, "points": 513}), 422, "validation_failed")


def test_a_value_too_large_for_a_number_is_null(client: httpx.Client) -> None:
    asked = {"initial_learning_rate": 1, "decay_steps": 1, "decay_rate": 10, "steps": 400}
    answer = client.get("/v1/catalog/schedules/exponential_decay/preview", params=asked).json()
    assert answer["points"][-1] == [399, None]


@pytest.mark.parametrize(
    ("name", "asked", "pointer"),
    [
        ("linear_to_zero", {"initial": 1}, "/total_steps"),
        ("linear_to_zero", {"initial": -1, "total_steps": 5}, "/initial"),
        ("linear_to_zero", {"initial": 1, "total_steps": 5, "peak": 1}, "/peak"),
        ("linear_to_zero", {"initial": 1, "total_steps": 5, "colour": 1}, "/colour"),
        ("cosine_decay", {"initial_learning_rate": 1, "decay_steps": 5, "alpha": 2}, "/alpha"),
        ("constant", {"value": "nan"}, "/value"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(
    client: httpx.Client, name: str, asked: dict[str, Any], pointer: str
) -> None:
    response = client.get(f"/v1/catalog/schedules/{name}/preview", params=asked)
    assert_problem(response, 422, "validation_failed")
    assert [place["pointer"] for place in response.json()["errors"]] == [pointer]


def test_arguments_that_do_not_fit_together_are_told(client: httpx.Client) -> None:
    path = "/v1/catalog/schedules/{}/preview"
    none = client.get(path.format("linear_to_zero"), params={"initial": 1, "total_steps": 0})
    assert_problem(none, 422, "validation_failed")
    assert "every length 1 or more" in none.json()["detail"]
    assert_problem(client.get(path.format("spiral")), 404, "not_found")


def test_every_schedule_can_be_previewed(client: httpx.Client) -> None:
    example = {
        "value": 1.0, "schedule": 1.0, "schedules": [1.0, 0.5], "values": [1.0, 0.5],
        "boundaries": [10], "base": 0.0, "peak": 1.0, "initial": 1.0, "initial_learning_rate": 1.0,
        "decay_rate": 0.5, "decay_steps": 10, "first_decay_steps": 10, "total_steps": 20,
        "warmup_steps": 5, "stable_steps": 5,
    }  # fmt: skip
    for entry in published()["schedules"]:
        needed = [a["name"] for a in entry["hyperparameters"] if a["default"] is None]
        path = f"/v1/catalog/schedules/{entry['name']}/preview"
        response = client.get(path, params={name: example[name] for name in needed})
        assert response.status_code == 200, response.text
        assert response.json()["class_name"] == entry["class_name"]
        assert len(response.json()["points"]) == 200


# --- a job's code and trials ---


def test_a_job_without_a_result_has_no_code(client: httpx.Client, job: str) -> None:
    waits = client.get(f"/v1/recommendations/{job}/snippet")
    assert_problem(waits, 409, "no_result")
    assert "It is queued" in waits.json()["detail"]
    client.post(f"/v1/recommendations/{job}/cancel")
    ended = client.get(f"/v1/recommendations/{job}/snippet")
    assert_problem(ended, 409, "no_result")
    assert "It ended as cancelled" in ended.json()["detail"]
    assert_problem(client.get(f"/v1/recommendations/{NOWHERE}/snippet"), 404, "not_found")


def test_the_code_of_a_job_is_python_for_the_backend_that_is_asked(
    client: httpx.Client, jobs: Leases, job: str
) -> None:
    claim = taken(jobs, job)
    advice = client.post("/v1/advice", json=ASKED).json()
    advice["recommended"]["fit"] = {"batch_size": 2000, "epochs": 50}
    jobs.finish(claim, "succeeded", result=advice)
    path = f"/v1/recommendations/{job}/snippet"
    plain = client.get(path)
    assert plain.headers["content-type"] == "text/x-python; charset=utf-8"
    assert f'"KERAS_BACKEND"] = "{claim.backend}"' in plain.text
    for backend in ("jax", "torch", "tensorflow"):
        text = client.get(path, params={"backend": backend}).text
        assigned = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        assert backend in [node.value for node in assigned]
        assert advice["recommended"]["code"] in text
        assert text.endswith("# model.fit(..., batch_size=2000)\n# model.fit(..., epochs=50)\n")
        order = [text.index(words) for words in ("environ[", "import keras")]
        assert order == sorted(order), "Keras reads the backend when it is imported"
    assert_problem(client.get(path, params={"backend": "mxnet"}), 422, "validation_failed")


def test_a_trial_is_found_by_its_id_with_as_many_points_as_asked(
    client: httpx.Client, jobs: Leases, job: str
) -> None:
    claim = taken(jobs, job)
    name = f"trl_{job.removeprefix('rec_')}_0"
    trial = {
        "id": name, "index": 0, "label": "Adam", "optimizer": {}, "status": "running",
        "attempts": 1, "steps": 512, "seconds": 0.5, "final_loss": 0.1, "val_metric": None,
        "stopped": None,
        "loss_curve": [[step, 1 / step] for step in range(1, 513)], "val_curve": [],
    }  # fmt: skip
    jobs.note(claim, Notes(trials={0: trial}))
    path = f"/v1/recommendations/{job}/trials"
    assert client.get(f"{path}/{name}").json() == {**trial, "loss_curve": None, "val_curve": None}
    whole = client.get(f"{path}/{name}", params={"curve": 1}).json()["loss_curve"]
    assert len(whole) <= 500
    few = client.get(f"{path}/{name}", params={"curve": 1, "max_points": 50}).json()["loss_curve"]
    assert 25 <= len(few) <= 50
    assert few[-1] == trial["loss_curve"][-1]
    assert all(point in trial["loss_curve"] for point in few)
    listed = client.get(path, params={"curve": 1, "max_points": 50}).json()["data"]
    assert [one["loss_curve"] for one in listed] == [few]
    assert_problem(client.get(f"{path}/{name[:-1]}7"), 404, "not_found")
    assert_problem(client.get(f"{path}/nothing"), 422, "validation_failed")


# --- methods ---


def test_head_is_get_without_its_body(client: httpx.Client, job: str) -> None:
    for path in ("/v1/version", f"/v1/recommendations/{job}", "/catalog", "/openapi.json"):
        plain = {"Accept-Encoding": "identity"}
        whole, head = client.get(path, headers=plain), client.head(path, headers=plain)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
        assert head.headers["content-length"] == str(len(whole.content))
    assert client.head(f"/v1/recommendations/{NOWHERE}").status_code == 404
    assert client.head("/v1/advice").status_code == 405


def test_head_of_a_stream_ends(client: httpx.Client, job: str) -> None:
    head = client.head(f"/v1/recommendations/{job}/stream", timeout=5)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/recommendations", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("/v1/advice", {"POST", "OPTIONS"}),
        ("/v1/version", {"GET", "HEAD", "OPTIONS"}),
        (f"/v1/recommendations/{NOWHERE}/cancel", {"POST", "OPTIONS"}),
        ("/static/page.css", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_options_tells_what_a_path_allows(
    client: httpx.Client, path: str, allowed: set[str]
) -> None:
    told = client.options(path)
    assert (told.status_code, told.content) == (204, b"")
    assert set(told.headers["allow"].split(", ")) == allowed
    assert told.headers["x-request-id"]
    refused = client.request("TRACE", path)
    assert_problem(refused, 405, "method_not_allowed")
    assert set(refused.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/v1/nothing", "/metrics", "/v1/advice/", "/static/nothing.js"])
def test_what_is_not_there_is_a_problem(client: httpx.Client, path: str) -> None:
    assert_problem(client.get(path), 404, "not_found")


def test_the_kind_of_every_problem_is_explained(client: httpx.Client) -> None:
    kind = client.get("/v1/nothing").json()["type"]
    path, _, anchor = kind.partition("#")
    assert f'id="{anchor}"' in client.get(path).text


def test_a_body_that_does_not_say_how_long_it_is_has_the_same_limit(client: httpx.Client) -> None:
    endless = (b"a" * 2**16 for _ in range(40))
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/advice", content=endless, headers=headers)
    assert response.status_code == 413
    assert response.json()["code"] == "body_too_large"
