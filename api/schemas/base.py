"""What requests and answers have in common: ids, names, errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

ULID = "[0-9A-HJKMNP-TV-Z]{26}"
SAMPLE = "sample:[a-z0-9_-]{1,40}"
ModelId = Annotated[str, StringConstraints(pattern=rf"^(mdl_{ULID}|{SAMPLE})$")]
DatasetId = Annotated[str, StringConstraints(pattern=rf"^(dst_{ULID}|{SAMPLE})$")]
UploadedModelId = Annotated[str, StringConstraints(pattern=rf"^mdl_{ULID}$")]
UploadedDatasetId = Annotated[str, StringConstraints(pattern=rf"^dst_{ULID}$")]
KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z]{8}$")]
RecommendationId = Annotated[str, StringConstraints(pattern=rf"^rec_{ULID}$")]
TrialId = Annotated[str, StringConstraints(pattern=rf"^trl_{ULID}_[0-9]{{1,3}}$")]
# More than any request has.
MOST_FIELDS = 64
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
