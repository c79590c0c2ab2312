"""Probes in child processes: the same answer as here, and every way to end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recommender import recommend
from recommender.answer import Plain
from recommender.executors import Limits, Outcome, ProbeSpec
from recommender.executors.child import DATA_CODES, MODEL_CODES, rejected
from recommender.executors.local import LocalProbe, child_environment

NET = {"kind": "family", "family": "mlp", "units": [8]}
DATA = {"kind": "summary", "shape": [4], "task": "regression", "samples": 2000}


def spec(**changes: Any) -> ProbeSpec:
    given: dict[str, Any] = {
        "model": NET,
        "data": DATA,
        "loss": None,
        "epochs": 50,
        "batch_size": 32,
        "tier": "quick",
        "max_seconds": 120.0,
    }
    return ProbeSpec(**(given | changes))


def run(asked: ProbeSpec, folder: Path, backend: str = "jax", **limits: Any) -> Outcome:
    return LocalProbe(backend, Limits(**limits), folder).run(asked, lambda _: None, lambda: False)


def test_the_answer_of_a_child_is_the_answer_here(backend: str, tmp_path: Path) -> None:
    heard: list[Plain] = []
    probe = LocalProbe(backend, Limits(), tmp_path)
    outcome = probe.run(spec(), heard.append, lambda: False)
    assert outcome.status == "succeeded", outcome.detail
    assert outcome.result is not None
    here = recommend(
        {"family": "mlp", "units": [8]},
        {"shape": [4], "task": "regression", "samples": 2000},
        epochs=50,
        progress=False,
        backend=backend,
    ).to_dict()
    for part in ("recommended", "decision", "alternatives", "versions"):
        assert outcome.result[part] == here[part]
    theirs, mine = (a["evidence"]["probes"] for a in (outcome.result, here))
    assert [p["candidate"] for p in theirs] == [p["candidate"] for p in mine]
    for one, other in zip(theirs, mine, strict=True):
        for a, b in zip(one["rungs"], other["rungs"], strict=True):
            # The child's threads may sum in another order.
            assert a["step"] == b["step"]
            np.testing.assert_allclose(a["val_loss"], b["val_loss"], rtol=1e-3)
    kinds = [message["kind"] for message in heard]
    assert kinds.index("planned") < kinds.index("trained") < kinds.index("judged")
    (plan,) = (m["trials"] for m in heard if m["kind"] == "planned")
    assert [t["label"] for t in plan] == [p["candidate"] for p in theirs]
    assert not list(tmp_path.iterdir()), "the child's folder is gone"
    assert outcome.usage["peak_memory_bytes"] > 50 * 2**20
    assert outcome.usage["wall_seconds"] > 0


@pytest.mark.backend_free
def test_a_cancelled_probe_is_gone_at_once(tmp_path: Path) -> None:
    probe = LocalProbe("jax", Limits(), tmp_path)
    began = time.monotonic()
    outcome = probe.run(spec(), lambda _: None, lambda: time.monotonic() - began > 0.3)
    assert outcome.status == "cancelled"
    assert time.monotonic() - began < 2
    assert not probe.alive
    assert not list(tmp_path.iterdir())


@pytest.mark.backend_free
def test_a_listener_that_raises_ends_the_probe(tmp_path: Path) -> None:
    def refuse(_: Plain) -> None:
        raise InterruptedError("enough")

    probe = LocalProbe("jax", Limits(), tmp_path)
    with pytest.raises(InterruptedError, match="enough"):
        probe.run(spec(), refuse, lambda: False)
    assert not probe.alive


@pytest.mark.backend_free
def test_a_probe_that_dies_says_how(tmp_path: Path) -> None:
    probe = LocalProbe("jax", Limits(), tmp_path)
    os.kill(probe.pid, signal.SIGSEGV)
    outcome = probe.run(spec(), lambda _: None, lambda: False)
    assert (outcome.status, outcome.code) == ("failed", "probe_died")
    assert "SIGSEGV" in (outcome.detail or "")


@pytest.mark.backend_free
def test_a_backend_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # First on the path lies a module that ends as a missing one does.
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('none', name='torch')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}")
    outcome = run(spec(), tmp_path, backend="torch")
    assert (outcome.status, outcome.code) == ("failed", "backend_unavailable")
    assert "torch is missing" in (outcome.detail or "")


@pytest.mark.backend_free
@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"data": {"kind": "npz", "path": "/nowhere.npz"}}, "data_rejected", "cannot be read"),
        ({"model": {"kind": "config", "config": {"class_name": "X"}}}, "model_rejected", "config"),
        ({"batch_size": 4000}, "request_rejected", "batch_size"),
    ],
)
def test_a_request_that_cannot_be_answered_says_whose_fault_it_is(
    changes: dict[str, Any], code: str, words: str, tmp_path: Path
) -> None:
    outcome = run(spec(**changes), tmp_path)
    assert (outcome.status, outcome.code) == ("failed", code)
    assert words in (outcome.detail or "")


@pytest.mark.backend_free
def test_a_file_over_its_limit_cannot_be_written(tmp_path: Path) -> None:
    """The limits hold in the child: asked of the system, in a process that has set them."""
    import subprocess
    import sys

    program = (
        "import resource\n"
        "from recommender.executors.jail import LARGEST_FILE, RESERVED_MB, limit\n"
        "limit(512)\n"
        "assert resource.getrlimit(resource.RLIMIT_AS)[0] == (512 + RESERVED_MB) * 2**20\n"
        "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\n"
        "import signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n"
        "    with open('big', 'wb') as file:\n"
        "        file.write(b'0' * (LARGEST_FILE + 1))\n"
        "except OSError:\n"
        "    print('refused')\n"
        "try:\n"
        "    bytearray(8 * 2**30)\n"
        "except MemoryError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert done.stdout.split() == ["refused", "refused"], done.stderr


@pytest.mark.backend_free
def test_a_child_sees_no_secrets() -> None:
    own = {
        "PATH": "/bin",
        "KGO_DATABASE_PASSWORD": "s",
        "AWS_SECRET_ACCESS_KEY": "s",
        "HOME": "/root",
        "JAX_PLATFORMS": "cpu",
    }
    seen = child_environment(own, "torch", Path("/scratch"))
    assert seen["PATH"] == "/bin"
    assert seen["JAX_PLATFORMS"] == "cpu"
    assert seen["KERAS_BACKEND"] == "torch"
    assert seen["HOME"] == "/scratch"
    assert "s" not in seen.values()


@pytest.mark.backend_free
def test_every_error_of_a_request_is_somebody_s_fault() -> None:
    import ast

    root = Path(__file__).resolve().parents[2] / "recommender"
    raised = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            named = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RequestError"
            if named:
                raised |= {
                    k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)
                }
    assert raised >= MODEL_CODES | DATA_CODES, "a code that nothing raises"
    assert rejected("unsupported_model") == "model_rejected"
    assert rejected("not_finite") == "data_rejected"
    assert rejected("unknown_optimizer") == "request_rejected"
