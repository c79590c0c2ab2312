"""The answer, of the same shape whether it was measured or not."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from api.schemas.base import Given


class Recommended(Given):
    """The optimizer with its schedule."""

    label: str
    optimizer: dict[str, Any] = Field(description="For `keras.optimizers.deserialize`.")
    learning_rate: float
    schedule: dict[str, Any]
    total_steps: int
    code: str = Field(description="Python that makes it, as it stands on every backend.")
    fit: dict[str, int] | None = Field(
        default=None,
        description="`batch_size` and `epochs` for `model.fit` where not those that were asked.",
    )


class Decision(Given):
    """Grounds of the choice."""

    basis: Literal["probe", "prior", "safe"]
    code: str | None
    reasons: list[str]


class Expected(Given):
    """What became of choices on the same grounds."""

    tasks: int
    p_beats_default: float
    loss_ratio: list[float]
    time_ratio: float | None
    confidence: Literal["high", "medium", "low"]
    basis: str


class Evidence(Given):
    """What the choice rests on."""

    kind: Literal["measured", "prior", "synthetic"]
    probes: list[dict[str, Any]]
    diagnostics: dict[str, Any] | None
    description: dict[str, Any]
    nearest_tasks: list[dict[str, Any]] = Field(
        default=[], description="Recorded tasks that are most like this one."
    )
    notes: list[str]


class Advice(Given):
    """The answer: of the same shape whether it was measured or not."""

    recommended: Recommended
    decision: Decision
    expected: Expected
    evidence: Evidence
    alternatives: list[dict[str, Any]]
    cost: dict[str, Any]
    warnings: list[dict[str, Any]]
    architecture_advice: list[dict[str, Any]]
    request: dict[str, Any]
    versions: dict[str, str]
