"""The jail: what a probe's process tries from inside, and how one that misbehaves ends.

A32, A33 and A34 are the attacks of that number in the threat model.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recommender.answer import Plain
from recommender.executors import Limits, Outcome, ProbeSpec, cell, held, jail, seccomp
from recommender.executors.local import LocalProbe

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(sys.platform != "linux", reason="the jail is made of what Linux has"),
]

ROOT = Path(__file__).resolve().parents[2]
PRISONER = "tests.recommender.prisoner"
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def asks(what: str, seconds: float = 20.0, **data: Any) -> ProbeSpec:
    return ProbeSpec(
        model={"kind": "prisoner", "name": what},
        data={"kind": "prisoner", **data},
        loss=None, epochs=1, batch_size=1, tier="quick", max_seconds=seconds,
    )  # fmt: skip


def does(spec: ProbeSpec, scratch: Path, journal: Path | None = None, **limits: Any) -> Outcome:
    given = {"memory_mb": 512, "grace_seconds": 0.0, **limits}
    probe = LocalProbe("jax", Limits(**given), scratch, module=PRISONER)
    return probe.run(spec, lambda _: None, lambda: False, journal)


@pytest.fixture(scope="module", autouse=True)
def own_tree() -> Iterator[None]:
    """Children take this tree, whatever is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with somebody else's things in it."""
    folder = tmp_path_factory.mktemp("service")
    for name in ("ledger.sqlite3", "blobs/other", "blobs/ours", "scratch/probe-other/work/x",
                 "scratch/journal/other/x"):  # fmt: skip
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"secret {name}", "ascii")
    return folder


@pytest.fixture(scope="module")
def said(service: Path) -> Plain:
    """What the system said to each attempt."""
    places = {"outside": str(service), "starter": os.getpid(), "path": str(service / "blobs/ours")}
    outcome = does(asks("tries", **places), service / "scratch")
    assert outcome.result is not None, outcome.detail
    return outcome.result


# --- A32: files and environment ---


@pytest.mark.parametrize(
    "what",
    ["users", "ledger", "blob", "other cell", "other journal", "starter's command"],
)
def test_a32_nothing_of_others_can_be_read(what: str, said: Plain) -> None:
    assert said[f"read {what}"] == "EACCES"


@pytest.mark.parametrize(
    "what", ["list outside", "read starter's environment", "read starter's memory"]
)
def test_a32_nor_looked_into(what: str, said: Plain) -> None:
    assert said[what] in ("EACCES", "EPERM")


@pytest.mark.parametrize(
    ("what", "error"),
    {
        "write ledger": "EACCES",
        "truncate ledger": "EPERM",
        "remove ledger": "EACCES",
        "write given": "EACCES",
        "empty given": "EPERM",
        "empty ledger": "EPERM",
        "remove given": "EACCES",
        "chmod given": "EPERM",
        "chmod ledger": "EPERM",
        "touch ledger": "EPERM",
        "link given": "EXDEV",
        "make file beside": "EACCES",
        "make link": "EACCES",
        "make fifo": "EACCES",
        "make device": "EACCES",
        "sparse file": "EFBIG",
        "lease": "EPERM",
    }.items(),
)
def test_a32_nothing_outside_its_folder_is_changed(what: str, error: str, said: Plain) -> None:
    # The kernel asks for the capability of making devices before it asks the jail.
    expected = {error, "EPERM"} if what == "make device" else {error}
    assert said[what] in expected


def test_a32_what_lay_there_is_as_it_was(said: Plain, service: Path) -> None:
    assert said
    for name in ("ledger.sqlite3", "blobs/other", "blobs/ours"):
        assert (service / name).read_text("ascii") == f"secret {name}"
        assert (service / name).stat().st_mode & 0o777 == 0o644 & ~_umask()
    assert {p.name for p in (service / "scratch").iterdir()} == {"probe-other", "journal"}


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_a_prisoner_has_its_own_folder(said: Plain) -> None:
    for what in ("write own", "empty own", "write null", "signal itself"):
        assert said[what] == "done"


def test_a32_its_environment_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGO_PEPPER", "a secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    file = tmp_path / "data"
    file.write_text("numbers", "ascii")
    (tmp_path / "scratch").mkdir()
    outcome = does(asks("looks", path=str(file)), tmp_path / "scratch")
    assert outcome.result is not None, outcome.detail
    assert outcome.result["data"] == "numbers"
    assert "a secret" not in str(outcome.result)
    assert outcome.result["open"] == 5  # those of every process, the pipe, the journal's folder
    assert outcome.result["core"] == [0, 0]
    assert outcome.result["files"] == [256, 256]
    assert outcome.result["umask"] == 0o077
    assert outcome.result["folder"].startswith(str(tmp_path / "scratch" / "probe-"))


