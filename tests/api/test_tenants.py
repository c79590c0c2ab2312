"""Two tenants over every route and method: what is another's is as if it did not exist."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from tests.api.inside import Inside, inside
from tests.api.server import DIGITS, NET, npz, regression

pytestmark = pytest.mark.backend_free

NONE = "0" * 26
# Of each parameter of a path: what the first tenant has, and what nobody has.
NOBODY_S = {
    "model_id": f"mdl_{NONE}",
    "dataset_id": f"dst_{NONE}",
    "recommendation_id": f"rec_{NONE}",
    "job": f"rec_{NONE}",
    "key_id": "00000000",
    "trial_id": f"trl_{NONE}_0",
    "name": "nosuch",
}
# What needs no key, by the contract.
OPEN = re.compile(
    r"/(livez|readyz|openapi.json|docs|catalog|session.*|static.*|v1/(catalog/.*|version))"
)
PLENTY = {
    "keys": "required",
    "writes_per_minute": 10**6,
    "requests_per_second": 10**6,
    "requests_burst": 10**6,
    "guesses_per_minute": 10**6,
    "live_jobs_per_key": 100,
}


@dataclass
class Two:
    """A service with things of a first tenant, and a second tenant's key.

    Attributes:
        web: The application.
        first: Key of whoever has something.
        second: Key of whoever has nothing.
        has: The first tenant's ids, by the parameter of a path.
    """

    web: Inside
    first: str
    second: str
    has: dict[str, str]

    def routes(self) -> list[tuple[str, str]]:
        """Every method of every path."""
        return sorted(
            (method, str(route.path) + ("" if route.methods else "/style.css"))
            for route in iter_route_contexts(self.web.app.routes)
            for method in (route.methods or ["GET"])
        )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with inside(tmp_path_factory.mktemp("tenants"), **PLENTY) as web:
        first, second = web.key("first"), web.key("second")

        def made(path: str, **arguments: Any) -> str:
            response = web.ask("POST", path, first, **arguments)
            assert response.status_code in (201, 202), response.text
            return str(response.json()["id"])

        job = made("/v1/recommendations", json={**DIGITS, "label": "first's"})
        has = {
            "model_id": made("/v1/models", json=NET),
            "dataset_id": made("/v1/datasets", files={"file": ("d", npz(**regression()))}),
            "recommendation_id": job,
            "job": job,
            "key_id": first[4:12],
            "trial_id": f"trl_{job[4:]}_0",
            "name": "nosuch",
        }
        yield Two(web, first, second, has)


def filled(path: str, values: dict[str, str]) -> str:
    """A path with its parameters; one that is not known here makes the test fail."""
    return re.sub(r"{(\w+)(:\w+)?}", lambda found: values[found[1]], path)


def nameless(text: str) -> str:
    """A text without ids of things, keys and requests."""
    return re.sub(r"\b(mdl|dst|rec|trl)_\w{26,}|\b[0-9a-f]{16}\b|\b[0-9A-Z]{8}\b", "", text)


def test_what_is_another_s_is_as_if_it_did_not_exist(two: Two) -> None:
    looked_at = 0
    for method, path in two.routes():
        if "{" not in path or OPEN.fullmatch(path):
            continue
        looked_at += 1
        theirs, nobody_s = filled(path, two.has), filled(path, NOBODY_S)
        foreign = two.web.ask(method, theirs, two.second)
        missing = two.web.ask(method, nobody_s, two.second)
        assert foreign.status_code == missing.status_code == 404, (method, path)
        assert nameless(foreign.text) == nameless(missing.text), (method, path)
    assert looked_at >= 12
    for name, path in (("model_id", "models"), ("dataset_id", "datasets")):
        assert two.web.ask("GET", f"/v1/{path}/{two.has[name]}", two.first).status_code == 200
    mine = two.web.ask("GET", f"/v1/recommendations/{two.has['job']}", two.first)
    assert mine.json()["status"] == "queued", "somebody else has cancelled it"


def test_lists_and_pages_show_nothing_of_another_s(two: Two) -> None:
    seen = 0
    for method, path in two.routes():
        if method != "GET" or "{" in path:
            continue
        theirs = two.web.ask("GET", path, two.second)
        for value in ("first's", *(v for n, v in two.has.items() if n != "name")):
            assert value not in theirs.text, path
        seen += two.has["job"] in two.web.ask("GET", path, two.first).text
    assert seen >= 2, "the list and the page show it to its owner"


@pytest.mark.parametrize("path", ["/v1/advice", "/v1/recommendations"])
@pytest.mark.parametrize("part", ["model", "data"])
def test_what_is_another_s_cannot_be_named_in_a_request(part: str, path: str, two: Two) -> None:
    def asked(values: dict[str, str]) -> dict[str, Any]:
        name = values["model_id" if part == "model" else "dataset_id"]
        return {**DIGITS, part: {"kind": "ref", "id": name}}

    foreign = two.web.ask("POST", path, two.second, json=asked(two.has))
    missing = two.web.ask("POST", path, two.second, json=asked(NOBODY_S))
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json()["code"] == missing.json()["code"] == "not_found"


def test_the_form_does_not_show_another_s_uploads(two: Two) -> None:
    def shown(values: dict[str, str], key: str) -> str:
        form = {name: values[name] for name in ("model_id", "dataset_id")}
        return nameless(two.web.ask("POST", "/", key, data={**form, "action": "advice"}).text)

    assert shown(two.has, two.second) == shown(NOBODY_S, two.second)
    assert shown(two.has, two.first) != shown(NOBODY_S, two.second)


BAD_KEYS = ("none", "nonsense", "unknown", "wrong", "expired", "revoked")


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_without_a_valid_key_every_route_is_closed(
    bad: str, two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    key: str | None = two.web.key("first")
    code = "missing_key" if bad == "none" else "invalid_key"
    if bad == "none":
        key = None
    elif bad == "nonsense":
        key = "x"
    elif bad == "unknown":
        key = "kgo_00000000_" + "A" * 43
    elif bad == "wrong":
        key = two.first[:-1] + ("A" if two.first[-1] != "A" else "B")
    elif bad == "expired":
        key = two.web.key("first", days=1)
        later = time.time() + 2 * 86400
        monkeypatch.setattr("api.keys.time.time", lambda: later)
    elif bad == "revoked":
        assert key is not None
        assert two.web.ask("GET", "/v1/models", key).status_code == 200
        assert two.web.ask("DELETE", f"/v1/keys/{key[4:12]}", two.first).status_code == 204
    bodies = set()
    for method, path in two.routes():
        response = two.web.ask(method, filled(path, two.has), key)
        if OPEN.fullmatch(path):
            assert response.status_code != 403, (method, path)
            assert "www-authenticate" not in response.headers, (method, path)
            continue
        assert response.status_code == 401, (method, path, response.text)
        assert response.headers["www-authenticate"].startswith("Bearer")
        if method != "HEAD":
            assert response.json()["code"] == code
            bodies.add(response.json()["detail"])
    assert len(bodies) == 1


@pytest.mark.parametrize("scope", ["advise", "read", "write", "admin"])
def test_a_key_may_do_what_its_scopes_say_and_nothing_else(scope: str, two: Two) -> None:
    key = two.web.key("third", scope)
    for method, path in two.routes():
        if OPEN.fullmatch(path):
            continue
        if path.startswith("/v1/keys"):
            needs = "admin"
        elif path == "/v1/advice" or (method, path) == ("POST", "/"):
            needs = "advise"
        else:
            needs = "read" if method in ("GET", "HEAD") else "write"
        response = two.web.ask(method, filled(path, NOBODY_S), key)
        assert (response.status_code == 403) == (needs != scope), (method, path, response.text)
        if needs != scope and method != "HEAD":
            assert response.json()["code"] == "insufficient_scope"
            assert needs in response.json()["detail"]


def test_the_form_starts_a_job_only_with_a_key_that_may_write(two: Two) -> None:
    key = two.web.key("fourth", "advise")
    form = {"model_kind": "sample", "data_kind": "sample", "sample": "digits"}
    asked = two.web.ask("POST", "/", key, data={**form, "action": "probe"})
    assert asked.status_code == 403
    assert "write" in asked.text


def test_an_admin_makes_keys_of_its_own_tenant_only(two: Two) -> None:
    made = two.web.ask("POST", "/v1/keys", two.second, json={"name": "n", "scopes": ["read"]})
    assert made.status_code == 201
    assert made.json()["tenant"] == "second"
    assert re.fullmatch(r"kgo_[0-9A-Za-z]{8}_[0-9A-Za-z_-]{43}", made.json()["key"])
    listed = two.web.ask("GET", "/v1/keys", two.second).json()["data"]
    assert {one["tenant"] for one in listed} == {"second"}
    assert "digest" not in listed[0]
    assert "key" not in listed[0]
    asked = {"name": "n", "scopes": ["read"], "tenant": "first"}
    assert two.web.ask("POST", "/v1/keys", two.second, json=asked).status_code == 422
