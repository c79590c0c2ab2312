"""Archives that the gate reads, of models and of arrays; what it refuses is forged here."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api import gate
from api.gate import ArrayFacts, Refused
from tests.api.uploads import (
    FIFO,
    GIB,
    LAMBDA,
    MIB,
    PLAIN,
    SYMLINK,
    Marker,
    config_member,
    data_set,
    deflated,
    npy,
    raw_zip,
    real_zip,
    refusal,
    sequential,
    thing,
)

pytestmark = pytest.mark.backend_free


# --- archives ---


def test_a_forged_archive_without_forgery_passes(tmp_path: Path) -> None:
    for method in (0, 8):
        path = raw_zip(
            tmp_path / "m.keras",
            {"name": "metadata.json", "data": b"{}"},
            config_member(method=method),
            {"name": "model.weights.h5", "data": b"not read"},
        )
        assert gate.check_model_archive(path).layers == {"Dense": 1}


def test_weights_are_not_looked_at(tmp_path: Path) -> None:
    members = {"config.json": PLAIN, "model.weights.h5": b"\x80\x04evil"}
    assert gate.check_model_archive(real_zip(tmp_path / "m.keras", **members)).output_units == 3


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (pickle.dumps({"a": 1}), "pickle"),
        (b"", "empty file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        (b"\x1f\x8b" + bytes(100), "gzip"),
        (b"PK\x05\x06" + bytes(18), "empty archive"),
        (b"<html>", "unknown"),
        (PLAIN, "unknown"),
    ],
)
def test_another_format_is_named_whatever_the_file_is_called(
    data: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(data)
    for check, advice in (
        (gate.check_model_archive, "model.save"),
        (gate.check_npz, "numpy.savez"),
    ):
        refused = refusal(check, path)
        assert refused.code == "unsupported_type"
        assert words in refused.detail
        assert advice in refused.detail


def test_a_zip_without_config_is_not_a_keras_file(tmp_path: Path) -> None:
    path = real_zip(tmp_path / "m.keras", **{"word/document.xml": b"<x/>"})
    assert refusal(gate.check_model_archive, path).code == "unsupported_type"


def test_an_archive_behind_before_or_around_other_data_is_refused(tmp_path: Path) -> None:
    path = real_zip(tmp_path / "m.keras", **{"config.json": PLAIN})
    whole = path.read_bytes()
    png = b"\x89PNG\r\n\x1a\n" + bytes(50)
    for data in (png + whole, whole + png, whole + b"\0", whole[:4] + whole, whole + whole):
        path.write_bytes(data)
        assert refusal(gate.check_model_archive, path).code == "archive_suspicious"


def test_an_archive_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = real_zip(tmp_path / "m.keras", **{"config.json": PLAIN})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert refusal(gate.check_model_archive, path).code in {
            "archive_suspicious",
            "unsupported_type",
        }


JUNK = bytes(100)
# A second header within the bytes of the first member: the same bytes unpacked twice.
NEST = b"PK\x03\x04" + bytes(14) + struct.pack("<2L2H", len(PLAIN), len(PLAIN), 11, 0)


@pytest.mark.parametrize(
    ("words", "members", "end"),
    [
        # A08
        ("twice", [config_member(), config_member()], {}),
        ("does not match its end", [config_member()], {"total": 2}),
        ("does not match its end", [config_member()], {"total": 0}),
        ("end does not match", [config_member()], {"here": 0}),
        ("end does not match", [config_member()], {"begin": 0xFFFFFFFF}),
        ("end does not match", [config_member()], {"begin": 0}),
        ("end does not match", [config_member()], {"comment": 5}),
        ("data follow its end", [config_member()], {"comment": 5, "tail": b"aloha"}),
        ("two sizes", [config_member(packed_size=0xFFFFFFFF)], {}),
        ("two sizes", [config_member(size=5)], {}),
        ("do not fill", [config_member(packed_size=10**6, size=10**6)], {}),
        ("do not fill", [config_member(packed=PLAIN + JUNK, packed_size=len(PLAIN))], {}),
        (
            "not where",
            [
                config_member(packed=PLAIN + JUNK, packed_size=len(PLAIN)),
                {"name": "metadata.json", "data": b"{}"},
            ],
            {},
        ),
        (
            "not where",
            [
                {"name": "model.weights.h5", "data": NEST + b"config.json" + PLAIN},
                config_member(offset=46, absent=True),
            ],
            {},
        ),
        ("not what", [config_member(method=8, size=5)], {}),
        ("not what", [config_member(crc=1)], {}),
        ("cannot be unpacked", [config_member(method=8, packed=b"\xff" * 50)], {}),
        ("encrypted", [config_member(flags=1)], {}),
        ("encrypted", [config_member(flags=64, local={"flags": 0})], {}),
        ("not where", [config_member(local={"flags": 1})], {}),
        ("neither stored nor deflated", [config_member(method=12)], {}),
        ("neither stored nor deflated", [config_member(method=14)], {}),
        ("neither stored nor deflated", [config_member(method=99)], {}),
        ("not where", [config_member(local={"method": 8})], {}),
        ("not where", [config_member(local={"name": b"config.jsox"})], {}),
        ("not where", [config_member(offset=7)], {}),
        ("not where", [config_member(offset=10**6)], {}),
        # A11
        ("no plain file name", [config_member(), {"name": "../../x"}], {}),
        ("no plain file name", [config_member(), {"name": "/etc/x"}], {}),
        ("no plain file name", [config_member(), {"name": "a\\..\\b"}], {}),
        ("no plain file name", [config_member(), {"name": "C:x"}], {}),
        ("no plain file name", [config_member(), {"name": "metadata.json\0.exe"}], {}),
        ("no plain file name", [config_member(), {"name": "folder/"}], {}),
        ("no plain file name", [config_member(), {"name": b"\xff\xfe"}], {}),
        ("no plain file name", [config_member(), {"name": ""}], {}),
        ("climbs out", [config_member(), {"name": "a/../../x"}], {}),
        ("plain file", [config_member(), {"name": "metadata.json", "attributes": SYMLINK}], {}),
        ("plain file", [config_member(), {"name": "metadata.json", "attributes": FIFO}], {}),
        ("plain file", [config_member(attributes=SYMLINK)], {}),
        # more than a .keras file holds
        ("'payload.py'", [config_member(), {"name": "payload.py", "data": b"import os"}], {}),
        ("'assets/x.txt'", [config_member(), {"name": "assets/x.txt"}], {}),
        ("at most 64", [config_member(), *({"name": f"m{i}"} for i in range(64))], {}),
        (
            "bytes of directory",
            [config_member(), *({"name": f"m{i}" + "x" * 1500} for i in range(63))],
            {},
        ),
    ],
)
def test_an_archive_that_is_not_what_its_directory_says_is_refused(
    words: str, members: list[dict[str, Any]], end: dict[str, Any], tmp_path: Path
) -> None:
    path = raw_zip(tmp_path / "m.keras", *members, **end)
    refused = refusal(gate.check_model_archive, path)
    assert refused.code == "archive_suspicious"
    assert words in refused.detail
    assert "model.save" in refused.detail


def test_a_data_descriptor_between_members_is_no_hidden_data(tmp_path: Path) -> None:
    """Writers that cannot seek put sizes behind the data."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.file = (tmp_path / "m.keras").open("wb")

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return self.file.write(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", b"{}")
        archive.writestr("config.json", PLAIN)
    pipe.file.close()
    assert gate.check_model_archive(tmp_path / "m.keras").layers == {"Dense": 1}


def test_a_zip64_locator_in_the_directory_is_refused(tmp_path: Path) -> None:
    """Python's zipfile would follow it to another directory."""
    path = raw_zip(tmp_path / "m.keras", config_member())
    whole = path.read_bytes()
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 1)
    directory, end = whole[:-22], bytearray(whole[-22:])
    (length,) = struct.unpack_from("<L", end, 12)
    struct.pack_into("<L", end, 12, length + 20)
    at = len(directory) - length
    entry = bytearray(directory[at:])
    struct.pack_into("<H", entry, 32, 20)  # the locator as a comment of the last member
    path.write_bytes(directory[:at] + entry + locator + end)
    refused = refusal(gate.check_model_archive, path)
    assert refused.code == "archive_suspicious"
    assert "zip64" in refused.detail


