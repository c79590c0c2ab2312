"""A job on each backend, from the request to the result."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.server import Server, assert_whole, serving

ASKED = {
    "model": {"kind": "summary", "family": "mlp", "units": [16]},
    "data": {"kind": "summary", "shape": [6], "task": "regression", "samples": 2000},
    "training": {"epochs": 50},
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("backend") / "data") as running:
        yield running


def test_a_job_is_probed_on_the_backend_of_the_environment(own: Server, backend: str) -> None:
    path = own.ask(ASKED)
    job = own.ended(path)
    assert job["status"] == "succeeded", job["status_reason"]
    assert job["backend"] == backend
    assert job["result"]["versions"]["backend"] == backend
    assert job["result"]["evidence"]["kind"] == "synthetic"
    assert_whole(own.events(path))


def test_a_request_may_name_another_backend(own: Server, backend: str) -> None:
    other = {"jax": "torch", "torch": "jax", "tensorflow": "jax"}[backend]
    job = own.ended(own.ask({**ASKED, "training": {"epochs": 20, "backend": other}}))
    assert job["status"] == "succeeded", job["status_reason"]
    assert job["result"]["versions"]["backend"] == other
