"""Jobs, their trials and their log."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from api.schemas.advice import Advice
from api.schemas.base import Given, Status


class Reason(Given):
    """Why a job ended as it did."""

    code: str
    detail: str


class Best(Given):
    """The best candidate so far."""

    trial: str
    label: str
    val_loss: float
    step: int


class ProgressMade(Given):
    """How far a job is."""

    trials_total: int
    trials_done: int
    trials_failed: int
    fraction: float
    eta_seconds: float | None
    best_so_far: Best | None


class Recommendation(Given):
    """A job, from the queue to its result."""

    id: str
    object: Literal["recommendation"] = "recommendation"
    status: Status
    status_reason: Reason | None
    version: int
    attempt: int
    backend: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str | None = None
    progress: ProgressMade
    request: dict[str, Any]
    advice_before: Advice = Field(description="The instant answer to the same request.")
    result: Advice | None
    partial: bool
    usage: dict[str, float] | None
    links: dict[str, str]


class Recommendations(Given):
    """A page of jobs, the newest first."""

    data: list[Recommendation]
    next: str | None
    has_more: bool


class Trial(Given):
    """One candidate's probe."""

    id: str
    index: int
    label: str
    optimizer: dict[str, Any]
    status: Literal[
        "waiting", "running", "completed", "stopped_early", "diverged", "infeasible", "failed",
        "cancelled",
    ]  # fmt: skip
    attempts: int
    steps: int
    seconds: float | None = Field(default=None, description="Spent on it, compiling included.")
    final_loss: float | None
    val_metric: float | None
    stopped: str | None
    loss_curve: list[list[float | None]] | None
    val_curve: list[list[float | None]] | None


class Trials(Given):
    """A job's probes, in order of prior."""

    data: list[Trial]


class Event(Given):
    """One entry of a job's log."""

    seq: int
    type: str
    at: str
    data: dict[str, Any]


class Events(Given):
    """A part of a job's log, in order."""

    data: list[Event]
    next: int = Field(description="Pass it as `after` to go on.")
    has_more: bool