@pytest.mark.parametrize("claimed", [GIB, 600 * MIB, 2 * MIB, 1000])
def test_a_gibibyte_of_config_is_refused_at_once_whatever_it_claims_to_be(
    claimed: int, tmp_path: Path
) -> None:
    bomb = {"name": "config.json", "method": 8, "packed": deflated(1024), "size": claimed}
    path = raw_zip(tmp_path / "m.keras", bomb)
    assert path.stat().st_size < 5 * MIB
    tracemalloc.start()
    began = time.perf_counter()
    refused = refusal(gate.check_model_archive, path)
    seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.code == "archive_too_large"
    assert seconds < 1
    assert peak < 8 * MIB


def test_a_config_that_deflates_suspiciously_well_is_refused(tmp_path: Path) -> None:
    path = real_zip(tmp_path / "m.keras", **{"config.json": b" " * (MIB - 10) + b"{}"})
    assert refusal(gate.check_model_archive, path).code == "archive_suspicious"


def test_a_deflated_config_of_a_thousand_equal_layers_is_not_suspicious(tmp_path: Path) -> None:
    layers = [thing("Dense", name=f"dense_{i}", units=8) for i in range(999)]
    data = json.dumps(sequential(*layers)).encode()
    path = real_zip(tmp_path / "m.keras", **{"config.json": data})
    assert gate.check_model_archive(path).layers == {"Dense": 999}


