"""The shapes of requests and answers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from api.settings import Backend

ULID = "[0-9A-HJKMNP-TV-Z]{26}"
SAMPLE = "sample:[a-z0-9_-]{1,40}"
ModelId = Annotated[str, StringConstraints(pattern=rf"^(mdl_{ULID}|{SAMPLE})$")]
DatasetId = Annotated[str, StringConstraints(pattern=rf"^(dst_{ULID}|{SAMPLE})$")]
UploadedModelId = Annotated[str, StringConstraints(pattern=rf"^mdl_{ULID}$")]
UploadedDatasetId = Annotated[str, StringConstraints(pattern=rf"^dst_{ULID}$")]
KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z]{8}$")]
RecommendationId = Annotated[str, StringConstraints(pattern=rf"^rec_{ULID}$")]
TrialId = Annotated[str, StringConstraints(pattern=rf"^trl_{ULID}_[0-9]{{1,3}}$")]
Count = Annotated[int, Field(ge=1, le=10**9)]
# One example of described data; probes draw 4 096 of them.
LARGEST_EXAMPLE = 100_000
# More than any request has.
MOST_FIELDS = 64

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
Scope = Literal["advise", "read", "write", "admin"]
Tier = Literal["instant", "quick", "standard", "thorough"]
Status = Literal["queued", "running", "cancelling", "succeeded", "failed", "timed_out", "cancelled"]


class Asked(BaseModel):
    """A request: unknown fields, other types and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: Any) -> Any:
        # Each unknown field is an error of about a kilobyte, and a body has room for 100 000.
        if isinstance(value, dict) and len(value) > MOST_FIELDS:
            raise ValueError(f"has {len(value)} fields; at most {MOST_FIELDS} are read")
        return value


class Given(BaseModel):
    """An answer: it may grow, so clients ignore fields that they do not know."""


# --- what is asked ---


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


class KeyRequest(Asked):
    """What a key is to be."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=120)]
    scopes: list[Scope] = Field(
        default=["advise", "read", "write"], min_length=1, max_length=4, description="What it may."
    )
    days: int | None = Field(default=365, ge=1, le=3650, description="Valid so long; null: always.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "notebook", "scopes": ["advise", "read"]}]}
    )


# --- what is given ---


class Place(Given):
    """One place in the body that is wrong."""

    pointer: str
    code: str
    detail: str


class Problem(Given):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[Place] | None = None


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


class Key(Given):
    """A key, without what opens anything."""

    id: str
    object: Literal["key"] = "key"
    name: str
    tenant: str
    scopes: list[Scope]
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class FreshKey(Key):
    """A key that has just been made."""

    key: str = Field(description="The key itself; it is shown this once.")


class KeyList(Given):
    """A page of keys, the newest first."""

    data: list[Key]
    next: str | None
    has_more: bool


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


class Version(Given):
    """What answers."""

    service: str
    api: Literal["v1"] = "v1"
    versions: dict[str, str] = Field(description="What every advice repeats.")


class Alive(Given):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(Given):
    """Whether requests can be served, check by check."""

    status: Literal["ready", "not_ready"]
    checks: dict[str, str]
