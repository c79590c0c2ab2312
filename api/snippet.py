"""The advice as a Python file."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from api.errors import ApiError
from api.transitions import LIVE
from recommender.answer import on_backend


def snippet(row: Row[Any], backend: str | None) -> str:
    """Python that makes the optimizer which a job advises.

    Args:
        row: The job.
        backend: Of Keras; None is the one that was probed on.

    Raises:
        ApiError: The job has no result.
    """
    if row.result is None:
        detail = (
            f"It is {row.status}; follow /v1/recommendations/{row.id}/stream and ask again."
            if row.status in LIVE
            else f"It ended as {row.status}; ask for another one."
        )
        raise ApiError("no_result", f"{row.id} has no result. {detail}")
    advised = row.result["recommended"]
    fit = "".join(f"# model.fit(..., {name}={value})\n" for name, value in
                  (advised["fit"] or {}).items())  # fmt: skip
    code = on_backend(f"{advised['code']}{fit}", backend or row.backend)
    return f"# The advice of {row.id}.\n{code}"
