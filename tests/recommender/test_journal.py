"""A request that was killed goes on where it was, and gives the answer it would have given."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from recommender import RequestError, recommend
from recommender.journal import PIECES, REQUEST, STATES, Journal
from recommender.progress import Progress
from tests.recommender.killed import asked
from tests.recommender.problems import data, model
from tests.recommender.test_recommend import timeless

ROOT = Path(__file__).resolve().parents[2]
RUNNING = keras.config.backend()
# Named places, and pieces drawn at random; each process goes on from where the last was killed.
DRAWN = random.Random(7)  # noqa: S311 - no secret
PLACES = [
    ("before", 1),
    ("within", 3),
    ("state", 2),
    ("after", DRAWN.randrange(2, 12)),
    ("within", DRAWN.randrange(2, 12)),
    ("before", DRAWN.randrange(2, 12)),
]


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """The answer of a request that nobody disturbs."""
    return timeless(asked(None).to_dict())


def kill(folder: Path, place: str, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.recommender.killed", str(folder), place, str(count)],
        cwd=ROOT, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]


def test_killed_at_any_place_it_gives_the_same_answer(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    # One kill is enough to see that the other engine keeps its states too.
    for place, count in PLACES if RUNNING == "jax" else [("after", 30)]:
        kill(tmp_path, place, count)
    before = (tmp_path / PIECES).stat().st_size
    assert before > 0
    assert list((tmp_path / STATES).glob("*.npz")), "trunks that may go on are kept"
    assert timeless(asked(str(tmp_path)).to_dict()) == whole
    assert (tmp_path / PIECES).stat().st_size > before
    assert not list((tmp_path / STATES).iterdir()), "nobody will ask for them again"


class Working(Progress):
    """Counts what is really done, and interrupts after so many pieces."""

    def __init__(self, last: int = 10**9) -> None:
        self.count, self.last, self.lines = 0, last, list[str]()

    def working(self, setting: Any) -> None:
        self.count += 1
        if self.count > self.last:
            raise KeyboardInterrupt

    def said(self, text: str) -> None:
        self.lines.append(text)


def small(folder: Path, progress: Any = False, **changes: Any) -> Any:
    arguments = {"epochs": 250, "loss": "mse", "backend": RUNNING} | changes
    net = arguments.pop("net", None) or model()
    return recommend(net, *data(), **arguments, journal=folder, progress=progress)


def test_what_is_in_the_journal_is_not_done_again(tmp_path: Path) -> None:
    first, again = Working(), Working()
    found = small(tmp_path, first)
    assert timeless(small(tmp_path, again).to_dict()) == timeless(found.to_dict())
    assert first.count > 20
    assert again.count == 0


def test_an_interrupt_says_how_to_go_on_and_leaves_the_folder_whole(tmp_path: Path) -> None:
    stopped = Working(last=15)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, stopped)
    assert stopped.lines[-1] == f"interrupted; ask again with journal={str(tmp_path)!r} to go on"
    resumed = Working()
    found = small(tmp_path, resumed)
    assert timeless(found.to_dict()) == timeless(small(tmp_path / "other").to_dict())
    assert resumed.count > 0


def test_damage_costs_the_damaged_only(tmp_path: Path) -> None:
    found = small(tmp_path, first := Working())
    log = tmp_path / PIECES
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-2]) + lines[-2].replace(b"[", b"(") + lines[-1][:20])
    again = Working()
    assert timeless(small(tmp_path, again).to_dict()) == timeless(found.to_dict())
    assert 0 < again.count <= 2 < first.count
    assert log.read_bytes() == b"".join(lines)


def test_damaged_states_are_trained_again(whole: dict[str, Any], tmp_path: Path) -> None:
    kill(tmp_path, "after", 30)
    for file in (tmp_path / STATES).glob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    assert timeless(asked(str(tmp_path)).to_dict()) == whole


def other_weights() -> keras.Model:
    net = model()
    net.trainable_variables[0].assign(0 * net.trainable_variables[0])
    return net


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, r"differs in seed \(0 there, 1 here\)"),
        ({"epochs": 300}, r"differs in epochs \(250 there, 300 here\), full_steps"),
        ({"loss": "mae"}, "differs in loss"),
        ({"net": other_weights}, r"differs in weights"),
        ({"net": lambda: model(dropout=0.1)}, r"differs in model"),
    ],
)
def test_another_request_is_refused_and_told_what_differs(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, Working(last=2))
    made = {k: v() if callable(v) else v for k, v in changes.items()}
    with pytest.raises(RequestError, match=words) as caught:
        small(tmp_path, **made)
    assert caught.value.code == "journal_differs"
    assert "name another folder" in str(caught.value)


def test_more_time_is_the_same_request(tmp_path: Path) -> None:
    small(tmp_path, max_seconds=0.01)
    found = small(tmp_path, max_seconds=600)
    assert timeless(found.to_dict()) == timeless(small(tmp_path / "other").to_dict())


def test_folders_that_are_no_journal_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(RequestError, match="holds other files") as caught:
        small(tmp_path)
    assert caught.value.code == "bad_journal"
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RequestError, match="cannot be used as a folder"):
        small(tmp_path / "thesis.tex")
    old = tmp_path / "old"
    old.mkdir()
    (old / REQUEST).write_text(json.dumps({"format": 0}))
    with pytest.raises(RequestError, match="not written by this version"):
        small(old)


@pytest.mark.backend_free
def test_one_process_at_a_time(tmp_path: Path) -> None:
    first = Journal(tmp_path, {})
    if os.name == "posix":
        with pytest.raises(RequestError, match="in use by another process"):
            Journal(tmp_path, {})
    first.close()
    Journal(tmp_path, {}).close()


@pytest.mark.backend_free
def test_a_training_keeps_its_last_state_only(tmp_path: Path) -> None:
    kept = Journal(tmp_path, {})
    for step in range(3):
        kept.keep("one", f"step {step}", lambda step=step: [np.full(1000, step, np.float32)])
    (file,) = (tmp_path / STATES).iterdir()
    assert file.stat().st_size < 2 * 4000
    assert kept.state("step 1") is None
    kept.close()
    again = Journal(tmp_path, {})
    (array,) = again.state("step 2") or ()
    np.testing.assert_array_equal(array, np.full(1000, 2, np.float32))
    again.drop("one")
    assert again.state("step 2") is None
    again.close()
