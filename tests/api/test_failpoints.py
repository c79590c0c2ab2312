"""A process that is killed before or after any of its commits: nothing is lost or done twice."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from pathlib import Path

import pytest

from api.failpoints import POINTS
from api.jobs import Jobs
from api.store import Store
from tests.api.ledger import assert_sound
from tests.api.life import ACCEPTED, JOBS, live, settings
from tests.api.quick import answer

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(sys.platform != "linux", reason="kills processes"),
]
# A life takes about a second.
PATIENCE = 60.0


def lived(folder: Path, failpoint: str = "") -> int | None:
    """The exit code of a process that lives there; started by one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.api.life"])
    process = context.Process(target=live, args=(folder, failpoint))
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        pytest.fail("it did not end")
    return process.exitcode


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_loses_and_doubles_nothing(point: str, tmp_path: Path) -> None:
    assert lived(tmp_path, point) == -signal.SIGKILL, "the point is reached"
    assert lived(tmp_path) == 0
    store = Store(settings(tmp_path))
    jobs = Jobs(store)
    accepted = (tmp_path / ACCEPTED).read_text("ascii").split()
    ids = {row.id for row in jobs.newest(100, None)}
    assert ids >= set(accepted)
    assert len(ids) == JOBS
    ends = [assert_sound(jobs, job) for job in sorted(ids)]
    assert set(ends) <= {"succeeded", "cancelled"}
    assert ends.count("succeeded") >= JOBS - 1
    seeds = {row.spec["seed"]: row.result for row in jobs.newest(100, None)}
    assert sorted(seeds) == list(range(JOBS)), "each was asked for once"
    for seed, result in seeds.items():
        assert result is None or "known" in result or result == answer(seed=seed)
    journals = store.settings.scratch / "journal"
    left = {folder.name for folder in journals.iterdir()} if journals.exists() else set()
    assert len(left) <= 1, "only the killed process could leave one"
    store.close()
