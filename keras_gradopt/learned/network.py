"""The trained arrays of a learned rule: read from a shipped set, a file, or a saved config."""

from __future__ import annotations

import base64
import binascii
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Shapes = Mapping[str, tuple[int, ...]]
Arrays = dict[str, np.ndarray]
_PREFIX = "float32:"
_FOLDER = Path(__file__).parent
_SUFFIX = ".npz"


def shipped() -> list[str]:
    """Names of the sets of weights that lie in the package."""
    return sorted(file.stem for file in _FOLDER.glob("*" + _SUFFIX))


def read(weights: Any, shapes: Shapes) -> tuple[str, Arrays]:
    """The arrays that an argument `weights` means, and the text that a config keeps for it.

    Args:
        weights: Name of a shipped set, path of a file that `write` made, arrays by name, or the
            text that this function gave.
        shapes: Names and shapes of the arrays, in order.

    Returns:
        The name of a shipped set as it is, for anything else the numbers themselves as text; and
        the arrays, float32.

    Raises:
        ValueError: There is no such set or file, or its arrays are others.
    """
    if isinstance(weights, Mapping):
        arrays = _checked(weights, shapes, "the arrays given")
        return to_text(arrays), arrays
    if not isinstance(weights, str | Path):
        raise ValueError(
            f"weights must be one of {', '.join(shipped())}, the path of a file that meta_train "
            f"wrote, or arrays by name; received {weights!r} of type {type(weights).__name__}."
        )
    if str(weights).startswith(_PREFIX):
        return str(weights), _from_text(str(weights), shapes)
    if str(weights) in shipped():
        return str(weights), _from_file(_FOLDER / (str(weights) + _SUFFIX), shapes)
    arrays = _from_file(Path(weights), shapes)
    return to_text(arrays), arrays


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a file that is whole at any moment: the former one until the new one is there."""
    path = Path(path)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        # NumPy's types take any name for `allow_pickle`, which is a bool.
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    unfinished.replace(path)


def to_text(arrays: Mapping[str, np.ndarray]) -> str:
    """All numbers as text, exactly: little-endian float32, one array after the other, base64."""
    numbers = np.concatenate([np.ravel(array) for array in arrays.values()]).astype("<f4")
    return _PREFIX + base64.b64encode(numbers.tobytes()).decode("ascii")


def _from_text(text: str, shapes: Shapes) -> Arrays:
    wanted = sum(int(np.prod(shape)) for shape in shapes.values())
    try:
        numbers = np.frombuffer(base64.b64decode(text[len(_PREFIX) :], validate=True), "<f4")
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"weights, a text of {len(text)} characters, cannot be read ({error}). Take it whole "
            "from get_config, or give the path of a file that meta_train wrote."
        ) from None
    if len(numbers) != wanted:
        raise ValueError(
            f"weights, a text of {len(text)} characters, holds {len(numbers)} numbers and must "
            f"hold {wanted}. Take it whole from get_config."
        )
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]
    pieces = zip(shapes.items(), np.split(numbers, ends), strict=True)
    arrays = {name: piece.reshape(shape) for (name, shape), piece in pieces}
    return _checked(arrays, shapes, "the text given")


def _from_file(path: Path, shapes: Shapes) -> Arrays:
    if not path.is_file():
        raise ValueError(
            f"weights must be one of {', '.join(shipped())}, or the path of a file that meta_train "
            f"wrote; received {str(path)!r}, which is neither."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as weights ({error}). Give a file that meta_train wrote."
        ) from None
    return _checked(arrays, shapes, repr(str(path)))


def _checked(arrays: Mapping[str, Any], shapes: Shapes, source: str) -> Arrays:
    found = {name: tuple(np.shape(array)) for name, array in arrays.items()}
    if found != dict(shapes):
        raise ValueError(
            f"weights must hold the arrays {dict(shapes)}, {source} hold {found}. Give what "
            "meta_train made for this class."
        )
    checked = {name: np.asarray(arrays[name], "float32") for name in shapes}
    broken = [name for name, array in checked.items() if not np.all(np.isfinite(array))]
    if broken:
        raise ValueError(
            f"weights must be finite numbers, {source} hold others in {', '.join(broken)}. Train "
            "them again with a smaller learning rate."
        )
    return checked
