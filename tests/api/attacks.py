"""The attacks of the threat model, by number: what is sent, and the code that comes back."""

from __future__ import annotations

import base64
import io
import json
import marshal
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.api.server import npz
from tests.api.uploads import (
    MIB,
    SYMLINK,
    Marker,
    config_member,
    data_set,
    deflated,
    function,
    npy,
    raw_zip,
    sequential,
    thing,
)

Call = tuple[str, dict[str, Any]]  # a path, and what is posted to it


class Trap:
    """What an attack that came through would touch.

    Attributes:
        folder: Where the service lies.
        marker: A file that payloads write.
        url: An address on which somebody listens.
    """

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self.folder = folder
        self.marker = folder / "marker"
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        self._listener = listener

    def payload(self) -> dict[str, Any]:
        """A function as Keras writes a lambda; called, it writes the marker."""
        code = compile(f"open({str(self.marker)!r}, 'w')", "<lambda>", "eval")
        raw = base64.encodebytes(marshal.dumps(code)).decode()
        value = {"code": raw, "defaults": None, "closure": None}
        return {"class_name": "__lambda__", "config": {"value": value}}

    def code(self) -> dict[str, Any]:
        """A Lambda layer of that function."""
        return thing("Lambda", function=self.payload(), output_shape=self.payload())

    def archive(self, *members: dict[str, Any], **end: Any) -> bytes:
        """A zip file of which any field can be forged; see `raw_zip`."""
        path = raw_zip(self.folder / "forged", *members, **end)
        content = path.read_bytes()
        path.unlink()
        return content

    def arrays(self, x: bytes, **more: Any) -> bytes:
        """A data set with any bytes as x; see `data_set`."""
        path = data_set(self.folder / "forged", x, **more)
        content = path.read_bytes()
        path.unlink()
        return content

    def untouched(self) -> bool:
        """Whether no payload ran and nobody called."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return not self.marker.exists()
        connection.close()
        return False


# --- ways in ---


def to_models(*contents: bytes) -> list[Call]:
    return [("/v1/models", {"files": {"file": ("model.keras", one)}}) for one in contents]


def to_datasets(*contents: bytes) -> list[Call]:
    return [("/v1/datasets", {"files": {"file": ("data.npz", one)}}) for one in contents]


def as_json(path: str, *bodies: bytes) -> list[Call]:
    headers = {"content-type": "application/json"}
    return [(path, {"content": body, "headers": headers}) for body in bodies]


def config(trap: Trap, *models: Any) -> list[Call]:
    """Each model through every door that takes one."""
    calls: list[Call] = []
    for one in models:
        text = json.dumps(one).encode()
        calls += to_models(trap.archive({"name": "config.json", "data": text}))
        calls += as_json("/v1/models", text)
        for path, data in (("advice", SUMMARY["data"]), ("recommendations", DIGITS)):
            asked = {"model": {"kind": "keras_config", "config": one}, "data": data}
            calls += [(f"/v1/{path}", {"json": asked})]
    return calls


def layers(trap: Trap, *ones: Any) -> list[Call]:
    return config(trap, *(sequential(one) for one in ones))


SUMMARY: dict[str, Any] = {
    "model": {"kind": "summary", "family": "mlp", "units": [8]},
    "data": {"kind": "summary", "shape": [4], "task": "regression", "samples": 2000},
}
DIGITS = {"kind": "ref", "id": "sample:digits"}


# --- the list ---


def lambdas_by_name() -> list[Any]:
    named = (
        ("keras.config", "set_floatx"),
        ("keras.datasets.mnist", "load_data"),
        ("keras.distribution", "initialize"),
    )
    return [
        *(thing("Lambda", function=function(*one)) for one in named),
        thing("ResNet50", "keras.applications.resnet50", weights="/etc/passwd"),
    ]


def inside(code: Any) -> list[Any]:
    """The layer in every place of a model that may hold one."""
    dense = thing("Dense", name="dense", units=1)
    cycle = {**thing("TimeDistributed"), "shared_object_id": 1}
    return [
        sequential(dense, compile_config={"loss": code}),
        sequential(dense, build_config={"input_shape": code}),
        sequential({**dense, "build_config": {"input_shape": code}}),
        sequential(sequential(code)),
        sequential(thing("RNN", cell=code)),
        sequential(thing("Bidirectional", layer=code)),
        sequential(thing("TimeDistributed", layer=code)),
        sequential({**thing("TimeDistributed", layer=cycle), "shared_object_id": 1}),
    ]


def hdf5(trap: Trap) -> bytes:
    """Weights of 4 TB on paper, with links to elsewhere."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("bomb", shape=(2**40,), dtype="f4", chunks=(2**20,))
        file.create_dataset("outside", shape=(8,), dtype="f4", external=[("/etc/passwd", 0, 32)])
        file["link"] = h5py.ExternalLink(str(trap.marker), "/x")
        file["soft"] = h5py.SoftLink("/bomb")
        layout = h5py.VirtualLayout((8,), "f4")
        layout[:] = h5py.VirtualSource(str(trap.marker), "x", (8,))
        file.create_virtual_dataset("virtual", layout)
    return buffer.getvalue()


