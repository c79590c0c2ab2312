"""An example of every request and answer, made by the functions that make the real ones."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

from api import present
from api.jobs import NO_PROGRESS
from api.preview import preview
from api.schemas.asked import AdviceRequest, ModelSummary, RecommendationRequest
from recommender.instant import DataFacts, family_facts, instant
from recommender.knowledge import published

Plain = dict[str, Any]
ULID = "01K9Z3N5W8Q7R6T4V2X1Y0ZABC"
CREATED = 1_790_000_000.0
KEY = "6FT15822"
EXPIRES = CREATED + 7 * 86_400
WHEN = {"created_at": CREATED, "expires_at": EXPIRES}
DESCRIBED: Plain = AdviceRequest.model_config["json_schema_extra"]["examples"][0]  # type: ignore[index, assignment]
PROBED: Plain = RecommendationRequest.model_config["json_schema_extra"]["examples"][0]  # type: ignore[index, assignment]
NETWORK: Plain = {
    "module": "keras",
    "class_name": "Sequential",
    "config": {
        "name": "net",
        "layers": [
            {"module": "keras.layers", "class_name": "InputLayer",
             "config": {"batch_shape": [None, 4]}},
            {"module": "keras.layers", "class_name": "Dense", "config": {"units": 1}},
        ],
    },
}  # fmt: skip


def requests() -> Plain:
    """By operation, a JSON body."""
    return {
        "give_advice": DESCRIBED,
        "create_recommendation": PROBED,
        "create_model": NETWORK,
        "create_key": {"name": "notebook", "scopes": ["advise", "read"], "days": 90},
    }


def answers() -> Plain:
    """By operation, a body of its first answer."""
    job, trial = _job(), _trial()
    event = {"seq": 1, "type": "status", "at": job["created_at"],
             "data": {"v": 1, "status": "queued", "attempt": 0}}  # fmt: skip
    optimizers, schedules = published()["optimizers"], published()["schedules"]
    line = {"initial": 0.1, "total_steps": 1000}
    return {
        "give_advice": _advice(),
        "create_recommendation": job,
        "get_recommendation": job,
        "cancel_recommendation": {**job, "status": "cancelling"},
        "list_recommendations": {"data": [job], "next": None, "has_more": False},
        "list_trials": {"data": [trial]},
        "get_trial": trial,
        "list_events": {"data": [event], "next": 1, "has_more": False},
        "stream_events": {"id": "1", "event": "status", "retry": 2000,
                          "data": '{"v": 1, "status": "queued", "attempt": 0}'},
        "get_snippet": _advice()["recommended"]["code"],
        "create_model": _model(),
        "get_model": _model(),
        "create_dataset": _dataset(),
        "get_dataset": _dataset(),
        "list_models": {"data": [_model()], "next": None, "has_more": False},
        "list_datasets": {"data": [_dataset()], "next": None, "has_more": False},
        "create_key": {**_key(), "key": f"kgo_{KEY}_{'A' * 43}"},
        "list_keys": {"data": [_key()], "next": None, "has_more": False},
        "list_optimizers": {"data": optimizers[:1]},
        "get_optimizer": optimizers[0],
        "list_schedules": {"data": schedules[:1]},
        "get_schedule": schedules[0],
        "preview_schedule": preview("linear_to_zero", line, 1000, 5),
        "get_version": {"service": published()["versions"]["keras_gradopt"], "api": "v1",
                        "versions": published()["versions"]},
        "livez": {"status": "alive"},
        "readyz": {"status": "ready", "checks": {"ledger": "ok", "disk": "ok", "workers": "1"}},
    }  # fmt: skip


@functools.cache
def _advice() -> Plain:
    asked = AdviceRequest.model_validate(DESCRIBED)
    model, data = asked.model, asked.data
    assert isinstance(model, ModelSummary)
    assert data.kind == "summary"
    facts = family_facts(
        model.family, model.widths, data.shape, data.classes, batch_norm=model.batch_norm
    )
    known = DataFacts(data.samples, tuple(data.shape), data.task, classes=data.classes)
    return instant(facts, known, batch_size=32, epochs=50)


def _job() -> Plain:
    none = ("started_at", "finished_at", "reason_code", "reason_detail", "result", "usage")
    row: Any = SimpleNamespace(
        id=f"rec_{ULID}", status="queued", version=0, attempt=0, backend="jax",
        created_at=CREATED, expires_at=EXPIRES, progress=NO_PROGRESS, partial=False,
        request=RecommendationRequest.model_validate(PROBED).model_dump(),
        advice_before=_advice(), **dict.fromkeys(none),
    )  # fmt: skip
    return present.recommendation(row)


def _trial() -> Plain:
    method = published()["settings"][0]["method"]
    return {
        "id": f"trl_{ULID}_0",
        "index": 0,
        "label": _advice()["recommended"]["label"],
        "optimizer": {"method": method, "learning_rate": 0.001, "config": {}},
        "status": "completed",
        "attempts": 1,
        "steps": 60,
        "seconds": 1.8,
        "final_loss": 0.31,
        "val_metric": 0.42,
        "stopped": "the end of the race",
        "loss_curve": [[20, 0.9], [40, 0.5], [60, 0.31]],
        "val_curve": [[60, 0.42]],
    }


def _model() -> Plain:
    facts = {"name": "net", "layers": {"Dense": 1}, "input_shape": [4], "output_units": 1,
             "loss": None}  # fmt: skip
    row: Any = SimpleNamespace(id=f"mdl_{ULID}", facts=facts, size_bytes=310, **WHEN)
    return present.model(row)


def _dataset() -> Plain:
    arrays = {"x": {"shape": [400, 4], "dtype": "float32"},
              "y": {"shape": [400, 1], "dtype": "float32"}}  # fmt: skip
    row: Any = SimpleNamespace(
        id=f"dst_{ULID}", arrays=arrays, format="npz", target=None, size_bytes=8498, **WHEN
    )
    return present.dataset(row)


def _key() -> Plain:
    row: Any = SimpleNamespace(
        id=KEY, name="notebook", tenant="local", scopes=["advise", "read"], last_used_at=None,
        revoked_at=None, **WHEN,
    )  # fmt: skip
    return present.key(row)
