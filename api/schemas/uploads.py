"""Uploaded models and data sets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from api.schemas.base import Given


class Loss(Given):
    """A loss by name."""

    name: str
    from_logits: bool


class Model(Given):
    """An uploaded model: its architecture; weights are not kept, probes draw fresh ones."""

    id: str
    object: Literal["model"] = "model"
    status: Literal["ready"] = "ready"
    name: str
    layers: dict[str, int]
    input_shape: list[int | None] | None
    output_units: int | None
    loss: Loss | None
    weights: Literal["ignored"] = "ignored"
    size_bytes: int
    created_at: str | None
    expires_at: str | None = None
    links: dict[str, str]


class Array(Given):
    """One array of a data set."""

    shape: list[int]
    dtype: str


class Dataset(Given):
    """An uploaded data set, or a sample."""

    id: str
    object: Literal["dataset"] = "dataset"
    status: Literal["ready"] = "ready"
    format: Literal["npz", "parquet"] = Field(
        default="npz", description="Of what is kept; a csv file is kept as arrays."
    )
    target: str | None = Field(default=None, description="The column of a table to predict.")
    arrays: dict[str, Array]
    rows: int
    summary: str | None = None
    size_bytes: int | None
    created_at: str | None
    expires_at: str | None = None
    links: dict[str, str]


class Models(Given):
    """A page of uploaded models, the newest first."""

    data: list[Model]
    next: str | None
    has_more: bool


class Datasets(Given):
    """A page of uploaded data sets, the newest first."""

    data: list[Dataset]
    next: str | None
    has_more: bool
