"""The page's form: the request that it stands for, and which fields its errors are about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from api.errors import ApiError, error_at

Plain = dict[str, Any]
# A part of the request, and the field that is to blame where it is wrong as a whole.
FIELD_OF = {"samples": "samples_count", "summary": "shape", "training": "loss"}

# How pydantic says that a number is out of its range, and how the page does.
OUT_OF_RANGE = {
    "Input should be greater than or equal to ": "Give at least ",
    "Input should be less than or equal to ": "Give at most ",
    "Input should be greater than ": "Give more than ",
    "Input should be less than ": "Give less than ",
}


def request_of(form: Mapping[str, str]) -> Plain:
    """What `RecommendationRequest` takes, from the form's texts.

    Args:
        form: Field name to text; `model_id` and `dataset_id` name uploads.

    Returns:
        The request, still to be validated.

    Raises:
        ApiError: A field that should be a number is none, or one that is needed is empty.
    """
    source = form.get("source", "sample")
    if source == "describe":
        model, data = _described(form)
    else:
        sample = f"sample:{form.get('sample', '')}"
        model_id, data_id = form.get("model_id", ""), form.get("dataset_id", "")
        if source == "upload" and not model_id:
            raise _missing("model_file", "Choose a model (.keras), or take a sample.")
        if source == "upload" and not data_id:
            raise _missing(
                "data_file", "Choose a data set (.csv, .parquet or .npz), or take a sample."
            )
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


def faults_of(errors: Sequence[Mapping[str, str]], form: Mapping[str, str]) -> dict[str, str]:
    """What is wrong at which field.

    Args:
        errors: Places in the request, as the API gives them.
        form: As for `request_of`.

    Returns:
        Field name to what is wrong there; places that no field stands for are left out.
    """
    found: dict[str, str] = {}
    for one in errors:
        # The last word names the field: positions in a list follow it.
        words = [word for word in one["pointer"].split("/") if word and not word.isdecimal()]
        name = words[-1] if words else ""
        if name == "id":
            name = "model_file" if words[0] == "model" else "data_file"
        name = FIELD_OF.get(name, name)
        # A field that waits to be filled in is wrong only once the form is sent in.
        waits = one["code"] == "missing" and still_filled_in(form)
        if (name in form or name.endswith("_file")) and not waits:
            found[name] = one["detail"]
    return found


def in_words(detail: str) -> str:
    """What is wrong, for people: how a number is brought into its range."""
    for said, told in OUT_OF_RANGE.items():
        if detail.startswith(said):
            return f"{told}{detail.removeprefix(said)}."
    return detail


def still_filled_in(form: Mapping[str, str]) -> bool:
    """Whether a script follows the form while nobody has pressed a button yet."""
    return bool(form) and "action" not in form


def _described(form: Mapping[str, str]) -> tuple[Plain, Plain]:
    units, shape = _list(form, "units"), _list(form, "shape")
    if not shape:
        raise _missing("shape", "Give the shape of one input, like 64 or 28, 28, 1.")
    model: Plain = {"kind": "summary", "family": form.get("family", "mlp")}
    if units:
        model["units"] = units
    classify = form.get("task", "classification") == "classification"
    data: Plain = {
        "kind": "summary",
        "shape": shape,
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
    parts = form.get(name, "").translate(str.maketrans(",x\N{MULTIPLICATION SIGN}", "   ")).split()
    if not all(part.isdecimal() for part in parts):
        raise _wrong(name, form[name], "A list of whole numbers such as 28, 28, 1")
    return [int(part) for part in parts]


def _whole(form: Mapping[str, str], name: str) -> int | None:
    text = form.get(name, "").replace(",", "").strip()
    if not text:
        return None
    if not text.isdecimal():
        raise _wrong(name, text, "A whole number")
    return int(text)


def _number(form: Mapping[str, str], name: str) -> float | None:
    text = form.get(name, "").replace(",", "").strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(name, text, "A number")
    return number


def _missing(name: str, detail: str) -> ApiError:
    place = {"pointer": f"/{name}", "code": "missing", "detail": detail}
    return ApiError("validation_failed", detail, [place])


def _wrong(name: str, text: str, expected: str) -> ApiError:
    detail = f"{expected} is expected, received {text[:40]!r}."
    return error_at(f"/{name}", "validation_failed", detail)
