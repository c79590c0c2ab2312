"""The catalogue of optimizers and schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from api.errors import not_found, responses
from api.schemas import OptimizerEntry, Optimizers, ScheduleEntry, Schedules
from recommender.knowledge import published

router = APIRouter(prefix="/v1/catalog", tags=["catalog"])


@router.get("/optimizers", response_model=Optimizers, summary="List the optimizers")
async def list_optimizers() -> dict[str, Any]:
    """Every optimizer with equations, hyper-parameters, cost and source."""
    return {"data": published()["optimizers"]}


@router.get(
    "/optimizers/{name}",
    response_model=OptimizerEntry,
    summary="Show an optimizer",
    responses=responses("not_found", "validation_failed"),
)
async def get_optimizer(name: str) -> dict[str, Any]:
    """One optimizer, by the name that the list gives."""
    return _entry(published()["optimizers"], "optimizer", name)


@router.get("/schedules", response_model=Schedules, summary="List the schedules")
async def list_schedules() -> dict[str, Any]:
    """Every schedule with equations, arguments and source."""
    return {"data": published()["schedules"]}


@router.get(
    "/schedules/{name}",
    response_model=ScheduleEntry,
    summary="Show a schedule",
    responses=responses("not_found", "validation_failed"),
)
async def get_schedule(name: str) -> dict[str, Any]:
    """One schedule, by the name that the list gives."""
    return _entry(published()["schedules"], "schedule", name)


def _entry(entries: Sequence[dict[str, Any]], what: str, name: str) -> dict[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise not_found(what, name)
