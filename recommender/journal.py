"""Journal: a folder that keeps what was trained, so that a request goes on where it was stopped."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from recommender.errors import RequestError
from recommender.memory import Arrays, Memory

FORMAT = 1
REQUEST, PIECES, STATES = "request.json", "pieces.log", "states"


class Journal(Memory):
    """Keeps every piece of work of one request in a folder.

    Losses and validations go into `pieces.log`, a line each with its checksum; the file is synced
    after every line, and a line that was not written to its end is dropped. States lie in
    `states/`, one file for each training that may go on.

    Args:
        folder: Made where it is missing.
        request: Everything that the answer depends on, as name and text; see `fingerprint.of`.

    Raises:
        RequestError: The folder belongs to another request, to another program, or is in use.
    """

    def __init__(self, folder: str | os.PathLike[str], request: Mapping[str, str]) -> None:
        self.folder = Path(folder)
        self._states: dict[str, Path] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _check(self.folder, dict(request))
            (self.folder / STATES).mkdir(exist_ok=True)
            self._file = (self.folder / PIECES).open("a+b")
        except OSError as error:
            raise RequestError(
                f"journal={str(folder)!r} cannot be used as a folder: {error}. Name one that can "
                "be written to, or leave journal out.",
                code="bad_journal",
            ) from error
        _lock(self._file, self.folder)
        self._results = _read(self._file)
        for file in (self.folder / STATES).glob("*.npz"):
            found = _arrays(file, only="key")
            if found is not None:
                self._states[str(found["key"])] = file

    @property
    def pieces(self) -> int:
        """How many pieces of work it holds."""
        return len(self._results)

    def recall(self, key: str) -> Any:
        """The result of a piece of work; None where it has to be made."""
        return self._results.get(key)

    def record(self, key: str, value: Any) -> None:
        """Keep a result; it is on the disk afterwards."""
        self._results[key] = value
        self._file.write(_line({"key": key, "value": value}))
        self._file.flush()
        os.fsync(self._file.fileno())

    def state(self, key: str) -> Arrays | None:
        """The arrays of a state that was kept under this key, or None."""
        file = self._states.get(key)
        if file is None:
            return None
        arrays = _arrays(file)
        return None if arrays is None else [arrays[f"a{i}"] for i in range(len(arrays) - 1)]

    def keep(self, name: str, key: str, pack: Callable[[], Arrays]) -> None:
        """Keep a state in place of the one of the same training."""
        file = self.folder / STATES / f"{name}.npz"
        arrays: dict[str, Any] = {f"a{i}": array for i, array in enumerate(pack())}
        _replace(file, lambda out: np.savez(out, key=np.asarray(key), **arrays))
        self._states = {k: f for k, f in self._states.items() if f != file} | {key: file}

    def drop(self, name: str) -> None:
        """Forget the state of a training."""
        file = self.folder / STATES / f"{name}.npz"
        file.unlink(missing_ok=True)
        self._states = {k: f for k, f in self._states.items() if f != file}

    def finish(self) -> None:
        """Forget all states: asking again needs the pieces only."""
        self._states.clear()
        for file in (self.folder / STATES).iterdir():  # those half written at a kill as well
            file.unlink()

    def close(self) -> None:
        """Let others use the folder."""
        self._file.close()


def add(folder: Path, values: Mapping[str, Any]) -> None:
    """Put results into a journal that nobody has open.

    Args:
        folder: Of the journal; nothing is done where it was not begun.
        values: Results by their keys.
    """
    if not (folder / REQUEST).exists():
        return
    with (folder / PIECES).open("a+b") as file:
        _lock(file, folder)
        _read(file)  # cuts off what a kill left half written
        file.writelines(_line({"key": key, "value": value}) for key, value in values.items())
        file.flush()
        os.fsync(file.fileno())


def _check(folder: Path, request: dict[str, str]) -> None:
    """Whether the folder is for this request; a fresh one becomes so."""
    file = folder / REQUEST
    if not file.exists():
        if any(entry.suffix != ".part" for entry in folder.iterdir()):
            raise RequestError(
                f"journal={str(folder)!r} holds other files. Name a folder that is empty, or one "
                "that an earlier request has kept.",
                code="bad_journal",
            )
        text = json.dumps({"format": FORMAT, "request": request}, indent=1)
        _replace(file, lambda out: out.write(text.encode()))
        return
    try:
        known = json.loads(file.read_text("utf-8"))
        theirs = dict(known["request"]) if known["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError):
        theirs = None
    if theirs is None:
        raise RequestError(
            f"{file} was not written by this version. Name another folder.", code="bad_journal"
        )
    differ = sorted(k for k in theirs.keys() | request.keys() if theirs.get(k) != request.get(k))
    if differ:
        words = ", ".join(
            f"{name} ({theirs.get(name, 'nothing')} there, {request.get(name, 'nothing')} here)"
            for name in differ
        )
        raise RequestError(
            f"journal={str(folder)!r} was begun by another request; it differs in {words}. Ask as "
            "before, or name another folder.",
            code="journal_differs",
        )


def _arrays(file: Path, only: str | None = None) -> dict[str, Any] | None:
    """What a state's file holds; None where it is damaged: the state is trained again."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ([only] if only else arrays.files)}
    except Exception:  # noqa: BLE001 - a file may be damaged in any way
        return None


def _lock(file: IO[bytes], folder: Path) -> None:
    """Refuse a folder that another process is writing to, where the system can tell."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RequestError(
            f"journal={str(folder)!r} is in use by another process. Wait for it, or name another "
            "folder.",
            code="journal_in_use",
        ) from error


def _read(file: IO[bytes]) -> dict[str, Any]:
    """The results of all whole lines; what follows the last of them is cut off."""
    found: dict[str, Any] = {}
    file.seek(0)
    good = 0
    for line in file:
        entry = _entry(line)
        if entry is None:
            break
        found[entry["key"]] = entry["value"]
        good += len(line)
    file.truncate(good)
    return found


def _line(entry: dict[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entry(line: bytes) -> dict[str, Any] | None:
    check, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or check != b"%08x" % zlib.crc32(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def _replace(file: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that a reader, and a restart, finds the old one or the new one."""
    beside = file.with_suffix(".part")
    with beside.open("wb") as out:
        write(out)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(file)
    if os.name == "posix":
        descriptor = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
