"""The exceptions of this package, each with a stable `code` that programs may rely on."""

from __future__ import annotations

# How frameworks say it, in small letters.
OUT_OF_MEMORY = ("resource_exhausted", "out of memory", "can't allocate memory", "bad_alloc")
LONGEST_REASON = 200


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


class ProbeFailed(RecommenderError):
    """A candidate cannot be trained here: its program fails, or runs out of memory."""

    code = "probe_failed"


class EngineFailed(RecommenderError):
    """Probes cannot run on the backend that was wanted; the message says why."""

    code = "engine_parity_failed"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a framework says that its memory did not suffice."""
    found = any(sign in str(error).lower() for sign in OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or found


def reason_of(error: BaseException) -> str:
    """Why a probe failed, in one line.

    Args:
        error: What the framework raised.
    """
    text = str(error)
    if is_out_of_memory(error):
        return "ran out of memory"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Keras says first where it was called from.
    said = [line for line in lines if "Exception encountered when calling" not in line]
    first = next(iter(said or lines), "")
    return f"failed with {type(error).__name__}: {first[:LONGEST_REASON]}".rstrip(": ")
