"""The description of the API for machines, beyond what FastAPI sees in the routes.

`python -m api.openapi` writes it to docs/openapi.json, and refuses what would break clients.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from api import examples
from api.access import COOKIE
from api.errors import MEDIA_TYPE, responses
from recommender.knowledge import published

Plain = dict[str, Any]
FILE = Path(__file__).parents[1] / "docs" / "openapi.json"
METHODS = ("get", "post", "put", "patch", "delete")
# What any request may meet at the door or in the ledger, what only one that changes something, and
# what only one with a body.
COMMON = ("host_not_allowed", "database_unavailable")
CHANGING = ("cross_origin",)
SENDING = ("request_timeout",)
TAGS = [
    {"name": "advice", "description": "Answers at once, from what won elsewhere."},
    {"name": "recommendations", "description": "Answers that are measured: jobs."},
    {"name": "uploads", "description": "Your models and data."},
    {"name": "keys", "description": "Who may ask, and for what."},
    {"name": "catalog", "description": "What may be advised."},
    {"name": "health", "description": "Whether the service is well."},
]
SECURITY = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key, where keys are asked for."},
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE,
                "description": "What the page has once a key was given to it."},
}  # fmt: skip
# By operation, what is there on every server.
PARAMETERS: dict[str, Plain] = {
    "get_model": {"model_id": "sample:digits"},
    "get_dataset": {"dataset_id": "sample:digits"},
    "get_optimizer": {"name": published()["optimizers"][0]["name"]},
    "get_schedule": {"name": published()["schedules"][0]["name"]},
    "preview_schedule": {"name": "linear_to_zero", "initial": 0.1, "total_steps": 1000},
}
_JOB = {"recommendation_id": "$response.body#/id"}
_NAMED = {"name": "$response.body#/data/0/name"}
# By operation and status, the operations that go on from its answer.
LINKS: dict[tuple[str, str], dict[str, Plain]] = {
    ("create_recommendation", "202"): dict.fromkeys(
        ("get_recommendation", "cancel_recommendation", "stream_events", "list_trials",
         "list_events", "get_snippet"), _JOB,
    ),
    ("list_recommendations", "200"): {
        "get_recommendation": {"recommendation_id": "$response.body#/data/0/id"}
    },
    ("list_trials", "200"): {
        "get_trial": {"recommendation_id": "$request.path.recommendation_id",
                      "trial_id": "$response.body#/data/0/id"}
    },
    ("create_model", "201"): {"get_model": {"model_id": "$response.body#/id"}},
    ("create_dataset", "201"): {"get_dataset": {"dataset_id": "$response.body#/id"}},
    ("list_optimizers", "200"): {"get_optimizer": _NAMED},
    ("list_schedules", "200"): {"get_schedule": _NAMED},
}  # fmt: skip


def install(app: FastAPI) -> None:
    """Let an application describe itself in full."""
    plain = app.openapi

    def described() -> Plain:
        if app.openapi_schema is None:
            app.openapi_schema = complete(plain())
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def complete(document: Plain) -> Plain:
    """FastAPI's description with common errors, links, examples and ways to come in.

    Args:
        document: As FastAPI makes it; it is changed.
    """
    document["components"]["securitySchemes"] = SECURITY
    document["security"] = [*({name: []} for name in SECURITY), {}]
    asked, answered = examples.requests(), examples.answers()
    for method, operation in operations(document):
        name = operation["operationId"]
        changes = () if method == "get" else CHANGING
        sends = SENDING if "requestBody" in operation else ()
        declare(operation, (*COMMON, *changes, *sends))
        for status, targets in ((s, t) for (o, s), t in LINKS.items() if o == name):
            operation["responses"][status]["links"] = {
                target: {"operationId": target, "parameters": parameters}
                for target, parameters in targets.items()
            }
        if name in asked:
            operation["requestBody"]["content"]["application/json"]["example"] = asked[name]
        for parameter in operation.get("parameters", []):
            if parameter["name"] in PARAMETERS.get(name, {}):
                parameter["example"] = PARAMETERS[name][parameter["name"]]
        status = min(operation["responses"])
        for kind, content in operation["responses"][status].get("content", {}).items():
            if name in answered and kind != MEDIA_TYPE:
                content["example"] = answered[name]
    return document


def operations(document: Plain) -> Iterator[tuple[str, Plain]]:
    """Method and description of every operation."""
    for item in document["paths"].values():
        for method in METHODS:
            if method in item:
                yield method, item[method]


def declare(operation: Plain, codes: tuple[str, ...]) -> None:
    """Add errors to those of an operation; all are problems, in one kind of content."""
    found = operation["responses"]
    for number, response in responses(*codes).items():
        status = str(number)
        if status in found and MEDIA_TYPE in found[status].get("content", {}):
            found[status]["description"] += f", {response['description']}"
        elif status not in found:
            found[status] = {name: response[name] for name in ("description", "content")}
        else:
            found[status]["content"] |= response["content"]
    for response in found.values():
        problem = response.get("content", {}).get(MEDIA_TYPE)
        if problem is not None:
            # FastAPI declares a model for the usual kind of content of the route as well.
            response["content"] = {
                kind: content
                for kind, content in response["content"].items()
                if kind == MEDIA_TYPE or content != problem
            }


def breaking(old: Plain, new: Plain) -> list[str]:
    """What a client of the old API would miss in the new one.

    Args:
        old: A description.
        new: Another one.
    """
    found: list[str] = []
    for path, item in old["paths"].items():
        for method in METHODS:
            if method not in item:
                continue
            now = new["paths"].get(path, {}).get(method)
            place = f"{method.upper()} {path}"
            found += [f"{place} is gone"] if now is None else _operation(place, item[method], now)
    schemas = new["components"]["schemas"]
    for name, schema in old["components"]["schemas"].items():
        found += _schema(name, schema, schemas[name]) if name in schemas else [f"{name} is gone"]
    return found


def _operation(place: str, old: Plain, new: Plain) -> Iterator[str]:
    if old["operationId"] != new["operationId"]:
        yield f"{place} is called {new['operationId']}, not {old['operationId']}"
    before, after = (
        {(p["in"], p["name"]): p for p in one.get("parameters", [])} for one in (old, new)
    )
    for key in before.keys() - after.keys():
        yield f"{place} no longer takes {key[1]}"
    for key, parameter in after.items():
        if parameter.get("required") and not before.get(key, {}).get("required"):
            yield f"{place} now needs {key[1]}"
    for status, response in old["responses"].items():
        kinds = new["responses"].get(status, {}).get("content", {}).keys()
        if status < "400" and (
            status not in new["responses"] or response.get("content", {}).keys() - kinds
        ):
            yield f"{place} no longer answers {status} in the same way"


def _schema(name: str, old: Plain, new: Plain) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for field in before.keys() - after.keys():
        yield f"{name}.{field} is gone"
    for field in before.keys() & after.keys():
        if _kind(before[field]) - _kind(after[field]):
            yield f"{name}.{field} is of another type"
    if old.get("additionalProperties") is False:  # a request
        for field in set(new.get("required", [])) - set(old.get("required", [])):
            yield f"{name}.{field} is now required"


def _kind(schema: Plain) -> set[str]:
    """Every type and every value that a schema names."""
    found: set[str] = set()
    for option in schema.get("anyOf") or schema.get("oneOf") or [schema]:
        found.add(str(option.get("type", option.get("$ref", ""))))
        found |= {f"={value}" for value in option.get("enum", [])}
    return found


def main() -> None:
    """Write the description."""
    from api.app import create_app
    from api.settings import Settings

    parser = argparse.ArgumentParser(description="Writes docs/openapi.json.")
    parser.add_argument("--breaking", action="store_true", help="write it whatever it breaks")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        document = create_app(Settings(data_dir=Path(folder))).openapi()
    if FILE.exists() and not given.breaking:
        broken = breaking(json.loads(FILE.read_text("utf-8")), document)
        if broken:
            sys.exit(
                "\n".join([*broken, "Clients would break. --breaking writes it all the same."])
            )
    FILE.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