# --- A33: the kernel ---


def test_a33_no_system_call_of_the_list_is_carried_out(said: Plain) -> None:
    names = seccomp.numbers(seccomp.MACHINES[platform.machine()])
    assert {name: said[name] for name in names} == dict.fromkeys(names, "EPERM")


@pytest.mark.parametrize(
    "call",
    ["ptrace", "unshare", "setns", "mount", "bpf", "keyctl", "add_key", "request_key",
     "io_uring_setup", "userfaultfd", "perf_event_open", "open_by_handle_at", "process_vm_readv",
     "process_vm_writev", "pivot_root", "memfd_create", "socket", "connect", "bind", "listen",
     "sendto", "sendmsg", "sendmmsg", "execve", "execveat", "pidfd_send_signal", "kcmp"],
)  # fmt: skip
def test_a33_the_threat_model_s_calls_are_on_the_list(call: str, said: Plain) -> None:
    assert said[call] == "EPERM"


@pytest.mark.parametrize(
    "what",
    ["tcp", "tcp6", "udp", "unix", "netlink", "packet", "alg", "vsock", "fork", "spawn", "exec sh",
     "exec python", "signal starter", "signal init", "signal all", "limit starter", "pin starter",
     "renice starter", "clone into namespace", "outlive starter", "be dumpable"],
)  # fmt: skip
def test_a33_nobody_else_is_reached(what: str, said: Plain) -> None:
    assert said[what] == "EPERM"


def test_a33_a_limit_stays(said: Plain) -> None:
    assert said["raise limit"] in ("EPERM", "ValueError")  # as Python tells EPERM


def test_threads_are_made_the_old_way(said: Plain) -> None:
    assert said["clone3"] == "ENOSYS"


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_of_system_calls_are_the_kernel_s(machine: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"needs {header}: apt install linux-libc-dev")
    lines = header.read_text("utf-8")
    known = dict(re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", lines, re.MULTILINE))
    kind = seccomp.MACHINES[machine]
    ours = seccomp.numbers(kind)
    ours |= {name: both[kind.column] for name, (both, _) in seccomp._TO_ITSELF.items()}
    ours |= {name: both[kind.column] for name, (both, _) in seccomp._OPENS.items()}
    ours = {name: number for name, number in ours.items() if number >= 0}
    for name in ("clone", "clone3", "openat2", "prctl", "fcntl", "ioctl"):
        ours[name] = getattr(seccomp, f"_{name.upper()}")[kind.column]
    found = {name: int(known[name]) for name in ours if name in known}
    assert len(found) >= len(ours) - 4, "headers older than some calls lack a few"
    assert {name: ours[name] for name in found} == found


@pytest.mark.parametrize("machine", HEADERS)
def test_a_filter_decides_as_it_says(machine: str) -> None:
    kind = seccomp.MACHINES[machine]
    steps = seccomp.program(kind, 77)
    refused, allowed, missing = 0x50001, 0x7FFF0000, 0x50026

    def asked(number: int, *arguments: int, audit: int = kind.audit) -> int:
        return decided(steps, number, arguments, audit)

    def of(both: tuple[int, int]) -> int:
        return both[kind.column]

    assert asked(0) == allowed  # read, io_setup
    assert asked(0, audit=0x40000003) == 0x80000000, "the calls of another machine kill"
    assert asked(0x40000000) == refused
    assert asked(of(seccomp._CLONE3)) == asked(of(seccomp._OPENAT2)) == missing
    flags = {
        os.O_RDONLY: allowed,
        os.O_WRONLY | os.O_TRUNC: allowed,
        os.O_RDWR | os.O_TRUNC: allowed,
        os.O_RDONLY | os.O_TRUNC: refused,
        3 | os.O_TRUNC: refused,
    }
    openat, position = seccomp._OPENS["openat"]
    assert position == 2
    assert {f: asked(of(openat), 0, 0, f | os.O_CLOEXEC) for f in flags} == flags
    assert asked(of(seccomp._CLONE), 0x3D0F00) == allowed, "as glibc starts a thread"
    assert asked(of(seccomp._CLONE), 17) == refused
    assert asked(of(seccomp._CLONE), 0x3D0F00 | 0x10000000) == refused
    kill, prlimit = (seccomp._TO_ITSELF[name][0] for name in ("kill", "prlimit64"))
    assert [asked(of(kill), pid) for pid in (77, 0, 78, 2**32 - 1)] == [allowed] + [refused] * 3
    assert [asked(of(prlimit), pid) for pid in (77, 0, 78)] == [allowed, allowed, refused]
    assert [asked(of(seccomp._PRCTL), what) for what in (15, 1, 4)] == [allowed, refused, refused]
    assert [asked(of(seccomp._FCNTL), 0, what) for what in (3, 8, 10)] == [allowed] + [refused] * 2
    for number in seccomp.numbers(kind).values():
        assert asked(number) == refused


def decided(
    steps: list[seccomp.Instruction], number: int, arguments: tuple[int, ...], audit: int
) -> int:
    """What the kernel's machine for such filters returns."""
    words = {0: number, 4: audit}
    words |= {16 + 8 * i: value & 0xFFFFFFFF for i, value in enumerate((*arguments, *[0] * 6)[:6])}
    held_value, place = 0, 0
    while True:
        code, if_true, if_false, operand = steps[place]
        place += 1
        if code == 0x20:
            held_value = words[operand]
        elif code == 0x54:
            held_value &= operand
        elif code == 0x06:
            return operand
        else:
            true = {
                0x15: held_value == operand,
                0x35: held_value >= operand,
                0x45: bool(held_value & operand),
            }[code]
            place += if_true if true else if_false


# --- A34: too much ---


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("bombs", "probe_died", "exit code 1"),
        ("many_files", "probe_misbehaved", "more than 2000 files"),
        ("large_files", "probe_misbehaved", "more than 256 MiB"),
        ("deep_folders", "probe_misbehaved", "nested more than 16"),
        ("prints", "probe_died", "exit code 1"),
        ("closes", "probe_died", "SIGKILL"),
        ("long_line", "probe_misbehaved", "a line of more than"),
        ("many_lines", "probe_misbehaved", "messages a second"),
        ("lies", "probe_misbehaved", "planned"),
        ("hoards", "out_of_memory", "512 MiB"),
    ],
)
def test_a34_who_takes_too_much_is_ended(what: str, code: str, words: str, tmp_path: Path) -> None:
    began = time.monotonic()
    outcome = does(asks(what), tmp_path)
    assert (outcome.status, outcome.code) == ("failed", code), outcome.detail
    assert words in (outcome.detail or "")
    assert time.monotonic() - began < 15, "starting, doing it, and being ended"
    assert not list(tmp_path.iterdir()), "the slot is clean"