def bomb(trap: Trap, claimed: int) -> bytes:
    """A config of a gibibyte of "a", deflated to 4.7 MB."""
    member = {"name": "config.json", "method": 8, "packed": deflated(1024), "size": claimed}
    return trap.archive(member)


def nested(depth: int) -> Any:
    model = sequential(thing("Dense", units=1))
    for _ in range(depth):
        model = sequential(model)
    return model


def pickled(trap: Trap) -> bytes:
    return npz(x=np.array([Marker(trap.marker)] * 10, dtype=object), y=np.arange(10))


def other_member(trap: Trap, name: str, **more: Any) -> bytes:
    return trap.archive(config_member(), {"name": name, **more})


def with_model(**changes: Any) -> list[Call]:
    """Advice and a job for something else than a model."""
    return [
        (f"/v1/{path}", {"json": {**SUMMARY, "data": DIGITS, **changes}})
        for path in ("advice", "recommendations")
    ]


CLASS, MODEL, JSON = "model_class_not_allowed", "model_too_large", "malformed_json"
ZIP, TYPE, LARGE = "archive_suspicious", "unsupported_type", "archive_too_large"
SHAPE, DTYPE, INVALID = "dataset_shape_mismatch", "dataset_object_dtype", "validation_failed"
FIELDS = (b"model", b"data", b"training")
KEYS_MANY = b"{" + b",".join(b'"%d":0' % i for i in range(10**5)) + b"}"
XXE = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'
DEEP = (900, 20_000, 10**6)

