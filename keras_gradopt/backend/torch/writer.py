"""Writes recorded calls as Python: in place for blocks, or for torch's compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from keras_gradopt.backend.torch.lowering import Call, Lowering
from keras_gradopt.backend.torch.recording import Nodes, Scalar, Vector
from keras_gradopt.backend.torch.segments import SEGMENTS


def needed(roots: Sequence[Scalar], ordered: Sequence[Scalar]) -> list[Scalar]:
    """The scalars that the roots follow from, themselves included, in the given order."""
    found: set[Scalar] = set()
    waiting = list(roots)
    while waiting:
        scalar = waiting.pop()
        if scalar not in found:
            found.add(scalar)
            waiting += [o for o in scalar.operands if isinstance(o, Scalar)]
    return [s for s in ordered if s in found]


_Kind = tuple[tuple[int, ...], torch.dtype]


def _kind(vector: Vector) -> _Kind:
    return vector.shape, vector.dtype


def _shown(vector: Vector) -> list[Vector]:
    """A vector and those whose memory it shows, which live as long as it does."""
    return [vector] if vector.origin is None else [vector, *_shown(vector.origin)]


class Writer:
    """Gives each call's result a place and writes the program as Python.

    Weights and slots are places, and so are as many temporaries as it takes; gradients are read
    only. A result goes to its own weights or slot where the old values are dead, else where an
    operand dies, else to a temporary.
    """

    def __init__(self, inputs: Sequence[Vector], lowered: Lowering) -> None:
        self._calls = lowered.calls
        # Each with how calls take it: as a factor, or as the tensor that it was when recorded.
        self.scalars: list[tuple[Scalar, str]] = []
        # Shape and type of each.
        self.temporaries: list[_Kind] = []
        self._inputs = inputs
        self._names = [f"x{i}" for i in range(len(inputs))]
        self._homes = dict(zip([0, *range(2, len(inputs))], lowered.outputs, strict=True))
        self._last = self._last_uses(lowered.outputs)
        self._place: dict[Vector, str] = dict(zip(inputs, self._names, strict=True))
        # Who lies where, and is still needed.
        self._lodger: dict[str, Vector] = dict(zip(self._names, inputs, strict=True))
        self._free: dict[_Kind, list[str]] = {}
        self._given: dict[str, Any] = {"torch": torch}
        lines = [self._line(i, call) for i, call in enumerate(self._calls)]
        self._lines = lines + self._moves()
        self.source = "\n".join(self._written())

    def _last_uses(self, outputs: Sequence[Vector]) -> dict[Vector, int]:
        last: dict[Vector, int] = {}
        for i, call in enumerate(self._calls):
            for operand in (*call.operands, *call.keywords.values()):
                if isinstance(operand, Vector):
                    last.update(dict.fromkeys(_shown(operand), i))
        for output in outputs:
            last.update(dict.fromkeys(_shown(output), len(self._calls)))
        return last

    def _line(self, i: int, call: Call) -> str:
        words = [self._word(o, call) for o in call.operands]
        words += [f"{k}={self._word(v, call)}" for k, v in call.keywords.items()]
        dying = [v for v in self._lodger.values() if self._last.get(v) == i]
        if call.function is not None:
            name = f"f{i}"
            self._given[name] = call.function
            place = f"y{i}"
            line = f"{place} = {name}({', '.join(words)})"
        else:
            # A call may write into an operand, not into one that another operand shows otherwise.
            operands = [
                o for o in (*call.operands, *call.keywords.values()) if isinstance(o, Vector)
            ]
            shown = [v for o in operands for v in _shown(o)[1:]]
            place = self._chosen(call.result, [v for v in dying if v not in shown])
            line = f"torch.{call.name}({', '.join(words)}, out={place})"
        for vector in dying:
            if self._place[vector] != place:
                self._vacate(vector)
        self._place[call.result] = place
        self._lodger[place] = call.result
        return line

    def _word(self, value: Any, call: Call) -> str:
        if isinstance(value, Vector):
            return self._place[value]
        if value is SEGMENTS:
            return "segments"
        if isinstance(value, Scalar):
            named = (value, "tensor" if call.as_recorded else "factor")
            if named not in self.scalars:
                self.scalars.append(named)
            return f"s[{self.scalars.index(named)}]"
        return _literal(value, self._given)

    def _chosen(self, result: Vector, dying: Sequence[Vector]) -> str:
        kind = _kind(result)
        for position, output in self._homes.items():
            home = self._names[position]
            if output is result and (home not in self._lodger or self._lodger[home] in dying):
                return home
        for vector in dying:
            if _kind(vector) == kind and self._place[vector] != "x1" and not vector.is_view:
                return self._place[vector]
        if self._free.get(kind):
            return self._free[kind].pop()
        self.temporaries.append(kind)
        return f"t{len(self.temporaries) - 1}"

    def _vacate(self, vector: Vector) -> None:
        place = self._place[vector]
        self._lodger.pop(place, None)
        if place.startswith("t"):
            self._free.setdefault(_kind(vector), []).append(place)

    def _moves(self) -> list[str]:
        """Copies of outputs that lie elsewhere to their weights or slots, none before its time."""
        waiting = {
            self._names[position]: self._place[output]
            for position, output in self._homes.items()
            if self._place[output] != self._names[position]
        }
        lines = []
        while waiting:
            ready = [home for home in waiting if home not in waiting.values()]
            if not ready:
                home = next(iter(waiting))
                lines.append(f"kept_{home} = {home}.clone()")
                waiting = {h: f"kept_{home}" if s == home else s for h, s in waiting.items()}
                ready = [home]
            lines += [f"{home}.copy_({waiting.pop(home)})" for home in ready]
        return lines

    def _written(self) -> list[str]:
        temporaries = [f"t{i}" for i in range(len(self.temporaries))]
        head = ", ".join([*self._names, *temporaries, "s", "segments=None"])
        each = ", ".join(["pieces", *temporaries, "s"])
        body = self._lines or ["pass"]
        return [
            f"def block({head}):",
            *(f"    {line}" for line in body),
            "",
            f"def blocks({each}):",
            f"    for {', '.join(self._names)} in pieces:",
            *(f"        {line}" for line in body),
        ]

    def functions(self) -> tuple[Callable, Callable]:
        """The written program, ready to call: for one block, and for a list of blocks."""
        space = _run(self.source, self._given)
        return space["block"], space["blocks"]


class Fused:
    """The recorded operations as one function `(vectors, scalars)` for torch's compiler."""

    def __init__(self, nodes: Nodes, inputs: Sequence[Vector], outputs: Sequence[Vector]) -> None:
        self.scalars: list[Scalar] = []
        self._names = {vector: f"x[{i}]" for i, vector in enumerate(inputs)}
        self._given: dict[str, Any] = {}
        self._lines: list[str] = []
        places = [f"x[{i}]" for i in (0, *range(2, len(inputs)))]
        results = [self._name(o) for o in outputs]
        # All results before the first copy: a result may be another input as it is.
        self._lines += [f"r{i} = {r}.clone()" for i, r in enumerate(results) if r.startswith("x")]
        for i, (place, result) in enumerate(zip(places, results, strict=True)):
            self._lines.append(f"{place}.copy_({f'r{i}' if result.startswith('x') else result})")
        self.needed = needed(self.scalars, nodes.scalars)
        self._compiled: Callable[..., None] | None = None

    @property
    def function(self) -> Callable[..., None]:
        """The compiled function; the first call of it compiles."""
        if self._compiled is None:
            source = "\n".join(["def move(x, s):", *(f"    {line}" for line in self._lines)])
            move = _run(source, self._given)["move"]
            self._compiled = torch.compile(move, dynamic=True, fullgraph=True)
        return self._compiled

    def _name(self, vector: Vector) -> str:
        if vector not in self._names:
            words = [self._word(o) for o in vector.operands]
            words += [f"{k}={self._word(v)}" for k, v in vector.keywords.items()]
            number = len(self._names)
            self._given[f"f{number}"] = vector.function
            self._lines.append(f"v{number} = f{number}({', '.join(words)})")
            self._names[vector] = f"v{number}"
        return self._names[vector]

    def _word(self, value: Any) -> str:
        if isinstance(value, Vector):
            return self._name(value)
        if isinstance(value, Scalar):
            if value not in self.scalars:
                self.scalars.append(value)
            return f"s[{self.scalars.index(value)}]"
        return _literal(value, self._given)


def _literal(value: Any, given: dict[str, Any]) -> str:
    """A constant as it stands in source; what has no literal gets a name in `given`."""
    if isinstance(value, torch.Tensor | torch.dtype | torch.device | torch.layout) or callable(
        value
    ):
        name = f"c{len(given)}"
        given[name] = value
        return name
    return repr(value)


def _run(source: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a source defines. The source is written here, from recorded operations."""
    space = dict(given)
    exec(compile(source, "<the program of a rule>", "exec"), space)  # noqa: S102
    return space