@pytest.mark.parametrize("check", [gate.check_model_archive, gate.check_npz])
def test_a_file_above_the_limit_is_refused_unread(
    check: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "m.keras"
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(513 * MIB)  # sparse
    assert refusal(check, path).code == "archive_too_large"


def test_weights_that_declare_too_much_are_refused(tmp_path: Path) -> None:
    weights = {"name": "model.weights.h5", "method": 8, "packed": b"\x03\0", "size": 600 * MIB}
    path = raw_zip(tmp_path / "m.keras", config_member(), weights)
    assert refusal(gate.check_model_archive, path).code == "archive_too_large"


def test_a_config_inside_an_archive_is_judged_like_any_other(tmp_path: Path) -> None:
    for config, code in (
        (json.dumps(sequential(LAMBDA)).encode(), "model_class_not_allowed"),
        (b'{"a":1,"a":2}', "malformed_json"),
        (b"[" * 900, "model_too_large"),
        (b" " * (2 * MIB), "archive_too_large"),
    ):
        path = raw_zip(tmp_path / "m.keras", {"name": "config.json", "data": config})
        assert refusal(gate.check_model_archive, path).code == code


# --- data sets ---

X, Y = np.zeros((10, 3), "float32"), np.arange(10)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "dtype",
    ["?", "i1", "<i2", ">i4", "i8", "u1", "u2", "u4", "u8", "f2", "<f4", ">f8"],
)
def test_every_plain_dtype_passes_stored_and_deflated(
    save: Callable[..., None], dtype: str, tmp_path: Path
) -> None:
    x = np.asfortranarray(np.ones((9, 4, 2), dtype))
    save(tmp_path / "d.npz", x=x, y=np.arange(9))
    facts = gate.check_npz(tmp_path / "d.npz")
    assert facts == {
        "x": ArrayFacts(x.shape, x.dtype.name, x.nbytes),
        "y": ArrayFacts((9,), "int64", 72),
    }