ATTACKS: dict[str, tuple[str, Callable[[Trap], list[Call]]]] = {
    "A01-lambda": (CLASS, lambda t: layers(t, t.code())),
    "A02-functions": (
        CLASS,
        lambda t: layers(
            t,
            thing("Dense", units=1, activation=function("os", "system")),
            thing("Dense", units=1, activation=function("builtins", "eval")),
            thing("Popen", "subprocess", args=f"touch {t.marker}"),
            thing("FunctionType", "types"),
        ),
    ),
    "A03-keras-functions": (
        CLASS,
        lambda t: layers(
            t,
            *(
                thing("Activation", activation=function(module, name))
                for module, name in (
                    ("keras.utils", "get_file"),
                    ("keras.config", "enable_unsafe_deserialization"),
                    ("keras.models", "load_model"),
                )
            ),
        ),
    ),
    "A04-lambda-by-name": (CLASS, lambda t: layers(t, *lambdas_by_name())),
    "A05-vocabulary": (
        CLASS,
        lambda t: layers(
            t,
            thing("StringLookup", vocabulary="/etc/passwd"),
            thing("IntegerLookup", vocabulary=t.url),
            thing("TextVectorization", vocabulary="gs://a/b"),
            thing("Dense", units=1, vocabulary=t.url),
        ),
    ),
    "A06-foreign-layers": (
        CLASS,
        lambda t: layers(
            t,
            thing("TFSMLayer", filepath=str(t.folder)),
            thing(
                "TorchModuleWrapper",
                module=base64.b64encode(pickle.dumps(Marker(t.marker))).decode(),
            ),
            thing("FlaxLayer", module=None),
            thing("JaxLayer", call_fn=t.payload()),
        ),
    ),
    "A07-lambda-inside": (CLASS, lambda t: config(t, *inside(t.code()))),
    "A08-other-format": (
        TYPE,
        lambda t: to_models(b"\x89HDF\r\n\x1a\n" + bytes(100), pickle.dumps(Marker(t.marker)), b""),
    ),
    "A08-truncated": (ZIP, lambda t: to_models(t.archive(config_member())[:-40])),
    "A08-polyglot": (
        ZIP,
        lambda t: to_models(
            b"\x89PNG\r\n\x1a\n" + bytes(50) + t.archive(config_member()),
            t.archive(config_member()) + b"\x89PNG\r\n\x1a\n" + bytes(50),
        ),
    ),
    "A08-zip64": (
        ZIP,
        lambda t: to_models(
            t.archive(config_member(), begin=2**32 - 1),
            t.archive(config_member(packed_size=2**32 - 1)),
            t.archive(config_member(), total=2**16 - 1, here=2**16 - 1),
        ),
    ),
    "A08-two-configs": (ZIP, lambda t: to_models(t.archive(config_member(), config_member()))),
    "A09-gibibyte": (LARGE, lambda t: to_models(*(bomb(t, n) for n in (2**30, 2 * MIB, 1000)))),
    "A11-climbing-members": (
        ZIP,
        lambda t: to_models(
            *(other_member(t, name) for name in ("../../x", "/etc/x", "a\\..\\b", str(t.marker))),
            other_member(t, "metadata.json", data=b"/etc/passwd", attributes=SYMLINK),
        ),
    ),
    "A11-climbing-layer": (
        CLASS,
        lambda t: layers(t, thing("Dense", units=1, name=f"../../../../..{t.marker}")),
    ),
    "A13-one-large-layer": (
        MODEL,
        lambda t: layers(
            t,
            thing("Dense", units=2 * 10**9),
            thing("InputLayer", batch_shape=[None, 10**9]),
            thing("Embedding", input_dim=10**12, output_dim=1),
            thing("Conv3D", filters=1, kernel_size=[10**4] * 3),
        ),
    ),
    "A13-many-layers": (MODEL, lambda t: config(t, sequential(*[thing("Flatten")] * 3000))),
    "A13-nested-models": (MODEL, lambda t: config(t, nested(50))),
    "A15-deep-model": (
        MODEL,
        lambda t: as_json("/v1/models", *(b'{"a":' * n + b"1" + b"}" * n for n in DEEP[:2])),
    ),
    "A15-deep-request": (
        JSON,
        lambda t: as_json("/v1/advice", *(b"[" * n + b"]" * n for n in DEEP[1:-1])),
    ),
    "A15-deep-and-not-closed": (
        JSON,
        lambda t: as_json("/v1/advice", *(b"[" * n for n in DEEP[:2])),
    ),
    "A15-deep-and-long": ("body_too_large", lambda t: both(b"[" * DEEP[2] + b"]" * DEEP[2])),
    "A15-many-keys": (
        "body_too_large",
        lambda t: both(b'{"a":0' + b',"a":0' * 10**6 + b"}"),
    ),
    "A15-many-keys-that-fit": (
        INVALID,
        lambda t: [
            call
            for path in ("/v1/advice", "/v1/recommendations")
            for call in as_json(
                path, KEYS_MANY, *(b'{"%s": %s}' % (key, KEYS_MANY) for key in FIELDS)
            )
        ],
    ),
    "A15-long-lists-that-fit": (
        INVALID,
        lambda t: [
            (f"/v1/{path}", {"json": {**SUMMARY, **changes}})
            for path in ("advice", "recommendations")
            for changes in (
                {"model": {"kind": "summary", "family": "mlp", "units": ["a"] * 10**5}},
                {"data": {"kind": "summary", "shape": ["a"] * 10**5}},
                {"include": [1] * 10**5},
            )
        ],
    ),
    "A15-long-number": ("body_too_large", lambda t: both(b"[" + b"1" * 10 * MIB + b"]")),
    "A15-long-number-that-fits": (
        JSON,
        lambda t: both(b'{"model":' + b"1" * 100_000 + b"}"),
    ),
    "A15-text-that-is-no-json": (
        JSON,
        lambda t: (
            both(b"{", b"\xff", b"[1,]", b"{} {}", b'{"model": "\x00"}')
            + as_json(
                "/v1/models", b"", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'["\xed\xa0\x80"]'
            )
        ),
    ),
    "A15-other-encodings-of-a-request": (
        INVALID,
        lambda t: as_json(
            "/v1/advice", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"model": "\xed\xa0\x80"}'
        ),
    ),
    "A15-odd-numbers-and-keys-of-a-model": (
        JSON,
        lambda t: as_json(
            "/v1/models",
            *(b'{"a": %s}' % one for one in (b"1e400", b"-1e400", b"NaN", b"-Infinity")),
            b'{"a":1,"\\u0061":2}',
            b'{"a": "\\ud800"}',
            b'{"\\udfff": 1}',
        ),
    ),
    "A15-odd-numbers-and-texts-of-a-request": (
        INVALID,
        lambda t: [
            call
            for path in ("/v1/advice", "/v1/recommendations")
            for odd in (b"1e400", b"NaN", b"-Infinity", b'"\\ud800"', b"-0", b'{"\\udfff": 1}')
            for call in as_json(
                path,
                b'{"model": %s}' % odd,
                b'{"model": {"kind": %s}, "data": {"kind": %s}}' % (odd, odd),
                b'{"model": {"kind": "ref", "id": %s}, "data": {"kind": "ref", "id": "x"}}' % odd,
                b'{"seed": %s}' % odd,
                b'{"a": %s}' % odd,
                b'{"\\udc00": %s}' % odd,
            )
        ],
    ),
    "A16-object-dtype": (DTYPE, lambda t: to_datasets(pickled(t))),
    "A16-other-dtypes": (
        DTYPE,
        lambda t: to_datasets(
            npz(x=np.zeros(10, [("a", "f4"), ("b", "i4")]), y=np.arange(10)),
            npz(x=np.zeros(10, "datetime64[s]"), y=np.arange(10)),
            npz(x=np.zeros(10, "V8"), y=np.arange(10)),
            *(t.arrays(npy(descr=d)) for d in ("'<U600000000'", "'|O'", "('<f4', (3,))")),
        ),
    ),
    "A16-other-member": (
        "dataset_incomplete",
        lambda t: to_datasets(t.arrays(npy(), name="x.txt")),
    ),
    "A16-no-array": (
        ZIP,
        lambda t: to_datasets(
            t.arrays(b"a,b\n1,2\n" * 20),
            t.arrays(pickle.dumps(Marker(t.marker))),
            t.arrays(npy(version=(9, 9))),
            t.arrays(npy(" " * 70_000, version=(2, 0))),
            t.arrays(npy(version=(2, 0), length=2**32 - 1)),
            t.arrays(npy(f"open({str(t.marker)!r}, 'w')")),
            t.arrays(npy(shape=f"({2**70},)")),
            t.arrays(npy(), method=12),
            t.arrays(npy(), method=99),
        ),
    ),
    "A16-lying-shape": (
        SHAPE,
        lambda t: to_datasets(
            t.arrays(npy(shape="(3000000000,)")),  # 128 bytes that claim 12 GB
            t.arrays(npy(shape=f"({2**62}, 4)")),
            t.arrays(npy(shape=f"({2**60}, 0)", data=b"")),
            t.arrays(npy(data=bytes(119))),
        ),
    ),
    "A17-commas": (SHAPE, lambda t: to_datasets(b"," * 10**6)),
    "A17-columns": (
        SHAPE,
        lambda t: to_datasets(b",".join(b"c%d" % i for i in range(10**5)) + b"\n" + b"1," * 99),
    ),
    "A17-cells": (
        TYPE,
        lambda t: [
            call
            for cell in (b"1" * 10**6, b'"1', b"caf\xe9")
            for call in to_datasets(b"a,y\n" + b"1,2\n" * 20 + cell + b",1\n")
        ],
    ),
    "A17-formulas": (
        DTYPE,
        lambda t: to_datasets(b"a,y\n" + b"1,2\n" * 20 + b"=cmd|'/c touch x'!A1,1\n"),
    ),
    "A19-other-formats": (
        TYPE,
        lambda t: [
            call
            for content in (
                b"ARROW1\0\0\xff\xff\xff\xff" + bytes(200) + b"ARROW1",
                b"FEA1" + bytes(200) + b"FEA1",
                t.archive(
                    {"name": "[Content_Types].xml", "data": b"<Types/>"},
                    {"name": "xl/workbook.xml", "data": XXE + b"<a>&b;</a>"},
                ),
                XXE + b"<a>&b;</a>",
                XXE + b'<svg xmlns="http://www.w3.org/2000/svg">&b;</svg>',
                XXE.replace(b"file:///etc/passwd", t.url.encode()) + b"<a>&b;</a>",
            )
            for call in to_models(content) + to_datasets(content)
        ],
    ),
    "A20-urls": (
        INVALID,
        lambda t: [
            call
            for url in (t.url, "file:///etc/passwd", "http://169.254.169.254/", "gopher://[::1]/")
            for call in (
                *with_model(model={"kind": "ref", "id": url}),
                *with_model(data={"kind": "ref", "id": url}),
                *with_model(model={"kind": "url", "url": url}),
                *with_model(data={**SUMMARY["data"], "url": url}),
                *with_model(webhook=url),
                ("/v1/models", {"files": {"file": (None, url)}}),
                ("/v1/datasets", {"data": {"url": url}}),
                ("/v1/datasets", {"files": {"file": (None, url)}}),
            )
        ],
    ),
}


def both(*bodies: bytes) -> list[Call]:
    """As a model and as a request."""
    return as_json("/v1/models", *bodies) + as_json("/v1/advice", *bodies)
