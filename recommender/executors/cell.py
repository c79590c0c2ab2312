"""The folder of a jailed probe: what lies in it, what goes in and out, and how it is removed.

Whatever the probe has written is hostile: only plain files are taken, none larger than a limit,
and nothing is followed.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from recommender.executors.jail import GIVEN, JOURNAL, LARGEST_FILE, WORK

MOST_FILES = 2_000
MOST_BYTES = 256 * 2**20
# Folders within folders, of which a journal has one.
DEEPEST = 16
_READ_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def make(folder: Path) -> None:
    """Make the parts of a cell.

    Args:
        folder: Empty; only this user may enter it.
    """
    for part in (GIVEN, WORK, JOURNAL):
        (folder / part).mkdir(mode=0o700)


def give(folder: Path, file: Path) -> Path:
    """Put a file where the probe may read it, and not write it.

    Args:
        folder: The cell.
        file: What it gets; where it is missing, so is what is returned.

    Returns:
        Its path in the cell.
    """
    given = folder / GIVEN / "data"
    source = file.resolve()
    try:
        given.hardlink_to(source)
    except FileNotFoundError:
        pass
    except OSError:  # on another disk, or links are not allowed
        shutil.copyfile(source, given)
    return given


def lend(folder: Path, journal: Path) -> None:
    """Let the probe keep a journal that outlives its cell.

    The probe may write in the cell's own `journal` only, wherever that is moved: so it takes
    over what an earlier attempt has left, and then its place.

    Args:
        folder: The cell.
        journal: Where the journal is to lie, on the same disk; its parent is there.
    """
    ours = folder / JOURNAL
    if os.path.lexists(journal):
        copy(journal, ours)
        journal.rename(folder / "replaced")
    ours.rename(journal)


def copy(source: Path, target: Path) -> None:
    """Copy plain files; links, pipes and whatever is too large or too deep stay behind.

    Args:
        source: A folder that a probe has written.
        target: A folder that is there, and empty.
    """
    left = MOST_BYTES
    for number, (entry, below) in enumerate(_entries(source, DEEPEST)):
        if number >= MOST_FILES:
            return
        place = target / below
        if entry.is_dir(follow_symlinks=False):
            place.mkdir(mode=0o700)
        elif entry.is_file(follow_symlinks=False):
            left -= _copy_file(entry.path, place, min(left, LARGEST_FILE))


def _copy_file(source: str, target: Path, most: int) -> int:
    try:
        opened = os.open(source, _READ_PLAIN)
    except OSError:  # a link by now, or gone
        return 0
    with open(opened, "rb") as reading:  # noqa: PTH123 - a descriptor
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            return 0
        with open(os.open(target, _WRITE_FRESH, 0o600), "wb") as writing:  # noqa: PTH123 - the same
            writing.write(reading.read(most))
            return writing.tell()


def overflow(*folders: Path) -> str | None:
    """What is too much in these folders, in words; None where nothing is."""
    files, size = 0, 0
    for folder in folders:
        for entry, below in _entries(folder, DEEPEST + 1):
            files += 1
            if len(below.parts) > DEEPEST:
                return f"folders nested more than {DEEPEST} deep"
            try:
                size += entry.stat(follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue
            if files > MOST_FILES:
                return f"more than {MOST_FILES} files"
            if size > MOST_BYTES:
                return f"more than {MOST_BYTES // 2**20} MiB of files"
    return None


def _entries(folder: Path, deepest: int) -> Iterator[tuple[os.DirEntry[str], Path]]:
    """Everything in a folder, parents first, with its path below the folder."""
    waiting = [Path()]
    while waiting:
        below = waiting.pop()
        try:
            listed = os.scandir(folder / below)
        except OSError:  # removed meanwhile, or closed to us
            continue
        with listed:
            for entry in listed:
                yield entry, below / entry.name
                if entry.is_dir(follow_symlinks=False) and len(below.parts) + 1 < deepest:
                    waiting.append(below / entry.name)


def remove(folder: Path) -> None:
    """Remove a folder in which nobody works any more, however deep it is.

    Args:
        folder: May be gone already.
    """
    waiting, number = [folder], 0
    fresh = f".{os.urandom(8).hex()}"  # a name that cannot be there already
    while waiting:
        emptied = waiting.pop()
        try:
            emptied.chmod(0o700)
            with os.scandir(emptied) as listed:
                # Files first: on a full disk, moving a folder may take room.
                entries = sorted(listed, key=lambda entry: entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            continue
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)
                continue
            # Moved up, so that no path grows longer than the system allows.
            number += 1
            moved = folder / f"{fresh}-{number}"
            Path(entry.path).chmod(0o700)
            Path(entry.path).rename(moved)
            waiting.append(moved)
        if emptied != folder:
            emptied.rmdir()
    if folder.exists():
        folder.rmdir()
