"""The page's form as the request that the API takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from api.errors import ApiError, error_at

Plain = dict[str, Any]


def request_of(form: Mapping[str, str]) -> Plain:
    """What `RecommendationRequest` takes, from the form's texts.

    Args:
        form: Field name to text; `model_id` and `dataset_id` name uploads.

    Returns:
        The request, still to be validated.

    Raises:
        ApiError: A field that should be a number is none.
    """
    source = form.get("source", "sample")
    if source == "describe":
        model, data = _described(form)
    else:
        sample = f"sample:{form.get('sample', '')}"
        model_id, data_id = form.get("model_id", ""), form.get("dataset_id", "")
        if source == "upload" and not (model_id and data_id):
            lacking = "a model (.keras)" if not model_id else "a data set (.npz with x and y)"
            raise ApiError("validation_failed", f"Choose {lacking}, or take a sample.")
        model = {"kind": "ref", "id": model_id if source == "upload" else sample}
        data = {"kind": "ref", "id": data_id if source == "upload" else sample}
    training: Plain = {
        "epochs": _whole(form, "epochs"),
        "batch_size": _whole(form, "batch_size"),
        "loss": form.get("loss") or None,
        "from_logits": form.get("from_logits", "") != "",
        "backend": form.get("backend") or None,
    }
    found: Plain = {"model": model, "data": data, "training": training}
    found["include"] = form.get("include", "").replace(",", " ").split()
    found["label"] = form.get("label") or None
    if form.get("tier"):
        found["tier"] = form["tier"]
    for name, number in (
        ("max_seconds", _number(form, "max_seconds")),
        ("seed", _whole(form, "seed")),
    ):
        if number is not None:
            found[name] = number
    return found


def _described(form: Mapping[str, str]) -> tuple[Plain, Plain]:
    units = _list(form, "units")
    model: Plain = {"kind": "summary", "family": form.get("family", "mlp")}
    if units:
        model["units"] = units
    classify = form.get("task", "classification") == "classification"
    data: Plain = {
        "kind": "summary",
        "shape": _list(form, "shape"),
        "task": form.get("task", "classification"),
    }
    width = _whole(form, "classes" if classify else "outputs")
    if width is not None:
        data["classes" if classify else "outputs"] = width
    samples = _whole(form, "samples_count")
    if samples is not None:
        data["samples"] = samples
    return model, data


def _list(form: Mapping[str, str], name: str) -> list[int]:
    parts = form.get(name, "").replace(",", " ").replace("x", " ").split()
    if not all(part.isdecimal() for part in parts):
        raise _wrong(name, form[name], "whole numbers such as 28, 28, 1")
    return [int(part) for part in parts]


def _whole(form: Mapping[str, str], name: str) -> int | None:
    text = form.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal():
        raise _wrong(name, text, "a whole number")
    return int(text)


def _number(form: Mapping[str, str], name: str) -> float | None:
    text = form.get(name, "").strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(name, text, "a number")
    return number


def _wrong(name: str, text: str, expected: str) -> ApiError:
    detail = f"{name.replace('_', ' ')}: {expected} is expected, received {text[:40]!r}."
    return error_at(f"/{name}", "validation_failed", detail)
