"""What happens to the containers, step by step, and what has to hold after each."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import time
from pathlib import Path

from tests.compose.containers import ROOT, Containers, until
from tests.compose.engine import run

USER = "10001"
WRITABLE = ["/tmp", "/var/lib/gradopt"]  # noqa: S108 - the containers' own
KEY = re.compile(r"kgo_[0-9A-Za-z]{8}_[0-9A-Za-z_-]{43}")
MAKE_KEY = "gradopt keys create --name first --scopes advise,read,write,admin"
ENDED = ("succeeded", "failed", "timed_out", "cancelled")
# Long enough to be killed while it is measured.
JOB = {
    "model": {"kind": "summary", "family": "mlp", "units": [32, 32]},
    "data": {"kind": "summary", "shape": [20], "classes": 3, "samples": 4000},
    "training": {"epochs": 30, "batch_size": 32},
    "tier": "quick",
    "max_seconds": 60,
}
# Version 2 of control groups has the first file, version 1 the second.
LIMIT = (
    "from pathlib import Path as P; v2 = P('/sys/fs/cgroup/{0}'); "
    "print((v2 if v2.exists() else P('/sys/fs/cgroup/{1}')).read_text())"
)
TOOLS = (
    "import importlib.util as u, shutil; print([n for n in ('pip',) if u.find_spec(n)] + "
    "[n for n in ('pip', 'pip3', 'gcc', 'cc') if shutil.which(n)])"
)


def read(containers: Containers, hadolint: Path) -> None:
    """The files are what their readers take them for."""
    for files in (("docker-compose.yml",), ("docker-compose.yml", "docker-compose.secret.yml")):
        done = containers.compose("config", "-q", files=files)
        what = f"docker-compose reads {' and '.join(files)}"
        containers.check(what, not done.returncode, done.stderr)
    done = run(str(hadolint), str(ROOT / "Dockerfile"))
    containers.check("hadolint has no complaint", not done.returncode, done.stdout.strip())


def build(containers: Containers) -> None:
    """Build the images that the services name."""
    told = json.loads(containers.compose("config", "--format", "json").stdout)
    for name, service in told["services"].items():
        built = service["build"]
        engine = containers.engine
        reason = engine.build(ROOT, service["image"], built["target"], built["args"])
        size = engine.podman("image", "inspect", "--format", "{{.Size}}", service["image"]).stdout
        found = reason or f"{int(size) / 1e6:.0f} MB"
        containers.check(f"the image of {name} is built", not reason, found)


def start(containers: Containers) -> None:
    """Start it, and wait until it is well."""
    began = time.monotonic()
    done = containers.compose("up", "-d", "--no-build")
    found = done.stderr[-1500:] if done.returncode else ""
    containers.check("docker-compose up", not done.returncode, found)
    for service in ("api", "worker"):
        healthy = until(lambda name=service: containers.healthy(name), 120)
        found = f"{time.monotonic() - began:.0f} s after the start"
        containers.check(f"{service} is healthy", healthy, found)
    status, ready = containers.ask("GET", "/readyz")
    containers.check("the service is ready", status == 200, json.dumps(ready))
    containers.check("it sees one worker", ready["checks"]["workers"] == "1")
    containers.check("probes are jailed there", ready["checks"]["sandbox"] == "ok")


def make_key(containers: Containers) -> None:
    """Nobody comes in without a key; the documented command makes the first."""
    containers.headers.pop("Authorization", None)
    status, _ = containers.ask("GET", "/v1/recommendations")
    containers.check("without a key it is refused", status == 401, status)
    made = containers.compose("exec", "-T", "api", *MAKE_KEY.split())
    key = KEY.search(made.stdout)
    found = "" if key else made.stdout + made.stderr
    containers.check(f"{MAKE_KEY} makes a key", key, found)
    if key:
        containers.headers["Authorization"] = f"Bearer {key[0]}"


def look(containers: Containers) -> None:
    """Each container is held as its service says, by the kernel's own account."""
    for service in ("api", "worker"):
        process = Path(f"/proc/{first_child(containers.pid(service))}")
        look_at_process(containers, service, process)
        look_at_mounts(containers, service, process)
        memory = LIMIT.format("memory.max", "memory/memory.limit_in_bytes")
        found = containers.inside(service, memory)
        limited = found.isdecimal() and int(found) <= 6 * 2**30
        containers.check(f"{service}: memory is limited", limited, found)
        found = containers.inside(service, LIMIT.format("pids.max", "pids/pids.max"))
        containers.check(f"{service}: processes are limited", found.isdecimal(), found)
        found = containers.inside(service, TOOLS)
        containers.check(f"{service}: neither pip nor a compiler", found == "[]", found)
    routes = Path(f"/proc/{containers.pid('worker')}/net/route").read_text("ascii").splitlines()
    default = [route for route in routes[1:] if route.split()[1] == "0" * 8]
    containers.check("worker: no way leads out", not default, default or "")
    listed = containers.engine.podman("ps", "--format", "{{.Ports}}").stdout.split("\n")
    ports = [one for one in listed if one]
    on_loopback = [port.startswith("127.0.0.1:") for port in ports]
    containers.check("one port is open, on loopback", on_loopback == [True], ", ".join(ports))