def test_a34_a_deadline_ends_who_ignores_it(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome = does(asks("spins", 1.0), tmp_path)
    assert outcome.status == "timed_out"
    assert time.monotonic() - began < 6
    assert not list(tmp_path.iterdir())


def test_a_probe_ends_with_its_starter(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from recommender.executors import Limits\n"
        "from recommender.executors.local import LocalProbe\n"
        f"probe = LocalProbe('jax', Limits(), Path({str(tmp_path)!r}), module={PRISONER!r})\n"
        "time.sleep(1)\n"
        "print(probe.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    pid = int(done.stdout)
    end = time.monotonic() + 5
    while time.monotonic() < end and _runs(pid):
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


# --- journals ---


def test_a_journal_outlives_its_probe_and_goes_on_in_the_next(tmp_path: Path) -> None:
    scratch, journal = tmp_path / "scratch", tmp_path / "journals" / "job"
    scratch.mkdir()
    journal.parent.mkdir()
    first = does(asks("writes"), scratch, journal)
    assert first.result == {"before": []}, first.detail
    assert (journal / "states" / "piece").read_text("ascii") == "written"
    second = does(asks("writes"), scratch, journal)
    assert second.result == {"before": ["states", "states/piece"]}, second.detail
    assert not list(scratch.iterdir())


def test_only_plain_files_of_a_journal_are_taken_over(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.mkdir()
    (tmp_path / "secret").write_text("secret", "ascii")
    (journal / "plain").write_text("kept", "ascii")
    (journal / "link").symlink_to(tmp_path / "secret")
    (journal / "folder").symlink_to(tmp_path)
    os.mkfifo(journal / "fifo")
    with (journal / "sparse").open("wb") as file:
        file.truncate(2**40)
    deep = journal
    for _ in range(40):
        deep /= "d"
        deep.mkdir()
    folder = tmp_path / "cell"
    folder.mkdir()
    cell.make(folder)
    cell.lend(folder, journal)
    assert sorted(p.name for p in journal.iterdir()) == ["d", "plain"]
    assert (journal / "plain").read_text("ascii") == "kept"
    assert len(list(journal.rglob("d"))) == cell.DEEPEST
    cell.remove(folder)
    assert not folder.exists()
    assert (tmp_path / "secret").exists()


def test_a_folder_of_any_depth_can_be_removed(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1100):  # deeper than Python may call itself, longer than a path may be
        os.mkdir("d" * 10, dir_fd=here)
        below = os.open("d" * 10, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (folder / "closed").mkdir(0)
    cell.remove(folder)
    assert not folder.exists()
    cell.remove(folder)


# --- whether it holds ---


def test_it_holds_here() -> None:
    began = time.monotonic()
    held.refusal.cache_clear()
    assert held.refusal() is None
    assert time.monotonic() - began < 5  # some tenths on a machine that has nothing else to do


def test_without_a_jail_the_trial_says_what_it_let_through(tmp_path: Path) -> None:
    """The trial itself can fail: outside of a jail every attempt would succeed."""
    (tmp_path / "work").mkdir()
    (tmp_path / "secret").write_text("", "ascii")
    arguments = ["-", "-", "512", held.__name__, str(os.getpid()), "1"]
    done = subprocess.run(
        [sys.executable, "-m", jail.__name__, *arguments],
        cwd=tmp_path / "work", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "let a process read a file outside" in done.stderr


@pytest.mark.parametrize("lost", ["landlock", "seccomp"])
def test_a_system_that_lacks_a_part_is_refused(lost: str, tmp_path: Path) -> None:
    """A system without one of them is made by a filter or by a processor of no known kind."""
    breaks = {
        "landlock": "jail._CREATE_RULESET = 9999\n",
        "seccomp": "seccomp.MACHINES = {}\n",
    }[lost]
    cell.make(tmp_path)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from recommender.executors import jail, seccomp\n"
        f"{breaks}"
        f"jail.enter(jail.around(Path({str(tmp_path)!r}), Path({str(tmp_path)!r})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert {"landlock": "no Landlock", "seccomp": "no system call filter"}[lost] in done.stderr


def test_a_thread_that_would_stay_outside_is_refused(tmp_path: Path) -> None:
    cell.make(tmp_path)
    program = (
        "import threading, time\n"
        "from pathlib import Path\n"
        "from recommender.executors import jail\n"
        "threading.Thread(target=time.sleep, args=(3,), daemon=True).start()\n"
        f"jail.enter(jail.around(Path({str(tmp_path)!r}), Path({str(tmp_path)!r})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "stay outside" in done.stderr


def test_a_data_folder_among_the_packages_is_exposed(tmp_path: Path) -> None:
    assert jail.exposed(tmp_path) is None
    assert jail.exposed(Path(np.__file__).parent / "data") is not None
    assert jail.exposed(Path("/usr/share/gradopt")) == Path("/usr")


def test_it_holds_for_a_user_without_rights() -> None:
    python = shutil.which("python3", path="/usr/bin")
    if os.getuid() != 0 or python is None:
        pytest.skip("the other tests run without rights already, or there is no python for all")
    program = (
        "import os\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "from recommender.executors import held\n"
        "print(held.refusal())\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-c", program],
        cwd="/", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "ModuleNotFoundError" in done.stderr or "SyntaxError" in done.stderr:
        pytest.skip("another user cannot read this tree")
    assert done.stdout.strip() == "None", done.stderr


# --- probes ---


@pytest.mark.parametrize("name", ["jax", "torch", "tensorflow"])
@pytest.mark.slow
def test_a_real_probe_of_uploads_succeeds_in_jail(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4)).astype("float32")
    np.savez(tmp_path / "blob", x=x, y=np.sin(x[:, :1]))
    layers = [
        {"module": "keras.layers", "class_name": kind, "config": config}
        for kind, config in (
            ("InputLayer", {"batch_shape": [None, 4]}),
            ("Dense", {"units": 8, "activation": "tanh"}),
            ("Dense", {"units": 1}),
        )
    ]
    net = {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "net", "layers": layers},
    }
    asked = ProbeSpec(
        model={"kind": "config", "config": net},
        data={"kind": "npz", "path": str(tmp_path / "blob.npz")},
        loss=None, epochs=20, batch_size=32, tier="quick", max_seconds=120.0,
    )  # fmt: skip
    (tmp_path / "scratch").mkdir()
    probe = LocalProbe(name, Limits(), tmp_path / "scratch")
    journal = tmp_path / "journal"
    outcome = probe.run(asked, lambda _: None, lambda: False, journal)
    assert outcome.status == "succeeded", outcome.detail
    assert outcome.result is not None
    assert (journal / "pieces.log").stat().st_size > 0
