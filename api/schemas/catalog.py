"""The catalogue of optimizers and schedules."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from api.schemas.base import Given


class OptimizerEntry(Given):
    """One optimizer of the catalogue."""

    name: str
    class_name: str
    family: str
    needs: str
    paper: str
    year: int
    summary: str
    use: str
    equations: list[str]
    hyperparameters: list[dict[str, Any]]
    state_multiple: float
    gradient_evaluations_per_step: float
    references: str


class ScheduleEntry(Given):
    """One schedule of the catalogue."""

    name: str
    class_name: str
    paper: str
    year: int
    summary: str
    use: str
    equations: list[str]
    hyperparameters: list[dict[str, Any]]
    references: str


class Optimizers(Given):
    """The catalogue of optimizers."""

    data: list[OptimizerEntry]


class Schedules(Given):
    """The catalogue of schedules."""

    data: list[ScheduleEntry]


class Preview(Given):
    """Where a schedule goes."""

    name: str
    class_name: str
    arguments: dict[str, Any] = Field(description="With defaults, as the class takes them.")
    points: list[list[float | None]] = Field(
        max_length=512, description="Step and value; null where it is too large for a number."
    )
