"""The exceptions of this package, each with a stable `code` that programs may rely on."""

from __future__ import annotations


class RecommenderError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        code: Short stable identifier, such as `"shape_mismatch"`; the text may be reworded,
            the code is not.
    """

    code: str = "recommender_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class RequestError(RecommenderError, ValueError):
    """The request itself cannot be answered: what came, what is allowed, what to do next."""

    code = "bad_request"


class BudgetExhausted(RecommenderError):
    """The next piece of work would overrun the agreed number of gradients or seconds."""

    code = "budget_exhausted"
