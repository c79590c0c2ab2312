"""The commands that the README promises, and the runner behind them."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

from tests import run

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def shell(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """What a command says, on both channels, and how it ends."""
    return subprocess.run(
        words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


# --- make ---

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_make_without_a_target_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert phony is not None
    listed = re.findall(r"^ +make ([a-z-]+) ", shell("make").stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony[1].split())


@needs_make
def test_make_without_a_usable_python_says_what_it_looked_for(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "constraints", tmp_path / "constraints")
    done = shell("make", "demo", "PYTHON=no-such-python", cwd=tmp_path)
    assert done.returncode != 0
    assert "3.11" in done.stderr
    assert "no-such-python" in done.stderr
    assert not (tmp_path / ".venv-demo").exists()


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "make check" in script
    assert "make test" in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100, ".ci/run is not executable"


# --- the distribution ---


def test_the_command_line_starts() -> None:
    name, target = next(iter(PYPROJECT["project"]["scripts"].items()))
    module, function = target.split(":")
    program = f"import sys; sys.argv = [{name!r}, '--help']; import {module} as m; m.{function}()"
    done = shell(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout


def test_the_version_is_written_the_same_everywhere() -> None:
    import keras_gradopt

    version = PYPROJECT["project"]["version"]
    assert keras_gradopt.__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_pins_satisfy_every_requirement() -> None:
    requirements = pytest.importorskip("packaging.requirements", reason="comes with pytest")
    project = PYPROJECT["project"]
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints" / "ci.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = requirements.Requirement(line)
            if pin.marker is None or pin.marker.evaluate():
                pins[pin.name.lower().replace("_", "-")] = next(iter(pin.specifier)).version
    wanted = [
        *project["dependencies"],
        *chain.from_iterable(project["optional-dependencies"].values()),
    ]
    own = project["name"]
    for text in wanted:
        need = requirements.Requirement(text)
        if need.name != own:
            assert need.name.lower() in pins, f"constraints/ci.txt pins no {need.name}"
            assert need.specifier.contains(pins[need.name.lower()]), (
                f"{text}: {pins[need.name.lower()]}"
            )
    assert not [pin for pin in pins.values() if "+" in pin], "a local version exists on no index"


def test_every_requirement_is_imported_somewhere() -> None:
    by_distribution: dict[str, set[str]] = {}
    for module, names in importlib.metadata.packages_distributions().items():
        for name in names:
            by_distribution.setdefault(name.lower(), set()).add(module)
    code = "\n".join(
        file.read_text("utf-8")
        for package in ("keras_gradopt", "recommender", "api")
        for file in (ROOT / package).rglob("*.py")
    )
    for requirement in PYPROJECT["project"]["dependencies"]:
        name = re.split(r"[<>=!~\[; ]", requirement)[0]
        modules = by_distribution.get(name.lower(), {name})
        used = any(
            re.search(rf"^\s*(import|from) {module}\b", code, re.MULTILINE) for module in modules
        )
        assert used, f"{name} is required by pyproject.toml and imported nowhere"


def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path: Path) -> None:
    packages = [name for name in ("keras_gradopt", "recommender", "api") if (ROOT / name).is_dir()]
    source = tmp_path / "source"
    source.mkdir()
    for name in (*packages, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    done = shell(sys.executable, *command, cwd=source)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        file.relative_to(ROOT).as_posix()
        for name in packages
        for file in (ROOT / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert held == expected


# --- the runner ---


def junit(tmp_path: Path, **numbers: int) -> Path:
    """A result file as pytest writes it."""
    values = " ".join(f'{key}="{number}"' for key, number in numbers.items())
    file = tmp_path / "result.xml"
    file.write_text(f"<testsuites><testsuite {values}/></testsuites>", "utf-8")
    return file


def test_results_are_read_from_the_junit_file(tmp_path: Path) -> None:
    file = junit(tmp_path, tests=10, failures=1, errors=2, skipped=3)
    assert run.read_counts(file) == run.Counts(passed=4, failed=3, skipped=3)


def test_what_failed_is_named_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def broken(): raise ValueError\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_unmade(broken): pass\n",
        "utf-8",
    )
    file = tmp_path / "result.xml"
    shell(sys.executable, "-m", "pytest", "-q", f"--junitxml={file}", str(tmp_path), cwd=tmp_path)
    assert run.read_failures(file) == ["test_some::test_bad", "test_some::test_unmade"]


def test_the_closing_line_has_the_form_that_runners_use() -> None:
    assert re.fullmatch(r"\d+ passed, \d+ failed, \d+ skipped", str(run.Counts(1, 2, 3)))


@pytest.mark.parametrize(
    ("exit_code", "counts", "failed"),
    [
        (0, run.Counts(passed=3), 0),
        (1, run.Counts(passed=3, failed=2), 2),
        (1, run.Counts(passed=3), 1),
        (0, run.Counts(skipped=3), 1),
        (5, run.Counts(), 1),
        (3, run.Counts(passed=3), 1),
        (-11, run.Counts(), 1),
    ],
)
def test_a_run_that_did_not_end_well_counts_as_a_failure(
    exit_code: int, counts: run.Counts, failed: int
) -> None:
    judged, complaint = run.judge(exit_code, counts)
    assert judged.failed == failed
    assert bool(complaint) == (failed > counts.failed)


def test_what_does_not_depend_on_the_backend_runs_once() -> None:
    runs = {each.name: each for each in run.plan(run.parse([]))}
    assert set(runs) == {*run.BACKENDS, run.FREE}
    for name, each in runs.items():
        free = name == run.FREE
        assert each.environment["KERAS_BACKEND"] == (run.BACKENDS[0] if free else name)
        marks = each.arguments[1].split(" and ")
        assert marks == ["not slow", "backend_free" if free else "not backend_free"]


def test_the_slow_tests_run_when_asked_for() -> None:
    runs = run.plan(run.parse(["--slow", "--backend", "torch"]))
    assert [each.name for each in runs] == ["torch", run.FREE]
    assert all("slow" not in " ".join(each.arguments) for each in runs)