def look_at_process(containers: Containers, service: str, process: Path) -> None:
    """The program runs as nobody in particular, with no rights and no way to more."""
    lines = (process / "status").read_text("utf-8").splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    ids = {*status["Uid"], *status["Gid"]}
    containers.check(f"{service}: uid and gid are {USER}", ids == {USER}, " ".join(sorted(ids)))
    rights = status["CapEff"] + status["CapPrm"] + status["CapBnd"]
    containers.check(f"{service}: no capability", not any(int(r, 16) for r in rights), rights[0])
    containers.check(f"{service}: no new privileges", status["NoNewPrivs"] == ["1"])
    containers.check(f"{service}: system calls are filtered", status["Seccomp"] == ["2"])


def look_at_mounts(containers: Containers, service: str, process: Path) -> None:
    """The root is read-only, and so is all else but what it needs."""
    mounts = [line.split() for line in (process / "mountinfo").read_text("utf-8").splitlines()]
    writable = {fields[4] for fields in mounts if "rw" in fields[5].split(",")}
    containers.check(f"{service}: the root is read-only", "/" not in writable)
    # What engines put into every container; /var/tmp is podman's.
    engines = ("/proc", "/sys", "/dev", "/run", "/etc/", "/var/tmp")  # noqa: S108
    own = sorted(place for place in writable if not place.startswith(engines))
    what = f"{service}: it writes to the volume and /tmp only"
    containers.check(what, own == WRITABLE, " ".join(own))


def kill(containers: Containers) -> None:
    """The worker's container is killed during a job, and the answer comes all the same."""
    status, job = containers.ask("POST", "/v1/recommendations", JOB)
    containers.check("a job is taken", status == 202, "" if status == 202 else job)
    path = f"/v1/recommendations/{job['id']}"
    kinds = {"trial.metric"}
    measured = until(lambda: kinds & {e["type"] for e in containers.events(path)}, 240)
    containers.check("it is measured", measured)
    before, killed = containers.pid("worker"), time.monotonic()
    os.kill(before, signal.SIGKILL)
    back = until(lambda: containers.pid("worker") not in (0, before), 60)
    found = f"{time.monotonic() - killed:.1f} s"
    containers.check("kill -9 of the worker's container: it comes back", back, found)
    ended = until(lambda: containers.ask("GET", path)[1]["status"] in ENDED, 420)
    job = containers.ask("GET", path)[1]
    found = f"{job['status']}, {time.monotonic() - killed:.0f} s after the kill"
    containers.check("the answer comes", ended and job["status"] == "succeeded", found)
    events = containers.events(path)
    dense = [event["seq"] for event in events] == list(range(1, len(events) + 1))
    once = [event["type"] for event in events].count("done") == 1
    containers.check("its events have no gap and one end", dense and once, f"{len(events)} events")
    before = containers.pid("api")
    os.kill(before, signal.SIGKILL)
    same = until(lambda: containers.ask("GET", path)[1]["result"] == job["result"], 60)
    other = containers.pid("api") != before
    containers.check("kill -9 of the api's: the same key gets the same answer", same and other)


def change_secret(containers: Containers) -> None:
    """With a secret of one's own, which only the api's user may read, other keys are void."""
    containers.secret.write_text(secrets.token_urlsafe(48), "ascii")
    os.chown(containers.secret, int(USER), int(USER))
    containers.secret.chmod(0o400)
    files = ("docker-compose.yml", "docker-compose.secret.yml")
    done = containers.compose("up", "-d", "--no-build", files=files)
    found = done.stderr[-1500:] if done.returncode else ""
    containers.check("docker-compose up with a secret of one's own", not done.returncode, found)
    ready = until(lambda: containers.ask("GET", "/readyz")[0] == 200, 60)
    containers.check("the service is ready again", ready)
    status, _ = containers.ask("GET", "/v1/recommendations")
    containers.check("keys of another secret are void", status == 401, status)
    make_key(containers)
    status, listed = containers.ask("GET", "/v1/recommendations")
    containers.check("with a fresh key the job is there", status == 200 and listed["data"], status)
    seen = containers.inside("worker", "import os; print(os.path.exists('/run/secrets/gradopt'))")
    containers.check("the worker never sees the secret", seen == "False", seen)


def stop(containers: Containers) -> None:
    """It stops in order and within its time, and nothing is left."""
    began = time.monotonic()
    containers.compose("stop")
    seconds = time.monotonic() - began
    containers.check("it stops within 30 s", seconds < 30, f"{seconds:.0f} s")
    podman = containers.engine.podman
    ended = podman("ps", "-a", "--format", "{{.Names}} {{.Status}}").stdout.strip()
    forced = "(137)" in ended
    containers.check("nothing had to be ended by force", not forced, ended.replace("\n", ", "))
    containers.compose("down", "-v")
    left = podman("ps", "-aq").stdout + podman("volume", "ls", "-q").stdout
    containers.check("nothing is left", not left.strip(), left.strip())


def first_child(pid: int) -> int:
    """The program that a container's init has started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()[0])
