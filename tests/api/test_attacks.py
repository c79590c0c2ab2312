"""The attacks of the threat model, by number: refused over HTTP, and nothing else happens."""

from __future__ import annotations

import base64
import gc
import marshal
import re
import socket
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from api import errors
from api.settings import Settings
from recommender.executors import Limits, ProbeSpec
from recommender.executors.local import LocalProbe
from tests.api.attacks import ATTACKS, SHAPE, Trap, hdf5, to_datasets, to_models
from tests.api.memory import GROWTH, peak, resident
from tests.api.server import NET, npz, regression
from tests.api.uploads import (
    PLAIN,
    config_member,
    sequential,
    thing,
)
from tests.api.web import Web, web

pytestmark = pytest.mark.backend_free

# In seconds; the first of the processor, so that a busy machine does not count.
PROCESSOR, CLOCK = 2.0, 5.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(Settings(data_dir=tmp_path_factory.mktemp("attacks") / "data")) as running:
        accepted(running)
        yield running


@pytest.fixture(scope="module")
def at_first(service: Web) -> int:  # noqa: ARG001 - measured once it runs
    """Resident memory before the first attack."""
    gc.collect()
    return resident()


@pytest.fixture
def trap(service: Web) -> Iterator[Trap]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield Trap(service.store.settings.data_dir.parent, listener)


def accepted(service: Web) -> None:
    """What is sent in good faith is still taken."""
    answer = service.http.post(
        "/v1/models", content=PLAIN, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 201, answer.text


def files(folder: Path) -> set[Path]:
    """All files of the service but its ledger, which writes while it answers."""
    return {one for one in folder.rglob("*") if not one.name.startswith("ledger.")}


def assert_problem(answer: httpx.Response, code: str) -> None:
    assert answer.headers["content-type"] == errors.MEDIA_TYPE, answer.text
    said = answer.json()
    assert said["code"] == code, said
    assert 400 <= answer.status_code < 500
    assert answer.status_code == said["status"] == errors.STATUS.get(code, errors.REFUSED)
    assert len(said["detail"]) < 1500


@contextmanager
def bounded() -> Iterator[None]:
    """Little time and little memory is used within the block."""
    began, clock = time.process_time(), time.monotonic()
    with peak() as grown:
        yield
    assert time.process_time() - began <= PROCESSOR
    assert time.monotonic() - clock <= CLOCK
    assert grown() <= GROWTH


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_nothing_else_happens(
    name: str, service: Web, trap: Trap, at_first: int
) -> None:
    code, make = ATTACKS[name]
    calls = make(trap)
    assert calls
    before = files(trap.folder)
    while calls:
        path, sent = calls.pop()
        with bounded():
            answer = service.http.post(path, **sent)
        assert_problem(answer, code)
    del sent  # what lies in memory at the end is not of this test's own making
    assert trap.untouched()
    assert files(trap.folder) == before
    accepted(service)
    gc.collect()
    assert resident() - at_first <= GROWTH


def test_the_traps_of_these_attacks_would_be_seen(trap: Trap) -> None:
    raw = trap.payload()["config"]["value"]["code"]
    types.FunctionType(marshal.loads(base64.b64decode(raw)), {})().close()  # noqa: S302 - our own
    assert not trap.untouched()
    trap.marker.unlink()
    assert trap.untouched()
    with socket.create_connection(("127.0.0.1", urlsplit(trap.url).port or 0)):
        assert not trap.untouched()


def test_weights_that_would_explode_are_not_looked_at(service: Web, trap: Trap) -> None:
    """A12: they are taken for what they are, bytes that nobody reads."""
    weights = {"name": "model.weights.h5", "data": hdf5(trap)}
    [(path, sent)] = to_models(trap.archive(config_member(), weights))
    with bounded():
        answer = service.http.post(path, **sent)
    assert answer.status_code == 201, answer.text
    assert answer.json()["weights"] == "ignored"
    assert trap.untouched()


# --- A36: data that are taken and cannot be learned from ---

CLASSIFIER = sequential(
    thing("InputLayer", batch_shape=[None, 4]), thing("Dense", units=3, activation="softmax")
)
SPARSE = {"name": "sparse_categorical_crossentropy", "from_logits": False}
SQUARED = {"name": "mean_squared_error", "from_logits": False}


def odd_data(**changes: Any) -> dict[str, Any]:
    return {**regression(), **changes}


def column(value: float) -> Any:
    x = regression()["x"]
    x[:, 2] = value
    return x


HOPELESS: dict[str, tuple[dict[str, Any], Any, Any, set[str]]] = {
    # arrays, model, loss, and how it may end
    "A36-loss-not-finite": (
        odd_data(x=regression()["x"] * np.float32(1e30)),
        NET,
        SQUARED,
        {"succeeded", "all_candidates_diverged"},
    ),
    "A36-constant-labels": (odd_data(y=np.ones((400, 1), "float32")), NET, SQUARED, {"succeeded"}),
    "A36-column-of-nan": (odd_data(x=column(np.nan)), NET, SQUARED, {"data_rejected"}),
    "A36-one-class": (odd_data(y=np.zeros(400, "int64")), CLASSIFIER, SPARSE, {"succeeded"}),
    "A36-targets-out-of-range": (
        odd_data(y=np.arange(400) % 8),
        CLASSIFIER,
        SPARSE,
        {"data_rejected"},
    ),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_data_that_teach_nothing_end_with_an_answer_or_a_reason(
    name: str, service: Web, tmp_path: Path
) -> None:
    arrays, model, loss, ends = HOPELESS[name]
    content = npz(**arrays)
    [(path, sent)] = to_datasets(content)
    answer = service.http.post(path, **sent)
    assert answer.status_code == 201, answer.text
    (tmp_path / "data.npz").write_bytes(content)
    asked = ProbeSpec(
        model={"kind": "config", "config": model},
        data={"kind": "npz", "path": str(tmp_path / "data.npz")},
        loss=loss,
        epochs=2,
        batch_size=32,
        tier="quick",
        max_seconds=5.0,
    )
    outcome = LocalProbe("jax", Limits(), tmp_path).run(asked, lambda _: None, lambda: False)
    assert (outcome.code or outcome.status) in ends, outcome.detail
    assert outcome.result is not None or outcome.detail


def test_one_row_is_refused_at_the_door(service: Web) -> None:
    """A36: there is nothing to hold out."""
    [(path, sent)] = to_datasets(npz(**{k: v[:1] for k, v in regression().items()}))
    assert_problem(service.http.post(path, **sent), SHAPE)


def test_every_attack_of_the_list_has_its_number() -> None:
    names = [*ATTACKS, *HOPELESS, "A12"]
    numbers = {int(re.match(r"A(\d\d)", name)[1]) for name in names}  # type: ignore[index]
    assert numbers >= {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 19, 20, 36}
