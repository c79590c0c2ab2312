"""Changes to valid uploads: of their bytes, of their containers and of what lies inside."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from tests.api.uploads import LAMBDA

# Numbers that sizes, counts and offsets are likely to be compared with.
EDGES = (0, 1, 2, 7, 22, 255, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS = (0, 1, -1, 2, 3, 4, 8, 100, 10**4, 10**7, 2**31, 0.5, 1e-9, 1e30, -0.0, True, None)
WORDS = ("relu", "tanh", "softmax", "float16", "int32", "same", "valid", "causal", "zeros", "", "é")
DTYPES = ("<f4", "<f8", "<i8", "|u1", "|b1", ">f4", "<f2", "<i4", "|O", "<U4", "<M8[s]", "<c8", "x")


# --- bytes and containers ---


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """The file with some of its bytes changed, missing or in another place."""
    return draw.choice((flipped, cut, spliced, lying))(whole, draw)


def flipped(whole: bytes, draw: random.Random) -> bytes:
    """One to five bits are turned."""
    found = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 5))):
        found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    return bytes(found)


def cut(whole: bytes, draw: random.Random) -> bytes:
    """The end is missing, or some of the middle."""
    begin, end = sorted(draw.choices(range(len(whole)), k=2))
    return whole[:begin] + (b"" if draw.random() < 0.5 else whole[end:])


def spliced(whole: bytes, draw: random.Random) -> bytes:
    """A piece stands in another place as well, over what was there or beside it."""
    length = draw.randint(1, 64)
    at, to = draw.choices(range(len(whole)), k=2)
    piece = whole[at : at + length]
    return whole[:to] + piece + whole[to + draw.choice((0, len(piece))) :]


def lying(whole: bytes, draw: random.Random) -> bytes:
    """A number in one of a zip file's headers says something else."""
    headers = [match.start() for match in re.finditer(rb"PK[\1\3\5][\2\4\6]", whole)] or [0]
    at = draw.choice(headers) + draw.randrange(4, 46)
    width = draw.choice((2, 4))
    number = draw.choice(EDGES) % 2 ** (8 * width)
    return whole[:at] + number.to_bytes(width, "little") + whole[at + width :]


# --- archives, rewritten so that what was changed lies inside a plain one ---


def members(whole: bytes) -> dict[str, bytes]:
    """What an archive holds."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archived(held: dict[str, bytes], draw: random.Random) -> bytes:
    """An archive of these members, stored or deflated."""
    buffer = io.BytesIO()
    packing = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, data in held.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_another_config(whole: bytes, draw: random.Random) -> bytes:
    """A .keras file with a changed config: mostly still JSON, sometimes only bytes."""
    held = members(whole)
    if draw.random() < 0.15:
        text = damaged(held["config.json"], draw)
    else:
        config = json.loads(held["config.json"])
        for _ in range(draw.choice((1, 1, 2, 4))):
            config = draw.choice((changed, changed, changed, mutated))(config, draw)
        text = json.dumps(config).encode()
    return archived({**held, "config.json": text}, draw)


def with_other_arrays(whole: bytes, draw: random.Random) -> bytes:
    """A .npz file of which one array's header, length or place is another one."""
    held = members(whole)
    name = draw.choice(list(held))
    change = draw.choice((another_dtype, another_shape, another_shape, another_length, flipped))
    held[name] = change(held[name], draw)
    if draw.random() < 0.2:
        other = draw.choice(list(held))
        held[name], held[other] = held[other], held[name]
    if draw.random() < 0.05:
        del held[draw.choice(list(held))]
    return archived(held, draw)


def another_dtype(array: bytes, draw: random.Random) -> bytes:
    """An .npy file that claims another dtype."""
    return _rewritten(array, rb"'descr': '[^']*'", f"'descr': '{draw.choice(DTYPES)}'")


def another_shape(array: bytes, draw: random.Random) -> bytes:
    """An .npy file that claims another shape, as often as not of as many numbers."""
    match = re.search(rb"'shape': \(([\d, ]*)\)", array)
    axes = [int(one) for one in re.findall(rb"\d+", match[1])] if match else [1]
    what = draw.randrange(4)
    if what == 0:
        axes[draw.randrange(len(axes))] = draw.choice((*EDGES, 2**63, 2**70))
    elif what == 1:
        draw.shuffle(axes)
    elif what == 2:
        axes.insert(draw.randint(0, len(axes)), draw.choice((1, 1, 2)))
    else:
        axes = [axes[0] * axes[-1], *axes[1:-1]]
    return _rewritten(array, rb"'shape': \([^)]*\)", f"'shape': {tuple(axes)}")


def another_length(array: bytes, draw: random.Random) -> bytes:
    """An .npy file of more or fewer numbers than it claims."""
    change = draw.choice((-8, -4, -1, 1, 4, 8, 64))
    return array[:change] if change < 0 else array + bytes(change)


def _rewritten(array: bytes, field: bytes, text: str) -> bytes:
    """An .npy file of version 1 with another field, padded as NumPy pads it."""
    length = int.from_bytes(array[8:10], "little")
    header = re.sub(field, text.encode(), array[10 : 10 + length]).rstrip()
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    return array[:8] + len(padded).to_bytes(2, "little") + padded + array[10 + length :]


# --- JSON ---


def changed(value: Any, draw: random.Random) -> Any:
    """The JSON value with one part that is missing, doubled, or another of its kind."""
    found = copy.deepcopy(value)
    places = list(_places(found))
    if not places:
        return found
    holder, key = draw.choice(places)
    part = holder[key]
    if isinstance(part, (int, float)) or part is None:
        holder[key] = draw.choice(NUMBERS)
    elif isinstance(part, str):
        holder[key] = draw.choice(WORDS)
    elif draw.random() < 0.3:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(draw.randrange(len(holder)), copy.deepcopy(part))
    else:
        other = draw.choice(places)
        holder[key] = copy.deepcopy(other[0][other[1]])
    return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = {dict: dict.items, list: enumerate}.get(type(value))
    for key, part in items(value) if items else ():
        yield value, key
        yield from _places(part)


def mutated(value: Any, draw: random.Random) -> Any:
    """The JSON value with one of its parts replaced by something of another kind."""
    odd = (None, True, -1, 10**30, 0.5, "", "x", [], [[]], {}, {"class_name": []}, LAMBDA, [1, "a"])
    if draw.random() < 0.15 or not isinstance(value, (dict, list)) or not value:
        return draw.choice(odd)
    if isinstance(value, dict):
        key = draw.choice(list(value))
        return {**value, key: mutated(value[key], draw)}
    at = draw.randrange(len(value))
    return [*value[:at], mutated(value[at], draw), *value[at + 1 :]]
