"""What docker-compose.yml and the Dockerfile say, read without an engine."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.scenario import MAKE_KEY

yaml = pytest.importorskip("yaml", reason="comes with schemathesis, which needs PyYAML")

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SECRET = yaml.safe_load((ROOT / "docker-compose.secret.yml").read_text("utf-8"))
SERVICES = COMPOSE["services"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

each_service = pytest.mark.parametrize("name", sorted(SERVICES))


def default(text: object) -> str:
    """A value with its variables at their defaults: `${NAME:-default}`."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text))


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile: what each is called and what it is given."""
    bare = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    lines = bare.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1].strip()) for line in lines if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, those of the stage it builds on first."""
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for word, given in instructions(DOCKERFILE):
        if word == "FROM":
            base, _, name = given.partition(" AS ")
            current = found[name] = list(found.get(base, []))
        current.append((word, given))
    return found


def last(stage: str, word: str) -> str:
    """What a stage's last instruction of a kind is given."""
    return [given for name, given in stages()[stage] if name == word][-1]


# --- docker-compose.yml ---


@each_service
def test_a_service_may_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    refused = {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "userns_mode"}
    assert not refused & set(service)


@each_service
def test_a_service_has_limits_on_all_that_it_uses(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", default(service["mem_limit"]))
    assert float(default(service["cpus"])) > 0
    assert service["pids_limit"] > 0
    for mount in service["tmpfs"]:
        assert re.search(r"[:,]size=\d+m\b", mount), mount
        assert {"noexec", "nosuid", "nodev"} <= set(re.split("[:,]", mount))
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["stop_grace_period"] == "30s"
    assert service["restart"] == "unless-stopped"


@each_service
def test_a_service_s_image_is_built_here_under_the_version_s_name(name: str) -> None:
    service = SERVICES[name]
    assert service["image"].rpartition(":")[2] == VERSION
    assert service["build"]["args"]["VERSION"] == VERSION
    assert service["build"]["target"] in stages()


@each_service
def test_a_service_writes_to_the_shared_volume_only(name: str) -> None:
    volume, place = SERVICES[name]["volumes"][0].split(":")
    assert len(SERVICES[name]["volumes"]) == 1
    assert volume in COMPOSE["volumes"]
    assert f"KGO_DATA_DIR={place}" in last("runtime", "ENV")


def test_ports_are_published_on_loopback_only() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert published["api"]
    for ports in published.values():
        for port in ports:
            assert port.startswith("127.0.0.1:"), port
    assert not published["worker"]


def test_the_worker_has_no_way_out() -> None:
    networks = SERVICES["worker"]["networks"]
    assert networks
    assert all(COMPOSE["networks"][name]["internal"] is True for name in networks)


def test_everybody_needs_a_key() -> None:
    assert SERVICES["api"]["environment"]["KGO_KEYS"] == "required"


def test_the_worker_s_memory_holds_its_probes() -> None:
    worker = SERVICES["worker"]
    environment = {key: int(default(value)) for key, value in worker["environment"].items()}
    gigabytes = int(default(worker["mem_limit"]).removesuffix("g"))
    assert gigabytes * 1024 > environment["KGO_SLOTS"] * environment["KGO_PROBE_MEMORY_MB"]


def test_every_setting_that_is_given_exists() -> None:
    from api.settings import PREFIX, Settings

    known = {PREFIX + name.upper() for name in Settings.model_fields}
    both = [*SERVICES.values(), *SECRET["services"].values()]
    given = {name for service in both for name in service["environment"]}
    assert given <= known, given - known


def test_secrets_are_files() -> None:
    assert all("file" in secret for secret in SECRET["secrets"].values())
    api = SECRET["services"]["api"]
    assert api["environment"]["KGO_SECRET_FILE"] == f"/run/secrets/{api['secrets'][0]}"


# --- Dockerfile ---


def test_no_image_is_the_latest() -> None:
    images = [default(service["image"]) for service in SERVICES.values()]
    images += [given.partition("=")[2] for word, given in instructions(DOCKERFILE) if word == "ARG"]
    images = [image for image in images if ":" in image]
    assert "python:3.13-slim-trixie" in images
    assert not [image for image in images if image.endswith(":latest")]
    bases = {
        given.partition(" AS ")[0] for word, given in instructions(DOCKERFILE) if word == "FROM"
    }
    assert bases - set(stages()) == {"${BASE_IMAGE}"}


@each_service
def test_an_image_runs_a_program_as_a_user_without_rights(name: str) -> None:
    target = SERVICES[name]["build"]["target"]
    assert last(target, "USER") == "10001:10001"
    command = json.loads(last(target, "CMD"))  # a list: no shell in between
    assert command[0] == "gradopt"
    words = [word for word, _ in stages()[target]]
    assert "USER" not in words[words.index("USER") + 1 :]


@each_service
def test_an_image_says_how_to_ask_whether_it_is_well(name: str) -> None:
    given = last(SERVICES[name]["build"]["target"], "HEALTHCHECK")
    asked = json.loads(given.partition("CMD ")[2])
    assert asked[:3] == ["python", "-m", "api.alive"]
    assert {"--interval=5s", "--timeout=5s"} <= set(given.split())


def test_packages_have_the_versions_that_the_tests_ran_with() -> None:
    commands = [part for _, given in stages()["packages"] for part in given.split("&&")]
    installs = [command for command in commands if " install " in command]
    assert installs
    for install in installs:
        assert "-c constraints/ci.txt" in install or "--no-deps" in install, install


def names_set() -> Iterator[str]:
    """Names of all variables that the images and services set."""
    for word, given in instructions(DOCKERFILE):
        if word in ("ENV", "ARG"):
            yield from re.findall(r"(\w+)=", given)
    for service in [*SERVICES.values(), *SECRET["services"].values()]:
        yield from service["environment"]


def test_no_secret_is_in_an_environment() -> None:
    secret = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET)(?!_FILE)(?!S$)")
    assert not [name for name in names_set() if secret.search(name)]


def test_the_image_is_made_of_the_packages_only() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied: set[str] = set()
    for word, given in stages()["packages"]:
        if word == "COPY":
            copied |= set(given.split()[:-1])
    assert let_in == copied


def test_the_first_key_is_made_as_documented() -> None:
    command = f"docker compose exec api {MAKE_KEY}"
    assert command in (ROOT / "docs" / "service.md").read_text("utf-8")
    assert command in (ROOT / "docker-compose.yml").read_text("utf-8")