def test_validation_arrays_may_come_along(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=Y, x_val=X[:2], y_val=Y[:2])
    facts = gate.check_npz(tmp_path / "d.npz")
    assert list(facts) == ["x", "x_val", "y", "y_val"]
    assert facts["x_val"].shape == (2, 3)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_array_format_passes(version: tuple[int, int], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        for name, value in (("x", X), ("y", Y)):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, value, version)
    assert gate.check_npz(tmp_path / "d.npz")["x"].shape == (10, 3)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": X},
        {"y": Y},
        {"arr_0": X, "arr_1": Y},
        {"x_train": X, "y_train": Y},
        {"x": X, "y": Y, "x_val": X},
        {"x": X, "y": Y, "y_val": Y},
    ],
)
def test_a_missing_array_is_named_with_the_line_that_writes_it(
    arrays: dict[str, Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    refused = refusal(gate.check_npz, tmp_path / "d.npz")
    assert refused.code == "dataset_incomplete"
    assert "Write it with numpy.savez(path, x=x, y=y)" in refused.detail


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": X, "y": Y[:9]},
        {"x": X, "y": Y, "x_val": X, "y_val": Y[:9]},
        {"x": X, "y": Y, "x_val": X[:, :2], "y_val": Y},
        {"x": X, "y": Y, "x_val": X, "y_val": np.zeros((10, 2))},
        {"x": np.float32(1), "y": Y},
        {"x": X, "y": np.int64(1)},
        {"x": X[:7], "y": Y[:7]},
        {"x": X[:0], "y": Y[:0]},
        {"x": X[:, :0], "y": Y},
        {"x": np.zeros((10,) + (1,) * 8), "y": Y},
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    arrays: dict[str, Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    assert refusal(gate.check_npz, tmp_path / "d.npz").code == "dataset_shape_mismatch"


def test_a_pickled_object_array_is_refused_unopened(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    np.savez(tmp_path / "d.npz", x=np.array([Marker(marker)] * 10, dtype=object), y=Y)
    refused = refusal(gate.check_npz, tmp_path / "d.npz")
    assert refused.code == "dataset_object_dtype"
    assert "astype('float32')" in refused.detail
    assert not marker.exists()
    with np.load(tmp_path / "d.npz", allow_pickle=True) as loaded:
        assert loaded["x"].shape == (10,)
    assert marker.exists()  # so the file was a loaded gun


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(10, [("a", "f4"), ("b", "i4")]),
        np.array(["text"] * 10),
        np.array([b"text"] * 10),
        np.zeros(10, "datetime64[s]"),
        np.zeros(10, "timedelta64[s]"),
        np.zeros(10, "V8"),
        np.zeros(10, "complex64"),
        np.zeros(10, np.longdouble),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused_with_what_to_save(
    x: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", x=x, y=Y)
    refused = refusal(gate.check_npz, tmp_path / "d.npz")
    assert refused.code == "dataset_object_dtype"
    assert "Save numbers" in refused.detail


def test_a_forged_array_without_forgery_passes(tmp_path: Path) -> None:
    for more in ({}, {"method": 8}):
        facts = gate.check_npz(data_set(tmp_path / "d.npz", npy(), **more))
        assert facts["x"] == ArrayFacts((10, 3), "float32", 120)
    header = "{'shape': (10, 3), 'fortran_order': True, 'descr': '<f4'}"
    assert gate.check_npz(data_set(tmp_path / "d.npz", npy(header)))["x"].dtype == "float32"


@pytest.mark.parametrize(
    ("x", "code"),
    [
        # A16
        (npy(descr="'|O'"), "dataset_object_dtype"),
        (npy(descr="'<U600000000'"), "dataset_object_dtype"),
        (npy(descr="'<M8[ns]'"), "dataset_object_dtype"),
        (npy(descr="'|V8'"), "dataset_object_dtype"),
        (npy(descr="'<f16'"), "dataset_object_dtype"),
        (npy(descr="'<f1'"), "dataset_object_dtype"),
        (npy(descr="'|f4'"), "dataset_object_dtype"),
        (npy(descr="'<b4'"), "dataset_object_dtype"),
        (npy(descr="''"), "dataset_object_dtype"),
        (npy(descr="[('a', '<f4')]"), "dataset_object_dtype"),
        (npy(descr="('<f4', (3,))"), "dataset_object_dtype"),
        (npy(shape="(10, 4)"), "dataset_shape_mismatch"),
        (npy(shape=f"({2**70},)"), "archive_suspicious"),
        (npy(shape=f"({2**62}, 4)"), "dataset_shape_mismatch"),
        (npy(shape=f"({2**60}, 0)", data=b""), "dataset_shape_mismatch"),
        (npy(shape="(3000000000,)"), "dataset_shape_mismatch"),  # 128 bytes that claim 12 GB
        (npy(data=bytes(119)), "dataset_shape_mismatch"),
        (npy(data=bytes(121)), "dataset_shape_mismatch"),
        (npy(shape="(-10, -3)"), "archive_suspicious"),
        (npy(shape="(10, 3.0)"), "archive_suspicious"),
        (npy(shape="(30)"), "archive_suspicious"),
        (npy(shape="10"), "archive_suspicious"),
        (npy(shape="[10, 3]"), "archive_suspicious"),
        (npy(shape="(010, 3)"), "archive_suspicious"),
        (npy(shape="True"), "archive_suspicious"),
        (npy(descr="True"), "dataset_object_dtype"),
        (npy(shape="(" + "1" * 5000 + ",)"), "archive_suspicious"),
        (npy(shape="(" + "1, " * 3000 + ")"), "archive_suspicious"),
        (npy(shape="(" * 5000 + ")" * 4000), "archive_suspicious"),
        (npy(shape="-" * 9000 + "1"), "archive_suspicious"),
        (npy("{'descr': '<f4', 'shape': (10, 3), }"), "archive_suspicious"),
        # NumPy's own parser takes neither.
        (npy("{'descr': '<f4' 'fortran_order': False, 'shape': (10, 3)}"), "archive_suspicious"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10, 3)}\v"), "archive_suspicious"),
        (npy("{'descr': '<f4', 'descr': '<f4', 'shape': (10, 3), }"), "archive_suspicious"),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10, 3), 'x': 1}"),
            "archive_suspicious",
        ),
        (npy("{'descr': '<f4', 'fortran_order': 'yes', 'shape': (10, 3)}"), "archive_suspicious"),
        (npy("__import__('os').system('id')"), "archive_suspicious"),
        (npy("{" * 9000), "archive_suspicious"),
        (npy(" " * 70_000, version=(2, 0)), "archive_suspicious"),
        (npy(" " * 60_000), "archive_suspicious"),
        (npy(version=(9, 9)), "archive_suspicious"),
        (npy(version=(0, 0)), "archive_suspicious"),
        (npy(length=200, data=b""), "archive_suspicious"),
        (npy(version=(2, 0), length=2**32 - 1), "archive_suspicious"),
        (npy(magic=b"\x93NUMPX"), "archive_suspicious"),
        (b"", "archive_suspicious"),
        (b"\x93NUMPY\x01\x00", "archive_suspicious"),
        (b"a,b\n1,2\n" * 20, "archive_suspicious"),
        (pickle.dumps([1, 2, 3]), "archive_suspicious"),
    ],
    ids=lambda value: ascii(value[10:40]) if isinstance(value, bytes) else value,
)
@pytest.mark.parametrize("method", [0, 8])
def test_an_array_whose_header_lies_or_misleads_is_refused_at_once(
    x: bytes, code: str, method: int, tmp_path: Path
) -> None:
    path = data_set(tmp_path / "d.npz", x, method=method)
    began = time.perf_counter()
    assert refusal(gate.check_npz, path).code == code
    assert time.perf_counter() - began < 1


def test_a_header_longer_than_numpy_reads_is_named_with_its_length(tmp_path: Path) -> None:
    path = data_set(tmp_path / "d.npz", npy(" " * 70_000, version=(2, 0)))
    assert "a header of 70001 bytes, more than 10000" in refusal(gate.check_npz, path).detail


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"method": 12}, "archive_suspicious"),
        ({"method": 9}, "archive_suspicious"),
        ({"flags": 1}, "archive_suspicious"),
        ({"size": 10**6}, "archive_suspicious"),  # stored, yet of two sizes
        ({"method": 8, "size": 10**6}, "dataset_shape_mismatch"),
        ({"method": 8, "size": 600 * MIB}, "archive_too_large"),
        ({"method": 8, "packed": b"\xff" * 50}, "archive_suspicious"),
        ({"name": "x"}, "archive_suspicious"),
        ({"name": "x.npy.npy"}, "dataset_incomplete"),
        ({"name": "X.npy"}, "dataset_incomplete"),
        ({"name": "../x.npy"}, "archive_suspicious"),
        ({"attributes": SYMLINK}, "archive_suspicious"),
    ],
)
def test_a_data_set_in_a_forged_archive_is_refused(
    more: dict[str, Any], code: str, tmp_path: Path
) -> None:
    assert refusal(gate.check_npz, data_set(tmp_path / "d.npz", npy(), **more)).code == code


