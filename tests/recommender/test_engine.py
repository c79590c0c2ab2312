"""Probes on another backend: the same losses, or here with a note."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from recommender import RequestError, recommend
from recommender.executors import parcel, parity, trusted
from recommender.progress import Progress
from tests.recommender.failing import VARIABLE
from tests.recommender.problems import data, model, problem
from tests.recommender.test_recommend import timeless

RUNNING = keras.config.backend()
OTHER = "torch" if RUNNING == "jax" else "jax"
ROOT = Path(__file__).resolve().parents[2]


def ask(net: keras.Model | None = None, **changes: Any) -> Any:
    arguments = {"epochs": 250, "loss": "mse", "backend": OTHER, "progress": False} | changes
    return recommend(net or model(), *data(), **arguments)


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):
    """Multiplies by a weight, and by another number where Keras runs on another backend."""

    def __init__(self, elsewhere: float = 1.0, home: str = RUNNING, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.elsewhere, self.home = elsewhere, home

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x: Any) -> Any:
        at_home = keras.config.backend() == self.home
        if not at_home and self.elsewhere < 0:
            raise NotImplementedError("written for one backend")
        return x * self.scale * (1.0 if at_home else self.elsewhere)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"elsewhere": self.elsewhere, "home": self.home}


@keras.saving.register_keras_serializable("tests")
def squash(x: Any) -> Any:
    return keras.ops.tanh(x)


@keras.saving.register_keras_serializable("tests")
def shift(x: Any) -> Any:
    return x + 0.1


def curious(elsewhere: float) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(16, activation=squash),
            Scaled(elsewhere),
            layers.Lambda(shift),
            layers.Dense(1),
        ]
    )


def absolute(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


def test_custom_layers_and_losses_go_over_and_give_the_same_losses() -> None:
    heard: list[str] = []
    there = ask(curious(1.0), loss=absolute, progress=heard.append)
    assert there.versions["backend"] == OTHER
    assert f"starting probes on {OTHER}, in a process of their own" in heard
    assert any(text.startswith("step ") for text in heard)
    assert there.cost.by_purpose["parity"] > 2 * parity.STEPS - 1
    assert 0 < there.cost.fraction_of_full <= 0.10
    here = ask(curious(1.0), loss=absolute, backend=RUNNING)
    assert here.versions["backend"] == RUNNING
    assert there.evidence == here.evidence == "measured"


def test_both_backends_train_alike() -> None:
    net = model(batch_norm=True)
    there, here = ask(net), ask(net, backend=RUNNING)
    for one, other in zip(there.results, here.results, strict=True):
        assert one.setting == other.setting
        # A hundred steps of float32 on two backends.
        np.testing.assert_allclose(one.losses[:40], other.losses[:40], rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("elsewhere", "words"),
    [
        (1.1, "the losses in inference mode differ"),
        (-1.0, "written for one backend"),
    ],
)
def test_what_another_backend_cannot_do_is_probed_here(elsewhere: float, words: str) -> None:
    found = ask(curious(elsewhere))
    assert found.versions["backend"] == RUNNING
    (note,) = [n for n in found.notes if n.startswith("engine_parity_failed")]
    assert words in note
    assert found.evidence == "measured"


def test_a_model_that_draws_is_compared_in_inference_mode() -> None:
    assert ask(model(dropout=0.3)).versions["backend"] == OTHER


def test_what_trains_nothing_needs_no_other_process() -> None:
    heard: list[str] = []
    found = ask(tier="instant", progress=heard.append)
    assert found.versions["backend"] == RUNNING
    assert not any("process" in text for text in heard)


def test_a_wrong_request_is_refused_as_here() -> None:
    with pytest.raises(RequestError, match="nosuch"):
        ask(include=["nosuch"])


class Raising(Progress):
    def working(self, setting: Any) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_ends_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    child = trusted._Child

    def starting(*arguments: Any) -> Any:
        started.append(child(*arguments))
        return started[-1]

    monkeypatch.setattr(trusted, "_Child", starting)
    with pytest.raises(KeyboardInterrupt):
        ask(progress=Raising())
    assert started[0]._process.returncode == -signal.SIGKILL


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, sys, tests.recommender.test_engine as t\n"
        "class Telling(t.Progress):\n"
        "    def working(self, setting): open(sys.argv[1], 'w').close()\n"
        "from recommender.executors import trusted\n"
        "child = trusted._Child\n"
        "def starting(*a):\n"
        "    c = child(*a); print(c._process.pid, flush=True); return c\n"
        "trusted._Child = starting\n"
        "t.ask(epochs=25000, tier='thorough', progress=Telling())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "works")], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    until((tmp_path / "works").exists)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not Path(f"/proc/{pid}/fd").exists() or ended(pid))


def ended(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]
    except OSError:
        return True


def until(holds: Any, seconds: float = 120) -> None:
    last = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < last, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("dies", "was ended by SIGKILL; the system may have run out of memory"),
        ("sleeps", "made no progress for"),
    ],
)
def test_a_candidate_that_ends_or_hangs_the_child_is_a_result(
    way: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trusted, "MODULE", "tests.recommender.failing")
    monkeypatch.setattr(trusted, "PATIENCE", 4.0)
    monkeypatch.setattr(trusted, "SLOWEST_TIMES", 1.0)
    monkeypatch.setenv(VARIABLE, f"prodigy {way}")
    found = ask(include=["prodigy"])
    assert found.versions["backend"] == OTHER
    (failed,) = [r for r in found.results if r.setting.method == "prodigy"]
    assert failed.stopped.startswith(words)
    assert failed.rungs == ()
    assert all(r.rungs for r in found.results if r is not failed)


def test_a_time_limit_holds_there_too() -> None:
    began = time.monotonic()
    found = ask(max_seconds=0.5)
    # The process is ended; what takes time here is to look at the data and say so.
    assert time.monotonic() - began < 30
    assert found.decision.candidate is not None


def test_a_killed_request_goes_on_there_too(tmp_path: Path) -> None:
    class Stopping(Progress):
        count = 0

        def working(self, setting: Any) -> None:
            self.count += 1
            if self.count == 20:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(journal=tmp_path, progress=Stopping())
    assert timeless(ask(journal=tmp_path).to_dict()) == timeless(ask().to_dict())


def test_a_parcel_holds_what_was_packed(tmp_path: Path) -> None:
    asked = problem(model=curious(1.0), loss=absolute)
    asked.model.layers[0].trainable = False
    parcel.pack(asked, tmp_path)
    again = parcel.unpack(tmp_path)
    few = asked.x[:5]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(again.model(few)),
        keras.ops.convert_to_numpy(asked.model(few)), rtol=1e-6,
    )  # fmt: skip
    assert len(again.model.trainable_variables) == len(asked.model.trainable_variables)
    np.testing.assert_array_equal(again.x, asked.x)
    loss = again.loss(np.zeros((3, 1), "float32"), np.full((3, 1), 2.0, "float32"))
    assert np.all(keras.ops.convert_to_numpy(loss) == 2.0)


@pytest.mark.backend_free
def test_a_child_has_one_thread_and_the_caller_s_modules() -> None:
    found = trusted.environment({"XLA_FLAGS": "--a", "HOME": "/h"}, "jax", small=True)
    assert found["KERAS_BACKEND"] == "jax"
    assert found["OMP_NUM_THREADS"] == "1"
    assert found["XLA_FLAGS"].startswith("--a --xla_cpu_multi_thread_eigen=false")
    assert found["HOME"] == "/h"
    assert str(ROOT) in found["PYTHONPATH"].split(os.pathsep)
    assert "XLA_FLAGS" not in trusted.environment({}, "jax", small=False)
