"""Thousands of damaged and misleading files over HTTP: each is taken, or refused with a reason."""

from __future__ import annotations

import gc
import io
import itertools
import json
import random
import re
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from api import errors, gate
from api.settings import Settings
from recommender import RequestError
from recommender.executors import Limits, ProbeSpec
from recommender.executors.child import materials
from recommender.executors.local import LocalProbe
from tests.api.memory import GROWTH, resident
from tests.api.mutations import (
    archived,
    damaged,
    with_another_config,
    with_other_arrays,
)
from tests.api.server import NET, layer, network, npz, regression
from tests.api.uploads import functional, symbolic, thing
from tests.api.web import Web, web

pytestmark = pytest.mark.backend_free

# Together, in one run; at least half of each format's reach the checks of what lies inside.
FILES, FILES_LONG = 2_000, 200_000
INSIDE = 0.7  # share of files that are changed inside
PROCESSOR = 90.0  # seconds of the processor for FILES
CONTAINER = frozenset({"archive_suspicious", "unsupported_type", "archive_too_large"})
PROBED = 12  # files of each kind that are let in and probed


@dataclass(frozen=True)
class Format:
    """A kind of file that is uploaded.

    Attributes:
        route: Where to.
        wholes: Makes valid files.
        inside: Changes what lies inside a valid file, and leaves its container valid.
        agrees: Whether an answer agrees with how others read the file.
    """

    route: str
    wholes: Callable[[], list[bytes]]
    inside: Callable[[bytes, random.Random], bytes]
    agrees: Callable[[bytes, Any], bool] = lambda content, answer: True


