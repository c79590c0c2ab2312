"""Rows of the ledger as the resources that callers see."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from api.record import MOST_POINTS, thinned
from api.transitions import LIVE

Plain = dict[str, Any]


def moment(seconds: float | None) -> str | None:
    """A time as RFC 3339 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def model(row: Row[Any]) -> Plain:
    """An uploaded model."""
    return {
        "id": row.id,
        **row.facts,
        "size_bytes": row.size_bytes,
        "created_at": moment(row.created_at),
        "expires_at": moment(row.expires_at),
        "links": {"self": f"/v1/models/{row.id}"},
    }


def sample_model(sample: Plain) -> Plain:
    """The model that belongs to a sample data set."""
    name = f"sample:{sample['name']}"
    return {
        "id": name,
        "name": sample["summary"],
        "layers": sample["layers"],
        "input_shape": sample["shape"],
        "output_units": sample["classes"],
        "loss": sample["loss"],
        "size_bytes": 0,
        "created_at": None,
        "links": {"self": f"/v1/models/{name}"},
    }


def dataset(row: Row[Any]) -> Plain:
    """An uploaded data set."""
    return {
        "id": row.id,
        "format": row.format,
        "target": row.target,
        "arrays": row.arrays,
        "rows": row.arrays["x"]["shape"][0],
        "size_bytes": row.size_bytes,
        "created_at": moment(row.created_at),
        "expires_at": moment(row.expires_at),
        "links": {"self": f"/v1/datasets/{row.id}"},
    }


def sample_dataset(sample: Plain) -> Plain:
    """A sample data set."""
    name = f"sample:{sample['name']}"
    x = {"shape": [sample["samples"], *sample["shape"]], "dtype": sample["dtype"]}
    return {
        "id": name,
        "arrays": {"x": x},
        "rows": sample["samples"],
        "summary": sample["summary"],
        "size_bytes": None,
        "created_at": None,
        "links": {"self": f"/v1/datasets/{name}"},
    }


def recommendation(row: Row[Any]) -> Plain:
    """A job."""
    home = f"/v1/recommendations/{row.id}"
    links = {
        "self": home,
        "trials": f"{home}/trials",
        "events": f"{home}/events",
        "page": f"/recommendations/{row.id}",
    }
    if row.status in LIVE:
        links |= {"stream": f"{home}/stream", "cancel": f"{home}/cancel"}
    reason = None
    if row.reason_code is not None:
        reason = {"code": row.reason_code, "detail": row.reason_detail}
    return {
        "id": row.id,
        "status": row.status,
        "status_reason": reason,
        "version": row.version,
        "attempt": row.attempt,
        "backend": row.backend,
        "created_at": moment(row.created_at),
        "started_at": moment(row.started_at),
        "finished_at": moment(row.finished_at),
        "expires_at": moment(row.expires_at),
        "progress": row.progress,
        "request": row.request,
        "advice_before": row.advice_before,
        "result": row.result,
        "partial": row.partial,
        "usage": row.usage,
        "links": links,
    }


def key(row: Row[Any]) -> Plain:
    """A key, without its digest."""
    times = ("created_at", "expires_at", "last_used_at", "revoked_at")
    return {
        "id": row.id,
        "name": row.name,
        "tenant": row.tenant,
        "scopes": row.scopes,
        **{name: moment(getattr(row, name)) for name in times},
    }


def trial(plain: Plain, *, curve: bool, points: int = MOST_POINTS) -> Plain:
    """A trial, with its curves of at most so many points or without."""
    shown = {
        name: thinned(plain[name] or [], points) if curve else None
        for name in ("loss_curve", "val_curve")
    }
    return {**plain, **shown}


def event(row: Row[Any]) -> Plain:
    """An entry of a job's log."""
    return {"seq": row.seq, "type": row.type, "at": moment(row.at), "data": row.data}
