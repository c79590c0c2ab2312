"""Probes that are cancelled at any moment of their work: within three seconds, each time."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

from tests.api.release import sizes
from tests.api.server import ENDLESS, assert_whole, child, gone, serving, until

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]
LONGEST = 3.0


# One cancel of every run is in test_service.py.
@pytest.mark.parametrize("cancels", sizes(1, 50)[1:])
def test_running_probes_are_cancelled_within_three_seconds(cancels: int, tmp_path: Path) -> None:
    chance = random.Random(cancels)  # noqa: S311 - no secret
    taken = []
    with serving(tmp_path / "data") as server:
        for seed in range(cancels):
            path = server.ask({**ENDLESS, "seed": seed})
            until(lambda path=path: server.get(path)["status"] == "running", "it runs")
            # Importing, compiling, training: whatever it is at.
            time.sleep(chance.uniform(0.0, 10.0))
            probe = child(server.pid("worker"), "executors.child")
            began = time.monotonic()
            server.post(f"{path}/cancel")
            job = server.ended(path)
            if probe is not None:  # it may not have been started
                until(lambda probe=probe: gone(probe), "the probe ends", LONGEST)
            taken.append(time.monotonic() - began)
            assert job["status"] == "cancelled"
            assert_whole(server.events(path))
    taken.sort()
    print(f"{cancels} cancels, median {taken[cancels // 2]:.2f} s, longest {taken[-1]:.2f} s")
    assert taken[-1] < LONGEST
