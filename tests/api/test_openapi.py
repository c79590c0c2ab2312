"""The API's description of itself: complete, kept in docs/openapi.json, and only ever added to."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from api import errors, openapi
from api.app import create_app
from api.settings import Settings

pytestmark = pytest.mark.backend_free

RENEW = "docs/openapi.json is not what the routes say: run python -m api.openapi and commit it."


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("openapi"))).openapi()


@pytest.fixture
def kept() -> dict[str, Any]:
    return json.loads(openapi.FILE.read_text("utf-8"))


def without_examples(value: Any) -> Any:
    """Figures of an example come from the prior, and may differ in their last digits."""
    if isinstance(value, dict):
        return {k: without_examples(v) for k, v in value.items() if k not in ("example", "info")}
    return [without_examples(item) for item in value] if isinstance(value, list) else value


def test_the_kept_description_is_the_live_one(live: dict[str, Any], kept: dict[str, Any]) -> None:
    now = json.loads(json.dumps(live))
    assert openapi.breaking(kept, now) == [], "clients would break"
    assert without_examples(now) == without_examples(kept), RENEW


def test_every_operation_is_named_tagged_and_described(live: dict[str, Any]) -> None:
    found = [operation for _, operation in openapi.operations(live)]
    names = [operation["operationId"] for operation in found]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in live["tags"]}
    for operation in found:
        assert operation["operationId"].isidentifier()
        assert set(operation["tags"]) <= tags
        assert operation["summary"]
        assert operation["description"]


def test_every_error_is_a_problem_of_a_known_code(live: dict[str, Any]) -> None:
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for _, operation in openapi.operations(live):
        for status, response in operation["responses"].items():
            if status >= "400" and (operation["operationId"], status) != ("readyz", "503"):
                assert response["content"] == {errors.MEDIA_TYPE: problem}
                codes = response["description"].replace("`", "").split(", ")
                assert {errors.STATUS.get(code, errors.REFUSED) for code in codes} == {int(status)}
                assert set(codes) <= errors.TITLES.keys()
    assert "HTTPValidationError" not in live["components"]["schemas"]


def valid(live: dict[str, Any], schema: dict[str, Any], example: Any) -> None:
    whole = {**schema, "components": live["components"]}
    jsonschema_rs.Draft202012Validator(whole).validate(json.loads(json.dumps(example)))


def test_every_operation_has_an_example_that_is_valid(live: dict[str, Any]) -> None:
    for _, operation in openapi.operations(live):
        body = operation.get("requestBody", {}).get("content", {})
        if "application/json" in body:
            valid(live, body["application/json"]["schema"], body["application/json"]["example"])
        status = min(operation["responses"])
        contents = operation["responses"][status].get("content", {})
        assert contents or status == "204"
        for content in contents.values():
            valid(live, content["schema"], content["example"])


def test_links_lead_to_operations_and_give_what_these_need(live: dict[str, Any]) -> None:
    named = {operation["operationId"]: operation for _, operation in openapi.operations(live)}
    linked = 0
    for operation in named.values():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                linked += 1
                parameters = named[link["operationId"]]["parameters"]
                needed = {p["name"] for p in parameters if p["in"] == "path"}
                assert set(link["parameters"]) == needed
    assert linked == sum(len(targets) for targets in openapi.LINKS.values())


def removed(document: dict[str, Any], *path: str) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    place = changed
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return changed


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (("paths", "/v1/version"), "GET /v1/version is gone"),
        (("paths", "/v1/recommendations", "post"), "POST /v1/recommendations is gone"),
        (("components", "schemas", "Trial"), "Trial is gone"),
        (("components", "schemas", "Advice", "properties", "cost"), "Advice.cost is gone"),
        (
            ("paths", "/v1/datasets", "post", "responses", "201"),
            "POST /v1/datasets no longer answers 201 in the same way",
        ),
    ],
)
def test_what_is_taken_away_breaks(kept: dict[str, Any], path: tuple[str, ...], told: str) -> None:
    assert openapi.breaking(kept, removed(kept, *path)) == [told]
    assert openapi.breaking(removed(kept, *path), kept) == [], "adding it does not"


def test_what_is_newly_needed_breaks(kept: dict[str, Any]) -> None:
    changed = copy.deepcopy(kept)
    changed["components"]["schemas"]["AdviceRequest"]["required"].append("seed")
    changed["components"]["schemas"]["Version"]["properties"]["service"]["type"] = "integer"
    parameter = {"in": "query", "name": "colour", "required": True, "schema": {"type": "string"}}
    changed["paths"]["/v1/version"]["get"]["parameters"] = [parameter]
    assert sorted(openapi.breaking(kept, changed)) == [
        "AdviceRequest.seed is now required",
        "GET /v1/version now needs colour",
        "Version.service is of another type",
    ]


def test_a_broken_promise_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: dict[str, Any]
) -> None:
    kept["paths"]["/v1/gone"] = kept["paths"]["/v1/version"]
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(kept), "utf-8")
    monkeypatch.setattr(openapi, "FILE", file)
    monkeypatch.setattr("sys.argv", ["openapi"])
    with pytest.raises(SystemExit, match="GET /v1/gone is gone"):
        openapi.main()
    assert json.loads(file.read_text("utf-8")) == kept
    monkeypatch.setattr("sys.argv", ["openapi", "--breaking"])
    openapi.main()
    assert "/v1/gone" not in json.loads(file.read_text("utf-8"))["paths"]
