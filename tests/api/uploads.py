"""Uploads as the gate may meet them: configs and archives of which any part can be forged."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.gate import Refused

MIB, GIB = 2**20, 2**30
SYMLINK, FIFO = 0o120777 << 16, 0o010644 << 16  # kinds of member, as attributes


def refusal(check: Callable[..., object], *arguments: object) -> Refused:
    """The Refused that the call raises."""
    with pytest.raises(Refused) as caught:
        check(*arguments)
    return caught.value


def thing(name: Any, module: Any = "keras.layers", /, **config: Any) -> dict[str, Any]:
    """A Keras object as its config has it."""
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def function(module: str, name: str) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def sequential(*layers: Any, name: str = "model", **more: Any) -> dict[str, Any]:
    return {**thing("Sequential", "keras", name=name, layers=list(layers)), **more}


def functional(*layers: Any, **config: Any) -> dict[str, Any]:
    refs = {"input_layers": [["a", 0, 0]], "output_layers": [["a", 0, 0]], **config}
    return thing("Functional", "keras.src.models.functional", layers=list(layers), **refs)


def array(value: Any, dtype: Any = "float32", kind: str = "__numpy__") -> dict[str, Any]:
    return {"class_name": kind, "config": {"value": value, "dtype": dtype}}


def symbolic(*history: Any, **config: Any) -> dict[str, Any]:
    """A tensor between two layers, with its history or with other contents."""
    usual = {"shape": [None, 2], "dtype": "float32", "keras_history": list(history)}
    return {"class_name": "__keras_tensor__", "config": config or usual}


MARSHAL = {"class_name": "__lambda__", "config": {"value": {"code": "4wEAAAA=", "defaults": None}}}
LAMBDA = thing("Lambda", function=MARSHAL, output_shape=MARSHAL)
LAYER = "/config/layers/0"
INSIDE = f"{LAYER}/config"

PLAIN = json.dumps(sequential(thing("Dense", name="dense", units=3))).encode()


def raw_zip(path: Path, *members: dict[str, Any], tail: bytes = b"", **end: Any) -> Path:
    """A zip file of which any field can be forged.

    Args:
        path: Where to write it.
        members: name, data; and where they should lie: method, packed (the bytes as they stand in
            the file), size, packed_size, crc, flags, attributes, offset, local (name, method and
            flags as the member's own header has them), absent (only in the directory).
        tail: What follows the end.
        end: Fields of the end record: here, total, begin, length, comment.
    """
    body, directory = b"", b""
    for m in members:
        data, method = m.get("data", b""), m.get("method", 0)
        packed = m.get("packed", data if method != 8 else zlib.compress(data, wbits=-15))
        name = m["name"].encode() if isinstance(m["name"], str) else m["name"]
        size, crc = m.get("size", len(data)), m.get("crc", zlib.crc32(data))
        sizes = struct.pack("<3L", crc, m.get("packed_size", len(packed)), size)
        flags, local = m.get("flags", 0), m.get("local", {})
        local_name = local.get("name", name)
        offset = m.get("offset", len(body))
        if not m.get("absent"):
            body += (
                struct.pack(
                    "<4s5H",
                    b"PK\x03\x04",
                    20,
                    local.get("flags", flags),
                    local.get("method", method),
                    0,
                    0,
                )
                + sizes
                + struct.pack("<2H", len(local_name), 0)
                + local_name
                + packed
            )
        directory += (
            struct.pack("<4s6H", b"PK\x01\x02", 0x0314, 20, flags, method, 0, 0)
            + sizes
            + struct.pack("<5H2L", len(name), 0, 0, 0, 0, m.get("attributes", 0), offset)
            + name
        )
    total = end.get("total", len(members))
    sizes = (end.get("length", len(directory)), end.get("begin", len(body)), end.get("comment", 0))
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, end.get("here", total), total, *sizes)
    path.write_bytes(body + directory + record + tail)
    return path


def config_member(**more: Any) -> dict[str, Any]:
    return {"name": "config.json", "data": PLAIN, **more}


def real_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def deflated(megabytes: int) -> bytes:
    """That many MiB of "a", deflated, without packing them one by one."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(b"a" * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + zlib.compressobj(wbits=-15).flush()


class Marker:
    """Unpickling one writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "unpickled")


def npy(header: str | None = None, data: bytes = bytes(120), **more: Any) -> bytes:
    """An .npy file with any header; descr, shape, version and length can be forged."""
    descr, shape = more.get("descr", "'<f4'"), more.get("shape", "(10, 3)")
    text = header or f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    encoded = text.encode("latin-1") + b"\n"
    version = more.get("version", (1, 0))
    length = struct.pack("<H" if version[0] == 1 else "<I", more.get("length", len(encoded)))
    return more.get("magic", b"\x93NUMPY") + bytes(version) + length + encoded + data


def data_set(path: Path, x: bytes, **more: Any) -> Path:
    y = {"name": "y.npy", "data": npy(shape="(10,)", data=bytes(40))}
    return raw_zip(path, {"name": "x.npy", "data": x, **more}, y)
