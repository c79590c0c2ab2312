"""The command line: what it prints, and exit code 2 with one line where input is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recommender import RequestError, cli, demo_tasks
from tests.recommender.problems import data, model


def call(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["gradopt", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    net = model()
    net.compile(loss="mse")
    net.save(tmp_path / "model.keras")
    x, y = data()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    return tmp_path / "model.keras", tmp_path / "data.npz"


def test_advise_prints_code_that_runs_and_writes_the_page(
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
) -> None:
    page = tmp_path / "report.html"
    assert call(monkeypatch, "advise", *files, "--epochs", 20, "--report", page) == 0
    out = capsys.readouterr().out
    assert "import keras_gradopt" in out
    assert "What this advice cost" in out
    assert page.exists()


def test_advise_prints_json(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, "advise", *files, "--epochs", 20, "--json") == 0
    assert json.loads(capsys.readouterr().out)["request"]["tier"] == "quick"


def test_methods_lists_and_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert call(monkeypatch, "methods") == 0
    listed = capsys.readouterr().out
    assert "prodigy" in listed
    assert call(monkeypatch, "methods", "lookahead") == 0
    shown = capsys.readouterr().out
    assert "slow_step_size" in shown
    assert "NeurIPS 2019" in shown
    assert r"\phi \leftarrow" in shown


def test_demo_lists_five_tasks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, "demo", "--tasks") == 0
    out = capsys.readouterr().out
    assert [name for name in demo_tasks.TASKS if f"{name}: " in out] == list(demo_tasks.TASKS)
    assert len(demo_tasks.TASKS) == 5


WRONG: dict[str, tuple[list[Any], str]] = {
    "no file": (["advise", "nosuch.keras", "{data}"], "there is no file nosuch.keras"),
    "no data": (["advise", "{model}", "nosuch.npz"], "there is no file nosuch.npz"),
    "no model": (["advise", "{data}", "{data}"], "cannot be loaded as a Keras model"),
    "no arrays": (["advise", "{model}", "{model}"], "cannot be read as .npz|x and y are needed"),
    "tier": (["advise", "{model}", "{data}", "--tier", "fast"], "tier must be one of"),
    "epochs": (["advise", "{model}", "{data}", "--epochs", "0"], "epochs must be"),
    "seconds": (["advise", "{model}", "{data}", "--max-seconds", "-1"], "max_seconds must be"),
    "include": (["advise", "{model}", "{data}", "--include", "admw"], "Did you mean"),
    "bind": (["advise", "{model}", "{data}", "--include", "svrg"], "keras_gradopt.bind"),
    "method": (["methods", "admw"], "Unknown optimizer 'admw'. Did you mean"),
    "task": (["demo", "--task", "nosuch"], "task must be one of digits"),
    "argument": (["advise", "{model}"], "Missing argument"),
    "option": (["demo", "--seeds", "0"], "Invalid value for '--seeds'"),
    "command": (["advice"], "No such command"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_ends_with_exit_code_two_and_no_traceback(
    case: str,
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    arguments, message = WRONG[case]
    named = {"{model}": files[0], "{data}": files[1]}
    code = call(monkeypatch, *[named.get(a, a) for a in arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert any(part in error for part in message.split("|")), error
    assert "Traceback" not in error


def test_a_backend_is_chosen_where_nobody_names_one() -> None:
    assert cli.choose_backend("torch", ["jax", "torch"]) == "torch"
    assert cli.choose_backend(None, ["tensorflow", "torch"]) == "tensorflow"
    with pytest.raises(RequestError, match="no Keras backend is installed"):
        cli.choose_backend(None, [])


def test_an_interrupt_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    # The rest is real: Typer, and what it makes of an interrupt in mid-command.
    monkeypatch.setattr("recommender.demo.run", interrupted)
    assert call(monkeypatch, "demo") == 130
    assert "interrupted" in capsys.readouterr().err
