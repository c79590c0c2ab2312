"""What may be asked: a model, data, a training, and how much to measure."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from api.schemas.base import Asked, DatasetId, ModelId, Tier
from api.settings import Backend

Count = Annotated[int, Field(ge=1, le=10**9)]
# One example of described data; probes draw 4 096 of them.
LARGEST_EXAMPLE = 100_000
LossName = Literal[
    "mean_squared_error",
    "mean_absolute_error",
    "huber",
    "log_cosh",
    "binary_crossentropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "poisson",
    "hinge",
    "squared_hinge",
    "cosine_similarity",
    "kl_divergence",
]


class ModelSummary(Asked):
    """A model described by its family."""

    kind: Literal["summary"] = "summary"
    family: Literal["linear", "mlp", "cnn", "recurrent"]
    units: list[Annotated[int, Field(ge=1, le=16384)]] | None = Field(
        default=None,
        max_length=64,
        description="Width of each hidden layer; left out: none for linear, else two of 64.",
    )
    batch_norm: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @property
    def widths(self) -> list[int]:
        """Width of each hidden layer."""
        if self.units is not None:
            return self.units
        return [] if self.family == "linear" else [64, 64]


class ModelConfig(Asked):
    """A model as Keras serialises it, for instance `json.loads(model.to_json())`."""

    kind: Literal["keras_config"]
    config: dict[str, Any]


class ModelRef(Asked):
    """An uploaded model, or the one that belongs to a sample data set."""

    kind: Literal["ref"]
    id: ModelId


class DataSummary(Asked):
    """Data described by a few numbers; probes run on data drawn from them."""

    kind: Literal["summary"] = "summary"
    shape: list[Count] = Field(min_length=1, max_length=8, description="Of one example's input.")
    task: Literal["classification", "regression"] = "classification"
    samples: int = Field(default=1000, ge=8, le=10**9, description="Training examples.")
    classes: int = Field(default=2, ge=2, le=100_000)
    outputs: int = Field(default=1, ge=1, le=100_000, description="Numbers per target.")
    noise: float = Field(default=0.1, ge=0, le=1, description="Share of wrong labels.")
    imbalance: float | None = Field(default=None, gt=0, lt=1, description="Largest class' share.")
    sparsity: float = Field(default=0.0, ge=0, lt=1, description="Share of inputs that are 0.")
    missing: float = Field(default=0.0, ge=0, lt=1, description="Share of inputs missing.")
    vocabulary: int | None = Field(default=None, ge=2, le=10**6, description="For token inputs.")

    @model_validator(mode="after")
    def _bounded(self) -> DataSummary:
        if math.prod(self.shape) > LARGEST_EXAMPLE:
            raise ValueError(f"shape may hold at most {LARGEST_EXAMPLE} numbers")
        return self


class DataRef(Asked):
    """An uploaded data set, or a sample such as `sample:digits`."""

    kind: Literal["ref"]
    id: DatasetId


class Training(Asked):
    """How one full training would go."""

    epochs: int | None = Field(
        default=None, ge=1, le=10**6, description="Left out: the sample's own, else 20."
    )
    batch_size: int | None = Field(
        default=None, ge=1, le=2**20, description="Left out: the sample's own, else 32."
    )
    loss: LossName | None = Field(
        default=None, description="Left out: the model's own, else by the targets."
    )
    from_logits: bool = Field(
        default=False, description="Whether outputs lack the last softmax; with a cross-entropy."
    )
    backend: Backend | None = Field(default=None, description="Left out: the service's own.")

    @model_validator(mode="after")
    def _logits_of_something(self) -> Training:
        if self.from_logits and not (self.loss or "").endswith("crossentropy"):
            raise ValueError("from_logits needs loss to be a cross-entropy")
        return self


AnyModel = Annotated[ModelSummary | ModelConfig | ModelRef, Field(discriminator="kind")]
AnyData = Annotated[DataSummary | DataRef, Field(discriminator="kind")]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class AdviceRequest(Asked):
    """What to answer at once, without training anything."""

    model: AnyModel
    data: AnyData
    training: Training = Training()
    objective: Literal["val_loss"] = "val_loss"
    seed: Seed = 0

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": {"kind": "summary", "family": "mlp", "units": [64, 64]},
                    "data": {"kind": "summary", "shape": [30], "samples": 5000, "classes": 3},
                    "training": {"epochs": 50, "batch_size": 32},
                },
                {
                    "model": {"kind": "ref", "id": "sample:digits"},
                    "data": {"kind": "ref", "id": "sample:digits"},
                },
            ]
        }
    )


class RecommendationRequest(AdviceRequest):
    """What to probe."""

    tier: Tier = Field(default="quick", description="How much may be spent, in full trainings.")
    max_seconds: float = Field(default=120.0, ge=5, le=3600, description="Wall-clock limit.")
    include: list[Annotated[str, StringConstraints(max_length=64)]] = Field(
        default=[], max_length=8, description="Further optimizers to try, by name."
    )
    label: Annotated[str, StringConstraints(max_length=120)] | None = None
    metadata: dict[
        Annotated[str, StringConstraints(max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ] = Field(default={}, max_length=16)

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": {"kind": "ref", "id": "sample:digits"},
                    "data": {"kind": "ref", "id": "sample:digits"},
                    "tier": "quick",
                    "max_seconds": 60,
                }
            ]
        }
    )