def models() -> list[bytes]:
    images = network(
        layer("Reshape", target_shape=[2, 2, 1]),
        layer("Conv2D", filters=2, kernel_size=[2, 2], padding="same", activation="relu"),
        layer("BatchNormalization"),
        layer("Flatten"),
        layer("Dropout", rate=0.2),
        layer("Dense", units=1, kernel_regularizer=thing("L2", "keras.regularizers", l2=0.01)),
    )
    steps = network(
        layer("Reshape", target_shape=[4, 1]),
        layer("Bidirectional", layer=layer("GRU", units=3, activation="tanh")),
        layer("Dense", units=1, kernel_initializer=thing("Zeros", "keras.initializers")),
    )
    node = {"args": [symbolic("a", 0, 0, shape=[None, 4], dtype="float32")], "kwargs": {}}
    node["args"][0]["config"]["keras_history"] = ["a", 0, 0]
    graph = functional(
        {
            **thing("InputLayer", batch_shape=[None, 4], dtype="float32", name="a"),
            "name": "a",
            "inbound_nodes": [],
        },
        {**thing("Dense", units=1, name="b"), "name": "b", "inbound_nodes": [node]},
        name="graph",
        output_layers=[["b", 0, 0]],
    )
    draw = random.Random(1)  # noqa: S311 - repeatable, not secret
    return [
        archived({"metadata.json": b"{}", "config.json": json.dumps(one).encode(), **more}, draw)
        for one in (NET, images, steps, graph)
        for more in ({}, {"model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(200)})
    ]


def arrays() -> list[bytes]:
    few = regression(24)
    images = {"x": np.ones((16, 3, 3, 2), "uint8"), "y": np.arange(16) % 3}
    held_out = {"x_val": few["x"][:5], "y_val": few["y"][:5]}
    plain = [npz(**few), npz(**images), npz(**few, **held_out)]
    packed = io.BytesIO()
    np.savez_compressed(packed, **few)
    return [*plain, packed.getvalue()]


def as_numpy_reads_it(content: bytes, answer: Any) -> bool:
    """Whether NumPy finds the arrays that the answer tells of; it may find their bytes damaged."""
    for name, facts in answer["arrays"].items():
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                array = file[name]
        except (zipfile.BadZipFile, zlib.error):
            continue
        if [list(array.shape), array.dtype.name] != [facts["shape"], facts["dtype"]]:
            return False
    return True


def as_pyarrow_reads_it(content: bytes, answer: Any) -> bool:
    try:
        read = pq.read_metadata(io.BytesIO(content))
    except (OSError, pa.ArrowException):  # damaged in what the gate does not look at
        return True
    return bool(answer["arrays"]["x"]["shape"] == [read.num_rows, read.num_columns - 1])


def tables() -> list[bytes]:
    columns = {name: values[:, 0] for name, values in regression(40).items()}
    columns |= {"n": np.arange(40), "b": np.arange(40) % 2 == 0}
    found = []
    for compression in ("none", "snappy", "zstd"):
        written = io.BytesIO()
        pq.write_table(pa.table(columns), written, compression=compression, row_group_size=16)
        found.append(written.getvalue())
    return found


def with_other_columns(content: bytes, draw: random.Random) -> bytes:
    """A valid table of other rows, names and kinds of columns."""
    table = pq.read_table(io.BytesIO(content)).slice(0, draw.choice([0, 3, 8, 40]))
    kinds = [pa.float64(), pa.float32(), pa.int8(), pa.uint64(), pa.bool_(), pa.string()]
    for _ in range(draw.randint(0, 2)):
        numbers = pa.array([draw.choice([0, 1, None]) for _ in range(len(table))])
        name = draw.choice(["label", "\u00e9", "y" * 200, "", f"c{draw.random()}"])
        table = table.append_column(name, numbers.cast(draw.choice(kinds)))
    written = io.BytesIO()
    pq.write_table(table, written, version=draw.choice(["1.0", "2.6"]))
    return written.getvalue()


def sheets() -> list[bytes]:
    rows = [f"{i / 7:.3f},{i % 5},{'abc'[i % 3]}" for i in range(40)]
    return [
        delimiter.join("abc").encode() + b"\n" + "\n".join(rows).replace(",", delimiter).encode()
        for delimiter in ",;\t"
    ]


def with_another_cell(content: bytes, draw: random.Random) -> bytes:
    """A valid csv file in which some cells hold something else."""
    cells = re.split(rb"([,;\t\n])", content)
    odd = [b"", b"nan", b"1e400", b"=1+1", b'"1"', b"0x10", b"1_0", b"-0", b"\xc3\xa9", b"9" * 500]
    for _ in range(draw.randint(0, 2)):
        cells[2 * draw.randrange(len(cells) // 2)] = draw.choice(odd)
    return b"".join(cells)


FORMATS = {
    "keras": Format("/v1/models", models, with_another_config),
    "npz": Format("/v1/datasets", arrays, with_other_arrays, as_numpy_reads_it),
    "parquet": Format("/v1/datasets", tables, with_other_columns, as_pyarrow_reads_it),
    "csv": Format("/v1/datasets", sheets, with_another_cell),
}


def fuzzed(kind: Format, seed: int) -> Iterator[bytes]:
    """Changed files without end, the same ones for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
    wholes = kind.wholes()
    while True:
        change = kind.inside if draw.random() < INSIDE else damaged
        yield change(draw.choice(wholes), draw)


def outcome(kind: Format, content: bytes, answer: httpx.Response) -> str:
    """What became of a file: "accepted", or the code of a problem as problems have to be."""
    said = answer.json()
    if answer.status_code == 201:
        assert said["status"] == "ready"
        assert kind.agrees(content, said), said
        return "accepted"
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == errors.MEDIA_TYPE
    code: str = said["code"]
    assert code in errors.TITLES
    assert answer.status_code == said["status"] == errors.STATUS.get(code, errors.REFUSED)
    return code


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web(Settings(data_dir=tmp_path_factory.mktemp("fuzz") / "data")) as running:
        yield running


def send(service: Web, kind: Format, content: bytes) -> httpx.Response:
    return service.http.post(kind.route, files={"file": ("upload", content)})


@pytest.mark.parametrize(
    "total", [FILES, pytest.param(FILES_LONG, marks=pytest.mark.slow)], ids=["run", "long"]
)
@pytest.mark.parametrize("name", FORMATS)
def test_changed_files_are_taken_or_refused_and_nothing_grows(
    name: str, total: int, service: Web, tmp_path: Path
) -> None:
    kind, number = FORMATS[name], -(-total // len(FORMATS))
    for whole in kind.wholes():
        assert send(service, kind, whole).status_code == 201
    gc.collect()
    memory, began = resident(), time.process_time()
    found: Counter[str] = Counter()
    files = fuzzed(kind, seed=total)
    for _ in range(number):
        content = next(files)
        (tmp_path / "last").write_bytes(content)  # what a failure is about
        found[outcome(kind, content, send(service, kind, content))] += 1
    print(name, dict(found), f"{time.process_time() - began:.1f} s", resident() - memory)
    gc.collect()
    assert resident() - memory <= GROWTH
    assert time.process_time() - began <= PROCESSOR * number / FILES
    assert sum(found[code] for code in found.keys() - CONTAINER) >= number / 2
    assert found["accepted"] > number / 20  # what is refused alone tests nothing behind the door
    assert not list(service.store.settings.scratch.iterdir())


def let_in(name: str, check: Callable[[Path], Any], folder: Path) -> Iterator[tuple[Path, Any]]:
    """Changed files that the gate takes, with what it read of them."""
    for number, content in enumerate(fuzzed(FORMATS[name], seed=3)):
        path = folder / f"{name}-{number}"
        path.write_bytes(content)
        try:
            yield path, check(path)
        except gate.Refused:
            path.unlink()


def test_damaged_numbers_get_their_reason_where_they_are_loaded(tmp_path: Path) -> None:
    """The gate reads headers alone, so this is for the probe's process to say."""
    found: Counter[str] = Counter()
    for path, _ in itertools.islice(let_in("npz", gate.check_npz, tmp_path), 200):
        data = {"kind": "npz", "path": str(path), "target": None}
        try:
            materials({"model": {"kind": "config", "config": {}}, "data": data, "loss": None})
        except RequestError as error:
            found[error.code] += 1
        else:
            found["loaded"] += 1
    assert found.keys() == {"loaded", "file_unreadable"}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(PROBED))
@pytest.mark.parametrize("name", ["keras", "npz"])
def test_what_is_let_in_ends_with_an_answer_or_a_reason(
    name: str, number: int, tmp_path: Path
) -> None:
    data = tmp_path / "data.npz"
    data.write_bytes(npz(**regression()))
    model: Any = NET
    check = gate.check_model_archive if name == "keras" else gate.check_npz
    files = let_in(name, check, tmp_path)
    for _ in range(number + 1):
        path, facts = next(files)
    if name == "keras":
        model = facts.config
    else:
        data = path
    asked = ProbeSpec(
        model={"kind": "config", "config": model},
        data={"kind": "npz", "path": str(data)},
        loss={"name": "mean_squared_error", "from_logits": False},
        epochs=1,
        batch_size=8,
        tier="quick",
        max_seconds=10.0,
    )
    ended = LocalProbe("jax", Limits(), tmp_path).run(asked, lambda _: None, lambda: False)
    print(name, number, ended.status, ended.code, ended.detail)
    assert ended.status == "succeeded" or ended.detail
    assert ended.code not in {"internal", "probe_died"}, ended.detail
