"""Temporary folders of probes, uploads and journals, and what becomes of those left by a kill."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from api.failpoints import reach
from recommender.executors import cell

JOURNALS = "journal"
# The folder of the present attempt appears in one step.
PART = ".part"
# Uploads take minutes at most; a probe's folder is known to be in use a moment after it is made.
UPLOAD_SECONDS = 3600.0
PROBE_SECONDS = 60.0


def journal(scratch: Path, job: str, fence: int) -> Path:
    """The journal of an attempt at a job, with everything that earlier attempts have kept.

    Each attempt has a folder of its own: the process of an earlier one may only have been asleep,
    and still hold its journal.

    Args:
        scratch: Where temporary folders are.
        job: Whose.
        fence: Of the attempt.
    """
    home = scratch / JOURNALS / job
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    mine = home / f"{fence:06d}"
    if mine.exists():
        return mine
    earlier = sorted(folder for folder in home.iterdir() if folder.name.isdecimal())
    part = mine.with_suffix(PART)
    _remove(part)
    part.mkdir(mode=0o700)
    if earlier:
        with contextlib.suppress(OSError):  # what it lacks is made again
            cell.copy(earlier[-1], part)
    part.rename(mine)
    for folder in earlier:
        _remove(folder)
    return mine


def forget(scratch: Path, job: str) -> None:
    """Remove the journal of a job that has ended."""
    reach("scratch.before_forget")
    _remove(scratch / JOURNALS / job)


def sweep(
    scratch: Path,
    abandoned: Callable[[Path], list[Path]],
    ended: Callable[[str], bool],
    now: float | None = None,
) -> None:
    """Remove what processes have left that were killed.

    Args:
        scratch: Where temporary folders are.
        abandoned: Finds the folders of probes that are gone.
        ended: Whether a job has ended, or is not known.
        now: The present time; None asks the clock.
    """
    now = time.time() if now is None else now
    probes = [f for f in abandoned(scratch) if _age(f, now) > PROBE_SECONDS]
    uploads = [f for f in scratch.glob("tmp*") if _age(f, now) > UPLOAD_SECONDS]
    journals = [f for f in (scratch / JOURNALS).glob("rec_*") if ended(f.name)]
    for folder in (*probes, *uploads, *journals):
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove what a probe has written; what resists is swept another time."""
    with contextlib.suppress(OSError):
        cell.remove(folder)


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except OSError:  # gone by now
        return 0.0
