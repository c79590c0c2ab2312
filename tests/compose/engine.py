"""A container engine where there is no Docker: podman, its API, and a base image by debootstrap.

It works in a folder of its own. No image is pulled: what stands for the base image is Debian's own
Python, so what is tested is this project's files, not the official image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PACKAGES = (
    "podman", "buildah", "runc", "conmon", "netavark", "aardvark-dns", "iptables", "catatonit",
    "debootstrap", "ca-certificates",
)  # fmt: skip
NEEDED = ("podman", "runc", "conmon", "iptables", "catatonit", "debootstrap")
RELEASE = "trixie"
BASE_IMAGE = "localhost/gradopt-base:trixie"
# crun refuses machines that mix both kinds of control groups; the limits are those that a
# container without the right to raise them can have.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
LOOK_SECONDS = 1.0


class Unavailable(Exception):
    """This machine cannot have an engine; the text says why."""


def run(
    *command: str, environment: Mapping[str, str] | None = None, seconds: float = 1800
) -> subprocess.CompletedProcess[str]:
    """What a command says, and how it ends."""
    return subprocess.run(
        command,
        env=None if environment is None else dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )


def must(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """What a command says that has to succeed.

    Raises:
        Unavailable: It did not.
    """
    done = run(*command, environment=environment)
    if done.returncode:
        raise Unavailable(f"{' '.join(command[:6])}: {(done.stderr or done.stdout)[-600:].strip()}")
    return done.stdout


class Engine:
    """Podman over one folder, asked by its command line and by Docker's API.

    Args:
        folder: Holds images, containers, networks and tools; kept between runs, they make the
            next one quick.

    Raises:
        Unavailable: This machine cannot run it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        configuration = folder / "containers.conf"
        configuration.write_text(CONFIGURATION, "utf-8")
        (folder / "tmp").mkdir(exist_ok=True)
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(configuration),
            "TMPDIR": str(folder / "tmp"),  # builds keep pip's downloads there
        }
        self._options = [
            "--root", str(folder / "images"),
            "--runroot", str(folder / "run"),
            "--network-config-dir", str(folder / "networks"),
            "--storage-driver", "overlay",
        ]  # fmt: skip
        install()
        self._program = shutil.which("podman") or "podman"

    def podman(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What `podman` says to these arguments, and how it ends."""
        return run("podman", *self._options, *arguments, environment=self.environment)

    def prepare(self) -> None:
        """Make the base image unless it is there, and start a container of it.

        Raises:
            Unavailable: It cannot be made, or containers do not start here.
        """
        if self.podman("image", "exists", BASE_IMAGE).returncode:
            with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
                tree, archive = Path(temporary) / "tree", Path(temporary) / "base.tar"
                bootstrap(tree)
                must("tar", "-C", str(tree), "-cf", str(archive), ".")
                self._must("import", str(archive), BASE_IMAGE)
        self._must("run", "--rm", "--network", "none", BASE_IMAGE, "python", "--version")

    def build(self, context: Path, image: str, target: str, arguments: Mapping[str, str]) -> str:
        """Build one target of a folder's Dockerfile; why it failed, empty where it did not.

        Its pip gets the index and the certificates of this machine's.
        """
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        how = ("--pull=never", "--format=docker", "--network=host")
        named = (f"--target={target}", f"--tag={image}")
        done = self.podman(
            "build", *how, *way_to_packages(self.folder), *given, *named, str(context)
        )
        return (done.stdout + done.stderr)[-3000:] if done.returncode else ""

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Docker's API for the time of a block: what DOCKER_HOST has to be.

        Health checks are run from here, as podman leaves them to systemd.
        """
        folder = Path(tempfile.mkdtemp(prefix="gradopt-engine-"))  # a socket's path must be short
        address = f"unix://{folder}/podman.sock"
        over = threading.Event()
        with (self.folder / "engine.log").open("wb") as log:
            service = subprocess.Popen(
                [self._program, *self._options, "system", "service", "--time=0", address],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            looker = threading.Thread(target=self._look, args=(over,), daemon=True)
            try:
                for _ in range(200):
                    if (folder / "podman.sock").exists():
                        break
                    time.sleep(0.1)
                looker.start()
                yield address
            finally:
                over.set()
                looker.join(30)
                service.terminate()
                service.wait(30)
                shutil.rmtree(folder, ignore_errors=True)

    def _look(self, over: threading.Event) -> None:
        while not over.wait(LOOK_SECONDS):
            for name in self.podman("ps", "--format", "{{.ID}}").stdout.split():
                self.podman("healthcheck", "run", name)

    def _must(self, *arguments: str) -> None:
        must("podman", *self._options, *arguments, environment=self.environment)


def install() -> None:
    """Install what is missing, from Debian's packages.

    Raises:
        Unavailable: This is no such machine, or they cannot be had.
    """
    if not sys.platform.startswith("linux"):
        raise Unavailable(f"containers of Linux are needed, and this is {sys.platform}")
    if os.geteuid() != 0:
        raise Unavailable("only root can have containers limited; run it as root")
    if all(shutil.which(name) for name in NEEDED):
        return
    if shutil.which("apt-get") is None:
        raise Unavailable(
            f"{', '.join(NEEDED)} are needed, and there is no apt-get to install them"
        )
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    must("apt-get", "update", "-qq", environment=quiet)
    must(
        "apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES, environment=quiet
    )  # fmt: skip


def bootstrap(tree: Path) -> None:
    """Make a folder with a minimal Debian with Python, as the official image has it.

    Raises:
        Unavailable: Its packages cannot be had.
    """
    must(
        "debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates",
        RELEASE, str(tree),
    )  # fmt: skip
    link = tree / "usr/local/bin/python"
    link.symlink_to("/usr/bin/python3")
    for downloaded in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(tree / downloaded)
        (tree / downloaded).mkdir()


def way_to_packages(folder: Path) -> list[str]:
    """Options of a build that give its pip the index and the certificates of this machine's.

    They are mounted while it builds, so nothing of them is in the image.

    Args:
        folder: Where a configuration of pip may be written.
    """
    lines = ["[global]"]
    options = []
    for name in ("index-url", "cert"):
        value = pip_setting(name)
        if value:
            lines.append(f"{name} = {value}")
        if value and name == "cert":
            # Its folder: a bundle is often a link to another file there.
            options.append(f"--volume={Path(value).parent}:{Path(value).parent}:ro")
    configuration = folder / "pip.conf"
    configuration.write_text("\n".join(lines) + "\n", "utf-8")
    return [*options, f"--volume={configuration}:/etc/pip.conf:ro"]


def pip_setting(name: str) -> str:
    """A setting of this machine's pip, empty where there is none."""
    from_environment = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
    if from_environment:
        return from_environment
    return run(sys.executable, "-m", "pip", "config", "get", f"global.{name}").stdout.strip()
