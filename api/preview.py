"""Pictures of schedules: what may be asked of one, and where it goes."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from api.errors import ApiError, not_found
from recommender.curve import curve
from recommender.knowledge import published

Plain = dict[str, Any]
MOST_STEPS, MOST_POINTS, MOST_ITEMS = 10**9, 512, 32
Steps = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
# Arguments that take more than one value.
Values = Annotated[list[Finite], Field(max_length=MOST_ITEMS)]
LISTS: Mapping[str, Any] = {
    "boundaries": Annotated[list[Steps], Field(max_length=MOST_ITEMS)],
    "values": Values,
    "schedules": Values,
}
INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")


def preview(name: str, arguments: Mapping[str, Any], steps: int, points: int) -> Plain:
    """A schedule's values over a training.

    Args:
        name: As the catalogue has it.
        arguments: What the caller gave, by name.
        steps: Of the training, at least 1.
        points: How many values at most, at least 2.

    Raises:
        ApiError: There is no such schedule, or its arguments do not fit together.
        RequestValidationError: An argument is missing, unknown or out of its range.
    """
    entry = next((one for one in published()["schedules"] if one["name"] == name), None)
    if entry is None:
        raise not_found("schedule", name)
    try:
        config = _exact(name).model_validate(dict(arguments)).model_dump()
    except ValidationError as error:
        found = [{**one, "loc": ("query", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found) from None
    try:
        drawn = curve({"class_name": entry["class_name"], "config": config}, steps, points)
    except ValueError as error:
        raise ApiError("validation_failed", str(error)) from None
    # What is too large for a number has no place in JSON.
    values = [[step, value if math.isfinite(value) else None] for step, value in drawn]
    return {"name": name, "class_name": entry["class_name"], "arguments": config, "points": values}


@functools.cache
def _exact(name: str) -> type[BaseModel]:
    """What one schedule takes."""
    entry = next(one for one in published()["schedules"] if one["name"] == name)
    fields = {
        argument["name"]: (_type(argument), ... if argument["default"] is None else
                           argument["default"])
        for argument in entry["hyperparameters"]
    }  # fmt: skip
    return _model(entry["class_name"], fields)


def query() -> type[BaseModel]:
    """What any schedule takes, each argument on its own, for the route's query."""
    fields: Plain = {
        "steps": (Annotated[int, Field(ge=1, le=MOST_STEPS)],
                  Field(default=1000, description="Of the training.")),
        "points": (Annotated[int, Field(ge=2, le=MOST_POINTS)],
                   Field(default=200, description="How many values at most.")),
    }  # fmt: skip
    for entry in published()["schedules"]:
        for argument in entry["hyperparameters"]:
            text = f"Of {entry['name']}: {argument['description']}"
            known = fields.get(argument["name"])
            if known is not None:
                text = f"{known[1].description} {text}"
            kind = _type({**argument, "range": argument["range"] and "(-inf, inf)"})
            fields[argument["name"]] = (kind | None, Field(default=None, description=text))
    return _model("Preview", fields)


def _model(name: str, fields: Plain) -> type[BaseModel]:
    made: type[BaseModel] = create_model(
        name, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields
    )
    return made


def _type(argument: Plain) -> Any:
    """The type of an argument, from what the catalogue says of it."""
    if isinstance(argument["default"], bool | str):
        return Annotated[type(argument["default"]), Field(**_longest(argument["default"]))]
    if argument["range"] is not None:
        return Annotated[float, Field(allow_inf_nan=False, **_bounds(argument["range"]))]
    return LISTS.get(argument["name"], Steps)


def _longest(default: bool | str) -> Plain:
    return {} if isinstance(default, bool) else {"max_length": 40}


def _bounds(interval: str) -> Plain:
    """An interval such as "(0, 1]" as pydantic says it; an infinite end bounds nothing."""
    found = INTERVAL.fullmatch(interval)
    assert found is not None  # as `keras_gradopt.ranges.Range` prints it
    opening, low, high, closing = found.groups()
    ends = {"ge" if opening == "[" else "gt": float(low), "le" if closing == "]" else "lt":
            float(high)}  # fmt: skip
    return {name: end for name, end in ends.items() if math.isfinite(end)}
