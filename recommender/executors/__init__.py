"""Where probes run. The contract: a specification goes in, messages come out, then an outcome.

A probe never runs in the process that asked for it: it may be killed, run out of memory, or hold
somebody else's model. `local` runs it in a child process of this machine, which `jail` holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from recommender.answer import Plain


@dataclass(frozen=True)
class ProbeSpec:
    """One request for advice as plain data, so that it can cross a process or a network.

    Attributes:
        model: `{"kind": "config", "config": {...}}` (as Keras serialises a model; weights are
            drawn afresh), `{"kind": "family", ...}` (see `recommender.synthetic.build_family`) or
            `{"kind": "sample", "name": "digits"}`.
        data: `{"kind": "npz", "path": "..."}` with x, y and perhaps x_val, y_val,
            `{"kind": "parquet", "path": "...", "target": "..."}`,
            `{"kind": "summary", ...}` (see `recommender.synthetic.DataSummary`) or
            `{"kind": "sample", "name": "digits"}`.
        loss: `{"name": "mean_squared_error", "from_logits": False}`; None is the sample's own, else
            what `recommend` takes where nothing is said.
        epochs, batch_size: Of one full training.
        tier, max_seconds, objective, include, seed: As in `recommend`.
    """

    model: Plain
    data: Plain
    loss: Plain | None
    epochs: int
    batch_size: int
    tier: str
    max_seconds: float
    objective: str = "val_loss"
    include: tuple[str, ...] = ()
    seed: int = 0

    def to_dict(self) -> Plain:
        """The specification, ready for JSON."""
        return dataclasses.asdict(self) | {"include": list(self.include)}


@dataclass(frozen=True)
class Limits:
    """What one probe process may use.

    Attributes:
        memory_mb: Resident memory in MiB, at least 256.
        grace_seconds: Seconds beyond the request's `max_seconds`, for importing and compiling.
    """

    memory_mb: int = 4096
    grace_seconds: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a probe ended.

    Attributes:
        status: What became of it.
        result: `Advice.to_dict()` where it succeeded, and of what was known where it was cancelled
            or timed out in the middle of its work.
        code: Why it did not: "model_rejected", "data_rejected", "request_rejected",
            "backend_unavailable", "out_of_memory",
            "budget_exhausted_no_result", "probe_died", "probe_misbehaved", "storage_full" or
            "internal".
        detail: The same in a sentence.
        usage: `cpu_seconds`, `wall_seconds` and `peak_memory_bytes`, as far as known.
        died: Whether its process ended, or was ended for its memory, before it had an answer.
    """

    status: Literal["succeeded", "failed", "timed_out", "cancelled"]
    result: Plain | None
    code: str | None
    detail: str | None
    usage: Plain
    died: bool = False


class Executor(Protocol):
    """Runs one probe; made before there is one to run, so that it can prepare itself.

    Attributes:
        backend: The Keras backend that it probes on.
        alive: Whether it can still run one.
        pid: The process that it runs in.
    """

    @property
    def backend(self) -> str:
        """The Keras backend that it probes on."""

    @property
    def alive(self) -> bool:
        """Whether it can still run a probe."""

    @property
    def pid(self) -> int:
        """The process that it runs in."""

    def close(self) -> None:
        """Let go of it; nothing of it runs afterwards."""

    def run(
        self,
        spec: ProbeSpec,
        hears: Callable[[Plain], None],
        cancelled: Callable[[], bool],
        journal: Path | None = None,
        failed: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Probe, and come back when it is over.

        Args:
            spec: What to do.
            hears: Is called with each message of the probe, in order: `kind` is "said" (text),
                "planned" (trials), "working" (trial or None, label, key), "worked" (trial, seconds
                since the last of these), "trained" (trial, points, rate), "judged" (trial, step,
                loss), "stopped" (trial, reason) or "spent" (fraction). A trial is its position in
                the plan; a loss that is not finite is None.
            cancelled: Is asked several times a second; once it says so, the probe is given two
                seconds to say what it knows, and ended. What it raises ends the probe at once.
            journal: Folder, on the disk that the executor has its own on, that keeps what was
                trained: asked again with it, the probe goes on where it was, and tells everything
                from the beginning.
            failed: Candidates that are not to be trained any more, by the `key` of their "working"
                messages, and why; needs a journal.
        """