def test_a_data_set_of_deflated_zeros_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    size = len(npy(shape=f"({GIB // 4},)", data=b"")) + GIB
    bomb = {"method": 8, "packed": deflated(1024), "size": size}
    path = data_set(tmp_path / "d.npz", npy(), **bomb)
    began = time.perf_counter()
    assert refusal(gate.check_npz, path).code == "archive_too_large"
    assert time.perf_counter() - began < 1


def test_more_arrays_than_asked_for_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=Y, weights=Y)
    refused = refusal(gate.check_npz, tmp_path / "d.npz")
    assert refused.code == "archive_suspicious"
    assert "weights.npy" in refused.detail


def test_a_model_sent_as_data_and_data_sent_as_a_model_are_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    assert refusal(gate.check_model_archive, tmp_path / "d.npz").code == "unsupported_type"
    model = real_zip(tmp_path / "m.keras", **{"config.json": PLAIN})
    assert refusal(gate.check_npz, model).code == "dataset_incomplete"


# --- whatever comes, Refused is all that is raised ---


@pytest.mark.parametrize("kind", ["keras", "npz"])
def test_three_hundred_damaged_files_pass_or_are_refused_and_nothing_else(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "upload"
    if kind == "keras":
        check: Callable[[Path], object] = gate.check_model_archive
        weights = {"name": "model.weights.h5", "data": b"\x89HDF"}
        raw_zip(path, {"name": "metadata.json", "data": b"{}"}, config_member(method=8), weights)
    else:
        check = gate.check_npz
        np.savez_compressed(tmp_path / "d.npz", x=X, y=Y)
        path.write_bytes((tmp_path / "d.npz").read_bytes())
    whole = path.read_bytes()
    check(path)
    draw, outcomes = random.Random(5), set()  # noqa: S311 - repeatable, not secret
    began = time.perf_counter()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 5))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            check(path)
        except Refused as refused:
            outcomes.add(refused.code)
        else:
            outcomes.add("passed")
    assert time.perf_counter() - began < 5
    assert {"passed", "archive_suspicious"} <= outcomes
